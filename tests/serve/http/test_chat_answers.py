"""The trace of a turn as a chat answer tells it."""

from __future__ import annotations

from personaagent.agent.agent import Reply
from personaagent.tools.toolbox import Observation
from personaagent.types import ToolCall
from serve.http.chat_answers import completion


def test_the_trace_tells_what_was_called_and_how_long_each_step_took() -> None:
    call = ToolCall(name="weather", arguments={"place": "Rome"})
    step = Observation(
        call=call,
        text="12 degrees",
        seconds=0.5,
        tokens=3,
        bytes=10,
        chosen={"answer": 0.25, "weather": 0.75},
        decided_s=0.01,
        written_s=0.2,
    )
    told = completion(Reply(interaction_id="i", text="Mild.", trace=(step,)), "m")["personaagent"]["trace"]
    assert told == [
        {
            "tool": "weather",
            "arguments": {"place": "Rome"},
            "result": "12 degrees",
            "error": False,
            "client": False,
            "seconds": 0.5,
            "decided_seconds": 0.01,
            "written_seconds": 0.2,
            "tokens": 3,
            "bytes": 10,
            "chosen": {"answer": 0.25, "weather": 0.75},
        }
    ]


def test_who_did_not_ask_for_a_trace_is_told_none() -> None:
    assert completion(Reply(interaction_id="i", text="Mild."), "m")["personaagent"]["trace"] is None
