"""What clients send and get: OpenAI's chat schema, and the bodies of the users' endpoints. No HTTP, no Ray."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from personaagent.agent import Reply, Turn
from personaagent.claims import ClaimKind
from personaagent.contrast import MAX_SAMPLES
from personaagent.errors import FutureTimeError
from personaagent.explanation import Explanation, why
from personaagent.types import (
    MAX_TEXT,
    Choices,
    Decision,
    Interaction,
    Message,
    Usage,
    UserId,
    future_fault,
    interaction_id,
    utc_now,
)

__all__ = [
    "ChatBody",
    "ChunkWriter",
    "ClaimBody",
    "ClaimPinBody",
    "FeedbackBody",
    "InteractionsBody",
    "PersonaBody",
    "PinBody",
    "RollbackBody",
    "completion",
    "explanation",
]

MAX_INTERACTIONS = 10_000  # of one request

# Further OpenAI and vLLM fields that go to the model as they are. Anything else (`priority`, `chat_template`, ...) would let
# a client step out of line or change how everybody's prompts are built.
_PASSED = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "min_p",
    "top_k",
    "min_tokens",
    "ignore_eos",
    "reasoning_effort",
)


class Body(BaseModel):
    """A request's JSON object: unknown fields are errors, and all text must be valid Unicode."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _unicode(cls, data: Any) -> Any:
        try:
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as e:
            raise ValueError("contains a lone surrogate, which is not valid Unicode text") from e
        except (TypeError, ValueError):  # not from JSON; the fields have their own checks
            return data
        return data


class StreamOptions(Body):
    """OpenAI's options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool = False  # OpenAI's padding against traffic analysis; accepted, not done


class Extension(Body):
    """What this server understands beside OpenAI's schema."""

    interaction_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    remember: bool = True
    explain: bool = False
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None  # answers that a free text is chosen from

    @field_validator("remember", "explain", mode="before")
    @classmethod
    def _absent(cls, value: Any, info: ValidationInfo) -> Any:
        return cls.model_fields[str(info.field_name)].default if value is None else value


class StructuredOutputs(Body):
    """vLLM's constraint of the answer: a closed choice is made from memory and model together, others are the model's."""

    model_config = ConfigDict(extra="allow")

    choice: Choices | None = None


def _bounded(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    # The last question is stored with the interaction.
    last = next((m for m in reversed(messages) if m.role == "user"), None)
    if last is not None and len(last.text) > MAX_TEXT:
        raise ValueError(f"a user message has at most {MAX_TEXT} characters")
    return messages


class ChatBody(Body):
    """POST /v1/chat/completions. `user` is required: it names whose persona and memory answer."""

    model: str
    messages: Annotated[tuple[Message, ...], Field(min_length=1), AfterValidator(_bounded)]
    user: UserId
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    n: int | None = None
    logprobs: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    personaagent: Extension = Extension()
    # Passed on to the model (see _PASSED).
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: dict[str, float] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: int | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    reasoning_effort: str | None = None
    # Accepted because clients send them, without effect.
    metadata: dict[str, JsonValue] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("personaagent", mode="before")
    @classmethod
    def _absent(cls, value: Any) -> Any:
        return {} if value is None else value

    def turn(self, interaction: str) -> Turn:
        """The agent's turn that answers this request.

        Args:
            interaction: the id it is remembered by.
        """
        extra = {name: value for name in _PASSED if (value := getattr(self, name)) is not None}
        constraint = self.structured_outputs
        if constraint is not None and constraint.choice is None:
            extra["structured_outputs"] = constraint.model_dump(exclude_none=True)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        return Turn(
            user=self.user,
            messages=self.messages,
            choices=constraint.choice if constraint is not None else None,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=0.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=stop,
            extra=extra,
            interaction_id=interaction,
            remember=self.personaagent.remember,
            explain=self.personaagent.explain,
            samples=self._samples(),
        )

    def _samples(self) -> int | None:
        """Answers to choose from. Who says temperature 0 wants the one likeliest answer, whatever the server's settings."""
        return 1 if self.personaagent.samples is None and self.temperature == 0 else self.personaagent.samples


class InteractionItem(Body):
    """An interaction as clients send it: the user comes from the path; id and time are made up where they are missing."""

    user: JsonValue = None  # accepted, so that lines of a history file can be sent; the path's user wins
    id: str | None = None
    time: Any = None
    query: str
    response: str | None = None
    truth: str | None = None
    choices: tuple[str, ...] | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)


class InteractionsBody(Body):
    """POST .../interactions: one interaction, a list of them, or {"interactions": [...]}."""

    interactions: Annotated[tuple[InteractionItem, ...], Field(min_length=1, max_length=MAX_INTERACTIONS)]

    @model_validator(mode="before")
    @classmethod
    def _wrapped(cls, data: Any) -> Any:
        if isinstance(data, list):
            return {"interactions": data}
        return {"interactions": [data]} if isinstance(data, dict) and "interactions" not in data else data

    def of(self, user: str) -> list[Interaction]:
        """The interactions as the user's. One without an id gets it from its content, so that sending it again is safe.

        Raises:
            ValidationError: a field does not fit.
            FutureTimeError: a time lies in the far future.
        """
        now = utc_now()
        seen: Counter[str] = Counter()
        made = []
        for number, item in enumerate(self.interactions):
            fields = item.model_dump(exclude={"user"}, exclude_none=True)
            interaction = Interaction.model_validate({"time": now, "id": "-", **fields, "user": user})
            if fault := future_fault(interaction.time, now):
                raise FutureTimeError(f"interactions.{number}.{fault}")
            if item.id is None:
                given = interaction.time.isoformat() if item.time is not None else None
                content = interaction_id(user, given, interaction.query, interaction.truth, interaction.choices)
                nth = seen[content]
                seen[content] += 1
                new = interaction_id(content, nth) if nth else content
                interaction = interaction.model_copy(update={"id": new})
            made.append(interaction)
        return made


class FeedbackBody(Body):
    """POST .../feedback: what the user really answered or wanted."""

    truth: Annotated[str, Field(max_length=MAX_TEXT)]


class DecisionBody(Decision):
    """A decision as clients send it: true is no number, and 0 is not false."""

    model_config = ConfigDict(strict=True)


class PersonaBody(Body):
    """PUT .../persona: a version written by hand. `expected`: the version it must replace, if that matters."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    decision: DecisionBody | None = None
    pinned: Annotated[bool, Field(strict=True)] | None = None
    expected: Annotated[int, Field(strict=True)] | None = None


class RollbackBody(Body):
    """POST .../persona/rollback: the version to go back to."""

    number: Annotated[int, Field(ge=1, strict=True)]


class PinBody(Body):
    """POST .../persona/pin: whether alignment must leave the persona alone."""

    pinned: Annotated[bool, Field(strict=True)]


class ClaimBody(Body):
    """POST .../persona/claims: something said of the user on a person's word. `expected` as in `PersonaBody`."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    kind: ClaimKind = ClaimKind.FACT
    expected: Annotated[int, Field(strict=True)] | None = None


class ClaimPinBody(Body):
    """POST .../claims/{number}/pin: whether alignment must leave the claim alone. `expected` as in `PersonaBody`."""

    pinned: Annotated[bool, Field(strict=True)]
    expected: Annotated[int, Field(strict=True)] | None = None


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _extension(reply: Reply) -> dict[str, Any]:
    return {
        "interaction_id": reply.interaction_id,
        "persona": reply.persona,
        "recalled": list(reply.recalled),
        "scores": reply.scores,
        "expected": reply.expected,
        "why": None if reply.reasons is None else why(reply.reasons),
        "saw": None if reply.saw is None else reply.saw.model_dump(mode="json"),
        "copied": None if reply.copied is None else reply.copied.model_dump(mode="json"),
        "samples": None if reply.samples is None else reply.samples.model_dump(mode="json"),
        "steps": reply.steps,
    }


def explanation(found: Explanation) -> dict[str, Any]:
    """What .../explain answers."""
    return {**found.model_dump(exclude={"reasons"}), "why": why(found.reasons)}


def completion(reply: Reply, model: str) -> dict[str, Any]:
    """OpenAI's chat.completion object."""
    message = {"role": "assistant", "refusal": None, **reply.message, "content": reply.text}
    if message.get("tool_calls"):
        message["content"] = reply.text or None
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
    return {
        "id": f"chatcmpl-{reply.interaction_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": _usage(reply.usage),
        "personaagent": _extension(reply),
    }


class ChunkWriter:
    """OpenAI's chat.completion.chunk objects of one answer, as server-sent events."""

    def __init__(self, interaction: str, model: str, include_usage: bool) -> None:
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{interaction}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._include_usage = include_usage

    def start(self) -> str:
        """The first event."""
        return self._choice({"role": "assistant", "content": ""})

    def text(self, piece: str) -> str:
        """An event with a piece of the answer."""
        return self._choice({"content": piece})

    def end(self, reply: Reply) -> Iterator[str]:
        """The last events: tool calls, the finish reason with our extension, usage if asked for, and the end mark."""
        for index, call in enumerate(reply.message.get("tool_calls") or []):
            yield self._choice({"tool_calls": [{**call, "index": index}]})
        yield self._choice({}, reply.finish_reason, {"personaagent": _extension(reply)})
        if self._include_usage:
            yield sse({**self._head, "choices": [], "usage": _usage(reply.usage)})
        yield "data: [DONE]\n\n"

    def _choice(self, delta: dict[str, Any], finish: str | None = None, more: dict[str, Any] | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        return sse({**self._head, "choices": [choice], **usage, **(more or {})})


def sse(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
