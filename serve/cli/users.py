"""`export`, `forget`, `users` and `population`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personaagent.errors import InvalidInput
from personaagent.whole_file import replacing
from serve.cli.output import plain_json
from serve.cli.runner import EXIT_ERROR, Json, Run, command

if TYPE_CHECKING:
    from serve.runtime.system import System

__all__ = ["register"]


async def export(
    run: Run,
    user: Annotated[str, typer.Argument(help="Whose data.")],
    out: Annotated[Path | None, typer.Option("-o", "--output", help="File to write; default stdout.")] = None,
    json: Json = False,
) -> None:
    """Everything stored of a user as JSON Lines, which `import` reads back."""
    if out is not None and not out.expanduser().resolve().parent.is_dir():
        raise InvalidInput(f"{out}: its folder does not exist")
    from personaagent.protocols import export_pages

    if json and out is None:
        raise InvalidInput("--json needs -o FILE, since the export itself goes to stdout without it")
    async with run.system(run.settings(), llm=False) as system:
        pages = export_pages(system.memory, user)
        if out is None:
            async for page in pages:
                # Into a file or pipe as it is; a terminal must not obey what users wrote, and JSON can say it in plain letters.
                text = "".join(f"{line}\n" for line in page)
                run.output.write(plain_json(text) if run.output.console.is_terminal else text)
            return
        lines = await _write(pages, out, out.expanduser())
    run.output.result({"user": user, "lines": lines, "file": str(out)})
    run.output.show(f"{lines} lines in {out}")


async def _write(pages: AsyncIterator[tuple[str, ...]], out: Path, target: Path) -> int:
    """Write an export page by page; what is at its place is replaced once it is whole. Returns the number of lines."""
    lines = 0
    try:
        first = await anext(pages)  # of an unknown user no file is begun
        with replacing(target, private=False, durable=False) as file:
            file.writelines(f"{line}\n".encode() for line in first)
            lines += len(first)
            async for page in pages:
                file.writelines(f"{line}\n".encode() for line in page)
                lines += len(page)
    except OSError as e:
        raise InvalidInput(f"{out}: {e.strerror}") from e
    return lines


async def forget(
    run: Run,
    user: Annotated[str, typer.Argument(help="Whose data.")],
    interaction: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this interaction, by its id as `export` shows it, and what was learned from it alone; may be repeated."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> int | None:
    """Remove every trace of a user, and print a receipt; or only some interactions."""
    if not yes:
        if json or not sys.stdin.isatty():
            raise InvalidInput("forget cannot be undone; confirm with --yes")
        what = f"{len(interaction)} interactions" if interaction else "everything stored"
        if not typer.confirm(f"Remove {what} of {user!r}? This cannot be undone.", err=True):
            run.output.note("nothing was removed")
            return EXIT_ERROR
    from actors.forget import forget_everywhere

    async with run.system(run.settings(), llm=False) as system:
        if interaction:
            return await _delete(run, system, user, interaction)
        receipt = await forget_everywhere(system.memory, system.settings.home, user, "operator")
    run.output.result(receipt.model_dump(mode="json"))
    run.output.show(
        f"removed {receipt.interactions} interactions, {receipt.personas} persona versions, {receipt.facts} facts and "
        f"{receipt.run_rows} rows of alignment runs; {receipt.remaining} remain"
    )
    if receipt.note:
        run.output.show(receipt.note, style="dim")
    run.output.show(f"audit entry {receipt.audit_id}", style="dim")
    return EXIT_ERROR if receipt.remaining else None


async def _delete(run: Run, system: System, user: str, ids: Sequence[str]) -> int | None:
    """Delete some interactions of a user; it is a failure if one of them is not there."""
    deleted = await system.memory.delete(user, ids, "operator")
    missing = len(set(ids)) - deleted
    run.output.result({"user": user, "deleted": deleted, "missing": missing})
    run.output.show(f"removed {deleted} interactions" + (f"; {missing} were not there" if missing else ""))
    return EXIT_ERROR if missing else None


async def users(run: Run, json: Json = False) -> None:
    """List the users and how much is stored of each; no texts."""
    async with run.system(run.settings(), llm=False) as system:
        found = sorted(await system.memory.users(), key=lambda u: u.user)
    run.output.result({"users": [u.model_dump(mode="json") for u in found], "count": len(found)})
    rows = [
        (
            u.user,
            u.interactions,
            u.truths,
            u.truths_since_alignment,
            f"{u.persona or '-'}{' pinned' if u.pinned else ''}",
            f"{u.last_time:%Y-%m-%d %H:%M}" if u.last_time else "-",
        )
        for u in found
    ]
    run.output.table(["user", ">interactions", ">truths", ">since alignment", "persona", "last"], rows)
    run.output.show(f"{len(found)} users")


async def population(
    run: Run,
    forget: Annotated[bool, typer.Option("--forget", help="Drop it; the next `align --all` learns it anew.")] = False,
    json: Json = False,
) -> None:
    """What users have in common, from which evidence starts: when it was learned, and from how many."""
    from personaagent.evidence.commons import Population
    from personaagent.types import utc_now

    async with run.system(run.settings(), llm=False) as system:
        stored = await system.memory.population()
        there = stored is not None and stored.users > 0
        if stored is not None and there and forget:
            await system.memory.commit_population(Population(number=stored.number + 1, users=0, time=utc_now()))
    told: dict[str, object] = {"number": None, "users": 0, "time": None, "choices": False, "ratings": False}
    if stored is not None and there:
        told = {"number": stored.number, "users": stored.users, "time": stored.time.isoformat()}
        told |= {"choices": bool(stored.choices), "ratings": bool(stored.ratings)}
    run.output.result({**told, "forgotten": there and forget})
    if stored is None or not there:
        run.output.show("nothing was learned of what users have in common; `align --all` does it")
        return
    kinds = [name for name in ("choices", "ratings") if told[name]]
    says = f"predicts {' and '.join(kinds)}" if kinds else "predicts nothing"
    run.output.show(f"number {stored.number}, of {stored.users} users, {stored.time:%Y-%m-%d %H:%M}; it {says}")
    if forget:
        run.output.show("it was dropped")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "users")(users)
    command(app, "export")(export)
    command(app, "forget")(forget)
    command(app, "population")(population)
