"""`explain`, and how reasons look on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve.cli.output import Output
from serve.cli.runner import Json, Run, command

if TYPE_CHECKING:
    from personaagent.types import Interaction, Reason
    from serve.runtime.system import System

__all__ = [
    "looked_up",
    "percent",
    "plain",
    "register",
    "show_interactions",
    "show_probabilities",
    "show_reasons",
    "shown",
    "sources",
]

SHOWN = 60  # characters of a text


async def explain(
    run: Run,
    user: Annotated[str, typer.Argument(help="Whose choice.")],
    query: Annotated[str, typer.Argument(help="What is asked.")],
    choice: Annotated[list[str] | None, typer.Option(help="A permitted answer; repeat it.")] = None,
    json: Json = False,
) -> None:
    """Say what a user would choose and why, from memory alone; no model is started, and nothing is remembered."""
    from pydantic import TypeAdapter, ValidationError

    from personaagent.agent.explanation import Question
    from personaagent.agent.explanation import explain as explained
    from personaagent.errors import InvalidInput
    from personaagent.types import UserId

    try:
        TypeAdapter(UserId).validate_python(user)
        question = Question.model_validate({"query": query, "choices": choice or ()})
    except ValidationError as e:
        first = e.errors()[0]
        where = {"query": "QUERY: ", "choices": "the --choice options "}.get(
            str(first["loc"][0]) if first["loc"] else "", ""
        )
        raise InvalidInput(where + first["msg"].removeprefix("Value error, ")) from e
    async with run.system(run.settings(), llm=False) as system:
        found = await explained(system.memory, user, question, system.settings.agent.decision)
        about = await looked_up(system, user, sources(found.reasons))
    run.output.result({**found.model_dump(exclude={"reasons"}), **plain(found.reasons, about)})
    run.output.show(shown(found.answer))
    show_probabilities(run.output, found.probabilities, found.expected)
    show_reasons(run.output, found.reasons, about, rating=found.expected is not None)


def sources(reasons: Sequence[Reason]) -> list[str]:
    """The ids of the interactions behind reasons."""
    return list(dict.fromkeys(source for reason in reasons for source in reason.sources))


async def looked_up(system: System, user: str, ids: Sequence[str]) -> dict[str, Interaction]:
    """Interactions by id, in that order; those that are gone meanwhile are left out."""
    return {i.id: i for i in await system.memory.interactions(user, ids)} if ids else {}


def plain(reasons: Sequence[Reason] | None, about: Mapping[str, Interaction]) -> dict[str, Any]:
    """Reasons as the API gives them, and beside them what the interactions say."""
    from personaagent.agent.explanation import why

    told = [i.model_dump(mode="json", include={"id", "time", "query", "truth"}) for i in about.values()]
    return {"why": None if reasons is None else why(reasons), "interactions": told}


def show_probabilities(output: Output, probabilities: Mapping[str, float], expected: float | None) -> None:
    """A table of the options, likeliest first; grades stay in their order."""
    options = list(probabilities)
    if expected is None:
        options.sort(key=lambda o: -probabilities[o])
    output.table(["option", ">probability"], [(shown(o), percent(probabilities[o])) for o in options])
    if expected is not None:
        output.show(f"expected {expected:.2f}")


def show_reasons(
    output: Output, reasons: Sequence[Reason], about: Mapping[str, Interaction], rating: bool = False
) -> None:
    """What speaks for the answer or against it, each with the interactions it was learned from."""
    up, down = ("raised by", "lowered by") if rating else ("because of", "despite")
    for reason in reasons:
        behind = [about[i] for i in reason.sources if i in about]
        word, weight = up if reason.weight > 0 else down, f"({reason.weight:+.{2 if rating else 1}f})"
        if rating or not reason.text:  # the request itself is the reason
            output.show(f"{word} {'; '.join(map(_told, behind))} {weight}")
            continue
        count = f"{len(behind)} request{'' if len(behind) == 1 else 's'}"
        output.show(f'{word} "{shown(reason.text)}" {weight}, from {count}:')
        show_interactions(output, behind)
    if not reasons:
        output.show("memory has nothing to say about it")


def show_interactions(output: Output, interactions: Sequence[Interaction], indent: int = 2) -> None:
    """A line each: the request and what the user really wanted."""
    for interaction in interactions:
        output.show(f"{' ' * indent}{_told(interaction)}")


def _told(interaction: Interaction) -> str:
    truth = "" if interaction.truth is None else f' -> "{shown(interaction.truth)}"'
    return f'"{shown(interaction.query)}"{truth}'


def percent(probability: float) -> str:
    """A probability for people."""
    return f"{100 * probability:.1f} %"


def shown(text: str, most: int = SHOWN) -> str:
    """At most so many characters of a text, on one line; what could move the cursor or turn the writing around is escaped."""
    line = " ".join(text.split())
    cut = line if len(line) <= most else f"{line[: most - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "explain")(explain)
