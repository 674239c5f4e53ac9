"""The model as the rest of the system calls it: a Serve handle behind `protocols.LLM`.

It does not import vLLM, which costs seconds and hundreds of megabytes: only the replica (`engine.py`) does.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)

from personaagent import deadline
from personaagent.aio import together
from personaagent.errors import InvalidInput, LLMError, OverloadedError, PersonaAgentError, UnavailableError
from personaagent.models.openai_client import StreamParser, request_body
from personaagent.types import ChatRequest, ChatResult, Likelihood, LikelihoodRequest
from serve.calls import AnswerCall, EngineCall, EngineStats, Refusal

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["HandleLLM"]

log = logging.getLogger(__name__)

_GONE = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
_BACKOFF_S = (0.05, 2.0)  # first and longest wait of a batch call that the engine has no room for
_TOGETHER = 32  # answers of one call of a replica
_FULL = "the model has more requests than it takes; try again in a few seconds"

C = TypeVar("C", bound="EngineCall")
A = TypeVar("A", ChatResult, Likelihood)


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

        async def send(calls: list[EngineCall]) -> list[ChatResult | Refusal]:
            return [await self._call("complete", call.prefix, call)]

        (answer,) = await self._with_room(send, [call])
        return answer

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        """Of each request, in their order. Raises as `protocols.Likely.likelihoods` says.

        Those whose prompts begin alike go to one replica, at most 32 in a call. One that fails ends the others.

        Raises:
            InvalidInput: an answer is empty, or there is no conversation.
        """
        calls = [self._answer_call(request) for request in requests]
        alike: dict[str, list[int]] = {}
        for number, call in enumerate(calls):
            alike.setdefault(call.prefix, []).append(number)
        found: dict[int, Likelihood] = {}

        async def work(numbers: list[int], prefix: str) -> None:
            async def send(some: list[AnswerCall]) -> list[Likelihood | Refusal]:
                answers: list[Likelihood | Refusal] = await self._call("likelihoods", prefix, some)
                return answers

            told = await self._with_room(send, [calls[n] for n in numbers])
            found.update(zip(numbers, told, strict=True))

        await together(
            work(numbers[start : start + _TOGETHER], prefix)
            for prefix, numbers in alike.items()
            for start in range(0, len(numbers), _TOGETHER)
        )
        return tuple(found[number] for number in range(len(calls)))

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """Pieces of text, then the whole answer. Not for requests with tools: their calls are not text."""
        body = {**request_body(request, self._model), "stream": True, "stream_options": {"include_usage": True}}
        call = EngineCall(body)
        retried = False
        while True:
            parser = StreamParser()
            try:
                async with aclosing(self._pieces(call, parser)) as pieces:  # type: ignore[type-var]  # it is a generator
                    async for piece in pieces:
                        yield piece
            except BackPressureError as e:
                raise OverloadedError(_FULL) from e
            except _GONE as e:
                if retried or parser.begun:
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
        response = self._handle.engine_stats.remote()
        try:
            async with asyncio.timeout(5.0):
                stats: EngineStats = await response
                return stats
        except (TimeoutError, RayError, RayServeException) as e:
            raise UnavailableError("the model does not answer") from e
        finally:
            response.cancel()  # without effect on one that has answered

    async def check(self) -> None:
        """Raise UnavailableError unless a replica answers."""
        await self.stats()

    def _answer_call(self, request: LikelihoodRequest) -> AnswerCall:
        if not request.answer:
            raise InvalidInput("the likelihood of an empty answer was asked for")
        if not request.messages:
            raise InvalidInput("the likelihood of an answer to no conversation was asked for")
        # Beside the answer there are its end and the token that the engine generates in any case.
        extra = {"cache_salt": request.cache_salt} if request.cache_salt else {}
        asked = ChatRequest(messages=request.messages, max_tokens=2, priority=request.priority, extra=extra)
        return AnswerCall(request_body(asked, self._model), request.answer)

    async def _with_room(self, send: Callable[[list[C]], Awaitable[list[A | Refusal]]], calls: list[C]) -> list[A]:
        """The answers to calls that are sent together; those that the engine has no room for are sent again, and again.

        Only batch work, and what is nobody's request, waits for room; whoever waits for an answer hears at once that there is
        none.

        Raises:
            OverloadedError: there is no room for an interactive request.
            DeadlineExceeded: batch work has a deadline, too.
        """
        answers: dict[int, A] = {}
        left = list(range(len(calls)))
        retried, wait = False, _BACKOFF_S[0]
        waits = deadline.remaining() is None or any(int(call.body.get("priority") or 0) > 0 for call in calls)
        while True:
            full: PersonaAgentError | None = None
            try:
                some = await send([calls[number] for number in left])
            except BackPressureError:
                some, full = [], OverloadedError(_FULL)
            except _GONE as e:
                if retried:
                    raise UnavailableError("the model's replica died twice under the same call") from e
                retried = True
                log.info("the model's replica is gone (%s); trying another", type(e).__name__)
                continue
            for number, answer in zip(left, some, strict=full is None):
                if not isinstance(answer, Refusal):
                    answers[number] = answer
                elif not answer.busy:
                    raise answer.error()
                else:
                    full = answer.error()
            left = [number for number in left if number not in answers]
            if not left:
                return [answers[number] for number in range(len(calls))]
            if full is not None and not waits:
                raise full
            async with deadline.bounded():
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(2 * wait, _BACKOFF_S[1])

    async def _call(self, method: str, prefix: str, argument: Any) -> Any:
        """One call of a replica, which is cancelled there whatever ends the waiting for it."""
        deadline.check()
        handle = self._handle.options(method_name=method, session_id=prefix)
        response = handle.remote(self._in_its_time(argument))
        answered = False
        try:
            async with self._in_time():
                answer = await response
            answered = True
            return answer
        finally:
            if not answered:
                response.cancel()

    def _in_its_time(self, argument: Any) -> Any:
        left = deadline.remaining()
        within_s = self._timeout_s if left is None else min(left, self._timeout_s)
        if isinstance(argument, EngineCall):
            return replace(argument, within_s=within_s)
        return [replace(call, within_s=within_s) for call in argument]

    async def _pieces(self, call: EngineCall, parser: StreamParser) -> AsyncIterator[str]:
        deadline.check()
        handle = self._handle.options(method_name="complete_stream", stream=True, session_id=call.prefix)
        chunks = handle.remote(replace(call, within_s=deadline.remaining()))  # each piece may take `timeout_s`
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
            async with deadline.bounded(
                self._timeout_s, f"the model did not answer within {self._timeout_s:g} s (llm.timeout_s)"
            ):
                yield
        except (*_GONE, BackPressureError):
            raise
        except (RayError, RayServeException) as e:
            raise LLMError(f"the model failed ({type(e).__name__}); see the replica's log") from e
