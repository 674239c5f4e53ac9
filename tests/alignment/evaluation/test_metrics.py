"""What is measured beside right and wrong: how sure a method was, and what an answer cost the user."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.evaluation.benchmark import Benchmark
from alignment.evaluation.metrics import Scored, summary
from alignment.evaluation.synthetic import synthetic
from personaagent.types import Interaction, Kind

BENCHMARK = Benchmark(name="x", users=(), phases=())
ITEM = Interaction(
    id="i",
    user="u",
    time=0,  # type: ignore[arg-type]
    query="Which?",
    choices=("Tea", "rum", "milk"),
    truth="Tea",
    metadata={"utilities": [3.0, -1.0, 1.0]},
)


def scored(answer: str | None, probabilities: tuple[float, ...] | None = None, item: Interaction = ITEM) -> Scored:
    return BENCHMARK.scored(item, answer, None, None, probabilities)


@pytest.mark.parametrize(("answer", "regret"), [("tea ", 0.0), ("milk", 0.5), ("rum", 1.0), ("beer", 1.0), (None, 1.0)])
def test_regret_is_a_share_of_the_range(answer: str | None, regret: float) -> None:
    assert scored(answer).regret == regret


@pytest.mark.parametrize(("utilities", "regret"), [([2, 2, 2], 0.0), ([1, 2], None), ("high", None), (None, None)])
def test_regret_needs_utilities(utilities: object, regret: float | None) -> None:
    item = ITEM.model_copy(update={"metadata": {} if utilities is None else {"utilities": utilities}})
    assert scored("rum", item=item).regret == regret


def test_probabilities_are_those_of_truth_and_answer() -> None:
    found = scored("milk", (0.2, 0.3, 0.5))
    assert (found.probability, found.top) == (0.2, 0.5)
    assert (scored("milk").probability, scored("milk").top) == (None, None)
    assert scored("beer", (0.2, 0.3, 0.5)).top == 0.0


def test_without_probabilities_or_utilities_nothing_is_added() -> None:
    plain = [Scored("u", "i", Kind.CHOICE, "a", "a", ("a", "b"), score=1.0)]
    assert set(summary(plain)) == {"accuracy", "macro_f1", "n", "users", "failed"}


def test_log_score_regret_and_calibration() -> None:
    sure = [scored("tea", (0.95, 0.05, 0.0)), scored("rum", (0.0, 1.0, 0.0)), scored("milk", (0.2, 0.2, 0.6))]
    result = summary(sure)
    assert result["log_score"]["value"] == pytest.approx((math.log(0.95) + math.log(1e-6) + math.log(0.2)) / 3)
    assert result["regret"]["value"] == pytest.approx(0.5)
    bins = result["calibration"]
    assert len(bins) == 10
    assert bins[9] == {"expected": pytest.approx(0.975), "observed": 0.5, "n": 2}
    assert bins[6] == {"expected": 0.6, "observed": 0.0, "n": 1}
    assert bins[0] == {"expected": None, "observed": None, "n": 0}
    assert result["ece"] == pytest.approx((2 * 0.475 + 0.6) / 3)
    assert json.loads(json.dumps(result)) == result


def test_what_is_missing_in_some_is_averaged_over_the_others() -> None:
    result = summary([scored("tea", (0.5, 0.25, 0.25)), scored(None)])
    assert result["log_score"]["value"] == pytest.approx(math.log(0.5))
    assert sum(b["n"] for b in result["calibration"]) == 1
    assert result["failed"] == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_bins_hold_every_item_and_the_error_is_a_share(answers: list[tuple[float, bool]]) -> None:
    items = [
        Scored("u", f"{n}", Kind.CHOICE, "a" if right else "b", "a", ("a", "b"), float(right), top=p, probability=p)
        for n, (p, right) in enumerate(answers)
    ]
    result = summary(items)
    assert sum(b["n"] for b in result["calibration"]) == len(items)
    assert 0 <= result["ece"] <= 1
    assert math.log(1e-6) - 1e-9 <= result["log_score"]["value"] <= 1e-9
    for at, held in enumerate(result["calibration"]):
        assert not held["n"] or at / 10 - 1e-9 <= held["expected"] <= (at + 1) / 10 + 1e-9


def test_the_ideal_answer_has_no_regret_and_grades_count_by_distance() -> None:
    made = synthetic("ratings", users=2)
    for item in made.phases[0].test:
        assert made.scored(item, item.truth, None, None).regret == 0.0
        far = "1" if float(item.truth or "") >= 3 else "5"
        assert made.scored(item, far, None, None).regret == 1.0
