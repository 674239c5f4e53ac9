"""Which of an MCP server's tools are offered, and under which names. What it says of them is data, and is made short."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from personaagent.base import Frozen
from personaagent.errors import InvalidInput
from personaagent.nearest import likely
from personaagent.tool_settings import McpServerSettings
from personaagent.tools.arguments import check_schema
from personaagent.tools.tool import Effect, ToolSpec
from personaagent.tools.untrusted import cleaned
from personaagent.types import ANSWER

__all__ = ["Listed", "described", "mended", "offered", "offered_name"]

DESCRIBED = 300  # characters of a description
NAMED = 64  # characters of a name
SCHEMA_KB = 32  # of a tool's parameters, as JSON
_DATA = ("enum", "const", "default", "examples")  # keys of schemas that hold values and no text for the model
_NAMED = ("properties", "dependentSchemas", "$defs", "definitions")  # those that hold schemas by name
_PATTERNS = ("pattern", "patternProperties")
_CLOSED = ("additionalProperties", "unevaluatedProperties")  # refuse what patterns would let in


class Listed(Frozen):
    """A tool as its server lists it."""

    name: str
    description: str
    parameters: dict[str, JsonValue]
    reads: bool | None = None  # what the server says of it


def offered(settings: McpServerSettings, tools: Sequence[Listed]) -> tuple[dict[str, ToolSpec], list[str]]:
    """The tools that models are offered, by the server's names in its order, and what an operator should know of the others.

    Args:
        settings: which are wanted, and how they are called.
        tools: what the server lists.
    """
    specs: dict[str, ToolSpec] = {}
    taken: set[str] = set()
    warnings = _unknown(settings, tools)
    for tool in tools:
        if settings.allow is not None and tool.name not in settings.allow:
            continue
        shown = cleaned(tool.name[:NAMED])
        name = offered_name(settings, tool.name)
        if name in taken or tool.name in specs:
            warnings.append(f"it has two tools that are named {name}; the second one is left out (set rename)")
        elif name == ANSWER:
            warnings.append(f"no tool can be named {ANSWER}; it is left out (set rename)")
        else:
            try:
                specs[tool.name] = _spec(settings, tool, name)
                taken.add(name)
            except InvalidInput as e:
                warnings.append(f"its tool {shown!r} is left out: {cleaned(e.message)}")
    return specs, warnings


def offered_name(settings: McpServerSettings, name: str) -> str:
    """What models call a tool of a server, by the server's name for it."""
    return settings.rename.get(name) or mended(f"{settings.name}_{name}" if settings.prefix else name)


def mended(name: str) -> str:
    """A name that models take, always the same for the same name: other characters are replaced, and a long one is cut.

    Where that loses what tells it from others, it gets a mark of its own.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if not re.match(r"[A-Za-z_]", plain):
        plain = f"_{plain}"
    if name.isascii() and len(plain) <= NAMED and name:
        return plain
    mark = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{plain[: NAMED - 9]}_{mark}"


def described(text: str) -> str:
    """What a server says of something, as one short line that cannot speak as somebody else."""
    line = " ".join(cleaned(text[: 8 * DESCRIBED]).split())
    return line if len(line) <= DESCRIBED else f"{line[: DESCRIBED - 1].rstrip()}…"


def _spec(settings: McpServerSettings, tool: Listed, name: str) -> ToolSpec:
    try:
        if len(json.dumps(tool.parameters)) > 1000 * SCHEMA_KB:
            raise InvalidInput(f"its parameters have more than {SCHEMA_KB} kB")
        check_schema(tool.parameters, tool.name[:NAMED])
        parameters = _short(tool.parameters)
    except RecursionError as e:
        raise InvalidInput("its parameters are nested too deeply") from e
    reads = tool.reads is True if settings.reads is None else tool.name in settings.reads
    return ToolSpec(
        name=name,
        description=described(tool.description),
        parameters=parameters,
        effect=Effect.READS if reads else Effect.CHANGES,
        timeout_s=settings.timeout_s,
        tokens=settings.tokens,
    )


def _short(node: Any) -> Any:
    """A schema whose texts for the model are as short as descriptions, and which takes no time to check.

    Patterns are the server's to check: one can be written that a short text keeps busy for hours.
    """
    if isinstance(node, list):
        return [_short(inner) for inner in node]
    if not isinstance(node, Mapping):
        return node
    short: dict[str, Any] = {}
    for key, inner in node.items():
        if key in _PATTERNS or (key in _CLOSED and "patternProperties" in node):
            continue
        if key in _NAMED and isinstance(inner, Mapping):
            short[key] = {name: _short(schema) for name, schema in inner.items()}
        elif key in ("description", "title") and isinstance(inner, str):
            short[key] = described(inner)
        elif key != "$comment":
            short[key] = inner if key in _DATA else _short(inner)
    return short


def _unknown(settings: McpServerSettings, tools: Sequence[Listed]) -> list[str]:
    """Settings that name what the server does not have."""
    there = [tool.name for tool in tools]
    named = {"allow": settings.allow or (), "rename": tuple(settings.rename), "reads": settings.reads or ()}
    return [
        f"it has no tool {name!r}, which {setting} names{likely(name, there)}"
        for setting, names in named.items()
        for name in names
        if name not in there
    ]
