from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.agent.action_choice import SWING, ActionChoice, model_scores
from personaagent.errors import ContextLengthExceeded, LLMError
from personaagent.tools.tool import ToolSpec
from personaagent.types import Message
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM

TOOLS = ("answer", "trains", "notes")
SPEC = ToolSpec(
    name="weather",
    description="The weather.",
    parameters={"type": "object", "properties": {"units": {"enum": ["a", "b"]}}, "required": ["units"]},
)
LOGS = st.lists(st.floats(-30, 0), min_size=3, max_size=3)


@given(
    known=st.none() | LOGS,
    lm=st.none() | LOGS,
    fit=st.none() | LOGS.map(tuple),
    weight=st.floats(0, 2),
    own=st.none() | st.floats(0, 1),
)
def test_what_is_clear_is_made_without_the_model(
    known: list[float] | None,
    lm: list[float] | None,
    fit: tuple[float, ...] | None,
    weight: float,
    own: float | None,
) -> None:
    choice = ActionChoice(options=TOOLS, fit=fit, weight=own)
    p = choice.probabilities(lm, known, weight)
    assert p.sum() == pytest.approx(1.0)
    if choice.clear(known, weight):
        assert (p == choice.probabilities(None, known, weight)).all()
    made = choice.made(lm, known, weight)
    assert made.probabilities[made.answer] == max(made.probabilities.values())
    if own is not None:
        assert made == choice.made(lm, known, weight + 1)


def test_where_nothing_tells_a_weak_model_answers() -> None:
    choice = ActionChoice(options=TOOLS)
    lm = (-9.0, 0.0, -9.0)
    assert choice.made(lm, None, 1.0).answer == "trains"
    assert choice.made(lm, None, 0.3).answer == "answer"
    assert choice.clear(None, 0.3)
    assert choice.made(lm, (-5.0, -5.0, 0.0), 0.3).answer == "notes"
    assert choice.made(lm, (-1.0, -1.0, -1.0), 0.3).answer == "trains"


def test_the_model_can_swing_what_is_not_clear() -> None:
    choice = ActionChoice(options=("a", "b"), fit=(0.0, 0.0))
    assert choice.made((-30.0, 0.0), (0.0, 0.1 - SWING), 1.0).answer == "b"
    assert choice.made((-30.0, 0.0), (0.0, -0.1 - SWING), 1.0).answer == "a"


@pytest.mark.parametrize(
    ("spec", "argument", "left_out"), [(SPEC, "units", False), (SPEC, "alerts", True), (None, "alerts", False)]
)
def test_an_argument_that_nobody_asks_for_is_left_out(spec: ToolSpec | None, argument: str, left_out: bool) -> None:
    choice = ActionChoice.of_value(("a", "answer"), argument, spec)
    assert choice.left_out(None) == left_out
    assert choice.made((0.0, -1.0), None, 0.1).answer == ("" if left_out else "a")
    assert bool(choice.probabilities((0.0, -1.0), None, 0.1).any()) != left_out
    assert choice.made(None, (-1.0, 0.0), 0.1).answer == "answer"


async def test_a_tool_fits_a_request_by_its_description() -> None:
    specs = [ToolSpec(name="trains", description="rain or sun"), ToolSpec(name="notes", description="other things")]
    choice = await ActionChoice.of_tool(TOOLS, specs, "rain or sun", HashEmbedder())
    assert choice.made(None, None, 0.0).answer == "trains"
    unknown = await ActionChoice.of_tool(TOOLS, (), "rain or sun", HashEmbedder())
    assert unknown.fit is not None
    assert unknown.fit != choice.fit
    assert np.exp(unknown.fit).sum() == pytest.approx(1.0)


async def test_a_model_that_tells_no_scores_is_left_out() -> None:
    llm, choice = FakeLLM(), ActionChoice(options=TOOLS)
    asked = [Message(role="user", content="which?")]
    assert await model_scores(llm, asked, choice, 0) is not None
    llm.error = LLMError("no scores here")
    assert await model_scores(llm, asked, choice, 0) is None
    llm.error = ContextLengthExceeded("too long")
    with pytest.raises(ContextLengthExceeded):
        await model_scores(llm, asked, choice, 0)
