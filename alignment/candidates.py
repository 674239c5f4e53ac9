"""What alignment may change: a persona's prose, the number and form of its demonstrations, and how it decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from personaagent.evidence import HALF_LIFE
from personaagent.scoring import normalised, same
from personaagent.types import Decision, Interaction, Kind, Origin, PersonaDraft

__all__ = ["DEMONSTRATIONS", "READINGS", "Arm", "Grid", "Reading", "changes_mind", "readings_of"]

Form = Literal["exchanges", "list"]
Reading = tuple[float | None, int | None]

WEIGHTS = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
# Ways to read memory: (half-life in newer episodes, neighbours); None is the default of the request's kind. For a choice
# only newer episodes on its subject count, for a rating all of them, hence the other scale.
READINGS: dict[Kind, tuple[Reading, ...]] = {
    Kind.CHOICE: tuple((h, n) for h in (None, 0.5, 1.0, 3.0, 8.0) for n in (None, 8)),
    Kind.RATING: tuple((h, n) for h in (None, 15.0, 150.0, 1e6) for n in (None, 50)),
    Kind.TEXT: (),
}
REPETITIONS = 4  # of requests that it takes to tell whether a user changes their mind
DEMONSTRATIONS: tuple[tuple[int, Form], ...] = ((0, "exchanges"), (3, "exchanges"), (6, "exchanges"), (3, "list"))


def readings_of(kinds: Iterable[Kind], changeable: bool) -> list[Reading]:
    """The ways to read memory that are tried.

    For users who are `changeable` no half-life longer than the default is among them. Replays cannot show what a longer
    one costs them: asked something new, more memory is welcome, and asked again in other words, the newest answer still
    wins by a little; but where neither memory nor request is quite the same, what they used to want would outvote it.
    """
    found = [reading for kind in kinds for reading in READINGS[kind] if not (changeable and _longer(reading, kind))]
    return list(dict.fromkeys(found))


def _longer(reading: Reading, kind: Kind) -> bool:
    return reading[0] is not None and reading[0] > HALF_LIFE[kind]


def changes_mind(history: Sequence[Interaction], newest: int) -> bool:
    """Whether most of a user's newest interactions that asked something again, in the same words, got another answer.

    Args:
        history: interactions with a truth, oldest first.
        newest: how many of them to look at.
    """
    last: dict[str, str] = {}
    changed = []
    for position, interaction in enumerate(history):
        request, truth = normalised(interaction.query), interaction.truth or ""
        if interaction.kind is Kind.CHOICE and request in last and position >= len(history) - newest:
            changed.append(not same(last[request], truth))
        last[request] = truth
    return len(changed) >= REPETITIONS and 2 * sum(changed) > len(changed)


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

    def __init__(self, base: Decision, kinds: Iterable[Kind] = (), *, changeable: bool = False) -> None:
        """Args:
        base: the persona's own decision.
        kinds: of the requests there are enough of to fit decisions on; none keeps the persona's own decision.
        changeable: whether the user was seen to change their mind; see `readings_of`.
        """
        own: Reading = (base.half_life, base.neighbours)
        others = readings_of(kinds, changeable)
        weights = WEIGHTS if others else ()
        self._base = base
        self.readings = tuple(dict.fromkeys([own, *others]))
        self.weights = tuple(dict.fromkeys([base.evidence_weight, *weights]))
        self.size = len(self.readings) * len(self.weights)

    def index(self, reading: Reading, weight: float) -> int:
        """The decision of a reading and a weight.

        Raises:
            ValueError: the grid does not try it.
        """
        return self.readings.index(reading) * len(self.weights) + self.weights.index(weight)

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

    def queries(self) -> tuple[Decision, ...]:
        """One decision per reading, to ask memory for its evidence; the first is the persona's own."""
        blank = Arm("", 0, "exchanges")
        return tuple(self.decision(r * len(self.weights), blank) for r in range(len(self.readings)))

    def draft(self, index: int, arm: Arm) -> PersonaDraft:
        """The persona of an arm and a decision."""
        return PersonaDraft(text=arm.text, origin=Origin.ALIGNED, decision=self.decision(index, arm))
