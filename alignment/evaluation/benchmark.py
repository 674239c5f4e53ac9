"""A data set as an evaluation takes it: phases of what is learned and what is asked afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.evaluation.metrics import Scored
from personaagent.features import normalised
from personaagent.readers.lamp import lamp_label
from personaagent.scoring import absolute_error, score
from personaagent.types import Frozen, Interaction, Kind

__all__ = ["Benchmark", "Phase"]


class Phase(Frozen):
    """What is learned, then what is asked. Every test item is later in time than all its user has learned."""

    name: str
    learn: tuple[Interaction, ...]
    test: tuple[Interaction, ...]

    def learn_of(self, user: str) -> list[Interaction]:
        """What is learned from one user, oldest first."""
        return sorted((i for i in self.learn if i.user == user), key=lambda i: i.time)

    def test_of(self, user: str) -> list[Interaction]:
        """What one user is asked, oldest first."""
        return sorted((i for i in self.test if i.user == user), key=lambda i: i.time)


class Benchmark(Frozen):
    """A data set. The squared error of ratings is that of the expected value where a method has one; of
    `discrete` ones it is that of the answer, as the absolute error always is."""

    name: str
    users: tuple[str, ...]
    phases: tuple[Phase, ...]
    discrete: bool = False

    def scored(
        self,
        item: Interaction,
        answer: str | None,
        expected: float | None,
        similarity: float | None,
        probabilities: Sequence[float] | None = None,
    ) -> Scored:
        """An answered item. `answer` None: there was none, which counts as wrong, or as the furthest rating.

        `probabilities` are those of the item's options, as the method sees them.
        """
        truth, text = item.truth or "", answer or ""
        error: float | None = None
        deviation: float | None = None
        if item.kind is Kind.RATING:
            error = absolute_error(text, truth, item.choices or ())
            if expected is not None and not self.discrete:
                deviation = absolute_error(f"{expected}", truth, item.choices or ())
        options = [normalised(c) for c in item.choices or ()]
        given = dict(zip(options, probabilities, strict=True)) if probabilities is not None else None
        labels = item.metadata.get("labels")
        return Scored(
            user=item.user,
            item=item.id,
            kind=item.kind,
            answer=lamp_label(item, text),
            truth=lamp_label(item, truth),
            choices=tuple(str(x) for x in labels) if isinstance(labels, list) else item.choices or (),
            score=0.0 if answer is None else score(item.kind, text, truth, similarity, item.choices),
            error=error,
            deviation=error if deviation is None else deviation,
            failed=answer is None,
            probability=given.get(normalised(truth), 0.0) if given is not None else None,
            top=given.get(normalised(text), 0.0) if given is not None else None,
            regret=_regret(item, options, text),
        )


def _regret(item: Interaction, options: Sequence[str], answer: str) -> float | None:
    """How much better the best option is, as a share of the range; all of it for what is no option."""
    known = item.metadata.get("utilities")
    if not isinstance(known, list) or len(known) != len(options):
        return None
    utilities = dict(zip(options, (float(str(u)) for u in known), strict=True))
    low, high = min(utilities.values()), max(utilities.values())
    return (high - utilities.get(normalised(answer), low)) / (high - low) if high > low else 0.0
