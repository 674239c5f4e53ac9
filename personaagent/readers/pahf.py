"""PAHF's embodied-assistant scenarios: people with odd preferences ask for things, and later change their minds.

Four files of one JSON array each. `original_A` is to learn from and `original_B` to test; then preferences change, and
`evolved_A` is to learn from and `evolved_B` to test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from personaagent.base import why
from personaagent.errors import InvalidInput
from personaagent.readers.read_result import ReadResult, json_items
from personaagent.types import Interaction

__all__ = ["LEARNING", "PHASES", "pahf_phase", "read"]

PHASES = ("original_A", "original_B", "evolved_A", "evolved_B")  # in time order
LEARNING = ("original_A", "evolved_A")
WANTED = "PAHF's folder or one of its embodied_..._scenarios_....json files"
# The scenarios carry no time: phases are put a season apart, their items a minute.
START = datetime(2025, 1, 1, tzinfo=UTC)
SEASON = timedelta(days=90)


def read(path: Path, limit_users: int | None = None, phases: Sequence[str] = LEARNING) -> ReadResult:
    """The phases' requests in time order; a single file gives the phase that it is, whatever `phases` says.

    Items with fewer than 3 options, or whose answer is not among them, are left out and counted in `skipped`. Line errors
    count the items of a file.

    Raises:
        InvalidInput: the path holds no such file, or a phase is unknown.
    """
    if unknown := [p for p in phases if p not in PHASES]:
        raise InvalidInput(f"unknown phase {unknown[0]!r}; phases are {', '.join(PHASES)}")
    folder = path.is_dir()
    files = {p: path / _file_name(p) for p in PHASES if p in phases} if folder else {_phase_of(path): path}
    for file in files.values():
        json_items(file, WANTED)  # opens it, so that a wrong file is refused before anything is imported
    return ReadResult(lambda result: _read(files, limit_users, result))


def pahf_phase(path: str | Path, phase: str, limit_users: int | None = None) -> list[Interaction]:
    """All requests of one phase. `path` is the folder.

    Raises:
        InvalidInput: the folder, the phase or an item cannot be used; what is measured must be all there.
    """
    if not Path(path).is_dir():
        raise InvalidInput(f"{path} is not a folder; give the folder of PAHF's four scenario files")
    result = read(Path(path), limit_users, (phase,))
    interactions = list(result)
    if result.errors:
        raise InvalidInput(f"item {result.errors[0].line} of {result.errors[0].reason}")
    return interactions


def _read(files: dict[str, Path], limit_users: int | None, result: ReadResult) -> Iterator[Interaction]:
    users: set[str] = set()
    for phase, file in files.items():
        for number, item in json_items(file, WANTED):
            try:
                if isinstance(item, ValueError):
                    raise item
                interaction = _interaction(item, phase)
            except (ValueError, OverflowError) as e:
                result.fail(number, f"{file.name}: {why(e)}")
                continue
            if interaction is None:
                result.skipped += 1
            elif interaction.user in users or limit_users is None or len(users) < limit_users:
                users.add(interaction.user)
                yield interaction


def _interaction(item: Any, phase: str) -> Interaction | None:
    if not isinstance(item, dict):
        raise ValueError("not a JSON object")
    wanted = ("index", "user", "task", "user_intent_object", "scene_objects")
    if missing := [name for name in wanted if name not in item]:
        raise ValueError(f"`{missing[0]}` is missing")
    index, name, options = item["index"], item["user"], item["scene_objects"]
    if not isinstance(index, int) or not isinstance(name, str) or not isinstance(options, list):
        raise ValueError("`index` is not a number, `user` not text or `scene_objects` not a list")
    if len(options) < 3 or item["user_intent_object"] not in options:
        return None
    return Interaction(
        id=f"pahf-{phase}-{index}",
        user=f"pahf-{name}",
        time=START + PHASES.index(phase) * SEASON + timedelta(minutes=index),
        query=item["task"],
        truth=item["user_intent_object"],
        choices=tuple(options),
        metadata={"source": "pahf", "phase": phase, "context": item.get("context"), "index": index},
    )


def _file_name(phase: str) -> str:
    part, half = phase.split("_")
    return f"embodied_{part}_scenarios_{half}.json"


def _phase_of(path: Path) -> str:
    for phase in PHASES:
        if path.name == _file_name(phase):
            return phase
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}; give {WANTED}")
    raise InvalidInput(f"{path} has none of PAHF's file names, like {_file_name(PHASES[0])}; give {WANTED}")
