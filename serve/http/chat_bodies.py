"""The body of a chat request: OpenAI's schema with vLLM's fields and our own, and the agent's turn that it asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from personaagent.agent.agent import Turn
from personaagent.agent.contrast import MAX_SAMPLES
from personaagent.settings import ServeSettings
from personaagent.types import MAX_TEXT, Choices, Message, UserId
from serve.http.bodies import Body
from serve.http.caller import Identity, identify
from serve.http.chat_fields import (
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

__all__ = ["ChatBody"]

MAX_STOPS = 64  # texts that end an answer; the engine looks for each of them after every token

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


class StreamOptions(Body):
    """OpenAI's options of a streamed answer; others are ignored."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class Extension(Body):
    """What this server understands beside OpenAI's schema."""

    interaction_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    remember: bool = True
    explain: bool = False
    trace: bool = False  # which tools were called, and what came of it
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
        extra = self._extra()
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        temperature = self.temperature or 0.0
        return Turn(
            user=who.user if who is not None else self.user or "",
            messages=messages if asked else _as_asked(messages),
            choices=self._choices(),
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
            trace=self.personaagent.trace,
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
        if self.tools and self._choices():
            unused.append("tools")
        options = self.stream_options.model_extra or {} if self.stream_options is not None else {}
        nested = [f"stream_options.{name}" for name in options]
        unknown = [name for name in self.model_extra or {} if not asks_nothing(name)]
        return (*unknown, *unused, *nested, *conversation(self.messages)[1])

    def _choices(self) -> tuple[str, ...] | None:
        return None if self.structured_outputs is None else self.structured_outputs.choice

    def _extra(self) -> dict[str, Any]:
        """What goes to the model as it is. Raises UnsupportedError as `turn` does."""
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
        return extra | {name: value for name, value in rest.items() if value}

    def _samples(self) -> int | None:
        """Answers to choose from. Who says temperature 0 wants the one likeliest answer, whatever the server's settings."""
        return (
            1
            if self.personaagent.samples is None and self.temperature is not None and self.temperature < _GREEDY
            else self.personaagent.samples
        )


def _as_asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A conversation in which no user speaks, with the last system message that says something as the user's."""
    said = [place for place, m in enumerate(messages) if m.role in ("system", "developer") and m.text.strip()]
    if not said:
        return messages
    as_user = messages[said[-1]].model_copy(update={"role": "user"})
    return (*messages[: said[-1]], as_user, *messages[said[-1] + 1 :])
