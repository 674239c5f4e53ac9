"""What a cohort's gains say about one user's."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.pooled import Pool
from personaagent.aio import together


async def estimates(gains: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    pool = Pool(len(gains))

    async def one(user: str, values: list[float]) -> tuple[float, float]:
        with pool.place() as place:
            found = (await place.join(user, {"both": np.asarray(values)}))["both"]
            return found.mean, found.error

    found = await together(one(user, values) for user, values in gains.items())
    return dict(zip(gains, found, strict=True))


async def test_few_interactions_are_decided_by_what_others_gain() -> None:
    rng = np.random.default_rng(0)
    helped = {f"u{n}": list(rng.normal(0.5, 0.4, 6)) for n in range(12)} | {"ann": [0.2, 0.6]}
    idle = {f"u{n}": list(rng.normal(0.0, 0.4, 6)) for n in range(12)} | {"ann": [0.2, 0.6]}
    mean, error = (await estimates(helped))["ann"]
    assert mean - 1.645 * error > 0
    mean, error = (await estimates(idle))["ann"]
    assert mean - 1.645 * error < 0


async def test_without_others_only_many_interactions_decide() -> None:
    assert not np.isfinite((await estimates({"ann": [0.5, 0.6]}))["ann"][1])
    mean, error = (await estimates({"ann": [0.5, 0.6, 0.4, 0.55, 0.5, 0.45, 0.6, 0.5]}))["ann"]
    assert mean - 1.645 * error > 0


async def test_luck_passes_as_seldom_as_promised() -> None:
    rng = np.random.default_rng(1)
    passed = total = 0
    for _ in range(30):
        found = await estimates({f"u{n}": list(rng.normal(0.0, 0.5, rng.integers(2, 7))) for n in range(12)})
        passed += sum(mean - 1.645 * error > 0 for mean, error in found.values())
        total += len(found)
    assert passed / total < 0.1


@given(st.floats(-3.0, -0.2), st.integers(1, 8), st.floats(0.1, 2.0), st.floats(0.01, 0.15), st.integers(0, 1000))
def test_a_cohort_does_not_drown_what_ones_own_answers_deny(
    loss: float, items: int, gain: float, noise: float, seed: int
) -> None:
    """Users who agree are a narrow prior; somebody unlike them is still served by their own answers."""
    rng = np.random.default_rng(seed)
    own = loss + noise * rng.uniform(-1, 1, (items, 1))
    others = rng.normal(gain, noise, (10, 6, 1))
    pool = Pool(1)
    pool._gains["both"] = {f"u{n}": row[:, 0] for n, row in enumerate(others)}
    assert pool._estimate("ann", "both", own[:, 0]).denied
    assert not pool._estimate("ann", "both", -own[:, 0]).denied
    assert not pool._estimate("ann", "both", np.zeros(0)).denied


@pytest.mark.slow
@pytest.mark.parametrize("items", [4, 6, 9, 12])
def test_a_deviation_from_few_numbers_passes_no_more_than_a_known_one(items: int) -> None:
    rng = np.random.default_rng(items)
    passed = [Pool(1)._estimate("ann", "both", rng.standard_normal(items)).above(0.0, 1.645) for _ in range(2_000)]
    assert np.mean(passed) < 0.065


async def test_who_fails_does_not_keep_the_others() -> None:
    pool = Pool(2)
    place, other = pool.place(), pool.place()
    waiting = asyncio.create_task(place.join("ann", {"both": np.asarray([1.0, 1.0])}))
    await asyncio.sleep(0)
    assert not waiting.done()
    with pytest.raises(RuntimeError), other:
        raise RuntimeError
    assert (await waiting)["both"].users == 0


async def test_neighbours_are_others_in_turn() -> None:
    pool = Pool(3)
    places = [pool.place() for _ in range(3)]
    await together(p.join(u, {}, shared=u.upper()) for p, u in zip(places, ("ann", "ben", "eve"), strict=True))
    assert [p.neighbour(u) for p, u in zip(places, ("ann", "ben", "eve"), strict=True)] == ["BEN", "EVE", "ANN"]
    assert Pool(1).place().neighbour("ann") is None
