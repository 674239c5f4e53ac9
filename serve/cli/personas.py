"""`persona`: read a user's persona and its history, change it claim by claim, go back, keep it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personaagent.claims import ClaimKind
from personaagent.errors import InvalidInput, NotFoundError, UnknownUserError
from serve.cli.explaining import looked_up, shown
from serve.cli.output import number
from serve.cli.persona_view import reading, show_claim, show_persona
from serve.cli.runner import Json, Run, command

if TYPE_CHECKING:
    from personaagent.persona.versions import PersonaVersions
    from personaagent.types import Interaction, Persona, PersonaPage

__all__ = ["register"]


class PersonaAction(StrEnum):
    """What to do with a persona."""

    SHOW = "show"
    ADD = "add"
    STRIKE = "strike"
    PIN = "pin"
    UNPIN = "unpin"
    WHY = "why"
    SET = "set"
    ROLLBACK = "rollback"


async def persona(
    run: Run,
    user: Annotated[str, typer.Argument(help="Whose persona.")],
    action: Annotated[
        PersonaAction,
        typer.Argument(
            help="`add TEXT` (a claim on your word), `strike N` (claim N goes and stays away), `pin [N]` (alignment leaves claim "
            "N alone, or all of it), `unpin [N]`, `why [N]` (the interactions behind), `set TEXT|@FILE|-` (all of it anew), "
            "`rollback VERSION`."
        ),
    ] = PersonaAction.SHOW,
    value: Annotated[str | None, typer.Argument(help="The text, or the number of a claim or version.")] = None,
    kind: Annotated[ClaimKind | None, typer.Option(help="What an added claim is about; default fact.")] = None,
    why: Annotated[bool, typer.Option("--why", help="Also the interactions behind each claim.")] = False,
    history: Annotated[bool, typer.Option("--history", help="The newest versions, with what changed.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many versions --history shows.")] = 20,
    before: Annotated[int | None, typer.Option(min=2, help="With --history: versions before this number.")] = None,
    json: Json = False,
) -> None:
    """Show a user's persona, or change it. Every change is a new version; none is lost."""
    if action is PersonaAction.SHOW and value is not None:
        raise InvalidInput(f"{action} takes no value, got {value!r}")
    if kind is not None and action is not PersonaAction.ADD:
        raise InvalidInput("--kind is for add, as in: persona USER add TEXT --kind prefers")
    text = _new_text(action, value) if action in (PersonaAction.ADD, PersonaAction.SET) else ""
    which = _number(action, value)
    async with run.system(run.settings(), llm=False) as system:
        current = await _done(system.agent.personas, user, action, text, which, kind or ClaimKind.FACT)
        page = await system.memory.persona_page(user, before, limit + 1) if history else None
        about: dict[str, Interaction] | None = None
        if why or action is PersonaAction.WHY:
            about = await looked_up(system, user, _behind(current, which if action is PersonaAction.WHY else None))
    if action is PersonaAction.WHY and which is not None:
        _show_why(run, current, which, about or {})
    elif page is not None:
        _show_history(run, current, page, limit)
    else:
        _show(run, current, about)


async def _done(
    personas: PersonaVersions, user: str, action: PersonaAction, text: str, which: int | None, kind: ClaimKind
) -> Persona:
    """Do what is asked, with a new text or with what has a number; the version that is current then."""
    try:
        if action is PersonaAction.SET:
            return await personas.write(user, text)
        if action is PersonaAction.ADD:
            return await personas.add_claim(user, text, kind)
        if action is PersonaAction.STRIKE and which is not None:
            return await personas.strike_claim(user, which)
        if action is PersonaAction.ROLLBACK and which is not None:
            return await personas.roll_back(user, which)
        if action in (PersonaAction.PIN, PersonaAction.UNPIN):
            pinned = action is PersonaAction.PIN
            return await (personas.pin(user, pinned) if which is None else personas.pin_claim(user, which, pinned))
        return await personas.current(user)
    except UnknownUserError as e:
        raise NotFoundError(f"{e.message}; `personaagent users` lists those there are") from e


def _show(run: Run, current: Persona, about: Mapping[str, Interaction] | None) -> None:
    told = {} if about is None else {"interactions": _plain(about)}
    run.output.result({**current.model_dump(mode="json"), **told})
    run.output.show(_heading(current), style="bold")
    show_persona(run.output, current, about)


def _show_why(run: Run, current: Persona, which: int, about: Mapping[str, Interaction]) -> None:
    from personaagent.persona.persona import standing

    claim = standing(current)[which - 1]
    run.output.result({"number": which, **claim.model_dump(mode="json"), "interactions": _plain(about)})
    show_claim(run.output, which, claim, about)


def _show_history(run: Run, current: Persona, page: PersonaPage, limit: int) -> None:
    """`page` has a version more than is shown if there is one, to tell what the oldest one changed."""
    output = run.output
    versions = page.versions[-limit:]
    first = versions[0].number if versions else 1
    following = first if first > 1 else None
    output.result(
        {"current": current.number, "versions": [v.model_dump(mode="json") for v in versions], "next": following}
    )
    before: Persona | None = page.versions[-limit - 1] if len(page.versions) > limit else None
    for version in versions:
        output.show(_heading(version), style="bold")
        if version.dropped:
            output.show("its texts are gone (memory.limits.persona_chain_mb)", style="dim")
            before = version
            continue
        output.diff(before.text if before else "", version.text)
        for claim in version.claims:
            if before is not None and claim.pinned is not _pinned(before, claim.text):
                output.show(f"{'pinned' if claim.pinned else 'unpinned'}: {shown(claim.text)}", style="dim")
        if before is not None and version.exemplars != before.exemplars:
            output.show(f"exemplars: {len(before.exemplars)} -> {len(version.exemplars)}", style="dim")
        if before is not None and version.decision != before.decision:
            output.show(f"memory: {reading(before.decision)} -> {reading(version.decision)}", style="dim")
        before = version
    if following is not None:
        output.note(f"{first - 1} older versions: --history --before {first}")


def _pinned(version: Persona, text: str) -> bool:
    return any(c.pinned for c in version.claims if c.text == text)


def _plain(about: Mapping[str, Interaction]) -> list[dict[str, object]]:
    return [i.model_dump(mode="json", include={"id", "time", "query", "truth"}) for i in about.values()]


def _behind(persona: Persona, which: int | None) -> list[str]:
    """The interactions that a claim rests on, or all claims."""
    from personaagent.persona.persona import numbered, standing

    claims = standing(persona)
    asked = claims if which is None else (numbered(claims, which),)
    return list(dict.fromkeys(source for claim in asked for source in claim.sources))


def _heading(persona: Persona) -> str:
    parts = [f"version {persona.number}", str(persona.origin), f"{persona.time:%Y-%m-%d %H:%M}"]
    if persona.score_before is not None or persona.score_after is not None:
        parts.append(f"score {number(persona.score_before)} -> {number(persona.score_after)}")
    if persona.sources:
        parts.append(f"from {len(persona.sources)} interactions")
    if persona.pinned:
        parts.append("pinned")
    return ", ".join(parts)


def _number(action: PersonaAction, value: str | None) -> int | None:
    """The number that an action takes; None where it is left out and may be."""
    if action in (PersonaAction.SHOW, PersonaAction.ADD, PersonaAction.SET):
        return None
    if value is None and action in (PersonaAction.PIN, PersonaAction.UNPIN, PersonaAction.WHY):
        return None
    if value is not None and value.isdecimal() and len(value) < 10:
        return int(value)
    of = "version" if action is PersonaAction.ROLLBACK else "claim"
    raise InvalidInput(f"{action} takes the number of a {of}, as in: persona USER {action} 2")


def _new_text(action: PersonaAction, value: str | None) -> str:
    from pydantic import ValidationError

    from personaagent.types import Origin, PersonaDraft

    if value is None:
        raise InvalidInput(f"{action} takes the new text, @FILE, or - for stdin")
    try:
        if value == "-":
            text = sys.stdin.read()
        else:
            text = Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidInput(f"{value[1:]}: cannot be read as UTF-8 text: {e}") from e
    if not text.strip():
        raise InvalidInput(f"a {'claim' if action is PersonaAction.ADD else 'persona'} cannot be empty")
    try:
        return PersonaDraft(text=text.strip(), origin=Origin.MANUAL).text
    except ValidationError as e:
        raise InvalidInput(f"persona: {e.errors()[0]['msg']}") from e


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "persona")(persona)
