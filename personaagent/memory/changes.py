"""Changes to a user's memory: what a call is about to write, decided before anything is written.

A change has three steps, so that nothing is visible before it is durable and reads never wait for a write:

    change = memory.append(...)      # decides, changes nothing
    commit(store, [change])          # blocking; may run in a thread
    memory.apply(change)             # RAM follows

The caller runs one change of a user at a time; reads may come at any moment between the steps.
"""

from __future__ import annotations

import time
import unicodedata
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic import ValidationError

from personaagent.errors import ConflictError, FutureTimeError, InvalidInput, NotFoundError, TooLarge
from personaagent.memory.embedded import (
    MAX_OPTIONS,
    Incoming,
    embed_interactions,
    embed_recalls,
    kept_options,
    option_texts,
)
from personaagent.memory.limits import KB, interaction_fault, user_fault
from personaagent.memory.rounds import later_round
from personaagent.memory.store import Row, Store, Vector, half, microseconds, pack
from personaagent.memory.stored_row import AHEAD_US
from personaagent.settings import LimitsSettings
from personaagent.types import (
    ACTION,
    LESSON,
    OF,
    THUMB,
    AppendResult,
    Interaction,
    Oversized,
    Persona,
    Profile,
    future_fault,
)

__all__ = [
    "MAX_OPTIONS",
    "Change",
    "Clock",
    "Incoming",
    "clock",
    "commit",
    "confirmed",
    "embed_interactions",
    "embed_recalls",
    "kept_options",
    "option_texts",
    "plan_append",
    "plan_feedback",
    "undisputed",
]

Clock = Callable[[], int]  # microseconds since 1970


def clock() -> int:
    """The present moment in microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Change:
    """What one call writes, and what it answers once that is durable."""

    user: str
    rows: tuple[Row, ...] = ()
    personas: tuple[Persona, ...] = ()
    profile: Profile | None = None
    replaces: int = 0  # version of the profile that `profile` takes the place of
    seen: int | None = None  # alignment has looked at truths that arrived up to here
    token: str = field(default_factory=lambda: uuid.uuid4().hex)  # names this attempt, see `Store.put_persona`
    added: AppendResult = field(default_factory=lambda: AppendResult(added=0, repeated=0))


def commit(store: Store, changes: Sequence[Change]) -> None:
    """Make changes durable; rows of all of them in one write. Raises ConflictError as `Store` does."""
    rows = [row for change in changes for row in change.rows]
    if rows:
        store.put(rows)
    for change in changes:
        for persona in change.personas:
            store.put_persona(change.user, persona, change.token)
        if change.profile is not None:
            store.put_profile(change.user, change.profile, change.replaces, change.token)
        if change.seen is not None:
            store.put_seen(change.user, change.seen)


def plan_append(
    user: str,
    items: Sequence[Incoming],
    existing: Callable[[str], Row | None],
    last_arrived: int,
    now: int,
    limits: LimitsSettings,
    used: int = 0,
    skip: bool = False,
) -> Change:
    """What an append writes, given a way to look up rows that are there already.

    A repeated id changes nothing, except that a missing truth or response is filled in, and then also missing vectors of
    the same options; an answer that called tools is replaced by what came after (`personaagent.memory.rounds`), and a lesson by
    what is told now (`personaagent.tools.lessons`). An id that is another question's already is left out and stands in the
    result's `conflicts`; see `undisputed`. What is there already may be larger than limits allow; it is left as it is.

    Args:
        user: whose interactions these are.
        items: in order of arrival.
        existing: the stored row of an interaction id, or None.
        last_arrived: when the user's newest row or truth arrived; new ones come later, whatever the clock says.
        now: microseconds since 1970.
        limits: of what is new.
        used: bytes of the interactions that the user has.
        skip: leave out what is larger than limits allow, and say so in the result.

    Raises:
        InvalidInput: an interaction belongs to another user.
        FutureTimeError: a new interaction is of a time in the far future.
        TooLarge: an interaction, or all of the user's together, are larger than limits allow, and `skip` is not set.
    """
    plan = _Appending(user, existing, limits, skip, now, max(now, last_arrived + 1), used)
    for item in items:
        plan.take(item)
    return plan.change()


@dataclass(slots=True)
class _Appending:
    """An append as it is being planned, one interaction after the other; see `plan_append`."""

    user: str
    existing: Callable[[str], Row | None]
    limits: LimitsSettings
    skip: bool
    now: int
    arrival: int  # of what comes next
    used: int
    rows: dict[str, Row] = field(default_factory=dict)  # by interaction id, in order of arrival
    added: int = 0
    updated: int = 0
    repeated: int = 0
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    oversized: list[Oversized] = field(default_factory=list)

    def take(self, item: Incoming) -> None:
        """Plan for one interaction; raises as `plan_append`."""
        interaction = item.interaction
        if interaction.user != self.user:
            raise InvalidInput("an interaction of another user cannot be appended to this one's memory")
        if interaction.lesson and not (interaction.choices and {ACTION, OF} <= interaction.metadata.keys()):
            raise InvalidInput(f"an id that begins with {LESSON!r} is that of a lesson on a tool; choose another id")
        old = self.rows.get(interaction.id) or self.existing(interaction.id)
        if old is None:
            self._add(item)
        elif interaction.lesson and _written(old.interaction.query) == _written(interaction.query):
            self._correct(old, item)
        elif not same_question(old.interaction, interaction):
            self.conflicts.append((self.user, interaction.id))
        else:
            self._fill(old, item)

    def change(self) -> Change:
        """What all that was taken writes."""
        return Change(
            user=self.user,
            rows=tuple(self.rows.values()),
            added=AppendResult(
                added=self.added,
                repeated=self.repeated,
                updated=self.updated,
                conflicts=tuple(self.conflicts),
                oversized=tuple(self.oversized),
            ),
        )

    def _add(self, item: Incoming) -> None:
        """An interaction that is not there yet."""
        interaction = item.interaction
        if microseconds(interaction.time) > self.now + AHEAD_US:
            raise FutureTimeError(future_fault(interaction.time, datetime.fromtimestamp(self.now / 1e6, UTC)))
        arrived = self.arrival if item.arrived is None else item.arrived
        known = 0 if interaction.truth is None else item.truth_arrived or self.arrival
        row = _row(interaction, item, arrived, known)
        if not self._fits(interaction, row.payload, self.used + len(row.payload)):
            return
        self.used += len(row.payload)
        self.rows[interaction.id] = row
        self.arrival = max(self.arrival, arrived, known) + 1
        self.added += 1

    def _correct(self, old: Row, item: Incoming) -> None:
        """A lesson that is there: what is told now takes its place, unless it is an older state of it that is read back."""
        stored, interaction = old.interaction, item.interaction
        same = ("truth", "choices", "metadata")
        if item.truth_arrived is not None or all(getattr(stored, n) == getattr(interaction, n) for n in same):
            self.repeated += 1
            return
        told = 0
        if interaction.truth is not None:
            told, self.arrival = self.arrival, self.arrival + 1
        row = replace(_row(interaction, item, old.arrived, told), time=old.time, query_vector=old.query_vector)
        if self._fits(interaction, row.payload, 0):
            self.rows[interaction.id] = row
            self.updated += 1

    def _fill(self, old: Row, item: Incoming) -> None:
        """An interaction that is there: what it lacks and is known now."""
        stored, interaction = old.interaction, item.interaction
        fill: dict[str, object] = {
            name: value
            for name in ("truth", "response")
            if getattr(stored, name) is None and (value := getattr(interaction, name)) is not None
        }
        fill.update(later_round(stored, interaction))
        if not fill:
            self.repeated += 1
            return
        merged = stored.model_copy(update=fill)
        payload = pack(merged)
        # What is filled in is new; what was there before may be larger than that.
        told = interaction.model_copy(update={"metadata": {}, "choices": None})
        if not self._fits(told, _new(old, payload, self.limits), 0):
            return
        known = old.truth_arrived
        if merged.truth is not None and stored.truth is None:  # new to whoever has read this user's truths already
            known = max(self.arrival, item.truth_arrived or 0)
            self.arrival = known + 1
        options = old.option_vectors
        if options is None and interaction.choices == stored.choices:
            options = item.option_vectors
        self.rows[interaction.id] = replace(
            old,
            truth_arrived=known,
            payload=payload,
            truth_vector=old.truth_vector if stored.truth is not None else _half(item.truth_vector),
            option_vectors=options,
        )
        self.updated += 1

    def _fits(self, interaction: Interaction, payload: bytes, grown: int) -> bool:
        """Whether limits allow it, with the user's interactions grown to so many bytes; False only if it may be skipped."""
        fault = interaction_fault(interaction, self.limits, payload) or user_fault(grown, self.limits)
        if fault and not self.skip:
            raise TooLarge(f"interaction {interaction.id!r}: {fault}")
        if fault:
            self.oversized.append(Oversized(user=self.user, id=interaction.id, reason=fault))
        return not fault


def same_question(stored: Interaction, other: Interaction) -> bool:
    """Whether two interactions of one id can be the same: they ask the same, and of no options or the same ones."""
    if stored.choices is not None and other.choices is not None and stored.choices != other.choices:
        return False
    return stored.query == other.query or _written(stored.query) == _written(other.query)


def _written(text: str) -> str:
    """The text, however its accents are encoded and whatever space is around it."""
    return unicodedata.normalize("NFC", text).strip()


def undisputed(change: Change) -> Change:
    """The change itself. Raises ConflictError if an interaction of it has the id of another question."""
    if conflicts := change.added.conflicts:
        more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
        raise ConflictError(
            f"interaction id {conflicts[0][1]!r} is another question's already{more}; choose another id"
        )
    return change


def _new(old: Row, payload: bytes, limits: LimitsSettings) -> bytes:
    """What is to be measured of a row's new payload: nothing if the old one was larger than limits allow already."""
    return payload if len(old.payload) <= limits.interaction_kb * KB else b""


def _row(interaction: Interaction, item: Incoming, arrived: int, truth_arrived: int) -> Row:
    return Row(
        user=interaction.user,
        id=interaction.id,
        time=microseconds(interaction.time),
        arrived=arrived,
        truth_arrived=truth_arrived,
        payload=pack(interaction),
        query_vector=item.query_vector,
        truth_vector=_half(item.truth_vector) if interaction.truth is not None else None,
        option_vectors=item.option_vectors,
    )


def confirmed(about: Interaction, truth: str | None, rating: int | None) -> str | None:
    """The truth that feedback on an interaction tells: what it says, or the answer itself if a thumb up confirms that.

    Raises:
        InvalidInput: a thumb up for an interaction without an answer, or with another truth than its answer.
    """
    if rating != 1:
        return truth
    if not about.response:
        raise InvalidInput(
            "this interaction has no text that a rating could confirm; send what the user wanted as truth"
        )
    if truth is not None and truth != about.response:
        raise InvalidInput(
            "a rating of 1 says that the answer was right, and the truth says otherwise; send one of them"
        )
    return about.response


def plan_feedback(
    old: Row | None,
    interaction: str,
    truth: str | None,
    truth_vector: Vector | None,
    last_arrived: int,
    now: int,
    limits: LimitsSettings,
    rating: int | None = None,
) -> Change:
    """What feedback on the stored row `old` writes; see `plan_append`.

    A thumb down (`rating` -1) without a truth takes back a truth that says what the answer says: somebody confirmed the
    answer before they thought better of it. A truth in other words stays.

    Raises:
        NotFoundError: there is no such row.
        InvalidInput: a thumb down with the answer itself as the truth; or it is a lesson on a tool, which says what it does only
            together with the others of its interaction (`personaagent.tools.lessons`).
        TooLarge: the truth is larger than limits allow, or makes the interaction larger than that.
    """
    if old is None:
        raise NotFoundError(f"interaction {interaction!r} does not exist")
    stored = old.interaction
    if stored.lesson:
        raise InvalidInput("this is a lesson on a tool; say what was right of the interaction that it is about")
    metadata = dict(stored.metadata)
    if rating == -1 and truth is not None and truth == stored.response:
        raise InvalidInput(
            "a rating of -1 says that the answer was wrong, and the truth is that answer; send one of them"
        )
    if rating is not None:
        metadata[THUMB] = rating
    elif truth is not None and metadata.get(THUMB) == (-1 if truth == stored.response else 1):
        del metadata[THUMB]  # the answer is what they wanted after all, or is not
    if truth is None:
        withdrawn = rating == -1 and stored.truth == stored.response
        truth = None if withdrawn else stored.truth
    if truth == stored.truth and metadata == stored.metadata:
        return Change(user=old.user)
    try:
        told = Interaction.model_validate({**dict(stored), "truth": truth, "metadata": metadata})
    except ValidationError as e:
        raise InvalidInput(f"truth: {e.errors()[0]['msg']}") from e
    payload = pack(told)
    new = told.model_copy(update={"metadata": {}, "choices": None, "response": None})
    if fault := interaction_fault(new, limits, _new(old, payload, limits)):
        raise TooLarge(f"interaction {interaction!r}: {fault}")
    row = replace(old, payload=payload)
    if truth is None:
        row = replace(row, truth_arrived=0, truth_vector=None)
    elif truth != stored.truth:
        if truth_vector is None:
            raise InvalidInput("a known truth needs its vector")
        row = replace(row, truth_arrived=max(now, last_arrived + 1), truth_vector=half(truth_vector))
    return Change(user=old.user, rows=(row,), added=AppendResult(added=0, repeated=0, updated=1))


def _half(vector: Vector | None) -> Vector | None:
    return None if vector is None else half(vector)
