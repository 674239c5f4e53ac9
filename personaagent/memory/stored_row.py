"""One interaction as stores keep it: JSON, vectors, and when it happened and arrived."""

from __future__ import annotations

import hashlib
import json
import time as clocks
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from personaagent.types import AHEAD, LESSON, TOOL_LESSON, Interaction

__all__ = [
    "AHEAD_US",
    "EPOCH",
    "Quantised",
    "Row",
    "RowKey",
    "Vector",
    "dump_json",
    "half",
    "is_lesson",
    "is_tool_lesson",
    "microseconds",
    "ordering",
    "pack",
    "quantised",
    "restored",
    "row_key",
    "unpack",
]

Vector = npt.NDArray[np.float32]  # (dim,), unit length
Quantised = npt.NDArray[np.int8]  # (k, dim), the directions of k vectors
RowKey = tuple[str, bytes]  # user, and a digest of the interaction's id

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AHEAD_US = AHEAD // timedelta(microseconds=1)
LESSON_MARK = b"lesson"  # how digests of the ids of lessons begin
_MARKS = {TOOL_LESSON: LESSON_MARK + b"\0", LESSON: LESSON_MARK + b"\1"}


def microseconds(time: datetime) -> int:
    """Microseconds since 1970 UTC; exact, unlike `timestamp()`."""
    return (time - EPOCH) // timedelta(microseconds=1)


def ordering(time: int, arrived: int) -> int:
    """The time (microseconds since 1970) by which memory orders an interaction that says it is of `time`.

    That is `time`, but for one in the far future, as older stores hold: it would be the newest for good, so it counts as of
    when it arrived.
    """
    return time if time <= clocks.time_ns() // 1000 + AHEAD_US else min(time, arrived)


def row_key(user: str, interaction: str) -> RowKey:
    """The key of an interaction's row. Ids are digested: they may hold any character and 128 of them.

    The digest of a lesson says that it is one, so that stores and ledgers, which know nothing of texts, can tell them apart.
    By chance one of 10^16 other ids would say so, too.
    """
    text = interaction.encode("utf-8")
    for prefix, mark in _MARKS.items():
        if interaction.startswith(prefix):
            return user, mark + hashlib.blake2b(text, digest_size=16 - len(mark)).digest()
    return user, hashlib.blake2b(text, digest_size=16).digest()


def is_lesson(digest: bytes) -> bool:
    """Whether a row's digest is that of a lesson."""
    return digest.startswith(LESSON_MARK)


def is_tool_lesson(digest: bytes) -> bool:
    """Whether a row's digest is that of a lesson on the tool itself, of which a request has one at most."""
    return digest.startswith(_MARKS[TOOL_LESSON])


def dump_json(content: Any) -> str:
    """JSON text that is valid Unicode. NaN and lone surrogates in metadata come back as they were."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text if _encodable(text) else json.dumps(content, separators=(",", ":"))


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def pack(interaction: Interaction) -> bytes:
    """An interaction as UTF-8 JSON."""
    content = interaction.model_dump(mode="python")
    content["time"] = interaction.time.isoformat()
    return dump_json(content).encode("utf-8")


def unpack(payload: bytes) -> Interaction:
    """The interaction that `pack` wrote."""
    try:
        return Interaction.model_validate_json(payload)  # twice as fast
    except ValidationError:  # but it refuses lone surrogates in metadata
        return Interaction.model_validate(json.loads(payload))


def half(vector: Vector) -> Vector:
    """A vector rounded to half precision, in which stores keep truth vectors.

    Rounding before anything uses it makes an answer the same before and after a restart. It moves a cosine by about 1e-4.
    """
    return np.asarray(vector, dtype=np.float16).astype(np.float32)


def quantised(matrix: npt.NDArray[np.float32]) -> Quantised:
    """Unit rows (k, dim) in a byte per number, each scaled so that its largest absolute value is 127; zero rows stay zero.

    It moves a cosine by less than 0.01.
    """
    largest = np.abs(matrix).max(axis=1, keepdims=True, initial=0.0)
    return np.asarray(np.rint(matrix / np.where(largest > 0, largest, 1.0) * 127), dtype=np.int8)


def restored(matrix: Quantised) -> npt.NDArray[np.float32]:
    """The unit rows (k, dim) that `quantised` was given, up to rounding; zero rows stay zero."""
    rows = matrix.astype(np.float32)
    length = np.sqrt(np.vecdot(rows, rows))[:, None]
    return np.asarray(rows / np.where(length > 0, length, 1.0), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Row:
    """One stored interaction with its vectors.

    `arrived` (microseconds since 1970) orders interactions of equal time and is unique within a user;
    `truth_arrived` is when the truth became known, 0 before that. The truth's vector is None as long, then `half`.
    A closed choice has the `quantised` vectors of its options, those of `embedded.kept_options` in their order;
    None for ratings, free text and rows of a version that did not keep them.
    """

    user: str
    id: str
    time: int  # microseconds since 1970, of the interaction itself
    arrived: int
    truth_arrived: int
    payload: bytes  # the interaction, from `pack`
    query_vector: Vector
    truth_vector: Vector | None
    option_vectors: Quantised | None = None

    @property
    def interaction(self) -> Interaction:
        """The interaction itself."""
        return unpack(self.payload)

    @property
    def key(self) -> RowKey:
        """What the store finds it by."""
        return row_key(self.user, self.id)

    @property
    def lesson(self) -> bool:
        """Whether it tells which tool or argument was right, see `Interaction.lesson`."""
        return self.id.startswith(LESSON)

    @property
    def nbytes(self) -> int:
        """Bytes of text and vectors."""
        vectors = (self.query_vector, self.truth_vector, self.option_vectors)
        return len(self.payload) + sum(v.nbytes for v in vectors if v is not None)
