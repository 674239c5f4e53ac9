"""What test items are under different personas: each item under every arm, alone and as served, so that arms compare in pairs.

Free text is read, not written: nats per token of the truth. Choices and ratings are answered the agent's way, by option
scores, without memory's evidence, so that what differs is the model's own doing.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from alignment.budget import Budget, Caller
from alignment.evaluation.baselines import Answering
from alignment.evaluation.metrics import LEAST
from alignment.likelihoods import Likelihoods
from alignment.memory_views import MemoryView
from alignment.slots import Slots
from personaagent import prompts
from personaagent.agent.agent import Agent
from personaagent.aio import together
from personaagent.errors import InvalidInput, LLMError
from personaagent.persona.general_requests import general_for
from personaagent.protocols import LLM, Likely, Memory
from personaagent.scoring import absolute_error, same
from personaagent.settings import AgentSettings
from personaagent.types import Interaction, Kind, Origin, PersonaDraft

__all__ = ["ARMS", "GENERAL_ASKED", "MODES", "Arm", "ArmRow", "Arms", "Mode", "draft_of", "neutral"]

Arm = Literal["aligned", "first", "other", "none", "ungated"]
Mode = Literal["alone", "served", "evidence"]
ARMS: tuple[Arm, ...] = ("aligned", "first", "other", "none", "ungated")
MODES: tuple[Mode, ...] = ("alone", "served", "evidence")
ANSWERED: tuple[Arm, ...] = ("aligned", "first")  # also with memory's evidence, as users are served
GENERAL_ASKED = 10  # general requests per user


@dataclass(frozen=True)
class ArmRow:
    """A test item: `values[arm, mode][measure]`.

    Measures are `nats` (per token of the truth) of free text, `accuracy` and `log_score` of choices and ratings, and
    `error` of ratings, in units of the scale, of which less is better. What failed is not there.
    """

    user: str
    item: str
    kind: Kind
    values: Mapping[tuple[Arm, Mode], Mapping[str, float]]


def neutral(settings: AgentSettings) -> PersonaDraft:
    """No persona at all, with memory read as everybody's is at first."""
    return PersonaDraft(text=prompts.NO_PERSONA, origin=Origin.INITIAL, decision=settings.decision)


@dataclass
class Arms:
    """Measures the test items of users under their arms' personas.

    Args:
        llm: that answers.
        model: the same, where it tells likelihoods; without, free text is not measured.
        memory: what was learned; it is only read.
        settings: of the agent.
        in_flight: model calls at a time.
        step: called after every item and user that is done.
    """

    llm: LLM
    model: Likely | None
    memory: Memory
    settings: AgentSettings
    in_flight: int
    step: Callable[[], None] = lambda: None
    missing: Counter[str] = field(default_factory=Counter)  # answers that failed, by kind

    def __post_init__(self) -> None:
        self._slots = Slots(self.in_flight)
        self._closed = asyncio.Semaphore(self.in_flight)

    async def rows(self, user: str, arms: Mapping[Arm, PersonaDraft], items: Sequence[Interaction]) -> list[ArmRow]:
        """One user's items under each arm; those of which nothing could be measured are left out.

        Raises:
            UnavailableError: the model is down.
        """
        texts = [i for i in items if i.kind is Kind.TEXT and (i.truth or "").strip()]
        closed = [i for i in items if i.kind is not Kind.TEXT and i.truth]
        found = [*await self._texts(user, arms, texts), *await together(self._answered(arms, i) for i in closed)]
        return [row for row in found if row.values]

    async def general(self, user: str, arms: Mapping[Arm, PersonaDraft]) -> float | None:
        """How much more likely `aligned` makes the answers to general requests than wrong ones of the same form, over `first`.

        In nats per token; nothing is recalled. None where that cannot be told.
        """
        if self.model is None:
            return None
        agent = Agent(self.llm, self.memory, self.settings)
        measure = Likelihoods(agent, self.model, Caller(self._slots, Budget()), user)
        drafts = (draft_of(arms["aligned"]), draft_of(arms["first"]))
        after, before = await measure.general(drafts, general_for(user, GENERAL_ASKED))
        gains = (after - before)[np.isfinite(after - before)]
        return float(gains.mean()) if len(gains) else None

    async def _texts(self, user: str, arms: Mapping[Arm, PersonaDraft], items: Sequence[Interaction]) -> list[ArmRow]:
        if self.model is None or not items:
            return []
        cells: list[tuple[Arm, Mode]] = [(arm, mode) for arm in arms for mode in ("alone", "served")]
        # One persona after the other: what is asked under one shares its prefix in the engine's cache.
        logs = [await self._logs(user, arms[arm], items, mode) for arm, mode in cells]
        rows = []
        for at, item in enumerate(items):
            told = {c: {"nats": row[at]} for c, row in zip(cells, logs, strict=True) if math.isfinite(row[at])}
            rows.append(ArmRow(user, item.id, item.kind, told))
            self.step()
        return rows

    async def _logs(self, user: str, draft: PersonaDraft, items: Sequence[Interaction], mode: Mode) -> Sequence[float]:
        """Nats per token of each item's truth; nan where it could not be told."""
        assert self.model is not None
        agent = Agent(self.llm, MemoryView(self.memory, fixed=draft_of(draft)), self.settings)
        measure = Likelihoods(agent, self.model, Caller(self._slots, Budget()), user)
        try:
            logs = await measure.of([(draft, i) for i in items], recall=mode == "served")
        except (LLMError, InvalidInput):
            logs = np.full(len(items), np.nan)
        found = [float(x) for x in logs]
        if lost := sum(not math.isfinite(x) for x in found):
            self.missing[Kind.TEXT.value] += lost
        return found

    async def _answered(self, arms: Mapping[Arm, PersonaDraft], item: Interaction) -> ArmRow:
        values: dict[tuple[Arm, Mode], Mapping[str, float]] = {}
        async with self._closed:
            for arm, draft in arms.items():
                for mode in MODES if arm in ANSWERED else MODES[:2]:
                    try:
                        values[arm, mode] = await self._scores(draft, mode, item)
                    except (LLMError, InvalidInput):
                        self.missing[item.kind.value] += 1
        self.step()
        return ArmRow(item.user, item.id, item.kind, values)

    async def _scores(self, draft: PersonaDraft, mode: Mode, item: Interaction) -> dict[str, float]:
        decision, fixed = draft.decision, draft_of(draft)
        if mode != "evidence":
            episodes = 0 if mode == "alone" else decision.episodes
            blind = decision.model_copy(update={"evidence": False, "episodes": episodes})
            fixed = fixed.model_copy(update={"decision": blind})
        answer = await Answering(Agent(self.llm, MemoryView(self.memory, fixed=fixed), self.settings)).answer(item)
        truth, choices = item.truth or "", item.choices or ()
        told = answer.probabilities or ()
        p = sum(x for choice, x in zip(choices, told, strict=True) if same(choice, truth))
        scores = {"accuracy": float(same(answer.text, truth)), "log_score": math.log(max(p, LEAST))}
        if item.kind is Kind.RATING:
            scores["error"] = absolute_error(answer.text, truth, choices)
        return scores


def draft_of(persona: PersonaDraft) -> PersonaDraft:
    """A persona without its version's number, parent and time."""
    return PersonaDraft(**{name: getattr(persona, name) for name in PersonaDraft.model_fields})
