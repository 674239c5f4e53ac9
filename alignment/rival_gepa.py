"""GEPA's reflective evolution of a persona's text, within what our own search spent on the same user. GEPA is optional.

Its metric is the gate's measure: nats per token of what the user really said, half with memory as served and half with
nothing recalled. What it writes meets the same gate. GEPA works in a thread of its own, as its library is made to be used.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from alignment.budget import Budget, Caller
from alignment.likelihoods import Likelihoods
from alignment.rival_searches import RivalWords
from alignment.textual import PRIORITY, tidy
from alignment.wording import Wording
from personaagent import prompts
from personaagent.agent.prompt import question
from personaagent.claims import Claim
from personaagent.errors import BudgetExceeded, InvalidInput
from personaagent.persona.persona import clip
from personaagent.protocols import LLM, likely
from personaagent.types import ChatRequest, Interaction, Message, Persona, PersonaDraft, Usage

__all__ = ["Gepa", "require_gepa"]

T = TypeVar("T")
MINIBATCH = 3  # interactions of one reflection, as in GEPA's paper
WORST = -20.0  # nats per token of what does not fit the context, and of an empty text
COMPONENT = "persona"  # the one text of GEPA's candidates


def require_gepa() -> None:
    """Raises InvalidInput where GEPA is not installed."""
    if importlib.util.find_spec("gepa") is None:
        raise InvalidInput("GEPA is not installed; pip install gepa, or another --search")


class Gepa(RivalWords):
    """Words by GEPA. `limits`: what each user's search may spend; a user without a limit keeps their words."""

    limits: Mapping[str, Usage]

    async def _write(
        self, persona: Persona, learn: Sequence[Interaction], select: Sequence[Interaction], caller: Caller
    ) -> str:
        import gepa

        user = learn[-1].user
        model = likely(self._agent.llm)
        if model is None:
            raise InvalidInput("the model's server does not tell likelihoods, which are GEPA's metric here")
        limit = self.limits.get(user)
        if limit is None or not limit.calls:
            raise BudgetExceeded("our own search spent nothing")
        spent = Budget(limit.calls, limit.prompt_tokens + limit.completion_tokens, caller.budget)
        own = Caller(self._slots, spent, self._settings.retry_s)
        own.incarnation = caller.incarnation
        measure = Likelihoods(self._agent, model, own, user, learn)
        size = self._agent.settings.persona_tokens
        adapter = _Adapter(_Calls(self._agent.llm, own, self._settings.seed), measure, persona, size)

        def evolve() -> str:
            found = gepa.optimize(
                seed_candidate={COMPONENT: persona.text},
                trainset=[i for i in learn if i.kind is select[0].kind],
                valset=list(select),
                adapter=adapter,
                reflection_lm=adapter.reflect,
                reflection_minibatch_size=MINIBATCH,
                skip_perfect_score=False,  # nats have no perfect score
                stop_callbacks=adapter.done,
                logger=_Silent(),
                seed=self._settings.seed,
                raise_on_exception=False,  # a budget that runs out ends an iteration, and what was found stays
            )
            return str(found.best_candidate[COMPONENT])

        text = await asyncio.to_thread(evolve)
        if adapter.calls.error is not None:
            raise adapter.calls.error
        return text


class _Calls:
    """What GEPA's thread asks of the event loop. After an error nothing more is asked; it is raised once GEPA has ended."""

    def __init__(self, llm: LLM, caller: Caller, seed: int) -> None:
        self._llm = llm
        self._caller = caller
        self._seed = seed
        self._loop = asyncio.get_running_loop()
        self.error: Exception | None = None
        self.over = False

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except BudgetExceeded:
            self.over = True
            raise
        except Exception as e:
            self.error = e
            raise

    def chat(self, messages: Sequence[Message], max_tokens: int) -> str:
        self._seed += 1  # or the same prompt would be answered alike for ever
        request = ChatRequest(
            messages=tuple(messages), max_tokens=max_tokens, temperature=0.7, seed=self._seed, priority=PRIORITY
        )
        asked = self._caller.call(lambda: self._llm.chat(request), lambda r: r.usage)
        return self.wait(asked).text


class _Adapter:
    """GEPA's integration point: how likely a persona's text makes what the user said, and what that was."""

    propose_new_texts = None

    def __init__(self, calls: _Calls, measure: Likelihoods, persona: Persona, size: int) -> None:
        """`size`: of a persona, in tokens."""
        self.calls = calls
        self._measure = measure
        self._persona = persona
        self._size = size

    def done(self, _: object) -> bool:
        """Whether GEPA must end."""
        return self.calls.over or self.calls.error is not None

    def reflect(self, prompt: str | list[dict[str, Any]]) -> str:
        """What the model writes to GEPA's own prompt."""
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        system = Message(role="system", content=prompts.ALIGN_SYSTEM)
        return self.calls.chat((system, *(Message.model_validate(m) for m in asked)), self._size)

    def evaluate(self, batch: list[Interaction], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """See `gepa.core.adapter.GEPAAdapter`: nats per token, higher is better. Nothing is generated."""
        from gepa.core.adapter import EvaluationBatch

        scores = self.calls.wait(self._scores(batch, candidate[COMPONENT]))
        traces = list(zip(batch, scores, strict=True)) if capture_traces else None
        return EvaluationBatch(outputs=[""] * len(batch), scores=scores, trajectories=traces)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """See `gepa.core.adapter.GEPAAdapter`."""
        records = [
            {
                "Inputs": question(item.query, item.choices),
                "Feedback": f"The person really wanted: {item.truth}. With these notes the assistant would have said so "
                f"with {score:.2f} nats per token; the nearer to 0 the better.",
            }
            for item, score in eval_batch.trajectories
        ]
        return dict.fromkeys(components_to_update, records)

    async def _scores(self, batch: Sequence[Interaction], text: str) -> list[float]:
        written = clip(tidy(text), self._size)
        if not written:
            return [WORST] * len(batch)
        pairs = [(self._draft(written), i) for i in batch]
        served = await self._measure.of(pairs)
        alone = await self._measure.of(pairs, recall=False)
        return [float(x) for x in np.nan_to_num((served + alone) / 2, nan=WORST)]

    def _draft(self, text: str) -> PersonaDraft:
        # What the claim rests on is not shown; without anything it would not be shown itself.
        claim = Claim(text=text, origin="model", sources=("gepa",))
        return Wording((claim,)).draft(self._persona, self._size)


class _Silent:
    """GEPA prints every step to stdout otherwise, where the result's JSON goes."""

    def log(self, message: str) -> None:
        """Nothing."""
