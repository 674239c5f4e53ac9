"""TextGrad and GEPA, optimising one prompt per user against the same model, for comparison. They are optional.

Both work on one prompt at a time in one thread, so users take turns, as their libraries are made to be used.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from personaagent import prompts
from personaagent.agent.prompt import question
from personaagent.protocols import LLM
from personaagent.scoring import same
from personaagent.types import ChatRequest, ChatResult, Interaction, Message

__all__ = ["PEERS", "run_peers"]

PEERS = ("textgrad", "gepa")
BATCH = 3  # interactions a prompt is rewritten from, as in the paper
CALLS = 60  # evaluations GEPA may make per user, about what one of our alignments makes on its selection set
TOKENS = 160  # of a written text
PRIORITY = 10
Ask = Callable[[Sequence[Message], tuple[str, ...] | None], str]


async def run_peers(
    llm: LLM, histories: Sequence[Sequence[Interaction]], personas: Sequence[str]
) -> dict[str, dict[str, float] | None]:
    """Optimise every user's prompt with each library that is installed.

    Args:
        llm: the model that all of them share with us.
        histories: closed choices with truths of each user, oldest first; at least `BATCH` each.
        personas: the prompt each user starts with.

    Returns:
        Per library `users_per_min`, `users`, `calls_per_user`, and `failed`, users for whom it raised (TextGrad does
        when the model does not keep to its answer format); null for a library that is not installed.
    """
    # Both write logs where they stand, and LiteLLM, which TextGrad imports, would fetch a price list.
    os.environ.setdefault("TEXTGRAD_LOG_DIR", tempfile.mkdtemp(prefix="personaagent-textgrad-"))
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    optimisers: dict[str, Callable[[Ask, Sequence[Interaction], str], None]] = {"textgrad": _textgrad, "gepa": _gepa}
    results: dict[str, dict[str, float] | None] = {}
    for name in PEERS:
        if importlib.util.find_spec(name) is None:
            results[name] = None
            continue
        await asyncio.to_thread(importlib.import_module, name)  # seconds that have nothing to do with a user
        bridge = _Bridge(llm, asyncio.get_running_loop())
        failed = 0
        started = time.perf_counter()
        for history, persona in zip(histories, personas, strict=True):
            try:
                await asyncio.to_thread(optimisers[name], bridge.ask, history, persona)
            except Exception:  # noqa: BLE001 - a foreign library may raise anything; the user counts as failed
                failed += 1
        seconds = time.perf_counter() - started
        results[name] = {
            "users_per_min": round(60 * len(histories) / seconds, 2),
            "users": len(histories),
            "calls_per_user": round(bridge.calls / len(histories), 1),
            "failed": failed,
        }
    return results


class _Bridge:
    """Lets a thread call the model on the event loop."""

    def __init__(self, llm: LLM, loop: asyncio.AbstractEventLoop) -> None:
        self._llm = llm
        self._loop = loop
        self.calls = 0

    def ask(self, messages: Sequence[Message], choices: tuple[str, ...] | None) -> str:
        request = ChatRequest(messages=tuple(messages), max_tokens=TOKENS, choices=choices, priority=PRIORITY)
        chat: Coroutine[Any, Any, ChatResult] = self._llm.chat(request)
        self.calls += 1
        return asyncio.run_coroutine_threadsafe(chat, self._loop).result().text


def _answer(ask: Ask, persona: str, item: Interaction) -> str:
    asked = Message(role="user", content=question(item.query, item.choices))
    return ask((Message(role="system", content=persona), asked), item.choices)


def _textgrad(ask: Ask, history: Sequence[Interaction], persona: str) -> None:
    """One step of textual gradient descent on the persona, from the newest interactions."""
    import textgrad as tg

    class Engine(tg.EngineLM):  # type: ignore[misc]
        model_string = "served"

        def generate(self, prompt: str, system_prompt: str | None = None, **_: Any) -> str:
            system = Message(role="system", content=system_prompt or prompts.ALIGN_SYSTEM)
            return ask((system, Message(role="user", content=prompt)), None)

        def __call__(self, prompt: str, system_prompt: str | None = None, **more: Any) -> str:
            return self.generate(prompt, system_prompt, **more)

    engine = Engine()
    variable = tg.Variable(persona, requires_grad=True, role_description="notes about a person for their assistant")
    model = tg.BlackboxLLM(engine, variable)
    losses = []
    for item in history[-BATCH:]:
        asked = tg.Variable(question(item.query, item.choices), requires_grad=False, role_description="the request")
        judge = (
            f"The person really wanted: {item.truth}. Say in one sentence how the answer should have been different."
        )
        losses.append(tg.TextLoss(judge, engine)(model(asked)))
    tg.sum(losses).backward(engine)
    tg.TextualGradientDescent([variable], engine=engine).step()


def _gepa(ask: Ask, history: Sequence[Interaction], persona: str) -> None:
    """GEPA's reflective evolution of the persona within a bounded number of evaluations."""
    import gepa

    half = max(BATCH, len(history) // 2)
    gepa.optimize(
        seed_candidate={"persona": persona},
        trainset=list(history[-half:]),
        valset=list(history[:-half]) or list(history[-half:]),
        adapter=_GepaAdapter(ask),
        reflection_lm=lambda prompt: ask(_as_messages(prompt), None),
        reflection_minibatch_size=BATCH,
        max_metric_calls=CALLS,
        logger=_Silent(),
    )


class _GepaAdapter:
    """GEPA's integration point: answers interactions under a candidate persona and says what was wanted."""

    propose_new_texts = None

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def evaluate(self, batch: list[Interaction], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        from gepa.core.adapter import EvaluationBatch

        answers = [_answer(self._ask, candidate["persona"], item) for item in batch]
        scores = [float(same(answer, item.truth or "")) for answer, item in zip(answers, batch, strict=True)]
        traces = list(zip(batch, answers, strict=True)) if capture_traces else None
        return EvaluationBatch(outputs=answers, scores=scores, trajectories=traces)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        records = [
            {
                "Inputs": question(item.query, item.choices),
                "Generated Outputs": answer,
                "Feedback": f"The person really wanted: {item.truth}.",
            }
            for item, answer in eval_batch.trajectories
        ]
        return dict.fromkeys(components_to_update, records)


class _Silent:
    """GEPA prints every step to stdout otherwise, where the bench's JSON goes."""

    def log(self, message: str) -> None:
        """Nothing."""


def _as_messages(prompt: str | list[dict[str, Any]]) -> list[Message]:
    if isinstance(prompt, str):
        return [Message(role="user", content=prompt)]
    return [Message.model_validate(m) for m in prompt]
