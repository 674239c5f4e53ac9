"""What was right to do at a request, as further interactions beside it: lessons.

A lesson is a closed choice like any other: the request's text, the options there were, and the right one. One says which tool was
right, or that none was needed; one more says so for each argument that is chosen from a list. So evidence, alignment, claims,
export and forgetting work on them as they are. Ids follow from the interaction: the same truth told again changes nothing, and
another one takes the place of the first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from personaagent.errors import InvalidInput, NotFoundError
from personaagent.nearest import likely
from personaagent.protocols import Memory
from personaagent.tool_settings import NAME
from personaagent.tools.arguments import check_arguments, enumerated, option
from personaagent.tools.client_tools import offered_specs
from personaagent.tools.tool import ToolSpec
from personaagent.types import (
    ACTION,
    ANSWER,
    LESSON,
    OF,
    TOOL_LESSON,
    Action,
    AppendResult,
    Interaction,
    RecallQuery,
    interaction_id,
)

__all__ = ["ARGUMENTS", "JUDGED", "TOOL", "kin", "lessons", "remember", "teach"]

TOOL = "tool"  # the value of `ACTION` in the lesson on the tool itself
ARGUMENTS = "arguments"  # metadata of that lesson: the right values of the arguments that are written freely
JUDGED = "judged"  # metadata of that lesson: the arguments that have lessons of their own
_ARGUMENT = re.compile(r"[\w-]{1,64}")
_TOOL = re.compile(NAME)
_SHOWN = 64  # characters of a name that a message repeats


def lessons(interaction: Interaction, action: Action, specs: Sequence[ToolSpec]) -> list[Interaction]:
    """The lessons of an interaction: the one on its tool, then those on its arguments, in the order in which they are written.

    Args:
        interaction: the request.
        action: what was right.
        specs: tools that are known, beside those that the application offered with the request. One that is neither can be told
            only in `action.among`, and its arguments are then taken as they are.

    Raises:
        InvalidInput: there was no such tool, it has no such argument, or the value does not fit its schema.
    """
    theirs = offered_specs(interaction)
    specs = [*theirs, *(s for s in specs if s.name not in {t.name for t in theirs})]
    names = tuple(dict.fromkeys(n for n in (action.among or tuple(s.name for s in specs)) if n != ANSWER))
    if not names:
        raise InvalidInput("action.among: name the tools that there were; no others are known here")
    for name in names:
        if not _TOOL.fullmatch(name):
            raise InvalidInput(f"action.among: {name[:_SHOWN]!r} is no name of a tool")
    if action.tool not in (ANSWER, *names):
        raise InvalidInput(
            f"action.tool: there is no tool {action.tool[:_SHOWN]!r}{likely(action.tool, (ANSWER, *names))}"
        )
    listed, free = _judged(action, next((s for s in specs if s.name == action.tool), None))
    metadata: dict[str, Any] = {ACTION: TOOL, OF: interaction.id}
    if free:
        metadata[ARGUMENTS] = free
    if listed:
        metadata[JUDGED] = list(listed)
    made = [
        _lesson(
            interaction, TOOL_LESSON + interaction_id(interaction.id, TOOL), (ANSWER, *names), action.tool, metadata
        )
    ]
    for name, (options, right) in listed.items():
        about: dict[str, Any] = {ACTION: f"{action.tool}.{name}", OF: interaction.id}
        made.append(_lesson(interaction, _argument_id(interaction.id, action.tool, name), options, right, about))
    return made


async def teach(
    memory: Memory,
    user: str,
    interaction: str,
    action: Action,
    specs: Sequence[ToolSpec],
    incarnation: int | None = None,
) -> list[Interaction]:
    """Remember what was right to do at an interaction, in the place of whatever was told of it before; the lessons.

    Raises:
        NotFoundError: there is no such interaction.
        InvalidInput: it is a lesson itself, or see `lessons`.
    """
    known = await memory.interactions(user, [interaction])
    if not known:
        raise NotFoundError(f"interaction {interaction!r} does not exist")
    if known[0].lesson:
        raise InvalidInput("this is a lesson on a tool; say what was right of the interaction that it is about")
    made = lessons(known[0], action, specs)
    await remember(memory, user, (), made, incarnation)
    return made


async def remember(
    memory: Memory,
    user: str,
    interactions: Sequence[Interaction],
    made: Sequence[Interaction],
    incarnation: int | None = None,
) -> AppendResult:
    """Append interactions of one user, then lessons on them; how many interactions were new.

    Lessons on arguments that were told of these requests before, and are told no more, lose their truth.
    """
    tools = [i.id for i in made if i.id.startswith(TOOL_LESSON)]
    before = await memory.interactions(user, tools) if tools else ()
    untold = {_argument_id(str(i.metadata.get(OF)), i.truth or "", str(name)) for i in before for name in _names(i)} - {
        i.id for i in made
    }
    gone = await memory.interactions(user, sorted(untold)) if untold else ()
    result = AppendResult(added=0, repeated=0)
    if interactions:  # first: what is wrong with them is found out before anything is written
        result = await memory.append(user, interactions, incarnation)
    if made:
        await memory.append(user, [*made, *(i.model_copy(update={"truth": None}) for i in gone)], incarnation)
    return result


def kin(query: RecallQuery, interaction: Interaction) -> RecallQuery:
    """The query among what tells of the same kind of choice: lessons on the tool or on the same argument, if it is of a lesson;
    lessons left out otherwise."""
    if not interaction.lesson:
        return query
    same = {ACTION: interaction.metadata.get(ACTION)}
    return query.model_copy(update={"lessons": True, "metadata": {**query.metadata, **same}})


def _judged(action: Action, spec: ToolSpec | None) -> tuple[dict[str, tuple[tuple[str, ...], str]], dict[str, Any]]:
    """Arguments that are chosen from a list, with its options and the right one; and all others with their values."""
    if action.tool == ANSWER and action.arguments:
        raise InvalidInput("action.arguments: an answer without a tool has none")
    lists: Mapping[str, tuple[Any, ...]] = {
        n: (True, False) for n, v in action.arguments.items() if isinstance(v, bool)
    }
    if spec is None:
        for name in action.arguments:
            if not _ARGUMENT.fullmatch(name):
                raise InvalidInput(f"action.arguments: {name[:_SHOWN]!r} is no name of an argument")
    else:
        _check(action, spec)
        lists = enumerated(spec.parameters)
    listed: dict[str, tuple[tuple[str, ...], str]] = {}
    for name, values in lists.items():
        options = tuple(map(option, values))
        if name in action.arguments:
            listed[name] = options, option(action.arguments[name])
    return listed, {name: value for name, value in action.arguments.items() if name not in listed}


def _check(action: Action, spec: ToolSpec) -> None:
    """Raise InvalidInput if an argument is not the tool's, or does not fit. Those that are not told were not judged."""
    properties = spec.parameters.get("properties")
    known = properties if isinstance(properties, dict) else {}
    for name in action.arguments:
        if name not in known:
            raise InvalidInput(f"action.arguments: {spec.name} has no argument {name[:_SHOWN]!r}{likely(name, known)}")
    schema = {key: value for key, value in spec.parameters.items() if key != "required"}
    try:
        check_arguments(schema, action.arguments)
    except InvalidInput as e:
        raise InvalidInput(f"action.arguments: {e.message}") from e


def _lesson(
    about: Interaction, name: str, options: tuple[str, ...], right: str, metadata: dict[str, Any]
) -> Interaction:
    return Interaction(
        id=name,
        user=about.user,
        time=about.time,
        query=about.query,
        truth=right,
        choices=options,
        metadata=metadata,
    )


def _argument_id(interaction: str, tool: str, argument: str) -> str:
    return f"{LESSON}argument:{interaction_id(interaction, tool, argument)}"


def _names(lesson: Interaction) -> list[Any]:
    """The arguments that have lessons of their own beside the lesson on the tool."""
    names = lesson.metadata.get(JUDGED)
    return names if isinstance(names, list) else []
