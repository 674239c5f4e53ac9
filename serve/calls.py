"""What the engine is asked and what it answers, as it travels between processes. It does not import vLLM."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from personaagent.errors import OverloadedError, PersonaAgentError
from personaagent.models.openai_client import engine_error

__all__ = ["AnswerCall", "EngineCall", "EngineStats", "Refusal"]


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One call of the engine, in OpenAI's schema with vLLM's extensions.

    `within_s`: seconds that the replica may work on it. Who called cancels what is too late; this is for a caller that died.
    """

    body: dict[str, Any]
    within_s: float | None = field(default=None, kw_only=True)

    @property
    def prefix(self) -> str:
        """The same for calls whose prompts begin alike: the first message holds the instructions and the persona."""
        first = str(self.body["messages"][0].get("content"))
        return hashlib.blake2b(first.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class AnswerCall(EngineCall):
    """An answer to the conversation in `body`, whose likelihood is asked for."""

    answer: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the engine did not answer. Sent as a value, because Serve logs every exception with its arguments."""

    status: int
    message: str
    busy: bool = False  # there is no room; who can wait comes again later

    def error(self) -> PersonaAgentError:
        """As an exception of ours."""
        if self.busy:
            return OverloadedError(self.message)
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
