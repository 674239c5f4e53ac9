"""What alignment may change: a persona's prose, the number and form of its demonstrations, and how it decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from personaagent.types import Decision, Origin, PersonaDraft

__all__ = ["DEMONSTRATIONS", "Arm", "Grid"]

Form = Literal["exchanges", "list"]

WEIGHTS = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0)
HALF_LIVES = (None, 0.5, 1.0, 3.0, 8.0)  # newer episodes on the same subject
NEIGHBOURS = (None, 8)  # None: the default of the request's kind
DEMONSTRATIONS: tuple[tuple[int, Form], ...] = ((0, "exchanges"), (2, "exchanges"), (4, "exchanges"), (4, "list"))


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

    They are `readings` (ways to read memory: half-life and neighbours) times `weights`, in this order, weights varying
    fastest; decision i is reading i // len(weights) at weight i % len(weights).
    """

    def __init__(self, base: Decision, whole: bool = True) -> None:
        """`whole` False: only the persona's own decision, for users with too little to fit anything else."""
        own = (base.half_life, base.neighbours)
        others = [(h, n) for h in HALF_LIVES for n in NEIGHBOURS] if whole else []
        self._base = base
        self.readings = (own, *(o for o in others if o != own))
        own_weight = base.evidence_weight
        self.weights = (own_weight, *(w for w in WEIGHTS if whole and w != own_weight))
        self.size = len(self.readings) * len(self.weights)

    def decision(self, index: int, arm: Arm) -> Decision:
        """Decision `index` on an arm."""
        half_life, neighbours = self.readings[index // len(self.weights)]
        return Decision(
            episodes=arm.episodes,
            form=arm.form,
            evidence_weight=self.weights[index % len(self.weights)],
            half_life=half_life,
            neighbours=neighbours,
            temperature=self._base.temperature,
        )

    def queries(self, arm: Arm) -> tuple[Decision, ...]:
        """One decision per reading: what the agent has to be asked for on an arm; the first is the persona's own."""
        return tuple(self.decision(r * len(self.weights), arm) for r in range(len(self.readings)))

    def draft(self, index: int, arm: Arm) -> PersonaDraft:
        """The persona of an arm and a decision."""
        return PersonaDraft(text=arm.text, origin=Origin.ALIGNED, decision=self.decision(index, arm))
