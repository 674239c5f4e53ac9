"""What keeps users' memories durable, as a protocol, and the row it keeps.

A store knows nothing of ranking, embedding or Ray. Its methods are blocking and may be called from several threads, but
only one writer at a time changes a user. Every method touches one user only, except `put` and `get`, whose rows and
keys name their user, the listing, and what users have in common, of which a store has one for all its users.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time as clocks
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from personaagent.evidence.commons import Population
from personaagent.types import AHEAD, Interaction, Origin, Persona, Profile, UserSummary

__all__ = [
    "EpisodeCounts",
    "Erased",
    "Held",
    "Ledger",
    "Quantised",
    "Row",
    "RowKey",
    "Store",
    "StoredUser",
    "Tombstone",
    "Vector",
    "aligned_at",
    "dump_json",
    "fitting",
    "half",
    "microseconds",
    "ordering",
    "pack",
    "page_of",
    "quantised",
    "restored",
    "row_key",
    "summarise",
    "unpack",
]

Vector = npt.NDArray[np.float32]  # (dim,), unit length
Quantised = npt.NDArray[np.int8]  # (k, dim), the directions of k vectors
Column = npt.NDArray[np.int64]
RowKey = tuple[str, bytes]  # user, and a digest of the interaction's id

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD = AHEAD // timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    """Microseconds since 1970 UTC; exact, unlike `timestamp()`."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def ordering(time: int, arrived: int) -> int:
    """The time (microseconds since 1970) by which memory orders an interaction that says it is of `time`.

    That is `time`, but for one in the far future, as older stores hold: it would be the newest for good, so it counts as of
    when it arrived.
    """
    return time if time <= clocks.time_ns() // 1000 + _AHEAD else min(time, arrived)


def row_key(user: str, interaction: str) -> RowKey:
    """The key of an interaction's row. Ids are digested: they may hold any character and 128 of them."""
    return user, hashlib.blake2b(interaction.encode("utf-8"), digest_size=16).digest()


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
    A closed choice has the `quantised` vectors of its options, those of `changes.kept_options` in their order;
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
    def nbytes(self) -> int:
        """Bytes of text and vectors."""
        vectors = (self.query_vector, self.truth_vector, self.option_vectors)
        return len(self.payload) + sum(v.nbytes for v in vectors if v is not None)


@dataclass(frozen=True, slots=True)
class StoredUser:
    """What a store has of one user; `rows` in order of arrival, `personas` by number: all, or only the newest."""

    rows: tuple[Row, ...] = ()
    personas: tuple[Persona, ...] = ()
    profile: Profile | None = None
    seen: int | None = None  # alignment has looked at truths that arrived up to here; None if it never has
    aligned: int = 0  # where that is None: what the newest aligned version says of it, see `aligned_at`


@dataclass(frozen=True, slots=True)
class Held:
    """How much a store has of one user, also where it cannot be read. A profile that is damaged has 0 facts."""

    interactions: int = 0
    personas: int = 0
    profiles: int = 0
    facts: int = 0
    named: bool = False  # their name is stored, be it by a write that got no further

    def __bool__(self) -> bool:
        return bool(self.interactions or self.personas or self.profiles or self.named)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What outlives a forgotten user: how far forgetting has come, and counts; no text and no name.

    `incarnation` orders work: what began before the user was forgotten has a lower number and is refused. As long as
    `done` is False something may be left, and forgetting goes on with the next opening of the store or the next call.
    `answered` is False as long as nobody was given a receipt, because the process died that was asked.
    """

    incarnation: int
    audit_id: str = ""
    interactions: int = 0
    personas: int = 0
    facts: int = 0
    done: bool = False
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Erased:
    """What a deletion left behind: `remaining` entities, by a look at the store and, where it has them, its files."""

    remaining: int
    note: str = ""


class Ledger:
    """When each of a user's interactions happened and arrived: all of them in RAM, 150 bytes each, without any text.

    Safe to read while another thread adds to it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: dict[bytes, int] = {}
        self._times = array("q")
        self._arrived = array("q")
        self._truth_arrived = array("q")
        self._last = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._slots

    def put(self, digest: bytes, time: int, arrived: int, truth_arrived: int) -> None:
        """Add a row, or note that a known one has its truth now."""
        with self._lock:
            slot = self._slots.setdefault(digest, len(self._times))
            if slot == len(self._times):
                self._times.append(ordering(time, arrived))
                self._arrived.append(arrived)
                self._truth_arrived.append(truth_arrived)
            else:
                self._truth_arrived[slot] = truth_arrived
            self._last = max(self._last, arrived, truth_arrived)

    def copy(self) -> Ledger:
        """An independent ledger of the same rows."""
        other = Ledger()
        with self._lock:
            other._slots = dict(self._slots)
            other._times = self._times[:]
            other._arrived = self._arrived[:]
            other._truth_arrived = self._truth_arrived[:]
            other._last = self._last
        return other

    def older(self, time: int) -> list[bytes]:
        """Keys of the rows from before `time` (microseconds since 1970)."""
        with self._lock:
            return [digest for digest, slot in self._slots.items() if self._times[slot] < time]

    def without(self, digests: Collection[bytes]) -> Ledger:
        """An independent ledger of the other rows."""
        other = Ledger()
        with self._lock:
            for digest, slot in self._slots.items():
                if digest not in digests:
                    other.put(digest, self._times[slot], self._arrived[slot], self._truth_arrived[slot])
            other._last = self._last
        return other

    def digests(self) -> list[bytes]:
        """Keys of all rows."""
        with self._lock:
            return list(self._slots)

    @property
    def truths(self) -> int:
        """How many rows have a truth."""
        return self.truths_after(0)

    @property
    def last_time(self) -> int | None:
        """Time of the newest interaction, microseconds since 1970."""
        return max(self._times[:], default=None)

    @property
    def last_arrived(self) -> int:
        """When the newest interaction or truth arrived; 0 if there was none. Removing rows changes nothing."""
        return self._last

    @property
    def last_truth(self) -> int:
        """When the newest truth arrived; 0 if there is none."""
        return int(self._columns()[2].max(initial=0))

    def truths_after(self, arrived: int) -> int:
        """How many truths became known later than that (microseconds since 1970)."""
        return int(np.count_nonzero(self._columns()[2] > arrived))

    def told(self, after: int, n: int) -> list[tuple[bytes, int]]:
        """Keys of the rows whose truth arrived later than `after`, and when, oldest first: see `page_of`."""
        keys = self.digests()
        known = self._columns()[2][: len(keys)]
        return [(keys[slot], int(known[slot])) for slot in page_of(known, after, n)]

    def arrivals(self) -> list[tuple[int, bytes]]:
        """When the rows arrived, and their keys, oldest arrival first."""
        keys = self.digests()
        arrived = self._columns()[1][: len(keys)]
        return [(int(arrived[slot]), keys[slot]) for slot in np.argsort(arrived, kind="stable")]

    def newest(self, n: int, with_truth: bool = False) -> list[bytes]:
        """Keys of the newest n rows in the user's order, oldest first."""
        keys = self.digests()
        times, arrived, known = (column[: len(keys)] for column in self._columns())
        order = np.lexsort((arrived, times))
        if with_truth:
            order = order[known[order] > 0]
        return [keys[slot] for slot in order[max(0, len(order) - n) :]]

    def newer(self, time: int, arrived: int) -> int:
        """How many rows come after that moment in the user's order."""
        times, arrivals, _ = self._columns()
        return int(np.count_nonzero((times > time) | ((times == time) & (arrivals > arrived))))

    def _columns(self) -> tuple[Column, Column, Column]:
        with self._lock:  # numpy may let other threads run while it copies, and an array that is read cannot grow
            times, arrived, known = (
                np.array(column, dtype=np.int64) for column in (self._times, self._arrived, self._truth_arrived)
            )
        return times, arrived, known


def page_of(arrived: Column, after: int, n: int) -> list[int]:
    """Positions of the n smallest numbers above `after`, ascending, and of those that equal the last of them.

    Older stores have truths that arrived at the same moment: a page that ended between two would lose the second.
    """
    slots = np.flatnonzero(arrived > after)
    slots = slots[np.argsort(arrived[slots], kind="stable")]
    if 0 < n < len(slots):
        n = int(np.searchsorted(arrived[slots], arrived[slots[n - 1]], side="right"))
    return [int(slot) for slot in slots[:n]]


class Store(Protocol):
    """Durable home of users' memories.

    Raises (every method):
        StoreError: the store cannot be read or written.
        UnavailableError: a store server is away; the same call may work later.
    """

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    def put(self, rows: Sequence[Row]) -> None:
        """Write rows, replacing those of the same user and id. They are durable when it returns."""
        ...

    def get(self, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        """The rows with these keys; unknown keys are left out."""
        ...

    def count(self, user: str) -> int:
        """How many interactions the user has."""
        ...

    def load(self, user: str, rows: bool = True, history: bool = True) -> StoredUser:
        """Everything of the user; empty for an unknown user.

        Args:
            user: who.
            rows: also the interactions.
            history: all persona versions; else only the newest.
        """
        ...

    def stream(self, user: str) -> Iterator[Row]:
        """The user's rows in any order, read in pages as they are asked for, so that many or large ones take little RAM."""
        ...

    def personas(self, user: str, before: int | None = None, limit: int | None = None) -> tuple[Persona, ...]:
        """Versions by number: of those before number `before` the newest, at most `limit`; None for all."""
        ...

    def held(self, user: str) -> Held:
        """How much there is of the user. Damaged texts are no hindrance, nor may they be: such a user can be forgotten too."""
        ...

    def ledger(self, user: str) -> Ledger:
        """When the user's interactions happened and arrived; the caller's own copy."""
        ...

    def arrivals(self, users: Collection[str], after: int) -> dict[str, int]:
        """Later than when new rows and truths of these users must arrive, where it is later than `after`.

        That is when their newest row or truth arrived, and up to where profile and alignment have read, be those rows gone.
        Of a server only that is read every time, and once which arrivals a clock that was put back has left behind.
        """
        ...

    def search(
        self,
        user: str,
        vector: Vector,
        limit: int,
        *,
        since: int,
        until: int,
        before: tuple[int, int],
        truth: bool,
        most: int | None = None,
    ) -> list[Row]:
        """The user's rows by cosine with `vector`, for users too large for RAM.

        Args:
            user: whose rows.
            vector: (dim,), unit length.
            limit: how many rows at most.
            since: only rows of this time or later, microseconds since 1970.
            until: only rows before this time.
            before: (time, arrived); only rows earlier than that in the user's order.
            truth: only rows whose truth is known.
            most: bytes of the rows, but for a single one that is larger: of the best ones as many as fit.
        """
        ...

    def put_persona(self, user: str, persona: Persona, token: str) -> None:
        """Add a version.

        `token` names the attempt: the same one again is a repeat and succeeds. Raises ConflictError if another attempt
        added that number.
        """
        ...

    def put_profile(self, user: str, profile: Profile, expected: int, token: str) -> None:
        """Replace the profile of version `expected`, 0 for none yet; `token` and ConflictError as for personas."""
        ...

    def put_seen(self, user: str, seen: int) -> None:
        """Note that alignment has looked at the truths that arrived up to `seen`. A lower number changes nothing."""
        ...

    def erase(self, key: str) -> Erased:
        """Delete everything of the user with this key but the tombstone, then look what is left. May be repeated."""
        ...

    def tombstone(self, key: str) -> Tombstone | None:
        """What is left of a user who was forgotten, by user key; None for one who never was."""
        ...

    def bury(self, key: str, tombstone: Tombstone) -> None:
        """Write a tombstone in the place of an older one; it is durable when this returns."""
        ...

    def unfinished(self) -> list[str]:
        """Keys of the users whose forgetting was begun and did not come to its end."""
        ...

    def users(self, after: str = "", limit: int | None = None) -> Iterator[UserSummary]:
        """Users in the order of their keys (`types.user_key`), read in pages.

        Args:
            after: only users whose key is greater: that of the last user of the page before.
            limit: how many at most; None for all.
        """
        ...

    def population(self) -> Population | None:
        """What users have in common; None if it was never learned."""
        ...

    def put_population(self, population: Population) -> None:
        """Replace what users have in common. The same one again changes nothing.

        Raises ConflictError if its number is not higher than that of another one that is stored.
        """
        ...

    def flush(self) -> None:
        """Do the slow part of earlier writes now. Nothing acknowledged depends on it."""
        ...

    @property
    def unflushed(self) -> int:
        """Rows written since the last flush."""
        ...

    def close(self) -> None:
        """Give up files and connections; harmless when closed already."""
        ...


class EpisodeCounts(Protocol):
    """A user's episodes, as a summary counts them."""

    def __len__(self) -> int: ...

    @property
    def truths(self) -> int:
        """How many have a truth."""
        ...

    @property
    def last_time(self) -> int | None:
        """When the newest happened, microseconds since 1970."""
        ...

    @property
    def last_arrived(self) -> int:
        """When the last episode or truth arrived, 0 if there is none."""
        ...

    def truths_after(self, arrived: int) -> int:
        """How many truths arrived later than that."""
        ...


def aligned_at(personas: Sequence[Persona]) -> int:
    """When the newest aligned persona was made, microseconds since 1970; 0 if there is none or a clock was ahead."""
    aligned = [microseconds(p.time) for p in personas if p.origin is Origin.ALIGNED]
    return aligned[-1] if aligned and aligned[-1] <= clocks.time_ns() // 1000 + _AHEAD else 0


def fitting(rows: Iterable[Row], most: int | None) -> list[Row]:
    """The first rows that take at most so many bytes together, but at least one."""
    found: list[Row] = []
    left = most
    for row in rows:
        if left is not None:
            left -= row.nbytes
            if left < 0 and found:
                break
        found.append(row)
    return found


def summarise(user: str, rows: EpisodeCounts, personas: Sequence[Persona], seen: int | None) -> UserSummary:
    """A user's summary. Truths count as unaligned if they arrived after alignment last looked, up to `seen`.

    Stores of the version before have no `seen`. There the newest aligned persona tells when that was, unless the clock was
    far ahead when it was made.
    """
    if seen is None:
        seen = aligned_at(personas)
    current = personas[-1] if personas else None
    return UserSummary(
        user=user,
        interactions=len(rows),
        truths=rows.truths,
        persona=current.number if current else None,
        pinned=bool(current and current.pinned),
        last_time=None if rows.last_time is None else _EPOCH + timedelta(microseconds=rows.last_time),
        truths_since_alignment=rows.truths_after(seen),
    )
