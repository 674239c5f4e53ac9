from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.decision import decide, score_options
from personaagent.types import ChatRequest, Message
from tests.agent_doubles import FakeLLM

ASK = [Message(role="user", content="drink?")]


def test_memory_and_model_add_up() -> None:
    choices = ["tea", "coffee"]
    assert decide(choices, [-0.1, -3.0], [0.0, 0.5], 0.0).answer == "tea"
    assert decide(choices, [-0.1, -3.0], [0.0, 0.5], 40.0).answer == "coffee"
    assert decide(choices, None, [0.0, 0.5], 1.0).answer == "coffee"


def test_a_rating_is_its_expected_value() -> None:
    made = decide(["1", "2", "3", "4", "5"], [math.log(p) for p in (0.4, 0.01, 0.01, 0.18, 0.4)], None, 0.0)
    assert made.answer == "3"
    assert made.expected == pytest.approx(3.17)


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


async def test_an_engine_without_logprobs_leaves_the_options_even() -> None:
    llm = FakeLLM()
    llm.choice = lambda r: {}
    scored = await score_options(llm, ASK, ["a", "b"], 0)
    assert scored.logprobs[0] == scored.logprobs[1]


@given(st.lists(st.floats(-30, 0), min_size=2, max_size=8), st.data())
def test_the_answer_is_always_one_of_the_choices(lm: list[float], data: st.DataObject) -> None:
    numeric = data.draw(st.booleans())
    choices = [str(i) if numeric else f"option {i}" for i in range(len(lm))]
    made = decide(choices, lm, [0.0] * len(lm), 1.0)
    assert made.answer in choices
    assert set(made.scores) == set(choices)
