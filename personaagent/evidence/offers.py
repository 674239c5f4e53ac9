"""What one user was offered and took, and what they rated, by the slot of the episode: what models of choice learn from.

Derived from episodes and kept in RAM beside them. It knows nothing of ranking, probabilities or stores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from personaagent.evidence.columns import Column
from personaagent.evidence.commons import Commons
from personaagent.evidence.text_bags import NONE, Codes, Ints, Texts

__all__ = ["MOST_REFUSED", "Offers", "Ratings"]

MOST_REFUSED = 12  # options of one offer that are learned from, beside the one that was taken


class Offsets:
    """What a population's prior says of known texts, looked up once per text and population."""

    def __init__(self, look: Callable[[Commons, Sequence[str]], npt.NDArray[np.float64]]) -> None:
        self._look = look
        self._number = 0
        self._known: dict[int, float] = {}

    def of(self, codes: Ints | Codes, texts: Texts, commons: Commons) -> npt.NDArray[np.float64]:
        """Of texts by their codes, (len(codes),)."""
        if commons.number != self._number:
            self._known, self._number = {}, commons.number
        wanted = [int(code) for code in codes]
        if missing := [code for code in dict.fromkeys(wanted) if code not in self._known]:
            found = self._look(commons, [texts.whole(code) for code in missing])
            self._known.update(zip(missing, (float(x) for x in found), strict=True))
        return np.asarray([self._known[code] for code in wanted], dtype=np.float64)


class Offers:
    """Closed choices. Options are codes of `texts`."""

    def __init__(self) -> None:
        self.texts = Texts()
        self.offsets = Offsets(Commons.utility)
        self._vector = Column(np.int32)  # by option, see `put`
        self._row = Column(np.int32)  # by slot: a row of the two below, NONE if the episode is no offer
        self._refused = Column(np.int32, MOST_REFUSED)
        self._taken = Column(np.int32)

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        return self.texts.ram_bytes + sum(c.nbytes for c in (self._vector, self._row, self._refused, self._taken))

    def put(self, slot: int, choices: Sequence[str], vectors: Sequence[int], truth: str, truth_vector: int) -> None:
        """Note what was taken in the episode of a slot. Slots come in order, and may come again.

        Args:
            slot: of the episode.
            choices: options that were on offer; none: the episode is no offer. Those beyond `MOST_REFUSED` are left out.
            vectors: where each option's embedding is, a number that `vectors` gives back; NONE if there is none.
            truth: what was taken. One that was not on offer was preferred to everything that was.
            truth_vector: where its embedding is.
        """
        if not choices:
            self._set(slot, NONE, ())
            return
        taken = self._code(truth, truth_vector)
        others = {c: None for text, at in zip(choices, vectors, strict=True) if (c := self._code(text, at)) != taken}
        self._set(slot, taken if others else NONE, list(others)[:MOST_REFUSED])

    def say(self, slot: int, truth: str, truth_vector: int) -> None:
        """Note what the user wanted in the episode of a slot when nothing was offered: `truth`, in place of anything else."""
        self._set(slot, self._code(truth, truth_vector), ())

    def _set(self, slot: int, taken: int, kept: Sequence[int]) -> None:
        while len(self._row) <= slot:
            self._row.append(NONE)
        row = int(self._row.view[slot])
        self._row.view[slot] = NONE
        if taken == NONE:
            return
        refused = np.full(MOST_REFUSED, NONE, dtype=np.int32)
        refused[: len(kept)] = kept
        if row == NONE:
            row = len(self._taken)
            self._refused.append(refused)
            self._taken.append(taken)
        else:
            self._refused.view[row], self._taken.view[row] = refused, taken
        self._row.view[slot] = row

    def held(self, slots: Ints) -> npt.NDArray[np.bool_]:
        """Which of these slots hold an offer."""
        return np.asarray(self._row.view[slots] >= 0)

    def refused(self, slots: Ints) -> Codes:
        """Options refused in the offers of these slots, (len(slots), MOST_REFUSED), NONE behind the last.

        None at all where the user said freely what they wanted.
        """
        found: Codes = self._refused.view[self._row.view[slots]]
        return found

    def taken(self, slots: Ints) -> Codes:
        """Options taken in the offers of these slots, (len(slots),)."""
        found: Codes = self._taken.view[self._row.view[slots]]
        return found

    def vectors(self, codes: Ints) -> Codes:
        """Where the embeddings of options are, as `put` was told; NONE if it was not."""
        found: Codes = self._vector.view[codes]
        return found

    def _code(self, text: str, vector: int) -> int:
        code = self.texts.add(text)
        if code == len(self._vector):
            self._vector.append(vector)
        elif vector != NONE and self._vector.view[code] == NONE:
            self._vector.view[code] = vector
        return code


class Ratings:
    """Grades, as a share of their scale. What was rated is the request's text, a code of `texts`."""

    def __init__(self) -> None:
        self.texts = Texts()
        self.offsets = Offsets(Commons.liking)
        self._what = Column(np.int32)  # by slot, NONE if the episode is no rating
        self._value = Column(np.float32)  # by slot

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        return self.texts.ram_bytes + self._what.nbytes + self._value.nbytes

    def put(self, slot: int, query: str, value: float | None) -> None:
        """Note a grade between 0, the lowest of its scale, and 1, the highest; None: the episode is no rating."""
        while len(self._what) <= slot:
            self._what.append(NONE)
            self._value.append(np.nan)
        self._what.view[slot] = NONE if value is None else self.texts.add(query)
        self._value.view[slot] = np.nan if value is None else value

    def held(self, slots: Ints) -> npt.NDArray[np.bool_]:
        """Which of these slots hold a rating."""
        return np.asarray(self._what.view[slots] >= 0)

    def what(self, slots: Ints) -> Codes:
        """What was rated in these slots, codes of `texts`."""
        found: Codes = self._what.view[slots]
        return found

    def values(self, slots: Ints) -> npt.NDArray[np.float32]:
        """The grades of these slots, in [0, 1]."""
        found: npt.NDArray[np.float32] = self._value.view[slots]
        return found
