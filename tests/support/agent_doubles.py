"""A scripted model for the agent's tests: answers come from a function of the request, calls are recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from personaagent.errors import ContextLengthExceeded
from personaagent.types import ChatRequest, ChatResult, Usage

Answer = Callable[[ChatRequest], str]


class FakeLLM:
    """Implements `personaagent.protocols.LLM`.

    Closed choices get the log-probabilities `choice` returns for the request's options (default: uniform over the first
    characters). Prompts of more than `limit` characters do not fit.
    """

    def __init__(self, answer: Answer | str = "fine", limit: int = 100_000) -> None:
        self._answer = answer
        self._limit = limit
        self.requests: list[ChatRequest] = []
        self.choice: Callable[[ChatRequest], dict[str, float]] | None = None

    @property
    def context_length(self) -> int:
        return self._limit // 4

    async def chat(self, request: ChatRequest) -> ChatResult:
        self.requests.append(request)
        size = sum(len(m.text) for m in request.messages)
        if size > self._limit:
            raise ContextLengthExceeded(f"{size} characters do not fit")
        usage = Usage(calls=1, prompt_tokens=size // 4, completion_tokens=1)
        if request.choices:
            given = self.choice(request) if self.choice else {c[:1]: 0.0 for c in request.choices}
            return ChatResult(text=request.choices[0], usage=usage, first_logprobs=tuple(given.items()))
        text = self._answer(request) if callable(self._answer) else self._answer
        return ChatResult(text=text, usage=usage, message={"role": "assistant", "content": text})

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        result = await self.chat(request)
        for start in range(0, len(result.text), 3):
            yield result.text[start : start + 3]
        yield result
