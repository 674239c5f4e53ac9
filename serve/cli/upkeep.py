"""`doctor`, `reshard`, `migrate` and `expire`: upkeep of a store that no server uses. They need neither Ray nor a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personaagent.errors import InvalidInput, StoreError
from serve.cli.runner import EXIT_ERROR, Json, Run, command

if TYPE_CHECKING:
    from personaagent.settings import Settings

__all__ = ["register"]

SHOWN = 20  # problems in the table


async def doctor(
    run: Run,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what is safe; the rest is only reported.")] = False,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="With --fix: delete exact repeats too.")] = False,
    json: Json = False,
) -> int | None:
    """Check the whole store, without any model; exit code 1 if problems remain."""
    if duplicates and not fix:
        raise InvalidInput("--duplicates deletes interactions; it needs --fix")
    from actors.upkeep.doctor import doctor as check

    settings = run.settings()
    found = await _upkeep(run, settings, "checking", functools.partial(check, settings, fix, duplicates))
    run.output.result(found)
    problems = [f for f in found["findings"] if f["problem"] or f["fixed"]]
    rows = [
        (f["check"], f["user"] or "-", f["count"], f["detail"], "fixed" if f["fixed"] else "problem")
        for f in problems[:SHOWN]
    ]
    if rows:
        run.output.table(["check", "user", ">count", "what", ""], rows)
    if len(problems) > SHOWN:
        run.output.show(f"and {len(problems) - SHOWN} more; --json lists them", style="dim")
    notices = [f for f in found["findings"] if not f["problem"] and not f["fixed"]]
    for name in dict.fromkeys(f["check"] for f in notices):
        alike = [f for f in notices if f["check"] == name]
        of = f"{alike[0]['user']}: " if alike[0]["user"] else ""
        more = f" (and {len(alike) - 1} more of {name}; --json lists them)" if len(alike) > 1 else ""
        run.output.show(f"notice: {of}{alike[0]['detail']}{more}", style="dim")
    run.output.show(
        f"{found['users']} users with {found['interactions']} interactions, {found['personas']} persona versions and "
        f"{found['facts']} facts in {found['shards']} shards: {found['remaining']} problems, {found['fixed']} fixed"
    )
    return EXIT_ERROR if found["remaining"] else None


async def reshard(
    run: Run,
    shards: Annotated[int, typer.Argument(help="The new number of shards.", min=1, max=4096)],
    keep: Annotated[bool, typer.Option("--keep", help="Keep the old store beside the new one.")] = False,
    json: Json = False,
) -> None:
    """Move all users to another number of shards. Interrupted, it goes on when run again."""
    from actors.upkeep.move import reshard as move

    settings = run.settings()
    moved = await _upkeep(run, settings, "resharding", functools.partial(move, settings, shards, keep))
    run.output.result(asdict(moved))
    if moved.users:
        run.output.show(f"{moved.users} users with {moved.interactions} interactions in {shards} shards")
    if moved.note:
        run.output.show(moved.note, style="dim")
    run.output.show(f"from now on set memory.shards to {shards}", style="dim")


async def migrate(
    run: Run,
    to: Annotated[str, typer.Option("--to", metavar="URI", help="The Milvus server, as in http://milvus:19530.")],
    json: Json = False,
) -> None:
    """Copy a Milvus Lite store to a Milvus server and verify it. Interrupted, it goes on when run again."""
    from actors.upkeep.move import migrate as copy

    settings = run.settings()
    moved = await _upkeep(run, settings, "migrating", functools.partial(copy, settings, to))
    run.output.result(asdict(moved))
    run.output.show(
        f"{moved.users} users with {moved.interactions} interactions, {moved.personas} persona versions and {moved.facts} "
        f"facts are at {to}, equal by checksum; {moved.copied} users were copied now"
    )
    run.output.show(moved.note, style="dim")


async def expire(
    run: Run,
    days: Annotated[float | None, typer.Option(help="Instead of memory.retention_days.", min=0)] = None,
    json: Json = False,
) -> None:
    """Delete interactions older than memory.retention_days now; a running server does so by itself."""
    from actors.upkeep.retention import expire as remove

    settings = run.settings()
    gone = await _upkeep(run, settings, "expiring", functools.partial(remove, settings, days))
    run.output.result(gone)
    run.output.show(f"deleted {gone['interactions']} interactions of {gone['users']} users")
    if gone["note"]:
        run.output.show(str(gone["note"]), style="dim")


async def _upkeep(run: Run, settings: Settings, stage: str, work: Callable[..., Any]) -> Any:
    """Do something to a store nobody else uses, in a thread, showing how far it is."""
    with _alone(settings), run.output.progress(stage) as tell:
        return await run.in_thread(functools.partial(work, tell=tell))


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Keep servers and other commands off this home meanwhile."""
    from serve.runtime.home_lock import HomeLock

    lock = HomeLock(settings.home)
    if not lock.acquire(serving=False):
        raise StoreError(
            f"{settings.home} is in use by a server or another command (pid {lock.owner().get('pid')}); stop it first"
        )
    try:
        yield
    finally:
        lock.release()


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "doctor")(doctor)
    command(app, "reshard")(reshard)
    command(app, "migrate")(migrate)
    command(app, "expire")(expire)
