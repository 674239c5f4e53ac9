"""What of a user stands in a prompt: the persona's claims and exemplars, and recalled episodes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from personaagent import prompts
from personaagent.agent.copying import Said
from personaagent.agent.prompt import assemble, beside
from personaagent.base import Frozen
from personaagent.claims import Exemplar
from personaagent.persona.persona import standing
from personaagent.types import Decision, Episode, Message, PersonaDraft, Recall

__all__ = ["PromptView", "Saw", "without_persona"]


class Saw(Frozen):
    """What stood in the prompt of the user: the persona's claims, and interactions by their ids."""

    claims: tuple[str, ...] = ()
    exemplars: tuple[str, ...] = ()
    episodes: tuple[str, ...] = ()


@dataclass
class PromptView:
    """What of a persona and of memory stands in a prompt. If it does not fit, episodes give way first, then exemplars."""

    persona: PersonaDraft
    exemplars: tuple[Exemplar, ...]
    episodes: tuple[Episode, ...]

    @classmethod
    def of(
        cls,
        persona: PersonaDraft,
        recall: Recall,
        choices: Sequence[str] | None,
        without: Collection[str] = (),
    ) -> PromptView:
        """Everything that is shown to a request, but for exemplars taken from the interactions `without`."""
        kept = [e for e in persona.exemplars if e.source not in without]
        episodes, exemplars = beside(recall.episodes, kept, persona.decision, choices)
        return cls(persona, exemplars, episodes)

    def prompt(self, messages: Sequence[Message], choices: Sequence[str] | None = None) -> tuple[Message, ...]:
        """The messages of a model call; see `assemble`."""
        decision = self.persona.decision
        return assemble(messages, self.persona.text, self.episodes, decision, choices, self.exemplars)

    def shrink(self) -> bool:
        """Show half as much; False if nothing is left to leave out."""
        if self.episodes:
            self.episodes = self.episodes[: len(self.episodes) // 2]  # best first, so the least relevant go
        elif self.exemplars:
            self.exemplars = self.exemplars[: len(self.exemplars) // 2]
        else:
            return False
        return True

    def saw(self) -> Saw:
        """What is shown now."""
        return Saw(
            claims=tuple(c.text for c in standing(self.persona) if c.shown),
            exemplars=tuple(e.source for e in self.exemplars),
            episodes=tuple(e.interaction.id for e in self.episodes),
        )

    @property
    def said(self) -> dict[str, Said]:
        """The free texts of the user that are shown, by their interactions."""
        shown = {e.source: Said(e.query, e.truth) for e in self.exemplars if not e.choices}
        for i in (e.interaction for e in self.episodes):
            if i.truth and not i.choices:
                shown[i.id] = Said(i.query, i.truth)
        return shown


def without_persona(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same prompt for somebody of whom nothing is known."""
    return assemble(messages, prompts.NO_PERSONA, (), Decision())
