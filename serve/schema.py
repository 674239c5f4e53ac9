"""What clients send and get: OpenAI's chat schema, and the bodies of the users' endpoints. No HTTP, no Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from personaagent.agent import Reply, Turn
from personaagent.claims import ClaimKind
from personaagent.contrast import MAX_SAMPLES
from personaagent.errors import FutureTimeError
from personaagent.explanation import Explanation, why
from personaagent.incoming import InteractionLine, Reading, first_times, said
from personaagent.settings import ServeSettings
from personaagent.types import (
    MAX_TEXT,
    Choices,
    Decision,
    Interaction,
    Message,
    Usage,
    UserId,
)

from .chat_fields import (
    asks_nothing,
    conversation,
    formatted,
    length,
    refuse,
    refuse_beside_choice,
    refuse_roles,
    stripped,
    template_arguments,
    tools_of,
)
from .identity import Identity, identify

__all__ = [
    "RESPONSE",
    "ChatBody",
    "ChunkWriter",
    "ClaimBody",
    "ClaimPinBody",
    "FeedbackBody",
    "InteractionsBody",
    "PersonaBody",
    "PinBody",
    "RollbackBody",
    "Said",
    "completion",
    "explanation",
]

RESPONSE = "chatcmpl-"  # a response's id is this and the interaction's
MAX_INTERACTIONS = 10_000  # of one request
MAX_STOPS = 64  # texts that end an answer; the engine looks for each of them after every token
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}

# Further OpenAI and vLLM fields that go to the model as they are. What is not known here does not (see `chat_fields`).
_PASSED = (
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_p",
    "top_k",
    "min_tokens",
    "ignore_eos",
)
_INT32, _INT64 = 2**31 - 1, 2**63 - 1  # what the engine can count to
_GREEDY = 1e-5  # a temperature below it is 0 to the engine, which divides by any other


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# To JSON 2.0 is an integer, too; true and "2" are none.
Whole = Annotated[int, Field(strict=True), BeforeValidator(_whole)]


# A text in which there is something to read. The pattern is for the OpenAPI document; what `said` asks is more than that.
Said = Annotated[str, Field(max_length=MAX_TEXT, json_schema_extra={"pattern": r"\S"}), AfterValidator(said)]


class Body(BaseModel):
    """A request's JSON object: unknown fields are errors, null is as good as absent, and all text must be valid Unicode."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _unicode(cls, data: Any) -> Any:
        try:
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as e:
            raise ValueError("contains a lone surrogate, which is not valid Unicode text") from e
        except (TypeError, ValueError):  # not from JSON; the fields have their own checks
            pass
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class StreamOptions(Body):
    """OpenAI's options of a streamed answer; others are ignored."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class Extension(Body):
    """What this server understands beside OpenAI's schema."""

    interaction_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    remember: bool = True
    explain: bool = False
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None  # answers that a free text is chosen from


class StructuredOutputs(Body):
    """vLLM's constraint of the answer: a closed choice is made from memory and model together, others are the model's."""

    model_config = ConfigDict(extra="allow")

    choice: Choices | None = None


def _bounded(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    # The last question is stored with the interaction.
    last = next((m for m in reversed(messages) if m.role == "user"), None)
    if last is not None and length(last) > MAX_TEXT:
        raise ValueError(f"a user message has at most {MAX_TEXT} characters")
    return messages


class ChatBody(Body):
    """POST /v1/chat/completions: OpenAI's schema with vLLM's fields and our own (`personaagent`).

    Clients send much that changes nothing here; such fields are ignored, and the answer names them in a header. Fields that
    would change the answer in a way that cannot be had here are refused. null and [] mean absence.
    """

    model_config = ConfigDict(extra="allow")

    messages: Annotated[tuple[Message, ...], Field(min_length=1), AfterValidator(_bounded)]
    model: str | None = None
    # Whose persona and memory answer; see `identity` for the other ways to say it.
    user: UserId | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-_INT64 - 1, le=_INT64)] | None = None
    stop: str | Annotated[tuple[str, ...], Field(max_length=MAX_STOPS)] | None = None
    structured_outputs: StructuredOutputs | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    personaagent: Extension = Extension()
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logit_bias: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None = (
        None
    )
    # Passed on to the model (see _PASSED).
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_INT32)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=_INT32)] | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _stripped(cls, data: Any) -> Any:
        data = stripped(data)
        refuse_roles(data)
        return data

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer that the client allows."""
        return self.max_completion_tokens or self.max_tokens

    def who(self, headers: Iterable[tuple[bytes, bytes]], settings: ServeSettings) -> Identity:
        """Who is asking, by this body and the request's raw headers. Raises UnsupportedError if nobody says it."""
        return identify(self.user, (self.metadata or {}).get("user_id"), self.safety_identifier, headers, settings)

    def turn(self, interaction: str, who: Identity | None = None, remember: bool | None = None) -> Turn:
        """The agent's turn that answers this request.

        A request of nothing but system messages is answered as if the last of them were the user's, and not remembered:
        nobody asked it, and chat templates have no place for an answer to it.

        Args:
            interaction: the id it is remembered by.
            who: is asking; by default the body's `user`.
            remember: whether to, if the body does not forbid it; None: what the body says.

        Raises:
            UnsupportedError: a field asks for what is not done here.
        """
        refuse(self.model_extra or {})
        messages, _ = conversation(self.messages)
        asked = any(m.role == "user" for m in messages)
        if not asked:
            said = [place for place, m in enumerate(messages) if m.role in ("system", "developer") and m.text.strip()]
            if said:
                as_user = messages[said[-1]].model_copy(update={"role": "user"})
                messages = (*messages[: said[-1]], as_user, *messages[said[-1] + 1 :])
        constraint = self.structured_outputs
        if constraint is not None and constraint.choice:
            refuse_beside_choice(constraint.model_extra or {}, self.response_format, self.tool_choice)
        extra = {name: value for name in _PASSED if (value := getattr(self, name)) is not None}
        extra |= tools_of(self.tools, self.tool_choice, self.parallel_tool_calls)
        rest = {
            "response_format": formatted(self.response_format),
            "logit_bias": self.logit_bias,
            "chat_template_kwargs": template_arguments(self.chat_template_kwargs),
            "structured_outputs": constraint.model_dump(exclude_none=True)
            if constraint and not constraint.choice
            else None,
        }
        extra |= {name: value for name, value in rest.items() if value}
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        temperature = self.temperature or 0.0
        return Turn(
            user=who.user if who is not None else self.user or "",
            messages=messages,
            choices=constraint.choice if constraint is not None else None,
            max_tokens=self.limit,
            temperature=temperature if temperature >= _GREEDY else 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(text for text in stop if text),
            extra=extra,
            interaction_id=interaction,
            generated=self.personaagent.interaction_id is None,
            remember=asked and self.personaagent.remember and remember is not False,
            explain=self.personaagent.explain,
            samples=self._samples(),
            identity=who.source if who is not None else "user",
        )

    def ignored(self, identity: str) -> tuple[str, ...]:
        """Names of fields that change nothing, given where the user's name came from."""
        unused = [
            name for name in ("metadata", "safety_identifier") if getattr(self, name) and not identity.startswith(name)
        ]
        if self.parallel_tool_calls is not None and not self.tools:
            unused.append("parallel_tool_calls")
        if self.tools and self.structured_outputs is not None and self.structured_outputs.choice:
            unused.append("tools")
        options = self.stream_options.model_extra or {} if self.stream_options is not None else {}
        nested = [f"stream_options.{name}" for name in options]
        unknown = [name for name in self.model_extra or {} if not asks_nothing(name)]
        return (*unknown, *unused, *nested, *conversation(self.messages)[1])

    def _samples(self) -> int | None:
        """Answers to choose from. Who says temperature 0 wants the one likeliest answer, whatever the server's settings."""
        return (
            1
            if self.personaagent.samples is None and self.temperature is not None and self.temperature < _GREEDY
            else self.personaagent.samples
        )


class InteractionItem(InteractionLine):
    """An interaction as clients send it: a line of a history file, except that the user comes from the path."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_path(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if name != "user"} if isinstance(data, dict) else data


class InteractionsBody(BaseModel):
    """POST .../interactions: one interaction, a list of them, or {"interactions": [...]}."""

    model_config = ConfigDict(extra="forbid")

    interactions: Annotated[tuple[InteractionItem, ...], Field(min_length=1, max_length=MAX_INTERACTIONS)]

    @model_validator(mode="before")
    @classmethod
    def _wrapped(cls, data: Any) -> Any:
        if isinstance(data, list):
            return {"interactions": data}
        if not isinstance(data, dict) or "interactions" not in data:
            return {"interactions": [data]}
        if unknown := sorted(data.keys() - {"interactions"}):
            raise ValueError(f"unknown field {unknown[0][:40]!r} beside `interactions`")
        return data

    def of(self, user: str) -> list[Interaction]:
        """The interactions as the user's, read as an import reads lines; see `personaagent.incoming`.

        Raises:
            FutureTimeError: a time lies in the far future.
        """
        reading = Reading(first=lambda: first_times((n, user, i.time) for n, i in enumerate(self.interactions)))
        made = []
        for number, line in enumerate(self.interactions):
            try:
                made.append(reading.interaction(line, number, user))
            except FutureTimeError as e:
                raise FutureTimeError(f"interactions.{number}.{e.message}") from e
        return made


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # which Python takes for 1
        raise ValueError("Input should be 1 or -1")
    return value


class FeedbackBody(Body):
    """POST .../feedback: what the user really answered or wanted, or their thumb on the answer.

    A `rating` of 1 confirms the answer as the truth; one of -1 refuses it, with what was wanted instead or without.
    """

    truth: Said | None = None
    rating: Annotated[Literal[1, -1], BeforeValidator(_number)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackBody:
        if self.truth is None and self.rating is None:
            raise ValueError("say the truth, or a rating of 1 or -1")
        if self.truth is not None and self.rating == 1:
            raise ValueError("a rating of 1 says that the answer is the truth; send that or another truth, not both")
        return self


class DecisionBody(Decision):
    """A decision as clients send it: true is no number, and 0 is not false."""

    model_config = ConfigDict(strict=True)

    _episodes = field_validator("episodes", mode="before")(_whole)


class PersonaBody(Body):
    """PUT .../persona: a version written by hand. `expected`: the version it must replace, if that matters; 0 is none."""

    text: Said
    decision: DecisionBody | None = None
    pinned: Annotated[bool, Field(strict=True)] | None = None
    expected: Whole | None = None


class RollbackBody(Body):
    """POST .../persona/rollback: the version to go back to."""

    number: Annotated[int, Field(strict=True, ge=1), BeforeValidator(_whole)]


class PinBody(Body):
    """POST .../persona/pin: whether alignment must leave the persona alone."""

    pinned: Annotated[bool, Field(strict=True)]


class ClaimBody(Body):
    """POST .../persona/claims: something said of the user on a person's word. `expected` as in `PersonaBody`."""

    text: Said
    kind: ClaimKind = ClaimKind.FACT
    expected: Whole | None = None


class ClaimPinBody(Body):
    """POST .../claims/{number}/pin: whether alignment must leave the claim alone. `expected` as in `PersonaBody`."""

    pinned: Annotated[bool, Field(strict=True)]
    expected: Whole | None = None


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
        "id": f"{RESPONSE}{reply.interaction_id}",
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
            "id": f"{RESPONSE}{interaction}",
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
    """One server-sent event.

    Clients in several languages end a line at these characters, too; JSON may hold them as escapes wherever it may hold them.
    """
    return f"data: {json.dumps(data, ensure_ascii=False).translate(_LINE_ENDS)}\n\n"
