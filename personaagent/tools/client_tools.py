"""Tools that the application calls itself: the request lists them, the answer asks for calls, the next request brings results.

They stand beside those of the deployment and are chosen in the same way, with arguments that fit their schema, so that the
application sees valid calls from any model, and lessons on them count. Of two tools of one name the application's is meant.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from personaagent.errors import InvalidInput
from personaagent.persona.persona import clip
from personaagent.strict_json import JsonFault, loads
from personaagent.tool_settings import NAME
from personaagent.tools.arguments import check_schema, enumerated
from personaagent.tools.tool import ToolSpec
from personaagent.tools.toolbox import Observation
from personaagent.types import ANSWER, Interaction, Message, ToolCall, last_of_user

__all__ = ["FIELDS", "OFFERED", "ClientTools", "asking_for", "made_before", "offered", "offered_specs"]

FIELDS = ("tools", "tool_choice", "parallel_tool_calls")  # of a request
OFFERED = "offered"  # metadata of an interaction: these tools, as far as lessons on them need to know
KEPT = 8_000  # characters of that; of more, names alone are kept
MOST = 128  # tools of a request, as OpenAI has it: every one of them is an option that is weighed
SCHEMAS_KB = 400  # of all their parameters together, as JSON


@dataclass(frozen=True, slots=True)
class ClientTools:
    """The tools of one request.

    Args:
        specs: in the application's order.
        must: one of them that has to be called.
        required: whether any of them has to be called.
        parallel: whether one answer may ask for several calls.
    """

    specs: tuple[ToolSpec, ...]
    must: str | None = None
    required: bool = False
    parallel: bool = True

    @classmethod
    def of(cls, extra: Mapping[str, Any]) -> ClientTools | None:
        """Those in the OpenAI fields of a request; None if it has none or says that none shall be called.

        Raises:
            InvalidInput: too many tools, a name that no tool can have or that two have, or a schema by which arguments cannot be
                checked.
        """
        choice = extra.get("tool_choice")
        if not extra.get("tools") or choice == "none":
            return None
        given = [tool["function"] for tool in extra["tools"]]
        if len(given) > MOST:
            raise InvalidInput(
                f"tools: at most {MOST} can be chosen among, not {len(given):,}; send those that matter here"
            )
        if sum(len(json.dumps(f.get("parameters"))) for f in given) > 1_000 * SCHEMAS_KB:
            raise InvalidInput(f"tools: their parameters have more than {SCHEMAS_KB} kB together; shorten them")
        specs = tuple(_spec(place, function) for place, function in enumerate(given))
        names: set[str] = set()
        for name in (s.name for s in specs):
            if name in names:
                raise InvalidInput(f"tools: two of them are named {name!r}; rename one")
            names.add(name)
        return cls(
            specs=specs,
            must=choice["function"]["name"] if isinstance(choice, Mapping) else None,
            required=choice == "required",
            parallel=extra.get("parallel_tool_calls") is not False,
        )

    def spec(self, name: str) -> ToolSpec | None:
        """The tool of this name."""
        return next((s for s in self.specs if s.name == name), None)


def _spec(place: int, function: Mapping[str, Any]) -> ToolSpec:
    where = f"tools.{place}.function"
    if function["name"] == ANSWER:
        raise InvalidInput(f"{where}.name: {ANSWER!r} stands for answering without a tool; name the tool otherwise")
    if not re.fullmatch(NAME, function["name"]):
        raise InvalidInput(f"{where}.name: a tool's name has up to 64 letters, digits, _ and -")
    parameters = dict(function.get("parameters") or {"properties": {}})
    try:
        check_schema(parameters, function["name"])
    except InvalidInput as e:
        raise InvalidInput(f"{where}.parameters: {e.message}") from e
    return ToolSpec(
        name=function["name"],
        description=function.get("description") or "",
        parameters={**parameters, "type": "object"},  # "or null" means nothing here: a call has arguments
    )


def asking_for(observations: Sequence[Observation]) -> dict[str, Any]:
    """The assistant's message that asks the application for these calls, in OpenAI's form."""
    calls = [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": o.call.name, "arguments": json.dumps(o.call.arguments, ensure_ascii=False)},
        }
        for o in observations
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def made_before(messages: Sequence[Message], shown: int) -> list[Observation]:
    """The calls behind the last message of the user, with what the application says came of them.

    Args:
        messages: the conversation.
        shown: tokens of a result that are kept.
    """
    results: dict[str, str] = {}
    asked: list[tuple[str, ToolCall]] = []
    for message in messages[last_of_user(messages) + 1 :]:
        more = message.model_extra or {}
        if message.role == "tool":
            results[str(more.get("tool_call_id"))] = message.text
        for call in more.get("tool_calls") or () if message.role == "assistant" else ():
            function = call.get("function", {})
            try:
                arguments = loads(str(function.get("arguments") or "{}"))
                asked.append((str(call.get("id")), ToolCall(name=function["name"], arguments=arguments)))
            except (JsonFault, KeyError, ValidationError):
                continue  # the application may have written the history itself; the model reads it as it stands
    return [
        Observation(call=call, text=clip(results[name], shown), recorded=True, client=True)
        for name, call in asked
        if name in results
    ]


def offered(tools: ClientTools) -> dict[str, Any]:
    """What to keep with an interaction, so that what was right can be said of it later: names, arguments and their lists."""
    kept: dict[str, Any] = {}
    for spec in tools.specs:
        lists = enumerated(spec.parameters)
        properties: Any = spec.parameters.get("properties") or {}
        kept[spec.name] = {name: list(lists.get(name, ())) for name in properties}
    return kept if len(json.dumps(kept)) <= KEPT else dict.fromkeys(kept)


def offered_specs(interaction: Interaction) -> tuple[ToolSpec, ...]:
    """The application's tools that there were at an interaction, as far as `offered` kept them. Of names alone, what
    arguments there were is not known, and none can be told as right."""
    kept: Any = interaction.metadata.get(OFFERED)
    specs = []
    for name, arguments in kept.items() if isinstance(kept, dict) else ():
        lists: Any = arguments if isinstance(arguments, dict) else {}
        properties = {n: {"enum": v} if isinstance(v, list) and v else {} for n, v in lists.items()}
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        try:
            specs.append(ToolSpec(name=name, description="", parameters=schema))
        except ValidationError:
            continue  # metadata may be anybody's
    return tuple(specs)
