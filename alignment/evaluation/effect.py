"""What aligned personas do, measured on what users really said: own against another user's, and now against at first.

Free texts only, in nats per token, every one under words made without it:

- own minus other: the persona alone, nothing recalled, made without any text of that kind (its `topic`, or the text itself
  where none is named), against the next user's.
- gain: with recall as served, made without that text, against the user's first persona. 0 where the gate kept that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignment.budget import Budget, Caller
from alignment.evaluation.clustered import clustered_mean
from alignment.likelihoods import Likelihoods
from alignment.slots import Slots
from alignment.wording import BOTH, CLAIMS, EXEMPLARS, Wording, Wordings
from personaagent.agent.agent import Agent
from personaagent.aio import together
from personaagent.claims import independent
from personaagent.protocols import Likely
from personaagent.types import Interaction, Kind, Persona, PersonaDraft

__all__ = ["Aligned", "Mean", "PersonaEffect", "effect"]

Float = npt.NDArray[np.float64]

IN_FLIGHT = 16


@dataclass(frozen=True)
class Aligned:
    """A user after alignment: the first persona, the one in force, and the history with truths, oldest first."""

    first: Persona
    now: Persona
    history: Sequence[Interaction]

    @property
    def texts(self) -> list[Interaction]:
        """Free texts that can be measured."""
        return [i for i in self.history if i.kind is Kind.TEXT and (i.truth or "").strip()]

    @property
    def reworded(self) -> bool:
        """Whether the words in force are other than the first."""
        return (self.now.text, self.now.exemplars) != (self.first.text, self.first.exemplars)

    @property
    def change(self) -> str:
        """The kind of candidate that the words in force came from."""
        if self.now.exemplars == self.first.exemplars:
            return CLAIMS
        same = {c.text for c in self.now.claims} == {c.text for c in self.first.claims}
        return EXEMPLARS if same else BOTH


@dataclass(frozen=True)
class Mean:
    """A mean over n texts with its standard error, which is clustered by user."""

    mean: float
    se: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """For JSON."""
        return {"mean": round(self.mean, 4), "se": round(self.se, 4), "n": self.n}


@dataclass(frozen=True)
class PersonaEffect:
    """Both means, nats per token, what they cost, and each user's own gain."""

    own_minus_other: Mean
    gain: Mean
    by_user: Mapping[str, float]
    calls: int
    prompt_tokens: int
    cached_tokens: int


async def effect(agent: Agent, model: Likely, users: Mapping[str, Aligned], budget: int) -> PersonaEffect:
    """Measure users who were aligned together.

    Args:
        agent: whose prompts are served.
        model: that answers.
        users: at least two for a comparison with others; by name.
        budget: length of a persona in tokens.
    """
    spent = Budget()
    slots = Slots(IN_FLIGHT)
    names = sorted(users)
    wordings = {name: _words(users[name], users[name].history) for name in names}

    async def one(name: str, other: str) -> tuple[Float, Float]:
        caller = Caller(slots, spent)
        user = users[name]
        measure = Likelihoods(agent, model, caller, name, user.history)

        def draft(words: Wording) -> PersonaDraft:
            return words.draft(user.now, budget)

        alone = [(draft(_unlike(user, i)), i) for i in user.texts]
        theirs = [(draft(_without_kind(wordings[other], users[other], i)), i) for i in user.texts]
        logs = await measure.of([*alone, *theirs], recall=False)
        apart = logs[: len(alone)] - logs[len(alone) :]
        if not user.reworded:
            return apart, np.zeros(len(user.texts))
        old = [(draft(Wordings(user.first, user.history).own(i)), i) for i in user.texts]
        new = [(draft(Wordings(user.now, user.history).candidate(user.change, i)), i) for i in user.texts]
        logs = await measure.of([*old, *new])
        return apart, logs[len(old) :] - logs[: len(old)]

    found = await together(one(n, names[(k + 1) % len(names)]) for k, n in enumerate(names))
    by_user = {n: float(np.nanmean(gain)) for n, (_, gain) in zip(names, found, strict=True) if len(gain)}
    return PersonaEffect(
        _mean([apart for apart, _ in found]),
        _mean([gain for _, gain in found]),
        by_user,
        spent.calls,
        spent.prompt_tokens,
        spent.cached_tokens,
    )


def _words(user: Aligned, history: Sequence[Interaction]) -> Wording:
    """The words in force, made from part of the history."""
    if not user.reworded or not history:
        return Wordings(user.now, user.history).own()
    return Wordings(user.now, history).candidate(user.change)


def _unlike(user: Aligned, text: Interaction) -> Wording:
    """A user's words made without what is of a text's kind."""
    topic = text.metadata.get("topic")
    kept = [i for i in user.history if i.id != text.id and (topic is None or i.metadata.get("topic") != topic)]
    left = {i.id for i in user.history} - {i.id for i in kept}
    words = _words(user, kept)
    return Wording(
        independent(words.claims, left),
        tuple(e for e in words.exemplars if e.source not in left),
    )


def _without_kind(words: Wording, user: Aligned, text: Interaction) -> Wording:
    """Another user's words without exchanges of a text's kind, so that neither side has seen any."""
    topic = text.metadata.get("topic")
    alike = {i.id for i in user.history if topic is not None and i.metadata.get("topic") == topic}
    return Wording(words.claims, tuple(e for e in words.exemplars if e.source not in alike))


def _mean(groups: Sequence[Float]) -> Mean:
    """The mean over all values; groups are users."""
    found = clustered_mean([g.tolist() for g in groups])
    if found is None:
        return Mean(0.0, 0.0, 0)
    mean, error, n, _ = found
    return Mean(mean, error or 0.0, n)
