"""The one scripted model of the tests: answers come from a function of the request, and calls are kept."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator

from personaagent.errors import ContextLengthExceeded
from personaagent.types import ChatRequest, ChatResult, Usage

__all__ = ["Answer", "FakeLLM"]

Answer = Callable[[ChatRequest], str | ChatResult]


class FakeLLM:
    """Implements `personaagent.protocols.LLM`. A model with ideas of its own inherits from it and replaces `result`.

    Closed choices get the log-probabilities that `choice` returns for the request's options (default: uniform over the first
    characters). Other requests get what `answer` says.

    Args:
        answer: the text of every answer, or what makes a text or a whole result of a request.
        limit: characters of a prompt that fit.
        context_length: in tokens; a quarter of `limit` unless given.
    """

    def __init__(self, answer: Answer | str = "fine", limit: int = 100_000, context_length: int | None = None) -> None:
        self.answer = answer
        self.limit = limit
        self.context_length = context_length or limit // 4
        self.requests: list[ChatRequest] = []
        self.choice: Callable[[ChatRequest], dict[str, float]] | None = None
        self.before: Callable[[ChatRequest], object] | None = (
            None  # called ahead of every answer, and awaited if it can be
        )
        self.error: Exception | None = None  # raised in the place of an answer

    async def chat(self, request: ChatRequest) -> ChatResult:
        self.requests.append(request)
        if self.before is not None:
            waiting = self.before(request)
            if inspect.isawaitable(waiting):
                await waiting
        if self.error is not None:
            raise self.error
        return self.result(request)

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        result = await self.chat(request)
        for piece in self.pieces(result):
            yield piece
        yield result

    def result(self, request: ChatRequest) -> ChatResult:
        """What this model answers."""
        size = sum(len(m.text) for m in request.messages)
        if size > self.limit:
            raise ContextLengthExceeded(f"{size} characters do not fit")
        usage = Usage(calls=1, prompt_tokens=size // 4, completion_tokens=1)
        if request.choices:
            given = self.choice(request) if self.choice else {c[:1]: 0.0 for c in request.choices}
            return ChatResult(text=request.choices[0], usage=usage, first_logprobs=tuple(given.items()))
        said = self.answer(request) if callable(self.answer) else self.answer
        if isinstance(said, ChatResult):
            return said
        return ChatResult(text=said, usage=usage, message={"role": "assistant", "content": said})

    def pieces(self, result: ChatResult) -> Iterator[str]:
        """A streamed answer before its end, of three characters each."""
        for start in range(0, len(result.text), 3):
            yield result.text[start : start + 3]
