"""What chat clients send: what counts as absent, what is refused with a reason, and messages as the engine can read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from personaagent.errors import UnsupportedError
from personaagent.strict_json import JsonFault, loads
from personaagent.types import Message

__all__ = [
    "asks_nothing",
    "conversation",
    "formatted",
    "header_names",
    "is_blank",
    "length",
    "refuse",
    "refuse_beside_choice",
    "refuse_roles",
    "stripped",
    "template_arguments",
    "tools_of",
]


Shape: TypeAlias = "Mapping[str, Shape]"

# Where null and [] mean absence. Below a function's parameters and a JSON schema they are the client's own.
CHAT: Shape = {
    "messages": {"content": {}, "tool_calls": {"function": {}}},
    "tools": {"function": {}},
    "tool_choice": {"function": {}},
    "response_format": {"json_schema": {}},
    "stream_options": {},
    "structured_outputs": {},
    "personaagent": {},
    "metadata": {},
}
_NAMES = ("model", "user", "safety_identifier")  # nobody and nothing is called by a blank

_PROMPT = "it would change how the prompt is built, which persona and memory are part of"
_ENGINE = "it would reach past the agent into the engine"
_CONSTRAINT = 'send structured_outputs, as in {{"structured_outputs": {{"{}": ...}}}}'
_REFUSED = {
    "functions": "it is the retired form of tools; send tools",
    "function_call": "it is the retired form of tool_choice; send tool_choice",
    "guided_choice": _CONSTRAINT.format("choice"),
    "guided_json": _CONSTRAINT.format("json"),
    "guided_regex": _CONSTRAINT.format("regex"),
    "guided_grammar": _CONSTRAINT.format("grammar"),
    "chat_template": _PROMPT,
    "add_generation_prompt": _PROMPT,
    "continue_final_message": _PROMPT,
    "add_special_tokens": _PROMPT,
    "truncate_prompt_tokens": _PROMPT,
    "documents": _PROMPT,
    "prompt": "send messages",
    "input": "send messages",
    "previous_response_id": "the server keeps no conversations; send all messages",
    "conversation": "the server keeps no conversations; send all messages",
    "priority": "it would let one client step in front of the others",
    "allowed_token_ids": _ENGINE,
    "stop_token_ids": _ENGINE,
    "bad_words": _ENGINE,
    "logits_processors": _ENGINE,
    "vllm_xargs": _ENGINE,
    "kv_transfer_params": _ENGINE,
    "mm_processor_kwargs": _ENGINE,
    "use_beam_search": "answers are sampled",
    "best_of": 'send personaagent: {"samples": ...}, which chooses among several answers',
    "prompt_logprobs": "log-probabilities are not available, because an answer may take several model calls",
    "logprobs": "not available, because an answer may take several model calls",
    "top_logprobs": "not available, because an answer may take several model calls",
    "echo": "the answer alone is sent",
    "audio": "answers are text",
}
# What says that nothing is asked for; of other fields than these, false does.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "best_of": (False, 1),
    "function_call": (False, "none"),
}

_KEPT = frozenset({"name", "tool_call_id"})  # of a message, beside its content
_KEPT_OF_ANSWERS = frozenset({"tool_calls", "reasoning", "reasoning_content"}) | _KEPT
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_CONSTRAINTS = ("json", "regex", "grammar", "json_object", "structural_tag")  # that vLLM knows beside a choice
# Names by which chat templates are given the prompt itself, and what else their renderer takes.
_RESERVED = frozenset(
    {"messages", "conversation", "tools", "documents", "chat_template", "tokenize", "add_generation_prompt"}
    | {"continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
    | {"return_assistant_tokens_mask", "tokenizer_kwargs", "processor_kwargs", "load_audio_from_video"}
)


def stripped(data: Any) -> Any:
    """A chat request without what says nothing: null and [], at every level that is ours to read, and names without letters."""
    if not isinstance(data, dict):
        return data
    kept = _stripped(data, CHAT)
    return {name: value for name, value in kept.items() if name not in _NAMES or not is_blank(value)}


def is_blank(value: Any) -> bool:
    """Whether a value is a name of nobody and nothing: absent, or a text of spaces at most."""
    return value is None or (isinstance(value, str) and not value.strip())


def _stripped(value: Any, shape: Shape) -> Any:
    if isinstance(value, list):
        return [_stripped(part, shape) for part in value]
    if not isinstance(value, dict):
        return value
    inner = ((name, _stripped(part, shape[name]) if name in shape else part) for name, part in value.items())
    return {name: part for name, part in inner if part is not None and part != []}


def refuse(fields: Mapping[str, Any]) -> None:
    """Raise UnsupportedError if one of these fields of a request would change what is answered, and cannot here."""
    for name, reason in _REFUSED.items():
        value = fields.get(name)
        if value is not None and value not in _HARMLESS.get(name, (False,)):  # 0 is False here, too
            raise UnsupportedError(f"{name}: {reason}", name, "unsupported_parameter")
    n = fields.get("n")
    if n is not None and n != 1:
        raise UnsupportedError("n: only one answer per request is supported", "n")
    modalities = fields.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise UnsupportedError("modalities: answers are text", "modalities")


def asks_nothing(name: str) -> bool:
    """Whether an unknown field that `refuse` has let pass says what is done anyway, so that nobody need hear of it."""
    return name in _REFUSED or name in ("n", "modalities")


def refuse_roles(data: Any) -> None:
    """Raise UnsupportedError if a message of this request plays the retired role of a function's result."""
    messages = data.get("messages") if isinstance(data, dict) else None
    for place, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict) and message.get("role") == "function":
            where = f"messages.{place}.role"
            raise UnsupportedError(
                f"{where}: function is the retired form of tool; send that, with tool_call_id", where
            )


def conversation(messages: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Messages as the engine reads them, with plain text as content, and the names of fields that were left out.

    Raises:
        UnsupportedError: a message holds something that is no text, or tool calls that nobody could have made.
    """
    kept, ignored = [], []
    for place, message in enumerate(messages):
        where = f"messages.{place}"
        fields = message.model_extra or {}
        if "function_call" in fields:
            reason = "it is the retired form of tool calls; send tool_calls"
            raise UnsupportedError(
                f"{where}.function_call: {reason}", f"{where}.function_call", "unsupported_parameter"
            )
        kept_names = _KEPT_OF_ANSWERS if message.role == "assistant" else _KEPT
        ignored += [f"messages.{name}" for name in fields if name not in kept_names]
        more = {name: value for name, value in fields.items() if name in kept_names}
        for name, value in more.items():
            if name != "tool_calls" and not isinstance(value, str):
                raise UnsupportedError(f"{where}.{name}: must be a string", f"{where}.{name}", "invalid_value")
        if "tool_calls" in more:
            more["tool_calls"] = _calls(more["tool_calls"], f"{where}.tool_calls")
        content = _plain(message, where)
        if content is None and "tool_calls" not in more:
            content = ""
        kept.append(Message(role=message.role, content=content, **more))
    return tuple(kept), tuple(dict.fromkeys(ignored))


def length(message: Message) -> int:
    """Characters of a message's text, once its parts are one text."""
    if not isinstance(message.content, list):
        return len(message.content or "")
    texts = (part.get(_TEXT_PARTS.get(str(part.get("type", "text")), ""), "") for part in message.content)
    return sum(len(text) + 1 for text in texts if isinstance(text, str)) - 1


def _plain(message: Message, where: str) -> str | None:
    if not isinstance(message.content, list):
        return message.content
    texts = []
    for place, part in enumerate(message.content):
        kind = part.get("type", "text")
        name = f"{where}.content.{place}"
        if not isinstance(kind, str) or kind not in _TEXT_PARTS:
            shown = kind[:40] if isinstance(kind, str) else "unknown"
            raise UnsupportedError(f"{name}: parts of type {shown!r} cannot be read; the model takes text only", name)
        text = part.get(_TEXT_PARTS[kind], "")
        if not isinstance(text, str):
            raise UnsupportedError(f"{name}: its text must be a string", name, "invalid_value")
        texts.append(text)
    return "\n".join(texts)


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Tool calls of an earlier answer. Chat templates need arguments that are an object, so others are refused here."""
    found = []
    for place, call in enumerate(calls if isinstance(calls, list) else [calls]):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            name = f"{where}.{place}"
            raise UnsupportedError(
                f"{name}: a tool call is an object with a function that has a name", name, "invalid_value"
            )
        if call.get("type", "function") != "function" or not isinstance(call.get("id", ""), str):
            name = f"{where}.{place}"
            raise UnsupportedError(f"{name}: must be of type function, with a text as id", name, "invalid_value")
        arguments = function.get("arguments", "")
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        name = f"{where}.{place}.function.arguments"
        if not isinstance(arguments, str) or (arguments.strip() and not _is_object(arguments)):
            raise UnsupportedError(f"{name}: must be the text of a JSON object", name, "invalid_value")
        found.append({"type": "function", **call, "function": {**function, "arguments": arguments.strip() or "{}"}})
    return found


def _is_object(text: str) -> bool:
    try:
        return isinstance(loads(text), dict)
    except JsonFault:
        return False


def tools_of(tools: Sequence[Mapping[str, Any]] | None, choice: Any, parallel: bool | None) -> dict[str, Any]:
    """The application's tools and how the model may choose among them, for the engine.

    Raises:
        UnsupportedError: a tool is not a function with a name, or the choice names none of them.
    """
    names = []
    for place, tool in enumerate(tools or ()):
        where = f"tools.{place}"
        function = tool.get("function")
        if tool.get("type", "function") != "function" or not isinstance(function, Mapping):
            raise UnsupportedError(f"{where}: only tools of type function are supported", where)
        name, parameters = function.get("name"), function.get("parameters", {})
        if not isinstance(name, str) or not name:
            raise UnsupportedError(
                f"{where}.function.name: a tool needs a name", f"{where}.function.name", "invalid_value"
            )
        if not isinstance(parameters, Mapping):
            param = f"{where}.function.parameters"
            raise UnsupportedError(f"{param}: must be a JSON schema, an object", param, "invalid_value")
        if not isinstance(function.get("description", ""), str):
            param = f"{where}.function.description"
            raise UnsupportedError(f"{param}: must be a string", param, "invalid_value")
        names.append(name)
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        allowed, choice = _allowed(choice.get("allowed_tools"), names)
        tools = [tool for tool, name in zip(tools or (), names, strict=True) if name in allowed]
    elif isinstance(choice, Mapping):
        function = choice.get("function")
        wanted = function.get("name") if isinstance(function, Mapping) else None
        if choice.get("type", "function") != "function" or not isinstance(wanted, str):
            raise UnsupportedError(
                'tool_choice: must be none, auto, required, {"type": "function", ...} or {"type": "allowed_tools", ...}',
                "tool_choice",
            )
        if wanted not in names:
            message = f"tool_choice: {wanted[:80]!r} is not one of the tools of this request"
            raise UnsupportedError(message, "tool_choice", "invalid_value")
        choice = {"type": "function", "function": {"name": wanted}}
    elif choice not in (None, "none", "auto", "required"):
        raise UnsupportedError(
            "tool_choice: must be none, auto, required, or name a function", "tool_choice", "invalid_value"
        )
    elif choice in ("auto", "required") and not names:
        raise UnsupportedError("tool_choice: is only allowed where tools are sent", "tool_choice", "invalid_value")
    if not names:
        return {}
    given = {"tools": [{"type": "function", **tool} for tool in tools or ()], "tool_choice": choice}
    return {k: v for k, v in {**given, "parallel_tool_calls": parallel}.items() if v is not None}


def _allowed(given: Any, names: Sequence[str]) -> tuple[set[str], str]:
    """Which tools of a request may be called this time, and whether one has to be."""
    fields: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    mode, listed = fields.get("mode"), fields.get("tools")
    functions = (
        [t.get("function") if isinstance(t, Mapping) else None for t in listed] if isinstance(listed, list) else []
    )
    wanted = {str(f.get("name")) if isinstance(f, Mapping) else "" for f in functions}
    if mode not in ("auto", "required") or not wanted:
        message = 'tool_choice: allowed_tools needs mode, auto or required, and tools as [{"type": "function", "function": ...}]'
        raise UnsupportedError(message, "tool_choice", "invalid_value")
    if unknown := sorted(wanted - set(names)):
        message = f"tool_choice: {unknown[0][:80]!r} is not one of the tools of this request"
        raise UnsupportedError(message, "tool_choice", "invalid_value")
    return wanted, mode


def formatted(response_format: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The form of the answer, for the engine; None for plain text. Raises UnsupportedError for a form without what it needs."""
    if not response_format:
        return None
    kind, name = response_format.get("type"), "response_format"
    if kind == "text":
        return None
    if kind not in ("json_object", "json_schema", "structural_tag"):
        raise UnsupportedError(
            f"{name}.type: must be text, json_object or json_schema", f"{name}.type", "invalid_value"
        )
    if kind != "json_schema":
        return dict(response_format)
    given = response_format.get("json_schema")
    if not isinstance(given, Mapping) or not isinstance(given.get("schema"), Mapping):
        param = f"{name}.json_schema.schema"
        raise UnsupportedError(f"{param}: a json_schema format needs a schema, an object", param, "invalid_value")
    if not isinstance(given.get("name", ""), str):
        param = f"{name}.json_schema.name"
        raise UnsupportedError(f"{param}: must be a string", param, "invalid_value")
    return {**response_format, "json_schema": {"name": "answer", **given}}


def refuse_beside_choice(
    constraint: Mapping[str, Any], response_format: Mapping[str, Any] | None, tool_choice: Any
) -> None:
    """Raise UnsupportedError if a request for a closed choice also asks for an answer of another form."""
    for name in _CONSTRAINTS:
        if constraint.get(name) is not None:
            param = f"structured_outputs.{name}"
            raise UnsupportedError(f"{param}: beside choice there can be no other constraint", param)
    if formatted(response_format) is not None:
        name = "response_format"
        raise UnsupportedError(f"{name}: the answer to structured_outputs.choice is one of the choices, as it is", name)
    if tool_choice not in (None, "none", "auto"):
        name = "tool_choice"
        raise UnsupportedError(f"{name}: a request with structured_outputs.choice is answered without tools", name)


def template_arguments(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the client tells the model's chat template, such as `enable_thinking`. Raises UnsupportedError for reserved names."""
    for name, value in (given or {}).items():
        if name in _RESERVED or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
            message = f"chat_template_kwargs: {name[:64]!r} is not for clients to set; {_PROMPT}"
            raise UnsupportedError(message, "chat_template_kwargs")
        if not isinstance(value, bool | int | float | str):
            message = f"chat_template_kwargs.{name}: must be a boolean, a number or a string"
            raise UnsupportedError(message, f"chat_template_kwargs.{name}", "invalid_value")
    return dict(given) if given else None


def header_names(names: Iterable[str]) -> str:
    """Names for a response header. Clients choose them, so only what a header may hold is told, and not without end."""
    plain = [name if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) else "?" for name in names]
    return ", ".join(list(dict.fromkeys(plain))[:32])
