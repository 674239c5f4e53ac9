"""The OpenAPI document: what FastAPI finds out by itself, and what it cannot know.

That is: errors have OpenAI's shape, a key may be asked for, some bodies are read by us, and some answers are not JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from personaagent.types import MAX_TEXT
from serve.http.interaction_bodies import MAX_INTERACTIONS, InteractionsBody
from serve.http.middleware import OPEN_PATHS
from serve.http.sites import SAFE_METHODS

__all__ = ["describe"]

Node = dict[str, Any]

_ERROR: Node = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What is wrong, and what to do; one line."},
                "type": {"type": "string", "enum": ["invalid_request_error", "requests", "server_error"]},
                "param": {"type": ["string", "null"], "description": "The field at fault."},
                "code": {"type": ["string", "null"], "description": "For programs; see docs/api.md."},
            },
        }
    },
}
_ERRORS = {
    400: "The body is not JSON as RFC 8259 has it, or a value that the model cannot take.",
    401: "The API key is missing or wrong.",
    403: "Another host name or a page of another site, or a change that no header says is meant.",
    404: "The user, interaction, version, claim or model is unknown.",
    405: "This path has no such method.",
    408: "The body did not arrive in time.",
    409: "Somebody else was first, or the user was forgotten meanwhile.",
    413: "The body is too large.",
    415: "The body is not said to be JSON, or is compressed.",
    422: "A field is missing, unknown or does not fit.",
    429: "The server has more to do than it can take, or a budget is used up.",
    500: "An error that nobody foresaw; the log says where.",
    502: "The model answered with an error or with nothing.",
    503: "A part of the system is down or cannot write.",
    504: "It took longer than a request may.",
}
_ERROR_HEADERS: dict[int, Node] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    405: {"Allow": {"schema": {"type": "string"}, "description": "The methods that the path has."}},
    429: {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}},
    503: {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds; not always there."}},
}
_OBJECT: Node = {"type": "object"}
_EVENTS = "Server-sent events: chat.completion.chunk objects, then [DONE]."


def _has(**properties: Node) -> Node:
    return {"type": "object", "required": list(properties), "properties": properties}


_EPISODES: Node = {
    "episodes": {"type": "array", "items": _has(interaction={"$ref": "#/components/schemas/Interaction"})}
}
# Answers that FastAPI cannot see: media types with their schemas.
_ANSWERS: dict[tuple[str, str], Node] = {
    ("get", "/v1/models/{model}"): {
        "application/json": {"schema": _has(id={"type": "string"}, object={"type": "string"})}
    },
    ("post", "/v1/chat/completions"): {
        "application/json": {
            "schema": _has(
                id={"type": "string"},
                object={"const": "chat.completion"},
                created={"type": "integer"},
                model={"type": "string"},
                choices={"type": "array", "items": _has(message=_OBJECT, finish_reason={"type": "string"})},
                usage=_OBJECT,
                personaagent=_OBJECT,
            )
        },
        "text/event-stream": {"schema": {"type": "string", "description": _EVENTS}},
    },
    ("get", "/v1/users/{user}/export"): {"application/x-ndjson": {"schema": {"type": "string"}}},
    ("get", "/v1/users/{user}/memory"): {"application/json": {"schema": _has(**_EPISODES)}},
    ("post", "/v1/users/{user}/explain"): {
        "application/json": {
            "schema": _has(
                answer={"type": "string"},
                probabilities={"type": "object", "additionalProperties": {"type": "number"}},
                expected={"type": ["number", "null"]},
                why={"type": "array", "items": _OBJECT},
            )
        }
    },
    ("post", "/v1/users/{user}/interactions"): {
        "application/json": {
            "schema": _has(
                added={"type": "integer"},
                repeated={"type": "integer"},
                updated={"type": "integer"},
                ids={"type": "array", "items": {"type": "string"}},
            )
        }
    },
    ("get", "/v1/alignment"): {"application/json": {"schema": _has(healthy={"type": "boolean"})}},
    ("get", "/readyz"): {"application/json": {"schema": _has(status={"type": "string"}, parts=_OBJECT)}},
}
# What the readers of an interaction ask of its fields, beyond the fields' types.
_INTERACTION: dict[str, Node] = {
    "id": {"type": ["string", "null"], "minLength": 1, "maxLength": 128},
    "time": {
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {"type": "number", "minimum": -62135596800, "maximum": 253402300799},
            {"type": "null"},
        ],
        "description": "ISO 8601, or seconds since 1970; at most a day in the future. Absent: now.",
    },
    "query": {"type": "string", "maxLength": MAX_TEXT},
    "response": {"type": ["string", "null"], "maxLength": MAX_TEXT},
    "truth": {"type": ["string", "null"], "maxLength": MAX_TEXT},
    "choices": {
        "anyOf": [
            {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
                "minItems": 2,
                "uniqueItems": True,
            },
            {"type": "null"},
        ]
    },
}
# What validators ask of fields, beyond the fields' types.
_SAID: Node = {"type": "string", "pattern": r"\S", "maxLength": MAX_TEXT}
_FIELDS: dict[tuple[str, str], Node] = {
    ("Question", "query"): _SAID,
    ("Question", "choices"): {"type": "array", "items": _SAID, "minItems": 2, "uniqueItems": True},
    ("ChatBody", "tool_choice"): {
        "anyOf": [
            {"enum": ["none", "auto", "required"]},
            {
                "type": "object",
                "required": ["type", "function"],
                "properties": {"type": {"const": "function"}, "function": _has(name={"type": "string"})},
            },
        ],
        "description": "Of a request with tools.",
    },
}
_REPORTS = frozenset({"/v1/alignment", "/readyz"})  # say what is wrong in the form in which they say that nothing is
_ID: Node = {"schema": {"type": "string"}, "description": "The interaction's id, percent-encoded."}
_TOLD: Node = {
    "X-PersonaAgent-Remembered": {
        "schema": {"type": "boolean"},
        "description": "Whether it is kept as an interaction.",
    },
    "X-PersonaAgent-Ignored": {"schema": {"type": "string"}, "description": "Fields that change nothing here, if any."},
    "X-PersonaAgent-Capped": {"schema": {"type": "string"}, "description": "A bound that was lowered, if one was."},
}
_MEANT: Node = {
    "name": "X-PersonaAgent",
    "in": "header",
    "description": "Any value: says that this change is meant. A Content-Type of application/json or a bearer token says it too.",
    "schema": {"type": "string"},
    "example": "1",
}


def describe(app: FastAPI, keyed: bool) -> None:
    """Let the application serve this document, made when it is first asked for.

    Args:
        app: with all its routes.
        keyed: whether requests must carry a key.
    """

    def openapi() -> Node:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, keyed)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to do this


def _document(app: FastAPI, keyed: bool) -> Node:
    document: Node = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["ErrorBody"] = _ERROR
    components["responses"] = {f"Error{status}": _error(status) for status in _ERRORS}
    if keyed:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    for path, method, operation in _operations(document):
        _complete(path, method, operation, keyed)
    wrapped = InteractionsBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(wrapped.pop("$defs", {}))
    schemas["InteractionsBody"] = wrapped
    fields = schemas["InteractionItem"]["properties"]
    fields.update({name: better for name, better in _INTERACTION.items() if name in fields})
    item: Node = {"$ref": "#/components/schemas/InteractionItem"}
    several: Node = {"type": "array", "items": item, "minItems": 1, "description": f"At most {MAX_INTERACTIONS:,}."}
    wrapped["properties"]["interactions"] = several
    body = document["paths"]["/v1/users/{user}/interactions"]["post"]["requestBody"]["content"]["application/json"]
    body["schema"] = {"anyOf": [item, several, {"$ref": "#/components/schemas/InteractionsBody"}]}
    for (name, field), better in _FIELDS.items():
        schemas[name]["properties"][field] = better
    for name in _within(schemas, [o["requestBody"] for _, _, o in _operations(document) if "requestBody" in o]):
        _allow_null(schemas[name])
    return document


def _within(schemas: Node, nodes: list[Any]) -> set[str]:
    """The names of the schemas that these refer to, and those that they refer to."""
    found: set[str] = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name in schemas and name not in found:
                found.add(name)
                nodes.append(schemas[name])
        if isinstance(node, dict | list):
            nodes.extend(node.values() if isinstance(node, dict) else node)
    return found


def _allow_null(schema: Node) -> None:
    """In every body null is as good as absent, so whatever may be absent may be null."""
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", ()) and "null" not in str(field):
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}]}


def _operations(document: Node) -> Iterator[tuple[str, str, Node]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _complete(path: str, method: str, operation: Node, keyed: bool) -> None:
    responses = operation["responses"]
    if (answer := _ANSWERS.get((method, path))) is not None:
        responses["200"]["content"] = answer
    for parameter in operation.get("parameters", ()):  # these have no null; they are absent
        kinds = parameter["schema"].get("anyOf", ())
        if {"type": "null"} in kinds:
            parameter["schema"]["anyOf"] = [kind for kind in kinds if kind != {"type": "null"}]
        if parameter["name"] == "query":
            parameter["schema"] = _SAID
    if path == "/v1/chat/completions":
        responses["200"]["headers"] = {"X-Interaction-Id": _ID, **_TOLD}
    for status in _ERRORS:
        if status != 401 or (keyed and path not in OPEN_PATHS):
            responses[str(status)] = {"$ref": f"#/components/responses/Error{status}"}
    if path in _REPORTS:
        responses["503"] = {"description": "Not as it should be; the body says what.", "content": answer}
    if path in OPEN_PATHS and keyed:
        operation["security"] = []
    if method.upper() not in SAFE_METHODS and "requestBody" not in operation:
        operation.setdefault("parameters", []).append({**_MEANT, "required": not keyed})


def _error(status: int) -> Node:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    headers = _ERROR_HEADERS.get(status)
    return {"description": _ERRORS[status], "content": content, **({"headers": headers} if headers else {})}
