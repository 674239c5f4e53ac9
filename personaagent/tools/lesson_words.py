"""Lessons in words: how a model is asked what to do, as in a turn, and what it is told of what was right."""

from __future__ import annotations

from collections.abc import Sequence

from personaagent import prompts
from personaagent.tools.asking import which_tool, which_value
from personaagent.tools.lessons import TOOL
from personaagent.tools.tool import ToolSpec
from personaagent.types import ACTION, ANSWER, Interaction

__all__ = ["argument_of", "asked_in_words", "asks", "in_words"]


def asks(lesson: Interaction, specs: Sequence[ToolSpec] = ()) -> str:
    """What the model is asked behind the request, as in a turn that chooses its tools; `specs`: those that are known."""
    options = lesson.choices or ()
    about = argument_of(lesson)
    if about is None:
        return which_tool(options, specs)
    tool, argument = about
    return which_value(tool, argument, options, next((s for s in specs if s.name == tool), None))


def asked_in_words(lesson: Interaction) -> str:
    """The request, and what the assistant could do, as it is told to a model that judges what was done."""
    options = (in_words(lesson, option) for option in lesson.choices or ())
    return prompts.LESSON.format(query=lesson.query, options="; ".join(options))


def in_words(lesson: Interaction, option: str) -> str:
    """One of the things that the assistant could do."""
    about = argument_of(lesson)
    if about is None:
        return prompts.LESSON_ANSWER if option == ANSWER else prompts.LESSON_TOOL.format(tool=option)
    return prompts.LESSON_ARGUMENT.format(tool=about[0], argument=about[1], value=option)


def argument_of(lesson: Interaction) -> tuple[str, str] | None:
    """Tool and argument that a lesson is about; None for one about the tool itself."""
    action = str(lesson.metadata.get(ACTION, TOOL))
    tool, _, argument = action.partition(".")
    return (tool, argument) if argument else None
