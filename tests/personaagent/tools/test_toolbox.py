"""The toolbox of a turn: what a turn may take altogether, what reaches a tool, and names that are there twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.errors import StoreError
from personaagent.memory.incoming import InteractionLine
from personaagent.tool_settings import ToolSettings
from personaagent.tools.call_log import CallLog
from personaagent.tools.tool import Effect, Sees, Tool, ToolContext, ToolSpec
from personaagent.tools.toolbox import CALLS, Observation, Toolbox, recorded, remembered
from personaagent.types import ToolCall
from tests.support.fake_tool import FakeTool

CONTEXT = ToolContext(user="ada", interaction="now", said=("I live in Ulm",))
CLOCK = ToolSpec(name="clock", description="the time")


class Offered:
    """A server's tools."""

    def __init__(self, *tools: Tool) -> None:
        self._tools = tools

    async def tools(self) -> Sequence[Tool]:
        return self._tools

    def status(self) -> None:
        return None

    async def close(self) -> None:
        pass


async def test_results_of_a_turn_share_its_tokens() -> None:
    clock = FakeTool(CLOCK, "tick " * 400)
    opened = await Toolbox(ToolSettings(tokens=100, turn_tokens=150), [clock]).open()
    seen = [await opened.call(ToolCall(name="clock"), CONTEXT) for _ in range(4)]
    assert sum(o.tokens for o in seen if not o.error) <= 150 + 16
    assert seen[0].tokens <= 100
    assert not seen[0].error
    assert seen[-1].error
    assert "nothing left of this turn's time and room" in seen[-1].text
    assert len(clock.calls) < 4
    again = await Toolbox(ToolSettings(tokens=100, turn_tokens=150), [clock]).open()
    assert not (await again.call(ToolCall(name="clock"), CONTEXT)).error  # every turn has its own


async def test_calls_side_by_side_share_them_too() -> None:
    opened = await Toolbox(ToolSettings(tokens=100, turn_tokens=150), [FakeTool(CLOCK, "tick " * 400)]).open()
    seen = await opened.call_all([ToolCall(name="clock")] * 8, CONTEXT)
    assert sum(o.tokens for o in seen) <= 150 + 7 * 20


async def test_calls_of_a_turn_share_its_time() -> None:
    async def slow(arguments: Mapping[str, Any]) -> str:
        await asyncio.sleep(30)
        return "late"

    spec = CLOCK.model_copy(update={"timeout_s": 20.0})
    opened = await Toolbox(ToolSettings(turn_timeout_s=0.2), [FakeTool(spec, slow)]).open()
    began = time.perf_counter()
    seen = [await opened.call(ToolCall(name="clock"), CONTEXT) for _ in range(5)]
    assert time.perf_counter() - began < 2
    assert all(o.error for o in seen)
    assert "nothing left of this turn's time" in seen[-1].text


async def test_a_tool_sees_what_it_declares() -> None:
    memory = FakeTool(CLOCK.model_copy(update={"name": "mine", "sees": Sees.MEMORY}))
    other = FakeTool(CLOCK)
    opened = await Toolbox(ToolSettings(), [memory, other]).open()
    for name in ("mine", "clock"):
        await opened.call(ToolCall(name=name), CONTEXT)
    assert memory.calls[0][1].said == ("I live in Ulm",)
    assert other.calls[0][1].said == ()


async def test_of_two_tools_of_one_name_the_first_is_called_whoever_offers_it(caplog: pytest.LogCaptureFixture) -> None:
    ours, first, second = FakeTool(CLOCK, "ours"), FakeTool(CLOCK, "theirs"), FakeTool(CLOCK, "another's")
    maps = [FakeTool(ToolSpec(name="maps", description="maps"), text) for text in ("one", "two")]
    answer = FakeTool(ToolSpec(name="answer", description="an answer"))
    box = Toolbox(ToolSettings(), [ours], [Offered(first, maps[0], answer), Offered(second, maps[1])])
    for _ in range(3):
        opened = await box.open()
        assert [s.name for s in opened.specs] == ["clock", "maps"]
        assert (await opened.call(ToolCall(name="clock"), CONTEXT)).text == "ours"
        assert (await opened.call(ToolCall(name="maps"), CONTEXT)).text == "one"
    assert first.calls == second.calls == maps[1].calls == answer.calls == []
    warned = [r.getMessage() for r in caplog.records]
    assert sorted(warned) == sorted(  # once each, and not with every turn
        f"two tools are named {name}; the second one is left out" for name in ("clock", "maps", "answer")
    )


async def test_a_call_that_cannot_be_logged_is_not_made() -> None:
    async def write(user: str, tool: str, failed: bool) -> None:
        raise StoreError("the disk is full")

    pay = FakeTool(ToolSpec(name="pay", description="pays", effect=Effect.CHANGES))
    opened = await Toolbox(ToolSettings(), [pay], audit=CallLog(write)).open()
    seen = await opened.call(ToolCall(name="pay"), CONTEXT)
    assert (seen.error, "could not be logged" in seen.text) == (True, True)
    assert pay.calls == []


NAMED = st.sampled_from(["a", "b", "ü" * 30])
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**200), 10**200) | st.text(max_size=5) | st.just("long " * 1_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMED, inner, max_size=3),
    max_leaves=10,
)


@given(
    st.lists(st.tuples(st.dictionaries(NAMED, JSONS, max_size=3), st.text(max_size=50), st.integers(0, 90)), max_size=6)
)
def test_what_is_recorded_of_calls_can_always_be_stored_exported_and_read_back(calls: list[Any]) -> None:
    trace = []
    for arguments, text, levels in calls:
        deep: Any = 1
        for _ in range(levels):
            deep = [deep]
        call = ToolCall(name="f", arguments={**arguments, "deep": deep})
        trace.append(Observation(call=call, text=text * 100, client=levels % 2 == 0))
    kept = recorded(trace)
    assert len(json.dumps(kept, ensure_ascii=False).encode()) < 26_000
    line = {"type": "interaction", "query": "q", "metadata": {CALLS: kept}}
    assert InteractionLine.model_validate(json.loads(json.dumps(line))).metadata[CALLS] == kept
    assert [o.call.name for o in remembered(kept)] == ["f"] * len(kept)


def test_of_very_many_calls_the_latest_are_recorded() -> None:
    trace = [Observation(call=ToolCall(name="f", arguments={"n": n, "text": "x" * 800}), text="y") for n in range(100)]
    kept = [o.call.arguments["n"] for o in remembered(recorded(trace))]
    assert kept == list(range(100 - len(kept), 100))
    assert 10 < len(kept) < 100
    (short,) = remembered(
        recorded([Observation(call=ToolCall(name="f", arguments={"a": "x" * 9_000, "b": 1}), text="")])
    )
    assert short.call.arguments == {"a": "x" * 200 + "...", "b": 1}
