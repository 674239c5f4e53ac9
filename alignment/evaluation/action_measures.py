"""What was done at a request against what was right, by rule: no model judges anything here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from alignment.evaluation.action_tools import WorldTool, day_of, named, tells
from alignment.evaluation.action_world import IdealAction
from personaagent.errors import InvalidInput
from personaagent.tools.arguments import check_arguments, enumerated
from personaagent.types import ANSWER, ToolCall

__all__ = ["COSTS", "SHARES", "Acted", "ActionMeasure", "measures", "right_use", "valid"]

ActionMeasure = Literal[
    "right_tool", "right_arguments", "chosen_arguments", "free_arguments", "right_use", "steps", "calls", "tokens"
]
SHARES: tuple[ActionMeasure, ...] = (
    *("right_tool", "right_arguments", "right_use"),
    *("chosen_arguments", "free_arguments"),
)
COSTS: tuple[ActionMeasure, ...] = ("steps", "calls", "tokens")


@dataclass(frozen=True)
class Acted:
    """A turn: its answer, its calls in their order, and its cost.

    `steps` are the model's answers, with calls or without; `tokens` are those of prompts and of what was written.
    """

    answer: str
    calls: tuple[ToolCall, ...] = ()
    steps: int = 1
    tokens: int = 0


def measures(ideal: IdealAction, acted: Acted, tools: Mapping[str, WorldTool]) -> dict[ActionMeasure, float]:
    """How right a turn was. What a request cannot tell of is not there.

    - `right_tool`: the right tool was called first; where none is right, none was called.
    - `right_arguments`: and all its arguments were right. `chosen_arguments` and `free_arguments` are the shares of those
      that are chosen from a list, and of the others, that were right. Where another tool was called nothing of it was.
    - `right_use`: the answer says what this user wants of the result, and nothing else of it.
    """
    wanted = ideal.action.tool
    first = acted.calls[0] if acted.calls else None
    right = (ANSWER if first is None else first.name) == wanted
    found: dict[ActionMeasure, float] = {"right_tool": float(right)}
    if wanted != ANSWER:
        given = first.arguments if first is not None and right else {}
        told = {name: _same(given.get(name), value, name) for name, value in ideal.action.arguments.items()}
        listed = enumerated(tools[wanted].spec.parameters)
        found["right_arguments"] = float(all(told.values()))
        for measure, own in (
            ("chosen_arguments", [ok for name, ok in told.items() if name in listed]),
            ("free_arguments", [ok for name, ok in told.items() if name not in listed]),
        ):
            if own:
                found[measure] = sum(own) / len(own)  # type: ignore[index]  # both are measures
        found["right_use"] = float(right_use(ideal, acted.answer))
    cost: dict[ActionMeasure, float] = {"steps": acted.steps, "calls": len(acted.calls), "tokens": acted.tokens}
    return found | cost


def right_use(ideal: IdealAction, answer: str) -> bool:
    """Whether an answer says all that it must, and nothing that it must not."""
    return all(tells(answer, key) for key in ideal.must) and not any(tells(answer, key) for key in ideal.must_not)


def valid(call: ToolCall, tools: Mapping[str, WorldTool]) -> bool:
    """Whether a call names a tool that there is, with arguments that fit its schema."""
    if call.name not in tools:
        return False
    try:
        check_arguments(tools[call.name].spec.parameters, call.arguments)
    except InvalidInput:
        return False
    return True


def _same(given: Any, wanted: Any, name: str) -> bool:
    if not isinstance(given, str) or not isinstance(wanted, str):
        return bool(given == wanted)
    if name == "date":
        return day_of(given) == day_of(wanted)
    return given == wanted or named(given, wanted)
