"""One user's episodes in RAM, and the ranking of recall over them.

What repeats and what choices teach stands in `Repeats` and `ChoiceHistory`; the columns that a ranking reads stay together here,
since a row enters all of them or none. It knows nothing of stores, embedders or other users. Vectors of past queries sit in one
matrix, so a recall is one matrix-vector product, a BM25 lookup and a sum of the two scores; nothing loops over all episodes in
Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from personaagent.errors import InvalidInput, NotFoundError
from personaagent.evidence.columns import Column
from personaagent.evidence.commons import Commons
from personaagent.evidence.evidence import Evidence, Known
from personaagent.evidence.ranking import best, standardised, untold
from personaagent.features import bare, normalised
from personaagent.memory.bm25 import Bm25
from personaagent.memory.choice_history import ChoiceHistory
from personaagent.memory.repeats import Repeats
from personaagent.memory.store import Quantised, Row, Vector, microseconds, ordering, page_of, unpack
from personaagent.settings import MemorySettings
from personaagent.types import OF, Episode, Interaction, Recall, RecallQuery, choice_kind

__all__ = ["CHARS_PER_TOKEN", "EpisodeIndex", "episode_tokens"]

CHARS_PER_TOKEN = 4
RECENT = 60  # newer episodes after which recency counts half
OUTCOME_WEIGHT = 0.05  # of a known truth, a standard deviation of meaning being 1: it only breaks near-ties
SAME = 10.0  # of the same request, on that scale: it stands before all that is only alike
POOL = 100  # best ones by each score that are told apart, and episodes looked at for the budget of tokens, at least
LEAST_SPREAD = 0.01  # of cosines: a smaller standard deviation tells nothing
TINY = 1e-30  # less than any score of an episode that shares a word

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def episode_tokens(interaction: Interaction) -> int:
    """Estimated tokens of an episode's query and outcome in a prompt."""
    outcome = interaction.truth if interaction.truth is not None else interaction.response or ""
    return (len(interaction.query) + len(outcome)) // CHARS_PER_TOKEN + 1


class EpisodeIndex:
    """Episodes are slots 0, 1, ... in order of arrival; the user's order is by time, ties by arrival."""

    def __init__(self, dim: int, settings: MemorySettings | None = None) -> None:
        self._dim = dim
        self._settings = settings or MemorySettings()
        self._slots: dict[str, int] = {}
        self._payloads: list[bytes] = []  # JSON, not objects: a tenth of the memory and no load on the collector
        self._vectors = Column(np.float32, dim)
        self._times = Column(np.int64)
        self._arrived = Column(np.int64)
        self._truth_arrived = Column(np.int64)
        self._choices = ChoiceHistory(dim)
        self._repeats = Repeats()
        # Digests of the query by slot: as it is compared, and as an embedder may read it.
        self._asked, self._spelled = Column(np.int64), Column(np.int64)
        self._rank: Ints | None = None  # position in the user's order, by slot
        self._bm25: Bm25 | None = None  # built at the first recall that needs it, kept up to date from then on
        self._metadata: dict[str, dict[str, list[int]]] = {}  # slots by key and value, for keys once filtered on
        self._payload_bytes = 0
        self._last = 0  # arrival of a row or truth

    def __len__(self) -> int:
        return len(self._payloads)

    def __contains__(self, interaction: str) -> bool:
        return interaction in self._slots

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    @property
    def truths(self) -> int:
        """How many episodes have a known truth."""
        return int(np.count_nonzero(self._choices.told))

    @property
    def last_arrived(self) -> int:
        """When the newest row or truth arrived, 0 if there is none."""
        return self._last

    @property
    def last_truth(self) -> int:
        """When the newest truth arrived, 0 if there is none."""
        return int(self._truth_arrived.view.max(initial=0))

    @property
    def last_time(self) -> int | None:
        """Time of the newest interaction, microseconds since 1970."""
        return int(self._times.view.max()) if len(self) else None

    @property
    def option_vectors(self) -> Quantised:
        """(n, dim) of all different options of closed choices, by their code. A view: copy what must not change."""
        return self._choices.option_vectors

    def options(self, slots: Ints) -> npt.NDArray[np.int32]:
        """Codes of the options whose vectors these episodes keep, (len(slots), MAX_OPTIONS), in the order of the choices.

        -1 stands behind the last, and everywhere for an episode without vectors.
        """
        return self._choices.options(slots)

    @property
    def payload_bytes(self) -> int:
        """Bytes of the interactions as they are stored."""
        return self._payload_bytes

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        columns = (self._vectors, self._times, self._arrived, self._truth_arrived, self._asked, self._spelled)
        return (
            sum(c.nbytes for c in columns)
            + self._payload_bytes
            + self._choices.ram_bytes
            + self._repeats.ram_bytes
            + 350 * len(self)  # id, dictionary entries, list slots, object headers
            + (self._payload_bytes + 300 * len(self) if self._metadata else 0)  # values that were filtered on, at most
            + (self._bm25.ram_bytes if self._bm25 is not None else 0)
        )

    def truths_after(self, arrived: int) -> int:
        """How many truths became known later than that (microseconds since 1970)."""
        return int(np.count_nonzero(self._truth_arrived.view > arrived))

    def warm(self) -> None:
        """Build now what the first recall would have to."""
        self._ranks()
        if self._settings.bm25_weight:
            self._words()

    def put(self, row: Row) -> None:
        """Add a row, or replace the one with its id (whose query must be the same)."""
        interaction = row.interaction
        self._check(row.query_vector)  # before anything changes
        self._last = max(self._last, row.arrived, row.truth_arrived)
        if interaction.truth is not None:
            if row.truth_vector is None:
                raise InvalidInput("a known truth needs its vector")
            self._check(row.truth_vector)
        if row.option_vectors is not None and row.option_vectors.shape[1:] != (self._dim,):
            raise InvalidInput(f"options need vectors of {self._dim} numbers, not of shape {row.option_vectors.shape}")
        known = self._slots.get(row.id)
        if known is not None:
            self._replace(known, row, interaction)
            return
        slot = self._slots[row.id] = len(self._payloads)
        self._payloads.append(row.payload)
        self._payload_bytes += len(row.payload)
        self._vectors.append(row.query_vector)
        self._times.append(ordering(row.time, row.arrived))
        self._arrived.append(row.arrived)
        self._truth_arrived.append(row.truth_arrived)
        asked = normalised(interaction.query)
        self._asked.append(hash(asked))
        self._spelled.append(hash(bare(asked)))
        self._repeats.put(slot, interaction)
        self._choices.put(slot, interaction, row.truth_vector, row.option_vectors)
        self._rank = None
        if self._bm25 is not None:
            self._bm25.add(_words(interaction))
        for key, values in self._metadata.items():
            if key in interaction.metadata:
                values.setdefault(_canonical(interaction.metadata[key]), []).append(slot)

    def about(self, interaction: str) -> list[str]:
        """Ids of the episodes that say they are about this interaction."""
        slots = self._with_metadata(OF).get(_canonical(interaction), ())
        return self._ids(np.asarray(slots, dtype=np.int64))

    def get(self, interaction: str) -> Row | None:
        """The row of an interaction."""
        slot = self._slots.get(interaction)
        return None if slot is None else self._row(slot, interaction)

    def rows(self) -> Iterator[Row]:
        """All rows in order of arrival."""
        for interaction, slot in self._slots.items():
            yield self._row(slot, interaction)

    def after(self, arrived: int) -> Iterator[Row]:
        """Rows that arrived later than that, oldest arrival first."""
        arrivals, ids = self._arrived.view, list(self._slots)
        slots = np.flatnonzero(arrivals > arrived)
        for slot in slots[np.argsort(arrivals[slots], kind="stable")]:
            yield self._row(int(slot), ids[slot])

    def latest(
        self, n: int, with_truth: bool = False, before: tuple[int, int] | None = None
    ) -> tuple[Interaction, ...]:
        """The newest n interactions, oldest first; of those before a `moment`, if that is given."""
        slots = np.argsort(self._ranks())
        if before is not None:
            slots = slots[: self._earlier(before)]
        if with_truth:
            slots = slots[self._choices.told[slots]]
        return tuple(unpack(self._payloads[s]) for s in slots[max(0, len(slots) - n) :])

    def told(self, after: int, n: int) -> list[tuple[Interaction, int]]:
        """Interactions whose truth arrived later than `after`, and when, oldest first: see `page_of`."""
        arrived = self._truth_arrived.view
        return [(unpack(self._payloads[slot]), int(arrived[slot])) for slot in page_of(arrived, after, n)]

    def moment(self, interaction: str) -> tuple[int, int] | None:
        """Where an episode stands in the user's order, by time and arrival; None if there is none of this id."""
        slot = self._slots.get(interaction)
        return None if slot is None else (int(self._times.view[slot]), int(self._arrived.view[slot]))

    def recall(
        self,
        query: RecallQuery,
        query_vector: Vector,
        choice_vectors: npt.NDArray[np.float32],
        commons: Commons | None = None,
        before: tuple[int, int] | None = None,
    ) -> Recall:
        """Rank the episodes in reach for a request.

        Args:
            query: what to recall.
            query_vector: (dim,) of its text.
            choice_vectors: (m, dim) of its choices; not read for ratings and free text, then (0, dim) will do.
            commons: what people have in common; evidence starts from it.
            before: the `moment` of the interaction that `query.before` names, if it is not one of these.

        Raises:
            NotFoundError: `before` is not an interaction of this user.
        """
        self._check(query_vector)
        reach, age, known = self._reach(query, self._ranks(), before)
        allowed = self._filter(query, reach)
        # Row by row: twice as fast as `@`, which does not read memory in order, and equal vectors get equal cosines.
        similarity = np.asarray(np.vecdot(self._vectors.view, query_vector), dtype=np.float32)
        # The same request is the same whatever its embedding was at the time, or the embedder knows of its script.
        # Other texts with its very vector are ones that the embedder could not read.
        asked = normalised(query.text)
        same, spelled = self._asked.view == hash(asked), hash(bare(asked))
        similarity = untold(similarity, self._spelled.view == spelled)
        similarity[same] = 1.0
        episodes: tuple[Episode, ...] = ()
        if query.k and len(self):
            episodes = self._ranked(query, allowed, age, similarity, same)
        found = self._evidence(query, query_vector, allowed, age, similarity, choice_vectors, commons, spelled)
        return Recall(
            episodes=episodes,
            evidence=tuple(e.logprobs for e in found),
            reasons=found[0].reasons if found else (),
            known=known,
        )

    # Ranking

    def _reach(self, query: RecallQuery, rank: Ints, before: tuple[int, int] | None) -> tuple[Mask, Ints, int]:
        """Episodes earlier than `before` and not excluded, how many newer ones of these each has, and their number."""
        end = len(self)
        if query.before is None and not query.exclude:
            return np.ones(end, dtype=bool), end - 1 - rank, end
        if before is not None:
            end = self._earlier(before)
        elif query.before is not None:
            if query.before not in self._slots:
                raise NotFoundError(f"interaction {query.before!r} does not exist; `before` must name a stored one")
            end = int(rank[self._slots[query.before]])
        reach: Mask = rank < end
        age: Ints = end - 1 - rank
        left_out = sorted(
            {int(rank[s]) for i in query.exclude if (s := self._slots.get(i)) is not None and rank[s] < end}
        )
        if left_out:
            age = age - (len(left_out) - np.searchsorted(left_out, rank, side="right"))
            reach &= ~np.isin(rank, left_out)
        return reach, age, end - len(left_out)

    def _filter(self, query: RecallQuery, allowed: Mask) -> Mask:
        """What is left of the allowed episodes, a mask that it changes."""
        if query.since is not None:
            allowed &= self._times.view >= microseconds(query.since)
        if query.until is not None:
            allowed &= self._times.view < microseconds(query.until)
        if query.with_truth:
            allowed &= self._choices.told
        for key, value in query.metadata.items():
            equal = np.zeros(len(self), dtype=bool)
            equal[self._with_metadata(key).get(_canonical(value), [])] = True
            allowed &= equal
        return allowed

    def _ranked(
        self, query: RecallQuery, allowed: Mask, age: Ints, similarity: Vector, same: Mask
    ) -> tuple[Episode, ...]:
        slots = self._distinct(query, allowed)
        weight = {"hybrid": self._settings.bm25_weight, "dense": 0.0, "bm25": 1.0}[query.ranking]
        shared = self._words().scores(query.text) if weight else np.zeros(len(self), dtype=np.float32)
        if weight and len(slots):  # the same request is as near in words as any, whatever its truth adds to its length
            shared[slots[same[slots]]] = shared[slots].max()
        if query.ranking == "bm25":
            slots = slots[shared[slots] >= TINY]
        score = SAME * same[slots]
        if query.ranking != "bm25":
            score += standardised(similarity[slots], POOL, LEAST_SPREAD)
        if weight:
            score += weight * standardised(shared[slots], POOL, TINY)
        if query.ranking == "hybrid":
            score += self._settings.recency_weight * (RECENT / (RECENT + age[slots]))
            score += OUTCOME_WEIGHT * self._choices.told[slots]
        score = np.round(score, 9)  # what differs by rounding alone ties, and goes to the newer
        # More than are wanted: some may not fit into the budget of tokens.
        size = max(POOL, 4 * query.k)
        order = best(np.arange(len(slots)), score, age[slots], size) if len(slots) else slots
        episodes: list[Episode] = []
        left = query.max_tokens
        for at in order:
            if len(episodes) == query.k:
                break
            slot = int(slots[at])
            interaction = unpack(self._payloads[slot])
            if left is not None:
                cost = episode_tokens(interaction)
                if cost > left:
                    continue  # a shorter one further down may still fit
                left -= cost
            episodes.append(
                Episode(
                    interaction=interaction,
                    similarity=float(similarity[slot]),
                    score=float(score[at]),
                    age=int(age[slot]),
                )
            )
        return tuple(episodes)

    def _distinct(self, query: RecallQuery, allowed: Mask) -> Ints:
        """The slots of the newest allowed episode of every group."""
        bounded = (query.before, query.since, query.until) != (None, None, None)
        if not (bounded or query.exclude or query.metadata):  # of a group, all have a truth or none
            return self._repeats.newest(allowed)
        return self._repeats.newest_among(allowed)

    def _evidence(
        self,
        query: RecallQuery,
        query_vector: Vector,
        allowed: Mask,
        age: Ints,
        similarity: Vector,
        choice_vectors: npt.NDArray[np.float32],
        commons: Commons | None,
        spelled: int,
    ) -> list[Evidence]:
        if not query.choices or not query.decisions:
            return []
        slots = self._choices.slots(choice_kind(query.choices), allowed)
        among = np.empty(len(slots), dtype=np.int64)  # newer ones of the same kind
        among[np.argsort(age[slots], kind="stable")] = np.arange(len(slots))
        known = Known(
            slots=slots,
            age=among,
            similarity=similarity[slots],
            request_vectors=lambda wanted: self._vectors.view[wanted],
            requests=lambda wanted: self._spelled.view[wanted],
            request=spelled,
            option_vectors=self._choices.embeddings,
            ids=self._ids,
        )
        return self._choices.evidence(query, query_vector, known, choice_vectors, commons)

    def _ids(self, slots: Ints) -> list[str]:
        return [str(json.loads(self._payloads[s])["id"]) for s in slots]

    # Parts kept up to date

    def _replace(self, slot: int, row: Row, interaction: Interaction) -> None:
        old = unpack(self._payloads[slot])
        self._payload_bytes += len(row.payload) - len(self._payloads[slot])
        self._payloads[slot] = row.payload
        self._truth_arrived.view[slot] = row.truth_arrived
        self._repeats.put(slot, interaction)
        self._choices.put(slot, interaction, row.truth_vector, row.option_vectors)
        if self._bm25 is not None:
            self._bm25.replace(slot, _words(old), _words(interaction))
        if self._metadata and _canonical(old.metadata) != _canonical(interaction.metadata):  # a thumb, or another round
            self._metadata.clear()  # they are gathered anew when somebody filters

    def _row(self, slot: int, interaction: str) -> Row:
        payload = self._payloads[slot]
        truth_vector, option_vectors = self._choices.vectors(slot)
        return Row(
            user=json.loads(payload)["user"],
            id=interaction,
            time=int(self._times.view[slot]),
            arrived=int(self._arrived.view[slot]),
            truth_arrived=int(self._truth_arrived.view[slot]),
            payload=payload,
            query_vector=self._vectors.view[slot].copy(),
            truth_vector=truth_vector,
            option_vectors=option_vectors,
        )

    def _check(self, vector: Vector) -> None:
        if vector.shape != (self._dim,):
            raise InvalidInput(f"a vector of {self._dim} numbers is needed, not of shape {vector.shape}")

    def _earlier(self, moment: tuple[int, int]) -> int:
        """How many episodes are earlier than that."""
        times, arrived = self._times.view, self._arrived.view
        return int(np.count_nonzero((times < moment[0]) | ((times == moment[0]) & (arrived < moment[1]))))

    def _ranks(self) -> Ints:
        if self._rank is None:
            order = np.argsort(self._times.view, kind="stable")  # slots are in order of arrival already
            self._rank = np.empty(len(order), dtype=np.int64)
            self._rank[order] = np.arange(len(order))
        return self._rank

    def _words(self) -> Bm25:
        if self._bm25 is None:
            self._bm25 = Bm25()
            for payload in self._payloads:
                self._bm25.add(_words(unpack(payload)))
        return self._bm25

    def _with_metadata(self, key: str) -> dict[str, list[int]]:
        if key not in self._metadata:
            values: dict[str, list[int]] = {}
            for slot, payload in enumerate(self._payloads):
                metadata = json.loads(payload)["metadata"]
                if key in metadata:
                    values.setdefault(_canonical(metadata[key]), []).append(slot)
            self._metadata[key] = values
        return self._metadata[key]


def _words(interaction: Interaction) -> str:
    return interaction.query if interaction.truth is None else f"{interaction.query}\n{interaction.truth}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
