"""`import`: histories and exports into memory. What is there already is not added again."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from personaagent.errors import ConflictError, InvalidInput
from serve.cli.runner import EXIT_ERROR, Json, Run, command

if TYPE_CHECKING:
    from personaagent.settings import LimitsSettings
    from personaagent.types import AppendResult, Interaction

__all__ = ["Format", "Imported", "import_export", "import_interactions", "register"]

CHUNK = 1_000  # interactions embedded and written together ...
CHUNK_BYTES = 16 * 2**20  # ... or so many bytes of them
SHOWN = 3  # lines that are shown of those with the same reason, where there are more than ALIKE
ALIKE = 10


class Target(Protocol):
    """The memory that an import writes to."""

    async def incarnations(self) -> tuple[int, ...]:
        """Where forgetting stands; see `Memory`."""
        ...

    async def append_many(
        self, interactions: Sequence[Interaction], incarnations: Sequence[int] | None = None
    ) -> AppendResult:
        """Add interactions of many users."""
        ...

    async def restore(self, lines: Sequence[str], incarnations: Sequence[int] | None = None) -> AppendResult:
        """Read one user's export back."""
        ...


class Format(StrEnum):
    """What can be imported."""

    HISTORY = "history"
    MOVIELENS = "movielens"
    PAHF = "pahf"
    LAMP = "lamp"


@dataclass
class Imported:
    """What an import did."""

    users: set[str] = field(default_factory=set)
    added: int = 0
    repeated: int = 0
    updated: int = 0
    skipped: int = 0
    refused: int = 0  # of users who were forgotten while this import ran
    errors: list[tuple[int, str]] = field(default_factory=list)  # (line, reason)

    def count(self, result: AppendResult) -> None:
        """Add a write's counts."""
        self.added += result.added
        self.repeated += result.repeated
        self.updated += result.updated
        self.refused += result.refused


async def import_command(
    run: Run,
    file: Annotated[Path, typer.Argument(help="The file, or the folder of a data set.")],
    format: Annotated[Format, typer.Option("--format", help="`history` also reads what `export` wrote.")] = (
        Format.HISTORY
    ),
    users: Annotated[int | None, typer.Option(min=1, help="Only the first so many users.")] = None,
    json: Json = False,
) -> int | None:
    """Import histories. Lines that cannot be read are reported, the rest is imported; then the exit code is 1."""
    from personaagent.readers import read
    from personaagent.tools.known_tools import known_tools

    settings = run.settings()
    started = time.perf_counter()
    found = read(format.value, file, users, tools=known_tools(settings))
    if exported := format is Format.HISTORY and _is_export(file):
        groups = _exports(file)[:users]
        total = sum(len(group) for group in groups)
    else:
        total = sum(1 for _ in found)  # also finds out, before anything is started, whether there is anything to import
    done = Imported()
    stage = f"importing {file.name}"
    if total:
        async with run.system(settings, llm=False) as system:
            with run.output.progress(stage, total) as tell:

                def written(count: int) -> None:
                    tell(stage, count, total)

                limits = settings.memory.limits
                if exported:
                    await import_export(system.memory, groups, done, written, limits)
                else:
                    await import_interactions(system.memory, found, done, written, lambda: found.line, limits)
    if not exported:
        done.skipped = found.skipped
        done.errors += [(e.line, e.reason) for e in found.errors]
        done.errors += [
            (r.line, "personas and profiles belong after an export's line of type user") for r in found.records
        ]
    done.errors.sort()
    _report(run, file, format, done, time.perf_counter() - started)
    return EXIT_ERROR if done.errors else None


async def import_interactions(
    memory: Target,
    interactions: Iterable[Interaction],
    done: Imported,
    told: Callable[[int], None],
    line: Callable[[], int] = lambda: 0,
    limits: LimitsSettings | None = None,
) -> None:
    """Append interactions in chunks, in their order. `done` counts what the memory has acknowledged.

    An interaction whose id is another question's already, or that is larger than limits allow, is an error of its line, and
    costs no other one. `line`: the number of the line of the interaction that was read last.
    """
    from personaagent.memory.limits import interaction_fault, rough_bytes

    chunk: list[Interaction] = []
    lines: dict[tuple[str, str], list[int]] = {}  # of the chunk, by user and id
    written = size = 0
    incarnations = await memory.incarnations()

    async def write() -> None:
        nonlocal written, size
        result = await memory.append_many(chunk, incarnations)
        done.count(result)
        # The last lines of an id are those that came when it was taken.
        done.errors += [
            (lines[user, name].pop(), "the line's id is another question's already; nothing of it was stored")
            for user, name in reversed(result.conflicts)
        ]
        done.errors += [(lines[o.user, o.id].pop(), o.reason) for o in reversed(result.oversized)]
        done.users.update(user for (user, _), numbers in lines.items() if numbers)
        written += len(chunk)
        told(written)
        chunk.clear()
        lines.clear()
        size = 0

    for interaction in interactions:
        if limits is not None and (fault := interaction_fault(interaction, limits)):
            done.errors.append((line(), fault))
            written += 1
            continue
        chunk.append(interaction)
        lines.setdefault((interaction.user, interaction.id), []).append(line())
        size += rough_bytes(interaction)
        if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
            await write()
    if chunk:
        await write()


Group = list[tuple[int, str]]  # numbered lines of one user's export


async def import_export(
    memory: Target,
    groups: Sequence[Group],
    done: Imported,
    told: Callable[[int], None],
    limits: LimitsSettings | None = None,
) -> None:
    """Restore users one by one. A user who cannot be restored is an error at their first line; the others go on."""
    written = 0
    incarnations = await memory.incarnations()
    for group in groups:
        readable = _readable(group, done, limits)
        written += len(group)
        if readable is not None:
            try:
                result = await memory.restore([line for _, line in readable], incarnations)
                done.count(result)
                if result.conflicts or result.oversized:
                    lines = _lines_of(readable)
                    # The last lines of an id are those that came when it was taken.
                    done.errors += [
                        (lines[name].pop(), "the line's id is another question's already; nothing of it was stored")
                        for _, name in reversed(result.conflicts)
                    ]
                    done.errors += [(lines[o.id].pop(), o.reason) for o in reversed(result.oversized)]
                done.users.add(str(jsonlib.loads(readable[0][1])["user"]))
            except (ConflictError, InvalidInput) as e:
                done.errors.append((group[0][0], e.message))
        told(written)


def _readable(group: Group, done: Imported, limits: LimitsSettings | None) -> Group | None:
    """The lines without interactions that cannot be read or are too large. None if anything else is broken: half a persona's
    history would be worse than none.
    """
    from personaagent.memory.export import parse_export
    from personaagent.memory.limits import interaction_fault

    unread: dict[int, str] = {}  # by position, from 1
    try:
        parsed = parse_export([line for _, line in group], unread.__setitem__)
    except InvalidInput as e:
        where, _, reason = e.message.removeprefix("line ").partition(": ")
        at = int(where) - 1 if where.isdecimal() else 0
        done.errors.append((group[at][0], reason or e.message))
        done.errors.append((group[0][0], "this user was left out because of the line reported"))
        return None
    done.errors += [(group[position - 1][0], reason) for position, reason in unread.items()]
    left = [numbered for position, numbered in enumerate(group, start=1) if position not in unread]
    faults = [interaction_fault(i, limits) if limits is not None else "" for i in parsed.interactions]
    large = dict(zip([n for n, line in left if _type(line) == "interaction"], faults, strict=True))
    done.errors += [(n, fault) for n, fault in large.items() if fault]
    return [(n, line) for n, line in left if not large.get(n)]


def _is_export(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        first = next((line for line in lines if line.strip()), "")
    return bool(_type(first) == "user")


def _exports(file: Path) -> list[Group]:
    """A file of one or several exports, each from its line of type user."""
    groups: list[Group] = []
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                if _type(line) == "user":
                    groups.append([])
                groups[-1].append((number, line))
    return groups


def _lines_of(group: Group) -> dict[str, list[int]]:
    """Numbers of the lines of every interaction, by its id."""
    found: dict[str, list[int]] = {}
    for number, line in group:
        content = jsonlib.loads(line)
        if content["type"] == "interaction":
            found.setdefault(content["id"], []).append(number)
    return found


def _type(line: str) -> Any:
    try:
        content = jsonlib.loads(line)
    except (ValueError, RecursionError):
        return None
    return content.get("type") if isinstance(content, dict) else None


def _report(run: Run, file: Path, format: Format, done: Imported, seconds: float) -> None:
    by_reason: dict[str, list[int]] = {}
    for line, reason in done.errors:
        by_reason.setdefault(reason, []).append(line)
    for line, reason in done.errors:
        alike = by_reason[reason]
        if len(alike) <= ALIKE or line in alike[:SHOWN]:
            run.output.note(f"{file}:{line}: {reason}", style="red")
        if len(alike) > ALIKE and line == alike[SHOWN - 1]:
            run.output.note(f"{file}: {len(alike) - SHOWN:,} more lines for the same reason", style="red")
    run.output.result(
        {
            "file": str(file),
            "format": format.value,
            "users": len(done.users),
            "added": done.added,
            "repeated": done.repeated,
            "updated": done.updated,
            "skipped": done.skipped,
            "refused": done.refused,
            "failed": len(done.errors),
            "errors": [{"line": line, "reason": reason} for line, reason in done.errors],
            "seconds": round(seconds, 3),
        }
    )
    parts = [f"{done.added} interactions of {len(done.users)} users added"]
    others = (
        (done.repeated, "there already"),
        (done.updated, "updated"),
        (done.skipped, "skipped"),
        (done.refused, "refused, their users were forgotten meanwhile"),
    )
    for count, what in others:
        parts += [f"{count} {what}"] if count else []
    run.output.show(", ".join(parts))
    if done.errors:
        run.output.fail(f"{len(done.errors)} lines could not be imported")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "import")(import_command)
