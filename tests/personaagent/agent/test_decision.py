from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from personaagent.agent.decision import combined, decide, median_grade, score_options
from personaagent.types import ChatRequest, Decision, Message, PersonaDraft
from tests.support.fake_llm import FakeLLM

ASK = [Message(role="user", content="drink?")]


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


def test_whoever_knows_more_decides() -> None:
    choices = ["tea", "coffee"]
    sure, unsure = logs(0.95, 0.05), logs(0.4, 0.6)
    assert decide(choices, sure, unsure, 1.0).answer == "tea"
    assert decide(choices, sure, unsure, 0.05).answer == "coffee"
    assert decide(choices, unsure, sure, 1.0).answer == "tea"
    assert decide(choices, None, unsure, 1.0).answer == "coffee"
    assert decide(choices, sure, logs(0.5, 0.5), 1.0).probabilities == pytest.approx({"tea": 0.95, "coffee": 0.05})


def test_without_memory_the_model_speaks_for_itself_whatever_its_weight() -> None:
    assert decide(["tea", "coffee"], logs(0.8, 0.2), None, 0.0).probabilities["tea"] == pytest.approx(0.8)


def test_a_tie_goes_to_the_earlier_option() -> None:
    assert decide(["tea", "coffee"], None, logs(0.5, 0.5), 1.0).answer == "tea"


def test_a_rating_is_its_median_grade_with_the_mean_beside_it() -> None:
    grades = ["1", "2", "3", "4", "5"]
    p = (0.3, 0.01, 0.01, 0.18, 0.5)
    made = decide(grades, logs(*p), None, 0.0)
    assert made.answer == "4"
    assert made.expected == pytest.approx(3.57)
    assert decide(grades[::-1], logs(*p[::-1]), None, 0.0).answer == "4"
    assert decide(grades, logs(0.34, 0.01, 0.01, 0.13, 0.51), None, 0.0).answer == "5"


LOGS = st.floats(-30, 0)
BOTH = st.integers(2, 8).flatmap(lambda n: st.tuples(*[st.lists(LOGS, min_size=n, max_size=n)] * 2))
WEIGHT = st.floats(0, 100)


def softmax(values: list[float]) -> np.ndarray:
    p = np.exp(np.asarray(values) - max(values))
    return np.asarray(p / p.sum())


@given(BOTH, WEIGHT, st.booleans())
def test_probabilities_sum_to_one(both: tuple[list[float], list[float]], weight: float, numeric: bool) -> None:
    lm, memory = both
    choices = [str(i) if numeric else f"option {i}" for i in range(len(lm))]
    made = decide(choices, lm, memory, weight)
    assert list(made.probabilities) == choices
    assert sum(made.probabilities.values()) == pytest.approx(1)
    assert made.answer in choices
    if made.expected is None:
        assert not numeric
        assert made.probabilities[made.answer] == max(made.probabilities.values())
    else:
        below = sum(p for c, p in made.probabilities.items() if float(c) < float(made.answer))
        above = sum(p for c, p in made.probabilities.items() if float(c) > float(made.answer))
        assert max(below, above) <= 0.5 + 1e-6
        assert 0 <= made.expected <= len(choices) - 1 + 1e-9


@given(BOTH)
def test_a_model_of_no_weight_leaves_memory_alone(both: tuple[list[float], list[float]]) -> None:
    lm, memory = both
    rows = np.asarray([memory])
    np.testing.assert_allclose(combined(lm, rows, 0.0, len(lm)), combined(None, rows, 1.0, len(lm)))
    np.testing.assert_allclose(combined(lm, rows, 0.0, len(lm))[0], softmax(memory))


@given(st.lists(LOGS, min_size=2, max_size=8), WEIGHT)
def test_a_memory_that_knows_nothing_leaves_the_model_to_its_power(lm: list[float], weight: float) -> None:
    nothing = np.full((1, len(lm)), -math.log(len(lm)))
    p = combined(lm, nothing, weight, len(lm))[0]
    np.testing.assert_allclose(p, softmax([weight * x for x in lm]), atol=1e-12)


@given(BOTH, WEIGHT, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_options_does_not_matter(
    both: tuple[list[float], list[float]], weight: float, random: random.Random, numeric: bool
) -> None:
    lm, memory = both
    choices = [str(i) if numeric else f"option {i}" for i in range(len(lm))]
    order = list(range(len(lm)))
    random.shuffle(order)
    one = decide(choices, lm, memory, weight)
    other = decide([choices[i] for i in order], [lm[i] for i in order], [memory[i] for i in order], weight)
    assert other.probabilities == pytest.approx(one.probabilities)
    if numeric:
        # Either side of the middle, where half of the probability lies on each, is a median.
        assert sum(p for c, p in one.probabilities.items() if float(c) < float(other.answer)) <= 0.5 + 1e-6
        assert sum(p for c, p in one.probabilities.items() if float(c) > float(other.answer)) <= 0.5 + 1e-6
    else:
        assert one.probabilities[other.answer] == pytest.approx(max(one.probabilities.values()))


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=9))
def test_the_median_has_the_least_expected_error(weights: list[float]) -> None:
    p = np.asarray(weights) / sum(weights)
    values = np.arange(len(p), dtype=float)
    errors = np.abs(values[:, None] - values[None, :]) @ p
    assert errors[median_grade(p[None, :], values)[0]] == pytest.approx(errors.min(), abs=1e-6)


async def test_partial_tokens_count_for_every_option_they_begin() -> None:
    llm = FakeLLM()
    llm.choice = lambda r: {"g": math.log(0.2), "gre": math.log(0.2), "b": math.log(0.6)}
    scored = await score_options(llm, ASK, ["green juice", "black tea"], 0)
    assert [math.exp(x) for x in scored.logprobs] == pytest.approx([0.4, 0.6])
    assert scored.usage.calls == 1


async def test_options_with_a_common_beginning_are_told_apart_by_a_second_call() -> None:
    def answer(request: ChatRequest) -> dict[str, float]:
        if request.continue_final:
            assert request.messages[-1].content == "black"
            assert request.choices == (" coffee", " tea")
            return {" c": math.log(0.9), " t": math.log(0.1)}
        return {"black": math.log(0.8), "g": math.log(0.2)}

    llm = FakeLLM()
    llm.choice = answer
    scored = await score_options(llm, ASK, ["black coffee", "green juice", "black tea"], 0)
    assert [math.exp(x) for x in scored.logprobs] == pytest.approx([0.72, 0.2, 0.08])
    assert scored.usage.calls == 2


@pytest.mark.parametrize("wanted", ["mail_read_new", "mail_read_all", "mail_send", "answer"])
async def test_tools_whose_names_begin_with_their_server_are_told_apart(wanted: str) -> None:
    def first_word(request: ChatRequest) -> dict[str, float]:
        said = request.messages[-1].text if request.continue_final else ""
        rest = wanted.removeprefix(said) if wanted.startswith(said) else "?"
        words = {c.split("_")[0]: -6.0 for c in request.choices or ()}
        return {**words, rest.split("_")[0]: -0.01}

    llm = FakeLLM()
    llm.choice = first_word
    names = ["answer", "mail_read_new", "mail_send", "mail_read_all"]
    scored = await score_options(llm, ASK, names, 0)
    assert names[int(np.argmax(scored.logprobs))] == wanted
    assert np.exp(scored.logprobs).sum() == pytest.approx(1.0, abs=0.02)
    assert len(llm.requests) == {"answer": 1, "mail_send": 2}.get(wanted, 3)


async def test_an_engine_without_logprobs_leaves_the_options_even() -> None:
    llm = FakeLLM()
    llm.choice = lambda r: {}
    scored = await score_options(llm, ASK, ["a", "b"], 0)
    assert scored.logprobs[0] == scored.logprobs[1]


def test_stored_personas_of_an_older_version_are_read() -> None:
    """A store written before memory was a model of choice opens unchanged; unknown settings are still refused."""
    decision = {
        "episodes": 4,
        "form": "list",
        "evidence_weight": 40.0,
        "neighbours": 8,
        "temperature": None,
        "half_life": 3.0,
    }
    stored = {"text": "Short answers.", "origin": "aligned", "decision": decision}
    assert PersonaDraft.model_validate(stored).decision == Decision(episodes=4, form="list")
    silent = PersonaDraft.model_validate({**stored, "decision": {**decision, "evidence_weight": 0.0}})
    assert silent.decision == Decision(episodes=4, form="list", evidence=False)
    with pytest.raises(ValidationError):
        Decision.model_validate(decision)
