"""The arguments of a call that are not chosen from a list: a model writes them, in its own form or under the tool's JSON Schema.

What a model may write at all has an end. A weak one that may write a text of any length writes until its tokens are spent, and
what it has written then is no JSON.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from personaagent import prompts
from personaagent.agent.view import PromptView
from personaagent.errors import ContextLengthExceeded, InvalidInput, LLMError
from personaagent.features import unspaced
from personaagent.protocols import LLM
from personaagent.strict_json import JsonFault, loads
from personaagent.tools.arguments import check_arguments
from personaagent.tools.asking import described
from personaagent.tools.lessons import ARGUMENTS
from personaagent.tools.schema_nodes import parts
from personaagent.tools.spans import copied
from personaagent.tools.tool import ToolSpec
from personaagent.tools.writable import writable
from personaagent.types import ChatRequest, Interaction, Message, Usage, last_of_user

__all__ = ["SHOTS", "ArgumentWriter", "WrittenCalls", "free_schema", "unfit"]

log = logging.getLogger(__name__)

LONGEST = 200  # characters of a text that is written under constraints
SHOTS = 3  # calls that were right earlier, shown before one is written
SHOT = 400  # characters of such a request
WORDS = 120  # of the user, from which arguments are copied
ARGUMENT_TOKENS = 224  # of the answer, for each argument that it writes so
NATIVE_TOKENS = 2_048  # of calls that a model writes in its own form, at most; it knows where to end
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "$comment", "$id", "$schema"})
# Keywords by which a schema says more than what its properties are.
_COMPOSING = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "$ref", "$dynamicRef"}) | {
    "dependentRequired",
    "dependentSchemas",
    "minProperties",
    "maxProperties",
    "patternProperties",
    "propertyNames",
    "unevaluatedProperties",
}
_DEFINED = ("#/$defs/", "#/definitions/")


@dataclass(frozen=True, slots=True)
class WrittenCalls:
    """The arguments of one call, or of several; `fault`: what is wrong with them."""

    calls: tuple[dict[str, Any], ...] = ()
    fault: str = ""
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class ArgumentWriter:
    """Has the arguments of one turn's calls written.

    Args:
        llm: the model.
        view: what of the user stands in the prompt.
        query: the request.
        messages: the conversation.
        native: whether arguments are asked for as a tool call in the form of the model's own template.
        copying: whether arguments are held to the user's own words.
        priority: of the model's calls.
    """

    llm: LLM
    view: PromptView
    query: str
    messages: tuple[Message, ...]
    native: bool
    copying: bool
    priority: int

    async def write(
        self, spec: ToolSpec, schema: Mapping[str, Any], trail: Sequence[Message], lessons: Sequence[Interaction]
    ) -> WrittenCalls:
        """What the model writes.

        Args:
            spec: the tool.
            schema: of what is written of its arguments, see `free_schema`.
            trail: what tools found.
            lessons: on the tools that were right at earlier requests, nearest first.

        Raises:
            ContextLengthExceeded: the conversation does not fit.
        """
        properties = schema.get("properties") or {}
        names = ", ".join(described(spec, name) for name in properties) or "as its schema says"
        ask = prompts.WRITE_ARGUMENTS.format(tool=spec.name, arguments=names)
        if self.copying:
            schema = copied(schema, self._said)
        extra: dict[str, Any] = {"structured_outputs": {"json": dict(schema)}}
        if self.native:
            function = {"name": spec.name, "description": spec.description, "parameters": dict(schema)}
            extra = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
        limit = NATIVE_TOKENS if self.native else 32 + ARGUMENT_TOKENS * max(1, len(properties))
        request = ChatRequest(
            messages=self._prompt(spec, ask, trail, lessons),
            max_tokens=min(limit, self.llm.context_length // 2),
            priority=self.priority,
            extra=extra,
        )
        try:
            result = await self.llm.chat(request)
        except ContextLengthExceeded:
            raise
        except LLMError as e:  # this model does not write such arguments; the answer need not fail for it
            log.warning("the arguments of tool %s could not be written: %s", spec.name, e.message)
            return WrittenCalls(fault="the model refused to write the arguments")
        calls = result.message.get("tool_calls") or []
        texts = [str(c.get("function", {}).get("arguments", "")) for c in calls] or [result.text]
        try:
            found = [loads(text) for text in texts]
        except JsonFault as e:
            return WrittenCalls((), f"the arguments are no JSON object: {e}", result.usage)
        if not all(isinstance(arguments, dict) for arguments in found):
            return WrittenCalls((), "the arguments are no JSON object", result.usage)
        return WrittenCalls(tuple(found), "", result.usage)

    def _prompt(
        self, spec: ToolSpec, ask: str, trail: Sequence[Message], lessons: Sequence[Interaction]
    ) -> tuple[Message, ...]:
        """The prompt of a call: with what was right at earlier requests as exchanges, where that is known."""
        prompt = list(self.view.prompt(self.messages))
        known = [(i, i.metadata.get(ARGUMENTS)) for i in lessons if i.truth == spec.name]
        shots = [(i.query, found) for i, found in known if isinstance(found, dict) and found][:SHOTS]
        if self.native or not shots:
            return (*prompt, *trail, Message(role="user", content=ask))
        prompt[0] = Message(role="system", content=f"{prompt[0].text}\n\n{ask}")
        last = last_of_user(prompt)
        past = [
            message
            for query, found in reversed(shots)
            for message in (
                Message(role="user", content=query[:SHOT]),
                Message(role="assistant", content=json.dumps(found, ensure_ascii=False)),
            )
        ]
        again = [Message(role="user", content=ask)] if trail else []
        return (*prompt[:last], *past, *prompt[last:], *trail, *again)

    @property
    def _said(self) -> str:
        """What the user said last, with as much of what they said before as is copied from."""
        said = self.query
        for message in reversed(self.messages):
            if message.role == "user" and (text := message.text.strip()) and text != self.query:
                if _words(said) + _words(text) > WORDS:
                    break
                said += f"\n{text}"
        return said


def unfit(spec: ToolSpec, written: Sequence[Mapping[str, Any]]) -> str:
    """Why the application could not make these calls; empty if it can."""
    for arguments in written:
        try:
            check_arguments(spec.parameters, arguments)
        except InvalidInput as e:
            return e.message
    return ""


def free_schema(spec: ToolSpec, given: Mapping[str, Any], out: Collection[str], native: bool) -> dict[str, Any] | None:
    """The schema of the arguments that are written; None if there are none.

    Args:
        spec: the tool.
        given: arguments that are known already.
        out: arguments that are left out unless they are given.
        native: whether a model writes that knows where to end; for another one, all has an end, see `writable`.
    """
    schema: Mapping[str, Any] = spec.parameters
    properties: Mapping[str, Any] = schema.get("properties") or {}
    required: Sequence[str] = schema.get("required") or ()
    free = {name: node for name, node in properties.items() if name not in given and name not in out}
    free |= {name: {} for name in required if name not in properties and name not in given}
    rest = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    left: dict[str, Any] = {
        "type": "object",
        "properties": free,
        "required": [name for name in required if name in free],
        "additionalProperties": False,
        **rest,
    }
    if _composed(
        schema, left
    ):  # more than its properties says what fits: all of it is written, with what is given as it is
        left = {key: node for key, node in schema.items() if key not in _ANNOTATIONS}
        left["properties"] = {**properties, **{name: {"const": value} for name, value in given.items()}}
        left["required"] = list(dict.fromkeys((*required, *given)))
    elif not free:
        return None
    return left if native else dict(writable(left, LONGEST))


def _words(text: str) -> int:
    """About how many words a text has; every character of a script without spaces begins many runs, and counts twice."""
    return len(text.split()) + 2 * unspaced(text)


def _composed(schema: Mapping[str, Any], left: Mapping[str, Any]) -> bool:
    if schema.keys() & _COMPOSING:
        return True
    if not schema.get("properties") and isinstance(others := schema.get("additionalProperties"), dict) and others:
        return True
    references = [r for part in parts(left) if isinstance(r := part.get("$ref"), str)]
    return any(not reference.startswith(_DEFINED) for reference in references)
