"""`persona`: read a user's persona and its history, change it, go back, keep it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personaagent.cli.output import number
from personaagent.cli.runtime import Json, Run, command
from personaagent.errors import InvalidInput, NotFoundError

if TYPE_CHECKING:
    from personaagent.types import Decision, Origin, Persona, PersonaDraft

__all__ = ["register"]


class Action(StrEnum):
    """What to do with a persona."""

    SHOW = "show"
    ROLLBACK = "rollback"
    PIN = "pin"
    UNPIN = "unpin"
    SET = "set"


async def persona(
    run: Run,
    user: Annotated[str, typer.Argument(help="Whose persona.")],
    action: Annotated[
        Action,
        typer.Argument(help="`rollback VERSION`, `pin` (alignment leaves it alone), `unpin`, `set TEXT|@FILE|-`."),
    ] = Action.SHOW,
    value: Annotated[str | None, typer.Argument(help="The version to go back to, or the new text.")] = None,
    history: Annotated[bool, typer.Option("--history", help="All versions, with what changed.")] = False,
    json: Json = False,
) -> None:
    """Show a user's persona, or change it. Every change is a new version; none is lost."""
    text = _new_text(value) if action is Action.SET else None
    version = _version(value) if action is Action.ROLLBACK else None
    if action in (Action.SHOW, Action.PIN, Action.UNPIN) and value is not None:
        raise InvalidInput(f"{action} takes no value, got {value!r}")
    settings = run.settings()

    async with run.system(settings, llm=False) as system:
        memory = system.memory
        versions = await memory.personas(user)
        if not versions and action is not Action.SET:
            if await memory.summary(user) is None:
                raise NotFoundError("this user is unknown; `personaagent users` lists those there are")
            versions = (await system.agent.ensure_persona(user),)  # imported, but never spoken to
        changed = _changed(versions, action, text, version, settings.agent.decision)
        if changed is not None:
            versions = (
                *versions,
                await memory.commit_persona(user, changed, versions[-1].number if versions else None),
            )
        _show(run, versions, history)


def _show(run: Run, versions: tuple[Persona, ...], history: bool) -> None:
    output, current = run.output, versions[-1]
    if history:
        output.result({"current": current.number, "versions": [v.model_dump(mode="json") for v in versions]})
    else:
        output.result(current.model_dump(mode="json"))
    if not history:
        output.show(_heading(current), style="bold")
        output.show(current.text)
        output.show(f"decision: {current.decision}", style="dim")
        return
    before: Persona | None = None
    for version in versions:
        output.show(_heading(version), style="bold")
        output.diff(before.text if before else "", version.text)
        if before is not None and version.decision != before.decision:
            output.show(f"decision: {before.decision} -> {version.decision}", style="dim")
        before = version


def _heading(persona: Persona) -> str:
    parts = [f"version {persona.number}", str(persona.origin), f"{persona.time:%Y-%m-%d %H:%M}"]
    if persona.score_before is not None or persona.score_after is not None:
        parts.append(f"score {number(persona.score_before)} -> {number(persona.score_after)}")
    if persona.sources:
        parts.append(f"from {len(persona.sources)} interactions")
    if persona.pinned:
        parts.append("pinned")
    return ", ".join(parts)


def _changed(
    versions: tuple[Persona, ...], action: Action, text: str | None, version: int | None, default: Decision
) -> PersonaDraft | None:
    """The version to commit; None if nothing would change. `default` is the decision of a user's first persona."""
    from personaagent.types import Origin, PersonaDraft

    if action is Action.SET:
        decision, pinned = (versions[-1].decision, versions[-1].pinned) if versions else (default, False)
        return PersonaDraft(text=text or "", origin=Origin.MANUAL, decision=decision, pinned=pinned)
    current = versions[-1]
    if action is Action.ROLLBACK:
        old = next((v for v in versions if v.number == version), None)
        if old is None:
            raise NotFoundError(f"version {version} does not exist; there are 1 to {current.number}")
        return _again(old, Origin.ROLLBACK, current.pinned)
    pinned = action is Action.PIN
    return None if action is Action.SHOW or current.pinned == pinned else _again(current, Origin.MANUAL, pinned)


def _again(persona: Persona, origin: Origin, pinned: bool) -> PersonaDraft:
    from personaagent.types import PersonaDraft

    return PersonaDraft(
        text=persona.text, origin=origin, decision=persona.decision, sources=persona.sources, pinned=pinned
    )


def _version(value: str | None) -> int:
    if value is None or not value.isdecimal():
        raise InvalidInput("rollback takes the number of a version, as in: persona USER rollback 2")
    return int(value)


def _new_text(value: str | None) -> str:
    from pydantic import ValidationError

    from personaagent.types import Origin, PersonaDraft

    if value is None:
        raise InvalidInput("set takes the new text, @FILE, or - for stdin")
    try:
        if value == "-":
            text = sys.stdin.read()
        else:
            text = Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidInput(f"{value[1:]}: cannot be read as UTF-8 text: {e}") from e
    if not text.strip():
        raise InvalidInput("a persona cannot be empty")
    try:
        return PersonaDraft(text=text.strip(), origin=Origin.MANUAL).text
    except ValidationError as e:
        raise InvalidInput(f"persona: {e.errors()[0]['msg']}") from e


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "persona")(persona)
