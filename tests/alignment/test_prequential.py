from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.candidates import READINGS, Grid
from alignment.prequential import MOST, Foretold, Others, foretell, posterior
from personaagent.memory.local import LocalMemory
from personaagent.types import Decision, Interaction, Kind, RecallQuery
from tests.support.alignment_doubles import START, drink, note
from tests.support.doubles import HashEmbedder

SIZE = 9
MADE_UP = tuple((1.0, float(n)) for n in range(SIZE))  # what a fit makes of gains does not depend on the grid
GAINS = np.r_[0.0, 0.1, 0.05, 0.0, 0.0, -0.05, -0.1, -0.1, -0.1]  # against the first reading


async def at_once(make: Callable[[], Awaitable[Any]]) -> Any:
    return await make()


async def told(interactions: Sequence[Interaction], decision: Decision | None = None) -> Foretold:
    memory = LocalMemory(HashEmbedder(dim=64))
    await memory.append("ann", interactions)
    grid = Grid(decision or Decision(), {i.kind for i in interactions})
    return await foretell(memory, "ann", interactions, grid, at_once)


def drawn(
    user: str, rng: np.random.Generator, rows: int, mean: npt.NDArray[np.float64], between: float = 0.0
) -> tuple[Foretold, npt.NDArray[np.float64]]:
    """A user and what each reading really gains: `mean` and something of their own."""
    theta = np.r_[0.0, mean[1:] + between * rng.standard_normal(SIZE - 1)]
    noise = 0.35 * rng.standard_normal((rows, 1)) + 0.35 * rng.standard_normal((rows, SIZE - 1))
    return Foretold(user, MADE_UP, -1.0 + theta + np.c_[np.zeros(rows), noise]), theta


class TestForetell:
    async def test_each_answer_is_foretold_from_what_was_before_it(self) -> None:
        grades = ("1", "2", "3", "4", "5")
        drinks = [drink("ann", i, truth=("2", "5")[i % 2]) for i in range(12)]
        history = [i.model_copy(update={"choices": grades}) for i in drinks]
        whole, part = await told(history), await told(history[:7])
        assert whole.logs.shape == (11, len(READINGS))
        assert whole.readings == READINGS
        assert np.allclose(whole.logs[:6], part.logs)
        assert (whole.logs < 0).all()

    @pytest.mark.slow
    async def test_only_what_can_be_foretold_counts_and_only_the_newest_of_it(self) -> None:
        history = [drink("ann", i, truth="lemonade" if i % 3 == 0 else "mint tea") for i in range(30)]
        assert len((await told([*history, note("ann", 99)])).logs) == 19
        assert len((await told([drink("ann", i) for i in range(46)])).logs) == MOST
        assert len((await told([drink("ann", 0)])).logs) == 0

    async def test_memory_is_asked_in_small_pieces(self) -> None:
        sizes: list[int] = []

        class Watched(LocalMemory):
            async def recall_many(self, user: str, queries: Sequence[RecallQuery]) -> Any:
                sizes.append(len(queries))
                return await super().recall_many(user, queries)

        memory, history = Watched(HashEmbedder()), [drink("ann", i) for i in range(30)]
        await memory.append("ann", history)
        await foretell(memory, "ann", history, Grid(Decision(), [Kind.CHOICE]), at_once)
        assert max(sizes) <= 8
        assert sum(sizes) == 2 * 29  # as new, and asked again

    async def test_a_choice_counts_half_as_new_and_half_as_asked_again(self) -> None:
        history = [drink("ann", i, truth=("water", "mint tea", "black coffee")[i % 3]) for i in range(12)]
        before, after = await told(history[:8]), await told(history)
        assert not np.allclose(after.logs[:7], before.logs)  # what was answered later counts when it is asked again

    async def test_ratings_are_foretold_by_their_grade(self) -> None:
        history = [
            Interaction(
                id=f"r{n}",
                user="ann",
                time=START + timedelta(minutes=n),
                query=f"Rate film {n}",
                truth="4.0" if n % 4 else "2",
                choices=("1", "2", "3", "4", "5"),
            )
            for n in range(20)
        ]
        logs = (await told(history)).logs
        assert logs.shape == (19, len(READINGS))
        fours = np.asarray([n % 4 != 0 for n in range(1, 20)])
        assert logs[fours, 0].mean() > logs[~fours, 0].mean()

    async def test_equal_options_share_what_they_get(self) -> None:
        history = [
            drink("ann", i).model_copy(update={"choices": ("Mint tea", "mint  TEA"), "truth": "mint tea"})
            for i in range(8)
        ]
        logs = (await told(history)).logs
        assert np.allclose(logs, 0.0, atol=1e-6)
        assert not Others([]).fit(Foretold("ann", READINGS, logs), 0.0, 1.0).accepted

    async def test_a_planted_change_of_mind_is_found(self) -> None:
        """What the user wants turns round every eight times; a reading that thinks it lasts foretells it worst."""
        history = [drink("ann", i, truth=("water", "mint tea")[i // 8 % 2]) for i in range(41)]
        lasts = Decision(change=0.0)
        foretold = await told(history, lasts)
        means = dict(zip(foretold.readings, foretold.logs.mean(axis=0).tolist(), strict=True))
        assert means[0.0, 1.0] < means[1.0, 1.0]
        fitted = Others([]).fit(foretold, 0.0, 1.0)
        assert fitted.accepted
        assert fitted.reading[0] >= 1.0
        assert fitted.answers == MOST


class TestPosterior:
    def test_alone_it_is_the_users_own_mean_and_error(self) -> None:
        own = np.random.default_rng(1).normal(0.2, 1.0, (30, 2))
        found = posterior(own, np.zeros((0, 5, 2)))
        assert found.mean == pytest.approx(own.mean(axis=0))
        wide = math.sqrt(29 / 27)  # Student's
        assert found.error == pytest.approx(own.std(axis=0, ddof=1) / math.sqrt(30) * wide)
        assert (found.users == 0).all()

    def test_who_says_nothing_is_thought_to_be_like_the_others(self) -> None:
        rng = np.random.default_rng(2)
        theta = rng.normal(0.3, 0.2, 400)
        others = theta[:, None, None] + rng.normal(0, 0.5, (400, 30, 1))
        found = posterior(np.zeros((0, 1)), others)
        assert found.mean[0] == pytest.approx(0.3, abs=0.03)
        assert found.error[0] == pytest.approx(0.2, abs=0.03)

    def test_without_anything_nothing_is_known(self) -> None:
        found = posterior(np.zeros((0, 2)), np.zeros((0, 0, 2)))
        assert (found.mean == 0).all()
        assert np.isinf(found.error).all()
        assert np.isinf(posterior(np.ones((2, 1)), np.zeros((0, 0, 1))).error).all()

    def test_a_few_equal_gains_make_nobody_certain(self) -> None:
        rng = np.random.default_rng(3)
        others = rng.normal(0, 1.0, (10, 20, 1))
        assert posterior(np.full((5, 1), 2.0), others).error[0] > 0.05  # not 0, as their spread is


class TestFit:
    @pytest.mark.slow
    def test_random_users_keep_their_reading_as_often_as_promised(self) -> None:
        """One standard deviation of caution lets luck pass about one time in six."""
        rng = np.random.default_rng(0)
        nothing = np.zeros(SIZE)
        alone = [Others([]).fit(drawn("u", rng, 40, nothing)[0], 0.0, 1.0).accepted for _ in range(300)]
        assert 0.08 < np.mean(alone) < 0.26
        careful = [Others([]).fit(drawn("u", rng, 40, nothing)[0], 0.0, 2.0).accepted for _ in range(300)]
        assert np.mean(careful) < 0.06
        rates = []
        for _ in range(40):  # users of one cohort pass or fail together
            entries = [drawn(f"u{n}", rng, 20, nothing)[0] for n in range(12)]
            others = Others(entries)
            rates.append(np.mean([others.fit(e, 0.0, 1.0).accepted for e in entries]))
        assert 0.04 < np.mean(rates) < 0.3

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_hardly_any_answers_change_nothing_alone_and_follow_the_cohort(self, count: int) -> None:
        rng = np.random.default_rng(count)
        user = drawn("new", rng, count, GAINS)[0]
        assert not Others([user]).fit(user, 0.0, 1.0).accepted
        others = Others([user, *(drawn(f"u{n}", rng, 40, GAINS)[0] for n in range(30))])
        fitted = others.fit(user, 0.0, 1.0)
        assert fitted.accepted
        assert fitted.reading == MADE_UP[1]
        assert fitted.users == 30
        assert "with 30 other users" in fitted.reason

    @pytest.mark.slow
    @pytest.mark.parametrize("between", [0.0, 0.15])
    def test_the_cohort_helps_users_with_few_answers(self, between: float) -> None:
        rng = np.random.default_rng(5)
        alone, pooled = [], []
        for _ in range(6):
            users = [drawn(f"u{n}", rng, int(rng.integers(2, 30)), GAINS, between) for n in range(32)]
            others = Others([entry for entry, _ in users])
            for entry, theta in users:
                alone.append(theta[MADE_UP.index(Others([]).fit(entry, 0.0, 1.0).reading)])
                pooled.append(theta[MADE_UP.index(others.fit(entry, 0.0, 1.0).reading)])
        assert np.mean(pooled) > np.mean(alone) > 0.0

    def test_a_user_unlike_the_others_keeps_to_their_own(self) -> None:
        rng = np.random.default_rng(6)
        cohort = [drawn(f"u{n}", rng, 40, GAINS, 0.1)[0] for n in range(20)]
        odd = drawn("odd", rng, 40, np.r_[0.0, -1.0, np.zeros(SIZE - 3), 0.8])[0]
        assert Others([*cohort, odd]).fit(odd, 0.0, 1.0).reading == MADE_UP[-1]

    def test_two_others_are_no_prior_nor_are_those_with_few_answers(self) -> None:
        rng = np.random.default_rng(7)
        user = drawn("ann", rng, 20, GAINS)[0]
        two = [drawn(f"u{n}", rng, 20, GAINS)[0] for n in range(2)]
        short = [drawn(f"v{n}", rng, 4, GAINS)[0] for n in range(9)]
        assert Others([*two, *short]).fit(user, 0.0, 1.0) == Others([]).fit(user, 0.0, 1.0)

    def test_readings_are_compared_by_what_they_are_not_where_they_stand(self) -> None:
        rng = np.random.default_rng(8)
        entries = [drawn(f"u{n}", rng, 40, GAINS)[0] for n in range(12)]
        turned = [Foretold(e.user, e.readings[::-1], e.logs[:, ::-1]) for e in entries]
        start = Foretold("ann", MADE_UP, np.zeros((0, SIZE)))
        assert Others(turned).fit(start, 0.0, 1.0) == Others(entries).fit(start, 0.0, 1.0)
        strange = Foretold("bob", ((7.0, 7.0), *MADE_UP), np.full((20, SIZE + 1), -1.0))
        assert Others([*entries, strange]).fit(strange, 0.0, 1.0).users == 0  # nobody else knows that start

    @pytest.mark.slow
    @given(seed=st.integers(0, 1000), size=st.integers(1, 9))
    def test_the_order_of_users_and_a_users_own_entry_change_nothing(self, seed: int, size: int) -> None:
        rng = np.random.default_rng(seed)
        entries = [drawn(f"u{n}", rng, int(rng.integers(0, 20)), GAINS, 0.1)[0] for n in range(size)]
        mixed = [entries[n] for n in rng.permutation(size)]
        for entry in entries:
            found = Others(entries).fit(entry, 0.0, 1.0)
            assert found == Others(mixed).fit(entry, 0.0, 1.0)
            without = Others([e for e in mixed if e is not entry]).fit(entry, 0.0, 1.0)
            assert (found.reading, found.accepted, found.users) == (without.reading, without.accepted, without.users)
            assert (found.gain, found.error) == pytest.approx((without.gain, without.error))
            assert found.accepted == (found.reading != entry.readings[0])
