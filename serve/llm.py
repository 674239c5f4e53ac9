"""The model as the rest of the system calls it: a Serve handle behind `protocols.LLM`.

It does not import vLLM, which costs seconds and hundreds of megabytes: only the replica (`engine.py`) does.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)

from personaagent.errors import LLMError, PersonaAgentError, UnavailableError
from personaagent.llm import StreamParser, engine_error, request_body
from personaagent.types import ChatRequest, ChatResult

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["EngineCall", "EngineStats", "HandleLLM", "Refusal"]

log = logging.getLogger(__name__)

_GONE = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError, BackPressureError)
_BACKOFF_S = (0.05, 2.0)  # first and longest wait of a batch call that the engine has no room for


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One call of the engine, in OpenAI's schema with vLLM's extensions."""

    body: dict[str, Any]

    @property
    def prefix(self) -> str:
        """The same for calls whose prompts begin alike: the first message holds the instructions and the persona."""
        first = str(self.body["messages"][0].get("content"))
        return hashlib.blake2b(first.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the engine did not answer. Sent as a value, because Serve logs every exception with its arguments."""

    status: int
    message: str
    busy: bool = False  # batch work that must come again later

    def error(self) -> PersonaAgentError:
        """As an exception of ours."""
        return engine_error(self.status, self.message)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What one replica of the engine has done since it started, and what it is doing."""

    pid: int = 0
    chat_running: int = 0
    batch_running: int = 0
    batch_waiting: int = 0
    batch_peak: int = 0  # most batch calls that ever ran together
    calls: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class HandleLLM:
    """`protocols.LLM` over the engine's deployment. It can be sent to other processes of the cluster."""

    def __init__(
        self, handle: DeploymentHandle[Any], model: str, *, context_length: int, timeout_s: float = 300.0
    ) -> None:
        """Args:
        handle: of the LLM deployment.
        model: the served name.
        context_length: tokens that prompt and answer may take together.
        timeout_s: of one call, without the time that batch work waits for room.
        """
        self._handle = handle
        self._model = model
        self._context_length = context_length
        self._timeout_s = timeout_s

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may take together."""
        return self._context_length

    async def chat(self, request: ChatRequest) -> ChatResult:
        """The whole answer. Raises as `protocols.LLM.chat` says."""
        call = EngineCall(request_body(request, self._model))
        retried, wait = False, _BACKOFF_S[0]
        while True:
            try:
                answer = await self._complete(call)
            except _GONE as e:
                if retried:
                    raise UnavailableError("the model's replica died twice under the same call") from e
                retried = True
                log.info("the model's replica is gone (%s); trying another", type(e).__name__)
                continue
            if isinstance(answer, ChatResult):
                return answer
            if not answer.busy:
                raise answer.error()
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(2 * wait, _BACKOFF_S[1])

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """Pieces of text, then the whole answer. Not for requests with tools: their calls are not text."""
        body = {**request_body(request, self._model), "stream": True, "stream_options": {"include_usage": True}}
        call = EngineCall(body)
        retried = False
        while True:
            parser = StreamParser()
            try:
                async for piece in self._pieces(call, parser):
                    yield piece
            except _GONE as e:
                if retried or parser.result.text:
                    raise UnavailableError("the model's replica died while it answered") from e
                retried = True
                continue
            yield parser.result
            return

    async def stats(self) -> EngineStats:
        """Counters of one replica (of any, where there are several).

        Raises:
            UnavailableError: no replica answers within five seconds.
        """
        try:
            async with asyncio.timeout(5.0):
                stats: EngineStats = await self._handle.engine_stats.remote()
                return stats
        except (TimeoutError, RayError, RayServeException) as e:
            raise UnavailableError("the model does not answer") from e

    async def check(self) -> None:
        """Raise UnavailableError unless a replica answers."""
        await self.stats()

    async def _complete(self, call: EngineCall) -> ChatResult | Refusal:
        response = self._handle.options(method_name="complete", session_id=call.prefix).remote(call)
        try:
            async with self._in_time():
                answer: ChatResult | Refusal = await response
                return answer
        except asyncio.CancelledError:
            response.cancel()
            raise

    async def _pieces(self, call: EngineCall, parser: StreamParser) -> AsyncIterator[str]:
        handle = self._handle.options(method_name="complete_stream", stream=True, session_id=call.prefix)
        chunks = handle.remote(call)
        finished = False
        try:
            while True:
                async with self._in_time():
                    batch = await anext(chunks, None)
                if batch is None:
                    finished = True
                    return
                if isinstance(batch, Refusal):
                    raise batch.error()
                text = "".join(parser.add(chunk) for chunk in batch)
                if text:
                    yield text
        finally:
            if not finished:  # the reader went away, or there was an error: the engine need not go on
                chunks.cancel()

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Bounds one wait for the model, and turns Ray's errors into ours; those of a replica that is gone pass."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as e:
            raise UnavailableError(f"the model did not answer within {self._timeout_s:g} s (llm.timeout_s)") from e
        except _GONE:
            raise
        except (RayError, RayServeException) as e:
            raise LLMError(f"the model failed ({type(e).__name__}); see the replica's log") from e
