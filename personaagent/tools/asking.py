"""How a model is asked what to do: which tool is needed, and with which value of an argument.

A turn asks in these words, and so does whoever asks again what was right at one (`personaagent.tools.lesson_words`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from personaagent import prompts
from personaagent.tools.tool import ToolSpec
from personaagent.tools.untrusted import cleaned
from personaagent.types import ANSWER

__all__ = ["described", "which_tool", "which_value"]

FIRST = 120  # characters of a description that are told


def which_tool(names: Sequence[str], specs: Sequence[ToolSpec]) -> str:
    """Which of these tools is needed first.

    Args:
        names: of the tools there are, or were; `ANSWER` may be among them.
        specs: of those that are known; of others the name is all that can be told.
    """
    known = {spec.name: f"{spec.name}: {_short(spec.description)}" for spec in specs}
    return prompts.CHOOSE_TOOL.format(tools="\n".join(known.get(n, n) for n in names if n != ANSWER))


def which_value(tool: str, argument: str, options: Sequence[str], spec: ToolSpec | None) -> str:
    """Which value of an argument is wanted; `spec`: the tool's, if it is known."""
    told = cleaned(argument) if spec is None else described(spec, argument)
    return prompts.CHOOSE_ARGUMENT.format(tool=tool, argument=told, options=", ".join(map(cleaned, options)))


def described(spec: ToolSpec, argument: str) -> str:
    """An argument and what its schema says of it."""
    node: Any = (spec.parameters.get("properties") or {}).get(argument, {})  # type: ignore[union-attr]
    said = str(node.get("description", "")) if isinstance(node, dict) else ""
    name = cleaned(argument)  # names and values of arguments are a server's words too
    return f"{name} ({_short(said)})" if said else name


def _short(description: str) -> str:
    line = " ".join(description.split())
    return line if len(line) <= FIRST else line[:FIRST].rsplit(" ", 1)[0] + " ..."
