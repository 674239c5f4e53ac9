"""How likely a persona makes what the user really said: one prefill per answer, no generation.

Free text: log p(truth | prompt as served), per token of the truth. A closed request: log p(truth | prompt) of the model
times its weight in the decision, since that is how much of it reaches the answer (to first order); in the choice of tools
that is often another one (`tools.model_weight`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from alignment.budget import Caller
from alignment.splits import repetitions
from personaagent.agent.agent import Agent
from personaagent.agent.prompt import assemble
from personaagent.agent.replaying import BATCH_PRIORITY
from personaagent.aio import together
from personaagent.errors import ContextLengthExceeded
from personaagent.persona.general_requests import General
from personaagent.protocols import Likely
from personaagent.types import (
    Episode,
    Interaction,
    Kind,
    Likelihood,
    LikelihoodRequest,
    Message,
    PersonaDraft,
    RecallQuery,
    Usage,
)

__all__ = ["LONGEST", "Likelihoods"]

Float = npt.NDArray[np.float64]

LONGEST = 2_000  # characters of a truth that are scored: a letter's manner shows in its first page
CHUNK = 16  # answers in one call of the engine


class Likelihoods:
    """Likelihoods of one user's truths, with memory as it is now but for the interaction itself and its repetitions."""

    def __init__(
        self, agent: Agent, model: Likely, caller: Caller, user: str, history: Sequence[Interaction] = ()
    ) -> None:
        self._agent = agent
        self._model = model
        self._caller = caller
        self._user = user
        self._repetitions = repetitions(history)
        self._recalled: dict[str, tuple[Episode, ...]] = {}

    async def of(self, pairs: Sequence[tuple[PersonaDraft, Interaction]], recall: bool = True) -> Float:
        """Nats per token of each interaction's truth under a persona, (len(pairs),).

        One that does not fit the context even without episodes is nan.

        Args:
            pairs: personas and interactions; neighbours that share a persona share its prefix in the engine's cache.
            recall: whether episodes are recalled as in serving; without, the persona is alone.
        """
        if recall:
            await self._recall([i for _, i in pairs])
        requests = [await self._request(draft, i, self._recalled[i.id] if recall else ()) for draft, i in pairs]
        found = await self.logs(requests)
        scale = [1.0 if i.kind is Kind.TEXT else self._agent.model_weight(i, d.decision) for d, i in pairs]
        return np.asarray(found * scale)

    async def general(self, drafts: Sequence[PersonaDraft], asked: Sequence[General]) -> Float:
        """How much likelier each draft makes the answers to general requests than wrong answers of the same form.

        Returns:
            differences in nats per token, (len(drafts), len(asked)).
        """
        requests = [
            LikelihoodRequest(
                messages=(
                    *assemble((), draft.text, (), draft.decision, exemplars=draft.exemplars),
                    Message(role="user", content=request.query),
                ),
                answer=answer,
                priority=BATCH_PRIORITY,
            )
            for draft in drafts
            for request in asked
            for answer in (request.answer, request.wrong)
        ]
        logs = (await self.logs(requests)).reshape(len(drafts), len(asked), 2)
        return np.asarray(logs[..., 0] - logs[..., 1])

    async def logs(self, requests: Sequence[LikelihoodRequest]) -> Float:
        """Nats per token of each answer, (len(requests),); nan where it does not fit the context."""
        chunks = [requests[n : n + CHUNK] for n in range(0, len(requests), CHUNK)]
        found = await together(self._ask(chunk) for chunk in chunks)
        return np.asarray([value for values in found for value in values], dtype=np.float64)

    async def _ask(self, requests: Sequence[LikelihoodRequest]) -> list[float]:
        def usage(found: Sequence[Likelihood]) -> Usage:
            return sum((f.usage for f in found), Usage())

        try:
            found = await self._caller.call(partial(self._model.likelihoods, requests), usage, len(requests))
        except ContextLengthExceeded:
            if len(requests) == 1:
                return [float("nan")]
            halves = [requests[: len(requests) // 2], requests[len(requests) // 2 :]]
            return [value for half in halves for value in await self._ask(half)]
        return [f.per_token for f in found]

    async def _request(
        self, draft: PersonaDraft, interaction: Interaction, episodes: Sequence[Episode]
    ) -> LikelihoodRequest:
        messages = assemble(
            (Message(role="user", content=interaction.query),),
            draft.text,
            episodes,
            draft.decision,
            None if interaction.lesson else interaction.choices,
            exemplars=draft.exemplars,
        )
        if interaction.lesson:
            messages = (*messages, Message(role="user", content=await self._agent.asks(interaction)))
        answer = (interaction.truth or "").strip()[:LONGEST]
        return LikelihoodRequest(messages=messages, answer=answer, priority=BATCH_PRIORITY)

    async def _recall(self, interactions: Sequence[Interaction]) -> None:
        missing = list({i.id: i for i in interactions if i.id not in self._recalled}.values())
        if not missing:
            return
        ensure = partial(self._agent.ensure_persona, self._user, self._caller.incarnation)
        decision = (await self._caller.patiently(ensure)).decision
        queries = [
            RecallQuery(
                text=i.query,
                k=decision.episodes,
                with_truth=True,
                max_tokens=self._agent.settings.recall_tokens,
                exclude=self._repetitions.get(i.id, (i.id,)),
            )
            for i in missing
        ]
        found = await self._caller.patiently(partial(self._agent.memory.recall_many, self._user, queries))
        for interaction, recall in zip(missing, found, strict=True):
            self._recalled[interaction.id] = recall.episodes
