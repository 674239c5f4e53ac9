"""What a model is asked and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from personaagent.base import Frozen, readable, repaired

__all__ = ["ChatRequest", "ChatResult", "Likelihood", "LikelihoodRequest", "Message", "Usage", "last_of_user"]


class Usage(Frozen):
    """LLM calls and tokens."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls - other.calls,
            prompt_tokens=self.prompt_tokens - other.prompt_tokens,
            completion_tokens=self.completion_tokens - other.completion_tokens,
            cached_tokens=self.cached_tokens - other.cached_tokens,
        )


class Message(Frozen):
    """One chat message in OpenAI's form; multi-part content is kept as the client sent it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """The textual content, with the text parts of multi-part content joined."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(p.get("text", "")) for p in self.content or [] if p.get("type") == "text")


def last_of_user(messages: Sequence[Message]) -> int:
    """Where the last message of the user stands; -1 if there is none."""
    return max((n for n, message in enumerate(messages) if message.role == "user"), default=-1)


class LikelihoodRequest(Frozen):
    """An answer whose likelihood is asked for: the conversation before it, which ends with a user message, and its text."""

    messages: tuple[Message, ...]
    answer: str
    priority: int = 0
    cache_salt: str | None = None  # what the engine's prefix cache holds is found under the same salt only


class Likelihood(Frozen):
    """log p(answer | conversation) of a model, in nats, summed over the answer's `tokens` (its end included)."""

    logprob: float
    tokens: int
    usage: Usage = Usage()

    @property
    def per_token(self) -> float:
        """Nats per token of the answer."""
        return self.logprob / max(1, self.tokens)


class ChatRequest(Frozen):
    """One call of the model. `priority`: lower runs earlier; `choices` constrains the answer to one of them."""

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    top_logprobs: int = 0
    continue_final: bool = False  # the last message is an assistant's, to be continued
    priority: int = 0
    extra: dict[str, Any] = Field(default_factory=dict)  # further OpenAI fields, passed through unchanged


class ChatResult(Frozen):
    """The model's answer. `first_logprobs`: (token text, log-probability) of the first position, if asked for.

    Whatever the server sent, text and message are valid Unicode.
    """

    text: Annotated[str, AfterValidator(readable)]
    finish_reason: str = "stop"
    usage: Usage = Usage()
    first_logprobs: tuple[tuple[str, float], ...] = ()
    # The whole assistant message (tool calls included)
    message: Annotated[dict[str, Any], AfterValidator(repaired)] = Field(default_factory=dict)
    raw: dict[str, Any] = Field(default_factory=dict)  # the engine's whole response, for passing through
