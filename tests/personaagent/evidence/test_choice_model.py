from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from personaagent.evidence.choice_model import (
    ChoiceTaste,
    Learned,
    Setting,
    credence,
    fit,
    meant,
    nearness,
    probabilities,
)

SURE = ChoiceTaste(sharpness=1.0, lapse=0.0)


def learned(seed: int, offers: int, options: int = 3, dim: int = 4, asked: int = 3, signal: float = 3.0) -> Learned:
    """Choices of somebody whose utility is linear in random features."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(offers * options + asked, dim))
    beta = signal * rng.normal(size=dim)
    refused, taken, offer = [], [], []
    for n in range(offers):
        codes = np.arange(n * options, (n + 1) * options)
        best = codes[(features[codes] @ beta).argmax()]
        for code in codes[codes != best]:
            refused.append(code)
            taken.append(best)
            offer.append(n)
    return Learned(
        refused=np.asarray(refused, dtype=np.int64),
        taken=np.asarray(taken, dtype=np.int64),
        offer=np.asarray(offer, dtype=np.int64),
        age=np.arange(offers, 0, -1).astype(float),
        turns=np.zeros(offers + 1),
        requests=np.ones((offers, offers)),
        request=np.ones(offers),
        general=features @ features.T,
        local=np.zeros((len(features), len(features))),
        offset=np.zeros(len(features)),
        asked=asked,
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_mode_is_the_optimum_of_the_penalised_likelihood(seed: int) -> None:
    """The same utilities as maximum a posteriori in weight space, by another optimiser."""
    data = learned(seed, offers=8)
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(8 * 3 + 3, 4))
    assert np.allclose(features @ features.T, data.general)
    differences = features[data.refused] - features[data.taken]

    def loss(beta: np.ndarray) -> float:
        f = differences @ beta
        per_offer = [np.logaddexp.reduce(np.r_[0.0, f[data.offer == n]]) for n in range(8)]
        return float(sum(per_offer) + 0.5 * beta @ beta)

    beta = minimize(loss, np.zeros(4), method="BFGS").x
    found = fit(data, [Setting(change=0.0)], ChoiceTaste())[0]
    wanted = features[-3:] @ beta
    assert found.utilities - found.utilities.mean() == pytest.approx(wanted - wanted.mean(), abs=0.03)
    assert found.shares.sum(axis=1) == pytest.approx(found.utilities)


def test_settings_are_found_side_by_side_as_they_are_alone() -> None:
    data = learned(3, offers=10)
    settings_ = [Setting(), Setting(general=0.05), Setting(change=8.0), Setting(general=30.0, change=0.0)]
    together = fit(data, settings_, ChoiceTaste(life=20.0))
    for setting, found in zip(settings_, together, strict=True):
        alone = fit(data, [setting], ChoiceTaste(life=20.0))[0]
        assert found.utilities == pytest.approx(alone.utilities, abs=0.02)


def test_who_the_user_is_is_told_by_their_choices() -> None:
    people = [Setting(share=0.5), Setting(general=0.01, share=0.5)]
    steady = credence(learned(1, offers=30), people, ChoiceTaste())
    assert steady[0] > 0.9
    rng = np.random.default_rng(0)
    random = learned(1, offers=30)
    flip = rng.random(30) < 2 / 3  # in these offers another option was taken
    refused, taken = random.refused.copy(), random.taken.copy()
    for n in np.flatnonzero(flip):
        rows = np.flatnonzero(random.offer == n)
        other = rows[rng.integers(len(rows))]
        old, new = taken[rows[0]], refused[other]
        refused[other] = old
        taken[rows] = new
    noise = Learned(
        refused, taken, random.offer, random.age, random.turns, random.requests, random.request, random.general, random.local,
        random.offset, random.asked,
    )  # fmt: skip
    assert credence(noise, people, ChoiceTaste())[1] > 0.5


def test_offers_that_have_nothing_in_common_do_not_tell_who_the_user_is() -> None:
    data = learned(2, offers=10, options=4)
    apart = replace(data, general=np.eye(43, dtype=np.float32), offset=np.linspace(-2.0, 2.0, 43))
    uneven = np.flatnonzero((data.offer % 3 > 0) | (np.arange(len(data.offer)) % 3 == 0))
    people = [Setting(share=0.5), Setting(general=30.0, change=0.0, share=0.3), Setting(general=0.01, share=0.2)]
    for rows in (np.arange(30), uneven):
        some = replace(apart, refused=data.refused[rows], taken=data.taken[rows], offer=data.offer[rows])
        assert credence(some, people, ChoiceTaste()) == pytest.approx([0.5, 0.3, 0.2], abs=0.005)


def test_the_prior_is_the_answer_where_nothing_was_chosen() -> None:
    offset = np.array([0.0, 1.0, -2.0])
    empty = Learned(
        *(np.zeros(0, dtype=np.int64),) * 3,
        np.zeros(0),
        np.zeros(1),
        np.zeros((0, 0)),
        np.zeros(0),
        np.eye(3),
        np.eye(3),
        offset,
        3,
    )
    found = fit(empty, [Setting(), Setting()], ChoiceTaste())
    assert found[0].utilities == pytest.approx(offset)
    p = probabilities(found[0].utilities, SURE)
    assert np.log(p[1] / p[0]) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 25), st.integers(2, 6), st.floats(0.001, 1e4), st.floats(0, 1e3))
def test_it_converges_whatever_the_strength(seed: int, offers: int, options: int, scale: float, change: float) -> None:
    data = learned(seed, offers, options)
    found = fit(data, [Setting(general=scale, change=change)], ChoiceTaste())[0]
    assert np.isfinite(found.utilities).all()
    p = probabilities(found.utilities, ChoiceTaste())
    assert p.sum() == pytest.approx(1)
    assert credence(data, [Setting(), Setting(general=scale, change=change)], ChoiceTaste()).sum() == pytest.approx(1)
    assert (p > 0).all()


def test_a_request_is_taken_for_the_nearest_past_one_and_for_the_average_of_many() -> None:
    taste = ChoiceTaste()
    apart = nearness(np.asarray([[1.0, 0.4, 0.3], [0.4, 1.0, 0.3], [0.3, 0.3, 1.0]], dtype=np.float32), taste)
    assert np.diag(apart) == pytest.approx(1.0)
    reworded = meant(np.asarray([0.7, 0.4, 0.1], dtype=np.float32), apart, taste)
    assert reworded[0] > 0.95
    assert reworded[1:].max() < 0.05
    between = meant(np.asarray([0.6, 0.6, 0.6], dtype=np.float32), apart, taste)
    assert between == pytest.approx(1 / 3, abs=0.01)
    assert meant(np.asarray([1.0], dtype=np.float32), np.ones((1, 1)), taste) == pytest.approx([1.0])
