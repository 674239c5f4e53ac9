"""Models around another model. They forward every call, so that a subclass writes only what it does otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from personaagent.protocols import LLM, Likely, likely
from personaagent.types import ChatRequest, ChatResult, Likelihood, LikelihoodRequest

__all__ = ["ChatOnly", "WholeAnswers", "Wrapping", "telling"]


def telling(llm: LLM) -> Likely:
    """The model as one that tells likelihoods. TypeError if it tells none: ask `protocols.likely` before."""
    model = likely(llm)
    if model is None:
        raise TypeError("this model tells no likelihoods")
    return model


class Wrapping:
    """A model around another one, which `protocols.likely` finds inside. It tells likelihoods if that one does."""

    def __init__(self, llm: LLM) -> None:
        """`llm`: the model inside."""
        self._llm = llm

    @property
    def inner(self) -> LLM:
        """The model that is asked."""
        return self._llm

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may take together."""
        return self._llm.context_length

    async def chat(self, request: ChatRequest) -> ChatResult:
        """The whole answer. Raises as `LLM.chat` does."""
        return await self._llm.chat(request)

    def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """The answer in pieces, then all of it. Raises as `LLM.stream` does."""
        return self._llm.stream(request)

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        """Of each request, in their order. Raises as `Likely.likelihoods` does, and TypeError if the model tells none."""
        return await telling(self._llm).likelihoods(requests)


class WholeAnswers(Wrapping):
    """A model that streams what its `chat` answers, as one piece: whatever `chat` does to a request, a stream does too."""

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """The whole answer as one piece, then the result."""
        result = await self.chat(request)
        yield result.text
        yield result


class ChatOnly(Wrapping):
    """A model that tells no likelihoods, whatever the one inside does: words are judged by simulated answers then."""

    likelihoods = None  # type: ignore[assignment]  # so that it is no `Likely`
