"""The engine: ray.serve.llm's server with an admission limit for batch work. Importing it imports vLLM."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest
from vllm.exceptions import VLLMClientError, VLLMServerError
from vllm.v1.engine.exceptions import EngineDeadError

from personaagent.aio import together
from personaagent.errors import LLMError
from personaagent.models.files import prepare_llm
from personaagent.models.openai_client import result_of, usage_of
from personaagent.settings import EMBEDDED, Settings
from personaagent.types import ChatResult, Likelihood, Usage
from serve.calls import AnswerCall, EngineCall, EngineStats, Refusal
from serve.engine.cpu import fit_to_cpu
from serve.engine.likelihood import AnswerReader
from serve.loopback import stay_local

__all__ = ["PersonaLLMServer"]

DEAD = "the engine died and is being restarted"
BUSY_AFTER_S = 30.0  # a batch call that found no room for so long is sent back, so that its caller's timeout never runs
_TYPES = frozenset({"str", "int", "float", "bool"})
FULL = Refusal(429, "the model has more chats than it takes; try again in a few seconds", busy=True)
LATE = Refusal(504, "the time that the caller gave it is over")
GRACE_S = 2.0  # on top of the caller's time: who is still there ends the call first


class PersonaLLMServer(LLMServer):  # type: ignore[misc]
    """The real LLMServer, called with plain dictionaries and counted.

    Requests of priority above 0 are batch work: they share `batch_slots`, fewer than the engine decodes together, so
    that a chat request always finds a place. vLLM's own priority scheduling alone does not give it one, because
    sequences that run are not preempted while the KV cache has room.

    Chats beyond `chats` are refused at once: whoever waits for an answer had better hear that there is none soon.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self, llm_config: LLMConfig, *, settings: Settings, batch_slots: int, batch_waiting: int, chats: int
    ) -> None:
        """Args:
        llm_config: the engine.
        settings: the tree; this node may have to convert the embedded model first.
        batch_slots: batch calls that run together.
        batch_waiting: batch calls that may wait for a slot; more are told to come again.
        chats: other calls for an answer that the engine takes at once, whether it decodes them or lets them wait.
        """
        stay_local()
        self._chats = chats
        self._slots = asyncio.Semaphore(batch_slots)
        self._batch_waiting = batch_waiting
        if settings.llm.model == EMBEDDED:
            llm_config.get_engine_config().hf_model_id = await prepare_llm(settings)
        if llm_config.accelerator_config.kind == "cpu":
            fit_to_cpu(llm_config, settings)
        # vLLM 0.29's CPU worker dies of a request with a seed whose prompt is prefilled in chunks: it winds the request's
        # random generator back, which only CUDA's can do.
        self._seeded = llm_config.accelerator_config.kind != "cpu"
        self._stats = EngineStats(pid=os.getpid())
        await super().__init__(llm_config)
        self._reader = AnswerReader(self.engine)
        await self._warm_up()

    async def _start_engine(self) -> None:
        """Without Ray's report of which models are served: its actor imports vLLM once more, and reports to nobody."""
        await self.engine.start()

    async def complete(self, call: EngineCall) -> ChatResult | Refusal:
        """The whole answer."""
        if self._full(call):
            return FULL
        try:
            async with _in_time(call):
                return await self._completed(call)
        except TimeoutError:
            return LATE

    async def _completed(self, call: EngineCall) -> ChatResult | Refusal:
        admitted = await self._admit(call)
        if admitted is not None:
            return admitted
        with self._running(call):
            try:
                request = self._request(call)
            except (ValidationError, VLLMClientError) as e:
                return self._refused(_reason(e))
            try:
                async for answer in await self.chat(request):
                    if (error := getattr(answer, "error", None)) is not None:
                        return await self._failed(int(error.code), error.message)
                    result = result_of(answer.model_dump())
                    self._count(result.usage)
                    return result
            except (ValueError, VLLMClientError) as e:  # the engine's words for what is wrong with a request
                return self._refused(str(e))
            except EngineDeadError:
                return self._dead()
            except LLMError as e:
                return Refusal(500, e.message)
            return Refusal(500, "the engine answered with nothing")

    async def complete_stream(self, call: EngineCall) -> AsyncIterator[list[dict[str, Any]] | Refusal]:
        """The answer's chunks, several at a time; or a Refusal and nothing after it."""
        if self._full(call):
            yield FULL
            return
        try:
            async with _in_time(call), aclosing(self._streamed(call)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    yield batch
        except TimeoutError:
            yield LATE

    async def _streamed(self, call: EngineCall) -> AsyncIterator[list[dict[str, Any]] | Refusal]:
        admitted = await self._admit(call)
        if admitted is not None:
            yield admitted
            return
        with self._running(call):
            try:
                request = self._request(call)
            except (ValidationError, VLLMClientError) as e:
                yield self._refused(_reason(e))
                return
            try:
                async for items in await self.chat(request):
                    chunks = []
                    for item in items:
                        if (error := getattr(item, "error", None)) is not None:
                            yield await self._failed(int(error.code), error.message)
                            return
                        chunks += list(_events(item))
                    broken = next((c["error"] for c in chunks if "error" in c), None)
                    if broken is not None:
                        yield await self._failed(int(broken.get("code") or 500), str(broken.get("message")))
                        return
                    for chunk in chunks:
                        if chunk.get("usage") and not chunk.get("choices"):
                            self._count(usage_of(chunk["usage"]))
                    if chunks:
                        yield chunks
            except (ValueError, VLLMClientError) as e:
                yield self._refused(str(e))
            except EngineDeadError:
                yield self._dead()

    async def likelihoods(self, calls: Sequence[AnswerCall]) -> list[Likelihood | Refusal]:
        """How likely the answers are, in the calls' order. All are under way together; batch work takes a slot for each."""
        return await together(self._likelihood(call) for call in calls)

    async def _likelihood(self, call: AnswerCall) -> Likelihood | Refusal:
        try:
            async with _in_time(call):
                return await self._read(call)
        except TimeoutError:
            return LATE

    async def _read(self, call: AnswerCall) -> Likelihood | Refusal:
        admitted = await self._admit(call)
        if admitted is not None:
            return admitted
        with self._running(call):
            try:
                found = await self._reader.read(call)
            except ValidationError as e:
                return self._refused(_reason(e))
            except (ValueError, VLLMClientError) as e:
                return self._refused(str(e))
            except EngineDeadError:
                return self._dead()
            except (LLMError, VLLMServerError) as e:
                return await self._failed(500, str(e))
            self._count(found.usage)
            return found

    def _request(self, call: EngineCall) -> ChatCompletionRequest:
        body = call.body if self._seeded else {**call.body, "seed": None}
        return ChatCompletionRequest(**body)

    async def engine_stats(self) -> EngineStats:
        """What this replica has done and is doing."""
        return self._stats

    def _full(self, call: EngineCall) -> bool:
        """Likelihoods pass: they are one step each, and belong to answers that were let in."""
        return not _is_batch(call) and self._stats.chat_running >= self._chats

    async def _admit(self, call: EngineCall) -> Refusal | None:
        """Take a slot for batch work; chat passes. The slot is given back by `_running`."""
        if not _is_batch(call):
            return None
        if self._stats.batch_waiting >= self._batch_waiting:
            return Refusal(503, "the engine's queue of batch work is full", busy=True)
        self._step(batch_waiting=1)
        try:
            async with asyncio.timeout(BUSY_AFTER_S):
                await self._slots.acquire()
        except TimeoutError:
            return Refusal(503, "no room for batch work yet", busy=True)
        finally:
            self._step(batch_waiting=-1)
        return None

    @contextmanager
    def _running(self, call: EngineCall) -> Iterator[None]:
        batch = _is_batch(call)
        name = "batch_running" if batch else "chat_running"
        self._step(calls=1, **{name: 1})
        peak = max(self._stats.batch_peak, self._stats.batch_running)
        self._stats = replace(self._stats, batch_peak=peak)
        try:
            yield
        finally:
            self._step(**{name: -1})
            if batch:
                self._slots.release()

    def _step(self, **changes: int) -> None:
        self._stats = replace(self._stats, **{k: getattr(self._stats, k) + v for k, v in changes.items()})

    def _count(self, usage: Usage) -> None:
        self._step(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
        )

    def _refused(self, reason: str) -> Refusal:
        self._step(errors=1)
        return Refusal(400, reason)

    async def _failed(self, status: int, message: str) -> Refusal:
        """An engine that died answers 500 until Serve replaces the replica; to the caller that is 'not now'."""
        self._step(errors=1)
        if status >= 500:
            try:
                await self.check_health()
            except Exception:  # noqa: BLE001 - whatever it raises, the engine is unhealthy
                return Refusal(503, DEAD)
        return Refusal(status, message)

    def _dead(self) -> Refusal:
        """vLLM raises instead of answering once its engine is dead; Serve replaces the replica soon."""
        self._step(errors=1)
        return Refusal(503, DEAD)

    async def _warm_up(self) -> None:
        """The first call of each kind is slow (lazy imports, grammar compiler); no user should pay for it."""
        messages = [{"role": "user", "content": "Say yes."}]
        body = {"model": self._llm_config.model_id, "messages": messages, "max_tokens": 2, "temperature": 0.0}
        choice = {"structured_outputs": {"choice": ["yes", "no"]}, "logprobs": True, "top_logprobs": 5}
        for extra in ({}, choice):
            answer = await self.complete(EngineCall({**body, **extra}))
            if isinstance(answer, Refusal):
                raise RuntimeError(f"the model cannot chat: {answer.message}")
        self._stats = EngineStats(pid=os.getpid())


def _is_batch(call: EngineCall) -> bool:
    return int(call.body.get("priority") or 0) > 0


def _in_time(call: EngineCall) -> asyncio.Timeout:
    return asyncio.timeout(None if call.within_s is None else call.within_s + GRACE_S)


def _events(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of server-sent events."""
    for line in text.split("\n"):  # not splitlines, which breaks at U+2028 and the like inside of the JSON
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data and data != "[DONE]":
            yield json.loads(data)


def _reason(error: ValidationError | VLLMClientError) -> str:
    if isinstance(error, VLLMClientError):
        return str(error)
    first = error.errors()[0]
    # Between the names there are those of types, which mean nothing to a client.
    names = [part for part in map(str, first["loc"]) if part.isidentifier() or part.isdecimal()]
    return f"{'.'.join(name for name in names if name not in _TYPES)}: {first['msg']}"
