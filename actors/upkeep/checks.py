"""What the doctor checks of one user: every invariant of the store, and what makes a memory poor, without any model.

It looks at entities as they are, since what is broken cannot be read the usual way.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from actors.milvus import rows
from actors.milvus.counts import SEEN
from actors.milvus.rows import Entity
from actors.milvus.upkeep_store import UpkeepStore
from personaagent import prompts
from personaagent.agent.client_prompts import Housekeeping
from personaagent.errors import StoreError
from personaagent.features import normalised
from personaagent.memory.changes import option_texts
from personaagent.memory.store import Row, microseconds, row_key
from personaagent.persona.persona import resting
from personaagent.types import Interaction, Persona, Profile, future_fault, user_key, utc_now

__all__ = ["Checkup", "Finding"]

EXAMPLES = 5  # ids named per finding
UNIT = 1e-3  # how far from 1 a vector's length may be
STALE = timedelta(days=90)  # without a truth
QUOTED = 40  # characters; shorter personas may well be said by chance
ECHOED = (prompts.INSTRUCTIONS, prompts.EPISODES_HEADING, prompts.NEW_USER, prompts.PROFILE_SYSTEM)

_FRAME = prompts.EPISODE_LINE.format(query="|", truth="")  # what stands around a recalled request


@dataclass
class Finding:
    """Something found about one user. `ids` are examples: interactions, facts, versions or keys; never texts."""

    check: str
    user: str  # id, or key where the id is not known
    detail: str
    count: int = 1
    ids: tuple[str, ...] = ()
    problem: bool = True  # an invariant is broken; otherwise only worth knowing
    fixed: bool = False


@dataclass
class Checkup:
    """One user's entities, and what was found about them."""

    store: UpkeepStore
    key: str
    expected_shard: bool = True  # whether this shard is the user's
    now: datetime = field(default_factory=utc_now)
    user: str | None = None
    interactions: dict[str, Interaction] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)  # when a truth arrived
    personas: list[Persona] = field(default_factory=list)
    profile: Profile | None = None
    old_profiles: list[str] = field(default_factory=list)  # keys of records that a newer version replaced
    orphans: list[str] = field(default_factory=list)  # keys of parts that belong to nothing
    duplicates: dict[str, str] = field(default_factory=dict)  # id -> the earlier interaction that says the same
    housekeeping: Housekeeping = field(default_factory=Housekeeping)
    listed: dict[str, Any] | None = None  # what a server's record of counts says, unless it is open
    unreadable: int = 0
    findings: list[Finding] = field(default_factory=list)
    _parts: dict[str, str] = field(default_factory=dict)
    _wanted: set[str] = field(default_factory=set)

    def run(self, episodes: Sequence[str], records: Sequence[str]) -> Checkup:
        """Look at everything of the user, given all primary keys that begin with the user's key."""
        found = self.store.entities(records, records=True)
        self._parts = {e["pk"]: e["body"] for e in found if e["kind"] == "part"}
        for chunk in rows.chunked(list(episodes), 2_000):
            self._rows(self.store.entities(chunk, records=False))
        self._records([e for e in found if e["kind"] != "part"])
        self._identity(found, len(episodes))
        self._chain()
        self._links()
        self._quality()
        if orphans := sorted(self._parts.keys() - self._wanted):
            self.orphans = orphans
            self._tell("orphan parts", "parts of long texts that belong to nothing", orphans)
        return self

    # Reading

    def _text(self, entity: Entity) -> bytes | None:
        """The text of an entity; None if it is damaged."""
        if entity["parts"]:
            self._wanted.update(rows.part_keys(entity["pk"], entity["body"], entity["parts"]))
        try:
            return self.store.text_of(entity, self._parts)
        except StoreError:
            self.unreadable += 1
            self._tell("unreadable", "a text that cannot be put together or decrypted", [entity["pk"]])
            return None

    def _rows(self, entities: Sequence[Entity]) -> None:
        wrong: defaultdict[str, list[str]] = defaultdict(list)
        for entity in entities:
            text = self._text(entity)
            if text is None:
                continue
            try:
                row = rows.row_of(entity, text)
                interaction = row.interaction
            except (ValueError, KeyError, TypeError):
                self.unreadable += 1
                wrong["no interaction"].append(entity["pk"])
                continue
            self.interactions[row.id] = interaction
            self.arrived[row.id] = row.arrived
            self.told[row.id] = row.truth_arrived
            if self.user is None and user_key(row.user) == self.key:
                self.user = row.user
            for reason in self._row_faults(entity, row, interaction):
                wrong[reason].append(row.id)
        for reason, ids in wrong.items():
            self._tell("rows", reason, ids)

    def _row_faults(self, entity: Entity, row: Row, interaction: Interaction) -> Iterable[str]:
        if user_key(row.user) != self.key or entity["user_key"] != self.key:
            yield "interactions of another user than their key says"
        elif entity["pk"] != self.key + row_key(row.user, row.id)[1].hex():
            yield "interactions stored under another id's key"
        if not _is_unit(row.query_vector, self.store.dim):
            yield "query vectors of a wrong length, or with numbers that are none"
        if row.truth_vector is not None and not _is_unit(row.truth_vector, self.store.dim, 1e-2):
            yield "truth vectors of a wrong length, or with numbers that are none"
        if row.option_vectors is not None and len(row.option_vectors) != len(option_texts(interaction)):
            yield "vectors of options that are not those of the interaction"
        known = interaction.truth is not None
        if known != (row.truth_vector is not None) or known != (row.truth_arrived > 0):
            yield "truths that disagree with their vector or time of arrival"
        if row.time != microseconds(interaction.time):
            yield "times that disagree with the interaction's own"

    def _records(self, entities: Sequence[Entity]) -> None:
        numbers: defaultdict[int, list[Persona]] = defaultdict(list)
        profiles: list[tuple[int, Entity, Profile]] = []
        for entity in entities:
            if entity["kind"] == SEEN:  # a number, no text
                continue
            text = self._text(entity)
            if text is None:
                continue
            try:
                content: dict[str, Any] = json.loads(text)
                if entity["kind"] == "user":
                    if user_key(content["user"]) == self.key:
                        self.user = content["user"]
                    else:
                        self._tell("records", "a name that is not this user's", [entity["pk"]])
                elif entity["kind"] == "persona":
                    numbers[entity["number"]].append(Persona.model_validate(content["persona"]))
                elif entity["kind"] == "counts":
                    self.listed = content.get("summary")
                elif entity["kind"] == "profile":
                    profiles.append((entity["number"], entity, Profile.model_validate(content["profile"])))
            except (ValueError, KeyError, TypeError):
                self.unreadable += 1
                self._tell("records", "a record that cannot be read", [entity["pk"]])
        for number, versions in sorted(numbers.items()):
            self.personas.append(min(versions, key=lambda p: p.time))
            if len(versions) > 1:
                self._tell("persona chain", f"version {number} is there {len(versions)} times", [])
            if any(p.number != number for p in versions):
                self._tell("persona chain", f"version {number} calls itself otherwise", [])
        if profiles:
            profiles.sort(key=lambda p: p[0])
            self.profile = profiles[-1][2]
            old = [e for _, e, _ in profiles[:-1]]
            if old:
                self._tell("profile", "older versions that were not removed", [e["pk"] for e in old])
            for e in old:
                parts = rows.part_keys(e["pk"], e["body"], e["parts"]) if e["parts"] else []
                self.old_profiles += [e["pk"], *parts]

    # Invariants

    def _identity(self, records: Sequence[Entity], episodes: int) -> None:
        if not any(e["kind"] == "user" for e in records):
            self._tell("nameless", "interactions or versions without a record of whose they are", [self.key])
        elif not episodes and not self.personas and self.profile is None and not self.unreadable:
            self._tell("empty", "a name and nothing else, as a deletion leaves that was interrupted", [])
        if not self.expected_shard:
            self._tell("wrong shard", "this user belongs to another shard's file", [])
        if self.user is not None and (counted := self.store.count(self.user)) != episodes:
            self._tell("count", f"{episodes} interactions are stored, the store counts {counted}", [])
        if self.listed is not None and not self.unreadable:
            found = (episodes, self.personas[-1].number if self.personas else None)
            if (said := (self.listed.get("interactions"), self.listed.get("persona"))) != found:
                detail = f"{said[0]} interactions and persona {said[1]} are listed, {found[0]} and {found[1]} stored"
                self._tell("listing", detail, [])

    def _chain(self) -> None:
        numbers = [p.number for p in self.personas]
        if numbers != list(range(1, len(numbers) + 1)):
            self._tell("persona chain", "versions are missing between the first and the current one", map(str, numbers))
        wrong = [p.number for p in self.personas if p.parent != (p.number - 1 or None)]
        if wrong:
            self._tell("persona chain", "versions whose parent is not the one before", map(str, wrong))

    def _links(self) -> None:
        if lost := self.lost(i for p in self.personas for i in resting(p)):
            self._tell("persona sources", "interactions that versions came from and that do not exist", lost)
        if self.profile is None:
            return
        if lost := self.lost(i for f in self.profile.facts for i in f.evidence):
            self._tell("evidence", "interactions that facts rest on and that do not exist", lost)
        ids = {f.id for f in self.profile.facts}
        if dangling := [f.id for f in self.profile.facts if f.superseded_by and f.superseded_by not in ids]:
            self._tell("superseded_by", "facts superseded by one that does not exist", dangling)
        if len(ids) != len(self.profile.facts):
            self._tell("profile", "facts that share an id", [])

    def lost(self, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that name no interaction; none while some interactions cannot be read."""
        return set() if self.unreadable else set(ids) - self.interactions.keys()

    # What makes a memory poor

    def _quality(self) -> None:
        order = sorted(self.interactions.values(), key=lambda i: (i.time, self.arrived[i.id]))
        first: dict[tuple[Any, ...], str] = {}
        for i in order:
            earlier = first.setdefault((i.query, i.truth, i.choices), i.id)
            if earlier != i.id:
                self.duplicates[i.id] = earlier
        if self.duplicates:
            self._tell("duplicates", "interactions that repeat an earlier one", self.duplicates, problem=False)
        self._echoes(order)
        if kept := [i.id for i in order if self.housekeeping.says(i.query)]:
            detail = "prompts of a chat program for titles, tags and the like, stored as if the user had asked them"
            self._tell("housekeeping", detail, kept, problem=False)
        told = [i for i in order if i.truth is not None]
        if not told:
            if order:
                self._tell("staleness", "no interaction has a truth, so nothing can be learnt", [], problem=False)
            return
        if self.now - told[-1].time > STALE:
            days = (self.now - told[-1].time).days
            self._tell("staleness", f"the newest truth is of {days} days ago", [told[-1].id], problem=False)
        if ahead := [i.id for i in order if future_fault(i.time, self.now)]:
            detail = "interactions of a time in the future, which count as of when they arrived"
            self._tell("future", detail, ahead, problem=False)
        if self.profile is not None:
            mark = self.profile.mark or 0
            if behind := [i.id for i in told if self.told[i.id] > mark]:
                self._tell("staleness", "interactions that the profile has not read", behind, problem=False)

    def _echoes(self, interactions: Sequence[Interaction]) -> None:
        prompted = [normalised(text) for text in ECHOED]
        prose = [text for p in self.personas if not p.claims and len(text := normalised(p.text)) >= QUOTED]
        claims = {
            text: set(c.sources)
            for p in self.personas
            for c in p.claims
            if c.origin != "counted" and len(text := normalised(c.text)) >= QUOTED
        }
        asked, wanted = (normalised(piece) for piece in _FRAME.split("|"))
        echoes = []
        for i in interactions:
            said = normalised(f"{i.query}\n{i.truth or ''}")
            recalled = asked in said and wanted in said
            claimed = any(text in said and i.id not in sources for text, sources in claims.items())
            if recalled or claimed or any(text in said for text in (*prompted, *prose)):
                echoes.append(i.id)
        if echoes:
            self._tell("echoes", "interactions that restate prompts, a persona or recalled text", echoes, problem=False)
        facts = self.profile.facts if self.profile is not None else ()
        if restated := [f.id for f in facts if any(t in normalised(f.text) for t in (*prompted, *prose))]:
            self._tell("echoes", "facts that restate prompts or a persona", restated, problem=False)

    def _tell(self, check: str, detail: str, ids: Iterable[str], problem: bool = True) -> None:
        listed = list(ids)
        self.findings.append(
            Finding(check, self.user or self.key, detail, max(1, len(listed)), tuple(listed[:EXAMPLES]), problem)
        )


def _is_unit(vector: Any, dim: int, tolerance: float = UNIT) -> bool:
    return vector.shape == (dim,) and bool(abs(float(np.linalg.norm(vector.astype(np.float64))) - 1) <= tolerance)
