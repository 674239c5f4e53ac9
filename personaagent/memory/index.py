"""One user's episodes in RAM, and the ranking of recall over them.

It knows nothing of stores, embedders or other users. Vectors of past queries sit in one matrix, so a recall is one
matrix-vector product, a BM25 lookup and a sum of the two scores; nothing loops over all episodes in Python.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from personaagent.errors import InvalidInput, NotFoundError
from personaagent.evidence.columns import Column
from personaagent.evidence.commons import Commons
from personaagent.evidence.evidence import Beliefs, Evidence, Known, choice_evidence, rating_evidence
from personaagent.evidence.offers import Offers, Ratings
from personaagent.evidence.ranking import best, standardised, untold
from personaagent.evidence.text_bags import NONE
from personaagent.features import bare, normalised
from personaagent.memory.bm25 import Bm25
from personaagent.memory.changes import MAX_OPTIONS, option_texts
from personaagent.memory.store import Quantised, Row, Vector, microseconds, ordering, page_of, restored, unpack
from personaagent.settings import MemorySettings
from personaagent.types import Episode, Interaction, Kind, Recall, RecallQuery, choice_kind

__all__ = ["CHARS_PER_TOKEN", "EpisodeIndex", "episode_tokens"]

CHARS_PER_TOKEN = 4
RECENT = 60  # newer episodes after which recency counts half
OUTCOME_WEIGHT = 0.05  # of a known truth, a standard deviation of meaning being 1: it only breaks near-ties
SAME = 10.0  # of the same request, on that scale: it stands before all that is only alike
POOL = 100  # best ones by each score that are told apart, and episodes looked at for the budget of tokens, at least
LEAST_SPREAD = 0.01  # of cosines: a smaller standard deviation tells nothing
TINY = 1e-30  # less than any score of an episode that shares a word

SAID = 80  # characters of a free answer that may be one of the options of another request
TRUTHS = -2  # numbers of embeddings from here down are those of truths

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
        # Equal truths share one vector: ratings and closed choices repeat the same few over and over.
        self._truth = Column(np.int32)  # code of the truth, -1 while unknown
        self._truth_codes: dict[str, int] = {}
        self._truth_bytes = 0  # of their texts
        self._truth_vectors = Column(np.float32, dim)
        # So do equal options of closed choices.
        self._options = Column(np.int32, MAX_OPTIONS)  # codes of the kept options, -1 behind the last
        self._option_codes: dict[str, int] = {}
        self._option_vectors = Column(np.int8, dim)
        self._option_bytes = 0  # of their texts
        # What the models of choice learn from.
        self._offers = Offers()
        self._ratings = Ratings()
        self._beliefs: dict[int, Beliefs] = {}  # by population; what the models of choice say of the user as a whole
        # Episodes with the same query and truth form a group, of which a recall returns only the newest.
        self._group = Column(np.int32)
        self._group_codes: dict[int, int] = {}
        # Digests of the query by slot: as it is compared, and as an embedder may read it.
        self._asked, self._spelled = Column(np.int64), Column(np.int64)
        self._newest = Column(np.bool_)  # whether a slot is the newest of its group
        self._newest_of = array("i")  # slot of a group's newest episode, by code; -1 for a group that all have left
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
        return int(np.count_nonzero(self._truth.view >= 0))

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
        return self._option_vectors.view

    def options(self, slots: Ints) -> npt.NDArray[np.int32]:
        """Codes of the options whose vectors these episodes keep, (len(slots), MAX_OPTIONS), in the order of the choices.

        -1 stands behind the last, and everywhere for an episode without vectors.
        """
        codes: npt.NDArray[np.int32] = self._options.view[slots]
        return codes

    @property
    def payload_bytes(self) -> int:
        """Bytes of the interactions as they are stored."""
        return self._payload_bytes

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        columns = (self._vectors, self._times, self._arrived, self._truth_arrived, self._truth, self._group)
        digests = self._asked.nbytes + self._spelled.nbytes
        return (
            digests
            + sum(c.nbytes for c in (*columns, self._newest, self._truth_vectors, self._options, self._option_vectors))
            + 4 * len(self._newest_of)
            + self._payload_bytes
            + self._option_bytes
            + self._truth_bytes
            + 100 * len(self._group_codes)
            + self._offers.ram_bytes
            + self._ratings.ram_bytes
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
        slot = self._slots.get(row.id)
        if slot is not None:
            self._replace(slot, row, interaction)
            return
        self._slots[row.id] = len(self._payloads)
        self._payloads.append(row.payload)
        self._payload_bytes += len(row.payload)
        self._vectors.append(row.query_vector)
        self._times.append(ordering(row.time, row.arrived))
        self._arrived.append(row.arrived)
        self._truth_arrived.append(row.truth_arrived)
        self._truth.append(self._truth_code(interaction.truth, row.truth_vector))
        self._options.append(self._codes(interaction, row.option_vectors))
        asked = normalised(interaction.query)
        self._asked.append(hash(asked))
        self._spelled.append(hash(bare(asked)))
        self._group.append(-1)
        self._newest.append(False)
        self._regroup(len(self._payloads) - 1, self._group_code(interaction))
        if interaction.truth is not None:  # without, it says nothing
            self._beliefs.clear()
        self._learn(len(self._payloads) - 1, interaction)
        self._rank = None
        if self._bm25 is not None:
            self._bm25.add(_words(interaction))
        for key, values in self._metadata.items():
            if key in interaction.metadata:
                values.setdefault(_canonical(interaction.metadata[key]), []).append(len(self._payloads) - 1)

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

    def latest(self, n: int, with_truth: bool = False) -> tuple[Interaction, ...]:
        """The newest n interactions, oldest first."""
        slots = np.argsort(self._ranks())
        if with_truth:
            slots = slots[self._truth.view[slots] >= 0]
        return tuple(unpack(self._payloads[s]) for s in slots[max(0, len(slots) - n) :])

    def told(self, after: int, n: int) -> list[tuple[Interaction, int]]:
        """Interactions whose truth arrived later than `after`, and when, oldest first: see `page_of`."""
        arrived = self._truth_arrived.view
        return [(unpack(self._payloads[slot]), int(arrived[slot])) for slot in page_of(arrived, after, n)]

    def recall(
        self,
        query: RecallQuery,
        query_vector: Vector,
        choice_vectors: npt.NDArray[np.float32],
        commons: Commons | None = None,
    ) -> Recall:
        """Rank the episodes in reach for a request.

        Args:
            query: what to recall.
            query_vector: (dim,) of its text.
            choice_vectors: (m, dim) of its choices; not read for ratings and free text, then (0, dim) will do.
            commons: what people have in common; evidence starts from it.

        Raises:
            NotFoundError: `before` is not an interaction of this user.
        """
        self._check(query_vector)
        reach, age, known = self._reach(query, self._ranks())
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

    def _reach(self, query: RecallQuery, rank: Ints) -> tuple[Mask, Ints, int]:
        """Episodes earlier than `before` and not excluded, how many newer ones of these each has, and their number."""
        end = len(self)
        if query.before is None and not query.exclude:
            return np.ones(end, dtype=bool), end - 1 - rank, end
        if query.before is not None:
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
            allowed &= self._truth.view >= 0
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
            score += OUTCOME_WEIGHT * (self._truth.view[slots] >= 0)
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
            return np.flatnonzero(allowed & self._newest.view)
        slots = np.flatnonzero(allowed)
        newest = np.full(len(self._group_codes), -1, dtype=np.int64)
        newest[self._group.view[slots]] = slots  # the last of equal indices wins
        distinct: Ints = slots[newest[self._group.view[slots]] == slots]
        return distinct

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
        kind = choice_kind(query.choices)
        slots = np.flatnonzero(allowed & (self._truth.view >= 0))
        slots = slots[(self._ratings if kind is Kind.RATING else self._offers).held(slots)]
        among = np.empty(len(slots), dtype=np.int64)  # newer ones of the same kind
        among[np.argsort(age[slots], kind="stable")] = np.arange(len(slots))
        known = Known(
            slots=slots,
            age=among,
            similarity=similarity[slots],
            request_vectors=lambda wanted: self._vectors.view[wanted],
            requests=lambda wanted: self._spelled.view[wanted],
            request=spelled,
            option_vectors=self._embeddings,
            ids=self._ids,
        )
        # Only what is learned from everything may be kept; a replay has to find out with what was known then.
        beliefs: Beliefs | None = None
        if query.before is None and not (query.exclude or query.since or query.until or query.metadata):
            beliefs = self._beliefs.setdefault(0 if commons is None else commons.number, {})
        if kind is Kind.RATING:
            return rating_evidence(
                known,
                self._ratings,
                query.text,
                query_vector,
                query.choices,
                query.decisions,
                commons,
                query.explain,
                beliefs,
            )
        if choice_vectors.shape != (len(query.choices), self._dim):
            raise InvalidInput(f"{len(query.choices)} choices need as many vectors of {self._dim} numbers")
        about = None if query.about is None else query.choices.index(query.about)
        return choice_evidence(
            known, self._offers, query.choices, choice_vectors, query.decisions, commons, query.explain, beliefs, about
        )

    def _learn(self, slot: int, interaction: Interaction) -> None:
        """Note what an episode says of the user's choices."""
        truth = interaction.truth
        value = (
            None if truth is None or interaction.kind is not Kind.RATING else _grade(truth, interaction.choices or ())
        )
        self._ratings.put(slot, interaction.query, value)
        vector = TRUTHS - int(self._truth.view[slot])
        if truth is not None and interaction.kind is Kind.TEXT and len(truth) <= SAID:
            self._offers.say(slot, truth, vector)
            return
        if truth is None or interaction.kind is not Kind.CHOICE:
            self._offers.put(slot, (), (), "", NONE)
            return
        texts = option_texts(interaction)
        codes = self._options.view[slot]
        self._offers.put(slot, texts, [int(c) for c in codes[: len(texts)]], truth, vector)

    def _embeddings(self, numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Unit embeddings of options, by the numbers that `_learn` gave them: of options, or (from `TRUTHS` down) of truths."""
        vectors = np.empty((len(numbers), self._dim), dtype=np.float32)
        told = numbers <= TRUTHS
        vectors[told] = self._truth_vectors.view[TRUTHS - numbers[told]]
        vectors[~told] = restored(self._option_vectors.view[numbers[~told]])
        return vectors

    def _ids(self, slots: Ints) -> list[str]:
        return [str(json.loads(self._payloads[s])["id"]) for s in slots]

    # Parts kept up to date

    def _replace(self, slot: int, row: Row, interaction: Interaction) -> None:
        old = unpack(self._payloads[slot])
        self._payload_bytes += len(row.payload) - len(self._payloads[slot])
        self._payloads[slot] = row.payload
        self._truth_arrived.view[slot] = row.truth_arrived
        self._truth.view[slot] = self._truth_code(interaction.truth, row.truth_vector)
        self._options.view[slot] = self._codes(interaction, row.option_vectors)
        self._regroup(slot, self._group_code(interaction))
        self._beliefs.clear()
        self._learn(slot, interaction)
        if self._bm25 is not None:
            self._bm25.replace(slot, _words(old), _words(interaction))
        if self._metadata and _canonical(old.metadata) != _canonical(interaction.metadata):  # a thumb, or another round
            self._metadata.clear()  # they are gathered anew when somebody filters

    def _row(self, slot: int, interaction: str) -> Row:
        payload = self._payloads[slot]
        code = int(self._truth.view[slot])
        options = self._options.view[slot]
        options = options[options >= 0]
        return Row(
            user=json.loads(payload)["user"],
            id=interaction,
            time=int(self._times.view[slot]),
            arrived=int(self._arrived.view[slot]),
            truth_arrived=int(self._truth_arrived.view[slot]),
            payload=payload,
            query_vector=self._vectors.view[slot].copy(),
            truth_vector=self._truth_vectors.view[code].copy() if code >= 0 else None,
            option_vectors=self._option_vectors.view[options] if len(options) else None,
        )

    def _check(self, vector: Vector) -> None:
        if vector.shape != (self._dim,):
            raise InvalidInput(f"a vector of {self._dim} numbers is needed, not of shape {vector.shape}")

    def _truth_code(self, truth: str | None, vector: Vector | None) -> int:
        if truth is None:
            return -1
        if truth not in self._truth_codes:
            self._truth_vectors.append(vector)
            self._truth_codes[truth] = len(self._truth_codes)
            self._truth_bytes += 100 + sys.getsizeof(truth)
        return self._truth_codes[truth]

    def _codes(self, interaction: Interaction, vectors: Quantised | None) -> npt.NDArray[np.int32]:
        codes = np.full(MAX_OPTIONS, -1, dtype=np.int32)
        texts = option_texts(interaction)
        if vectors is None or len(vectors) != len(texts):
            return codes  # of another number than this version keeps nobody can say which is whose
        for place, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
            if text not in self._option_codes:
                self._option_vectors.append(vector)
                self._option_codes[text] = len(self._option_codes)
                self._option_bytes += 100 + sys.getsizeof(text)  # 100 for the dictionary's entry
            codes[place] = self._option_codes[text]
        return codes

    def _group_code(self, interaction: Interaction) -> int:
        truth = interaction.truth
        key = hash((normalised(interaction.query), truth and normalised(truth)))
        return self._group_codes.setdefault(key, len(self._group_codes))

    def _regroup(self, slot: int, code: int) -> None:
        """Put a slot into a group, and keep up with which is the newest there and in the group it leaves."""
        old = int(self._group.view[slot])
        if old == code:
            return
        self._group.view[slot] = code
        newest = self._newest.view
        if old >= 0 and self._newest_of[old] == slot:
            left = np.flatnonzero(self._group.view == old)
            self._newest_of[old] = int(left[-1]) if len(left) else -1
            newest[left[-1:]] = True
        if code == len(self._newest_of):
            self._newest_of.append(-1)
        before = self._newest_of[code]
        newest[slot] = slot > before
        if slot > before:
            self._newest_of[code] = slot
            if before >= 0:
                newest[before] = False

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


def _grade(truth: str, choices: Sequence[str]) -> float | None:
    """Where a grade stands on its scale, from 0 to 1; None if it is none."""
    try:
        value, scale = float(truth), [float(c) for c in choices]
    except ValueError:
        return None
    low, high = min(scale), max(scale)
    if not (np.isfinite([value, low, high]).all() and low <= value <= high and low < high):
        return None
    return (value - low) / (high - low)
