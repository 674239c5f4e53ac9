"""What a user's episodes say of their choices: truths and options with their vectors, and what the models learn from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from personaagent.errors import InvalidInput
from personaagent.evidence.choice_evidence import choice_evidence
from personaagent.evidence.columns import Column
from personaagent.evidence.commons import Commons
from personaagent.evidence.evidence import Beliefs, Evidence, Known
from personaagent.evidence.offers import Offers, Ratings
from personaagent.evidence.rating_evidence import rating_evidence
from personaagent.evidence.text_bags import NONE
from personaagent.memory.embedded import MAX_OPTIONS, option_texts
from personaagent.memory.stored_row import Quantised, Vector, restored
from personaagent.memory.text_vectors import TextVectors
from personaagent.types import Interaction, Kind, RecallQuery, choice_kind

__all__ = ["ChoiceHistory"]

SAID = 80  # characters of a free answer that may be one of the options of another request
TRUTHS = -2  # numbers of embeddings from here down are those of truths

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


class ChoiceHistory:
    """Truths and offers by episode, which are slots 0, 1, ... in order of arrival."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._truth = Column(np.int32)  # code of the truth, -1 while unknown
        self._truth_vectors = TextVectors(np.float32, dim)
        self._options = Column(np.int32, MAX_OPTIONS)  # codes of the kept options, -1 behind the last
        self._option_vectors = TextVectors(np.int8, dim)
        # What the models of choice learn from.
        self._offers = Offers()
        self._ratings = Ratings()
        self._beliefs: dict[int, Beliefs] = {}  # by population; what the models of choice say of the user as a whole

    @property
    def told(self) -> Mask:
        """Whether the truth is known, by slot."""
        known: Mask = self._truth.view >= 0
        return known

    @property
    def option_vectors(self) -> Quantised:
        """(n, dim) of all different options of closed choices, by their code. A view: copy what must not change."""
        return self._option_vectors.view

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        columns = self._truth.nbytes + self._options.nbytes
        learned = self._offers.ram_bytes + self._ratings.ram_bytes
        return columns + self._truth_vectors.ram_bytes + self._option_vectors.ram_bytes + learned

    def options(self, slots: Ints) -> Codes:
        """Codes of the options whose vectors these episodes keep, (len(slots), MAX_OPTIONS), in the order of the choices."""
        codes: Codes = self._options.view[slots]
        return codes

    def vectors(self, slot: int) -> tuple[Vector | None, Quantised | None]:
        """The vectors of an episode's truth and of its options, where there are any."""
        code, options = int(self._truth.view[slot]), self._options.view[slot]
        options = options[options >= 0]
        return (
            self._truth_vectors.view[code].copy() if code >= 0 else None,
            self._option_vectors.view[options] if len(options) else None,
        )

    def put(
        self, slot: int, interaction: Interaction, truth_vector: Vector | None, option_vectors: Quantised | None
    ) -> None:
        """Add the episode of the next slot, or replace one that has changed."""
        truth = interaction.truth
        code = -1 if truth is None else self._truth_vectors.code(truth, truth_vector)
        options = self._codes(interaction, option_vectors)
        if slot == len(self._truth):
            self._truth.append(code)
            self._options.append(options)
            if truth is not None:  # without, it says nothing
                self._beliefs.clear()
        else:
            self._truth.view[slot] = code
            self._options.view[slot] = options
            self._beliefs.clear()
        self._learn(slot, interaction)

    def slots(self, kind: Kind, allowed: Mask) -> Ints:
        """Slots of the allowed episodes that say something of requests of a kind."""
        slots = np.flatnonzero(allowed & self.told)
        held: Ints = slots[(self._ratings if kind is Kind.RATING else self._offers).held(slots)]
        return held

    def evidence(
        self,
        query: RecallQuery,
        query_vector: Vector,
        known: Known,
        choice_vectors: npt.NDArray[np.float32],
        commons: Commons | None,
    ) -> list[Evidence]:
        """What `known` says of the query's choices, by decision. Raises InvalidInput if vectors are missing."""
        choices = query.choices or ()
        # Only what is learned from everything may be kept; a replay has to find out with what was known then.
        beliefs: Beliefs | None = None
        if query.before is None and not (query.exclude or query.since or query.until or query.metadata):
            beliefs = self._beliefs.setdefault(0 if commons is None else commons.number, {})
        if choice_kind(choices) is Kind.RATING:
            return rating_evidence(
                known,
                self._ratings,
                query.text,
                query_vector,
                choices,
                query.decisions,
                commons,
                query.explain,
                beliefs,
            )
        if choice_vectors.shape != (len(choices), self._dim):
            raise InvalidInput(f"{len(choices)} choices need as many vectors of {self._dim} numbers")
        about = None if query.about is None else choices.index(query.about)
        return choice_evidence(
            known, self._offers, choices, choice_vectors, query.decisions, commons, query.explain, beliefs, about
        )

    def embeddings(self, numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Unit embeddings of options, by the numbers that `put` gave them: of options, or (from `TRUTHS` down) of truths."""
        vectors = np.empty((len(numbers), self._dim), dtype=np.float32)
        told = numbers <= TRUTHS
        vectors[told] = self._truth_vectors.view[TRUTHS - numbers[told]]
        vectors[~told] = restored(self._option_vectors.view[numbers[~told]])
        return vectors

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

    def _codes(self, interaction: Interaction, vectors: Quantised | None) -> npt.NDArray[np.int32]:
        codes = np.full(MAX_OPTIONS, -1, dtype=np.int32)
        texts = option_texts(interaction)
        if vectors is None or len(vectors) != len(texts):
            return codes  # of another number than this version keeps nobody can say which is whose
        for place, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
            codes[place] = self._option_vectors.code(text, vector)
        return codes


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
