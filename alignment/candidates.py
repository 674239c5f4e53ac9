"""What alignment may change: a persona's prose, the number and form of its demonstrations, and how it decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from personaagent.types import Decision, Kind, Origin, PersonaDraft

__all__ = ["DEMONSTRATIONS", "READINGS", "Arm", "Grid", "Reading"]

Form = Literal["exchanges", "list"]
Reading = tuple[float, float]  # rate of change and strength of tastes, factors of the usual ones

WEIGHTS = (0.0, 0.1, 0.3, 1.0, 2.0)  # of the language model beside memory
# Nothing faster than the usual change: a fit sees what changed, and what did not is forgotten with it. Nor never: a user who
# has not changed yet may. How fast this user changes is found out by the model of choice itself, with each request.
READINGS: tuple[Reading, ...] = ((1.0, 1.0), (0.3, 1.0), (1.0, 3.0), (0.3, 3.0))
DEMONSTRATIONS: tuple[tuple[int, Form], ...] = ((0, "exchanges"), (3, "exchanges"), (6, "exchanges"), (3, "list"))


@dataclass(frozen=True)
class Arm:
    """What a prompt is made of. Each arm costs model calls; everything else about a decision is read off for nothing."""

    text: str
    episodes: int
    form: Form

    @classmethod
    def of(cls, persona: PersonaDraft) -> Arm:
        """The arm a persona stands on."""
        return cls(persona.text, persona.decision.episodes, persona.decision.form)


class Grid:
    """The decision parameters tried on every arm: `size` decisions, the persona's own at index 0.

    They are `readings` (how memory is read) times `weights` (of the model), in this order, weights varying fastest;
    decision i is reading i // len(weights) at weight i % len(weights).
    """

    def __init__(self, base: Decision, kinds: Iterable[Kind] = (), persona: PersonaDraft | None = None) -> None:
        """Args:
        base: the persona's own decision.
        kinds: of the requests that decisions are fitted on; without closed ones the persona's own decision stays.
        persona: whose claims and exemplars arms of the same text have; None: they have none.
        """
        self._persona = persona
        own: Reading = (base.change, base.prior_scale)
        fitted = base.evidence and any(kind is not Kind.TEXT for kind in kinds)
        self._base = base
        self.evidence = base.evidence  # without it the model answers alone, whatever its weight
        self.readings = tuple(dict.fromkeys([own, *(READINGS if fitted else ())]))
        self.weights = tuple(dict.fromkeys([base.model_weight, *(WEIGHTS if fitted else ())]))
        self.size = len(self.readings) * len(self.weights)

    def index(self, reading: Reading, weight: float) -> int:
        """The decision of a reading and a weight.

        Raises:
            ValueError: the grid does not try it.
        """
        return self.readings.index(reading) * len(self.weights) + self.weights.index(weight)

    def reading(self, index: int) -> Reading:
        """How decision `index` reads memory."""
        return self.readings[index // len(self.weights)]

    def columns(self, readings: Iterable[Reading], weights: Iterable[float]) -> npt.NDArray[np.bool_]:
        """Which decisions have one of these readings and one of these weights, (size,)."""
        read = np.isin(np.arange(len(self.readings)), [self.readings.index(r) for r in readings])
        return np.asarray((read[:, None] & np.isin(self.weights, list(weights))[None, :]).ravel())

    def decision(self, index: int, arm: Arm) -> Decision:
        """Decision `index` on an arm."""
        change, prior_scale = self.reading(index)
        return Decision(
            episodes=arm.episodes,
            form=arm.form,
            evidence=self._base.evidence,
            model_weight=self.weights[index % len(self.weights)],
            change=change,
            prior_scale=prior_scale,
        )

    def queries(self) -> tuple[Decision, ...]:
        """One decision per reading, to ask memory for its evidence; the first is the persona's own."""
        blank = Arm("", 0, "exchanges")
        return tuple(self.decision(r * len(self.weights), blank) for r in range(len(self.readings)))

    def draft(self, index: int, arm: Arm) -> PersonaDraft:
        """The persona of an arm and a decision."""
        draft = PersonaDraft(text=arm.text, origin=Origin.ALIGNED, decision=self.decision(index, arm))
        if self._persona is None:
            return draft
        kept: dict[str, object] = {"exemplars": self._persona.exemplars, "struck": self._persona.struck}
        if arm.text == self._persona.text:
            kept |= {"claims": self._persona.claims}
        return draft.model_copy(update=kept)
