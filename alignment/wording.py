"""Which words a persona may hold: what counting finds, the user's own exchanges, and a model's edits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from alignment.edits import Edit, apply
from alignment.splits import repetitions
from personaagent.claims import Claim, ClaimKind, Exemplar, independent, quotations, same_claim, silenced
from personaagent.features import normalised
from personaagent.persona.counting import counted_claims
from personaagent.persona.exemplars import choose_exemplars
from personaagent.persona.persona import made
from personaagent.persona.safety import objection
from personaagent.types import Interaction, Origin, PersonaDraft

__all__ = ["BOTH", "CLAIMS", "EXEMPLARS", "Wording", "Wordings"]

EXEMPLARS, CLAIMS, BOTH = "exemplars", "claims", "both"  # what a candidate changes


@dataclass(frozen=True)
class Wording:
    """What a persona says, without how memory is read."""

    claims: tuple[Claim, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()

    @property
    def content(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """What it says and shows, whatever the order of its claims."""
        return frozenset(c.text for c in self.claims), tuple(e.source for e in self.exemplars)

    def draft(self, base: PersonaDraft, budget: int) -> PersonaDraft:
        """As an aligned persona that reads memory as `base` does, within `budget` tokens."""
        return made(
            self.claims,
            base.decision,
            Origin.ALIGNED,
            exemplars=self.exemplars,
            struck=base.struck,
            budget=budget,
        )


class Wordings:
    """Candidates for one user. Each is made anew for every interaction it is tried on, without that interaction.

    So nothing is judged on what it was made from, and still everything the user said is learned from.
    """

    def __init__(
        self,
        persona: PersonaDraft,
        history: Sequence[Interaction],
        names: Collection[str] = (),
        facts: Sequence[Claim] = (),
    ) -> None:
        """Args:
        persona: the user's, as it is.
        history: interactions with truths, oldest first. From lessons rules on the use of tools are made and nothing else is
            changed; from all others everything but these.
        names: other users, whom no claim may name.
        facts: what the profile says, as claims that were not measured yet.
        """
        self.refused: Counter[str] = Counter()
        self._facts = [c for c in facts if self._sound(c, names)]
        self._persona = persona
        self._history = history
        self._taught = bool(history) and history[0].lesson
        self._repetitions = repetitions(history)
        self.others = names
        self._edits: dict[str, tuple[Edit, Claim | None]] = {}  # and the claim that it changes
        self._times = {i.id: i.time for i in history}
        self._counted: dict[frozenset[str], tuple[Claim, ...]] = {}  # by the interactions left out
        self._chosen: dict[frozenset[str], tuple[Exemplar, ...]] = {}

    def edit(self, edit: Edit) -> str:
        """Add a model's edit to the candidates; the name of the candidate, on top of what counting finds."""
        name = f"edit {len(self._edits) + 1}"
        listed = self.candidate(BOTH).claims
        about = listed[edit.number - 1] if edit.number is not None and 1 <= edit.number <= len(listed) else None
        self._edits[name] = edit, about
        return name

    @property
    def names(self) -> tuple[str, ...]:
        """Candidates, the simplest first."""
        return (EXEMPLARS, CLAIMS, BOTH, *self._edits)

    def own(self, without: Interaction | None = None) -> Wording:
        """The persona as it is, without what it says of one interaction alone."""
        left = self._same(without)
        claims = independent(self._persona.stated, left)
        return Wording(claims, tuple(e for e in self._persona.exemplars if e.source not in left))

    def candidate(self, name: str, without: Interaction | None = None, dropped: Collection[str] = ()) -> Wording:
        """A candidate.

        Args:
            name: one of `names`.
            without: an interaction it must know nothing of.
            dropped: texts of claims to leave out.
        """
        own, left = self.own(without), self._same(without)
        claims = own.claims if name == EXEMPLARS else self._merged(own.claims, left)
        if name in self._edits and not left & set(self._edits[name][0].sources):
            claims = self._edited(claims, *self._edits[name])
        claims = tuple(c for c in claims if c.text not in dropped or c.pinned or c.origin == "person")
        if name == CLAIMS:
            return replace(own, claims=claims)
        return Wording(claims, self._choose(left))

    def _edited(self, claims: tuple[Claim, ...], edit: Edit, about: Claim | None) -> tuple[Claim, ...]:
        """Claims after an edit of one of them, which may have another number here, other words, or not be there at all."""
        if about is None:
            return apply(claims, edit, self._times)
        places = [n for n, c in enumerate(claims, 1) if same_claim(c.text, about.text)]
        places += [n for n, c in enumerate(claims, 1) if c.origin == about.origin and silenced(c, (about.text,))]
        if places:
            return apply(claims, edit.model_copy(update={"number": places[0]}), self._times)
        if edit.action == "strike":
            return claims
        return apply(claims, edit.model_copy(update={"action": "add", "number": None}), self._times)

    def _merged(self, claims: Sequence[Claim], left: frozenset[str]) -> tuple[Claim, ...]:
        """People's and pinned claims, then what counting finds now, then what a model wrote and was seen to help."""
        kept = [c for c in claims if c.pinned or c.origin == "person" or self._foreign(c)]
        kept += [c for c in self._count(left) if not self._known(c, kept)]
        written = [c for c in claims if c.origin == "model" and not c.pinned]
        written += independent(self._facts, left)
        for claim in written:
            # What was measured and is worth nothing goes; what was not measured yet is measured with the others.
            if (claim.gain is None or claim.gain > 0) and not self._known(claim, kept):
                kept.append(claim)
        return tuple(kept)

    def _foreign(self, claim: Claim) -> bool:
        """Whether a counted claim rests on what this history is not of: rules rest on lessons."""
        return claim.origin == "counted" and (claim.kind is ClaimKind.RULE) is not self._taught

    def _known(self, claim: Claim, claims: Sequence[Claim]) -> bool:
        return silenced(claim, self._persona.struck) or any(same_claim(claim.text, c.text) for c in claims)

    def _count(self, left: frozenset[str]) -> tuple[Claim, ...]:
        if left not in self._counted:
            found = counted_claims([i for i in self._history if i.id not in left])
            self._counted[left] = tuple(c for c in found if self._sound(c, self._quoted_by(c), counts=not left))
        return self._counted[left]

    def _sound(self, claim: Claim, names: Collection[str], counts: bool = True) -> bool:
        """Whether a claim may stand in a persona; if not, the reason is counted once."""
        reason = objection(claim.text, names)
        if reason is not None and counts:
            self.refused[reason] += 1
        return reason is None

    def _choose(self, left: frozenset[str]) -> tuple[Exemplar, ...]:
        if self._taught:
            return tuple(e for e in self._persona.exemplars if e.source not in left)
        if left not in self._chosen:
            self._chosen[left] = choose_exemplars([i for i in self._history if i.id not in left])
        return self._chosen[left]

    def _quoted_by(self, claim: Claim) -> list[str]:
        """Other users whose names a counted claim quotes; its other words are ours, whoever is called "writes" or "short"."""
        said = [normalised(text) for text in quotations(claim.text)]
        return [name for name in self.others if any(normalised(name) in text for text in said)] if said else []

    def _same(self, interaction: Interaction | None) -> frozenset[str]:
        """An interaction and those that asked the same in the same words."""
        return frozenset(self._repetitions.get(interaction.id, (interaction.id,)) if interaction is not None else ())
