"""Readers of history files: one format each, all giving interactions and the lines they could not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from personaagent.errors import InvalidInput
from personaagent.readers import history, lamp, movielens, pahf
from personaagent.readers.lamp import lamp_tests
from personaagent.readers.movielens import movielens_split
from personaagent.readers.pahf import pahf_phase
from personaagent.readers.read_result import LineError, ReadResult, Record
from personaagent.tools.known_tools import KnownTools

__all__ = [
    "FORMATS",
    "LineError",
    "ReadResult",
    "Record",
    "lamp_tests",
    "movielens_split",
    "pahf_phase",
    "read",
    "sample_path",
]


FORMATS: Mapping[str, Callable[..., ReadResult]] = MappingProxyType(
    {"history": history.read, "movielens": movielens.read, "pahf": pahf.read, "lamp": lamp.read}
)


def read(
    format: str,
    path: str | Path,
    limit_users: int | None = None,
    phases: Sequence[str] | None = None,
    tools: KnownTools | None = None,
) -> ReadResult:
    """The interactions of a file.

    Args:
        format: a key of `FORMATS`.
        path: the file, or the folder of a data set.
        limit_users: only the first so many users of the file.
        phases: of pahf, instead of its two learning phases.
        tools: of the history format: those that an action means which does not say which there were.

    Raises:
        InvalidInput: the format is unknown, or the file is missing or of another kind. What is wrong with single lines is
            in the result's `errors` instead.
    """
    if format not in FORMATS:
        raise InvalidInput(f"unknown format {format!r}; formats are {', '.join(FORMATS)}")
    if limit_users is not None and limit_users < 1:
        raise InvalidInput(f"the number of users must be at least 1, not {limit_users}")
    if format == "history" and phases is None:
        return history.read(Path(path), limit_users, tools)
    if phases is None:
        return FORMATS[format](Path(path), limit_users)
    if format != "pahf":
        raise InvalidInput(f"only pahf has phases, not {format}")
    return pahf.read(Path(path), limit_users, phases)


def sample_path() -> Path:
    """The bundled sample of invented users, in the history format."""
    return Path(str(resources.files("personaagent") / "sample" / "histories.jsonl"))
