"""Tools of applications as their client libraries send them, over the whole API with an agent that acts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import pydantic_function_tool
from pydantic import BaseModel, Field

from personaagent.tool_settings import ToolSettings
from personaagent.tools.toolbox import CALLS, Toolbox
from personaagent.types import ChatRequest, ChatResult, Usage
from tests.support.api_world import EchoLLM, World, assert_error, events
from tests.support.fake_tool import FakeTool


class Wants(EchoLLM):
    """Wants a tool until its result is there, and writes what fits its schema."""

    def __init__(self, want: str = "answer", arguments: str = "") -> None:
        super().__init__()
        self.want, self.arguments = want, arguments
        self.seen: list[ChatRequest] = []

    def result(self, request: ChatRequest) -> ChatResult:
        self.seen.append(request)
        if request.choices:
            done = any(m.role == "tool" for m in request.messages)
            want = self.want if self.want in request.choices and not done else request.choices[0]
            return ChatResult(
                text=want, first_logprobs=tuple((c, 0.0 if c == want else -20.0) for c in request.choices)
            )
        if "structured_outputs" in request.extra:
            schema = request.extra["structured_outputs"]["json"]
            return ChatResult(text=self.arguments or json.dumps({n: _some(v) for n, v in schema["properties"].items()}))
        return ChatResult(text="Done.", usage=Usage(calls=1), message={"role": "assistant", "content": "Done."})


def _some(node: dict[str, Any]) -> Any:
    return (
        node["enum"][0]
        if "enum" in node
        else None
        if "anyOf" in node
        else []
        if node.get("type") == "array"
        else "text"
    )


@pytest.fixture
def world() -> World:
    return acting(Wants())


def acting(llm: Wants, *ours: FakeTool, **settings: Any) -> World:
    world = World(llm=llm, default_user="me")
    world.agent.toolbox = Toolbox(ToolSettings(model_weight=1.0, **settings), ours, copying=True)
    return world


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


class Color(BaseModel):
    """Nested."""

    name: Literal["red", "blue"]


class Paint(BaseModel):
    """Paint a wall."""

    wall: str = Field(description="which one")
    finish: Literal["matt", "gloss"] | None
    coats: int | None = None
    fast: bool
    colors: list[Color] = []


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_openai_client_parses_the_calls_of_strict_tools(streamed: bool) -> None:
    world = acting(Wants("Paint"))
    client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", max_retries=0, http_client=world.http)
    messages: Any = [{"role": "user", "content": "Paint the north wall twice, please."}]
    tools: Any = [pydantic_function_tool(Paint)]
    if streamed:
        options: Any = {"include_usage": True}
        async with client.chat.completions.stream(
            model="echo", messages=messages, tools=tools, stream_options=options
        ) as pieces:
            answer: Any = await pieces.get_final_completion()
    else:
        answer = await client.chat.completions.parse(model="echo", messages=messages, tools=tools)
    assert answer.usage is not None
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    painted = call.function.parsed_arguments
    assert isinstance(painted, Paint)
    assert painted.wall in "Paint the north wall twice, please."
    assert painted.finish == "matt"
    # Its result comes back, as a list of parts.
    given = choice.message.model_dump(exclude={"parsed"}, exclude_none=True)
    given["tool_calls"] = [
        {"id": call.id, "type": "function", "function": {"name": "Paint", "arguments": call.function.arguments}}
    ]
    result = {"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "painted"}]}
    last = await client.chat.completions.create(model="echo", messages=[*messages, given, result], tools=tools)
    assert last.choices[0].message.content == "Done."
    (stored,) = await world.memory.latest("me", 9)
    assert [c["result"] for c in stored.metadata[CALLS]] == ["painted"]  # type: ignore[union-attr, index, call-overload]


@tool
def look_up(place: str, unit: Literal["metric", "imperial"] = "metric", day: str | None = None) -> str:
    """The weather at a place."""
    return f"{place} {unit} {day}"


async def test_langchain_binds_tools_and_asks_for_structured_output() -> None:
    world = acting(Wants("look_up"))
    model = ChatOpenAI(
        base_url="http://test/v1",
        api_key="none",
        model="echo",
        max_retries=0,
        http_async_client=world.http,  # type: ignore[arg-type]
    )
    asked: list[Any] = [HumanMessage("Weather in Ulm?")]
    for strict in (None, True):
        bound = model.bind_tools([look_up], tool_choice="any", strict=strict)
        said: Any = await bound.ainvoke(asked)
        (call,) = said.tool_calls
        assert call["name"] == "look_up"
        assert look_up.invoke(call["args"])
    bound = model.bind_tools([look_up], parallel_tool_calls=False)
    said = await bound.ainvoke(asked)
    results = [ToolMessage("12 degrees", tool_call_id=c["id"]) for c in said.tool_calls]
    assert (await bound.ainvoke([*asked, said, *results])).content == "Done."
    made = AIMessage("", tool_calls=[{"name": "gone", "args": {"a": {"b": [1]}}, "id": "x"}])
    assert (await bound.ainvoke([*asked, made, ToolMessage("", tool_call_id="x")])).content == "Done."
    pieces = [c async for c in model.bind_tools([look_up]).astream(asked)]
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole + piece
    assert whole.tool_calls[0]["name"] == "look_up"  # type: ignore[union-attr]
    shaped = model.with_structured_output(Paint, method="function_calling")
    assert isinstance(await shaped.ainvoke("Paint the wall red, fast."), Paint)


SCHEMAS: list[Any] = [
    None,
    {},
    {"type": "object"},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"type": ["object", "null"], "properties": {"a": {"type": ["string", "null"]}}},
    {
        "properties": {
            "a": {"type": "integer"},
            "b": True,
            "c": {},
            "": {"type": "string"},
            "ü .\n": {"enum": ["x", None]},
        }
    },
    {"properties": {"a": {"enum": [1, "1"]}, "b": {"enum": ["", " "]}, "c": {"enum": [{}, []]}, "d": {"enum": []}}},
    {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
    {"$ref": "#"},
    {"allOf": [{"$ref": "#"}]},
    {
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
    },
    {"properties": {"a": {"type": "string", "pattern": "^(a|aa)+$"}}},
    {"properties": {"a": {"type": "string", "minLength": 10**30, "maxLength": 0}}},
    {"properties": {"a": {"type": "number", "multipleOf": 1e-300}, "b": {"type": "integer", "maximum": 10**300}}},
    {"required": ["nowhere"]},
    {"properties": {"a": {"not": {}}}, "required": ["a"]},
    {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"$schema": "x", "type": "boolean"}}},
    {"$id": "http://x/y", "$defs": {"a": {"$anchor": "b", "$id": "c"}}, "properties": {"a": {"$ref": "#/$defs/a"}}},
    False,
    3,
    {"properties": {"a": {"type": "text"}}},
    {"properties": 3},
    {"$ref": "http://x/y"},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
@pytest.mark.parametrize("native", [False, True])
async def test_any_schema_gives_a_call_an_answer_or_a_clear_error(schema: Any, native: bool) -> None:
    world = acting(Wants("f", '{"a": 1000000000000000000000000000000000000000}'))
    world.agent.toolbox.native = native  # type: ignore[union-attr]
    text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab 9999999999999999999999 5 1e999"
    began = time.process_time()
    for choice in ("auto", "required"):
        got = await world.chat("me", text, tools=[function("f", parameters=schema)], tool_choice=choice)
        if got.status_code in (400, 422):
            said = assert_error(got, got.status_code, got.json()["error"]["code"])["message"]
            assert "tools.0.function.parameters" in said
        else:
            assert got.status_code in (200, 502), got.text
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ({"mode": "required", "tools": [function("blue")]}, "blue"),
        ({"mode": "auto", "tools": [function("blue")]}, None),
        ({"mode": "auto", "tools": [function("red"), function("blue")]}, "red"),
    ],
)
async def test_some_of_the_tools_are_allowed(choice: Any, called: str | None) -> None:
    world = acting(Wants("red"))
    tools = [function("red"), function("blue")]
    got = await world.chat("me", tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": choice})
    assert got.status_code == 200, got.text
    calls = got.json()["choices"][0]["message"].get("tool_calls")
    assert (calls and calls[0]["function"]["name"]) == called


@pytest.mark.parametrize(
    "choice",
    [None, {}, {"mode": "auto"}, {"mode": "x", "tools": [function("a")]}, {"mode": "auto", "tools": [function("c")]}]
    + [{"mode": "auto", "tools": wrong} for wrong in ([3], [{}], "a", [{"function": 3}], [])],
)
async def test_a_choice_among_what_is_not_there_is_refused(world: World, choice: Any) -> None:
    got = await world.chat("me", tools=[function("a")], tool_choice={"type": "allowed_tools", "allowed_tools": choice})
    assert got.json()["error"]["param"] == "tool_choice"
    assert got.status_code == 400


@pytest.mark.parametrize(
    "more",
    [
        {"n": 1, "stop": ["\n"], "max_tokens": 1},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}},
        {"personaagent": {"remember": False, "trace": True, "explain": True}},
        {"personaagent": {"interaction_id": "mine"}},
        {"stream": True, "stream_options": {"include_usage": True}},
    ],
)
async def test_whatever_else_is_asked_a_call_is_a_call_and_the_same_request_again_changes_nothing(more: Any) -> None:
    world = acting(Wants("f"))
    tools = [function("f", parameters={"properties": {"a": {"type": "string"}}, "required": ["a"]})]
    got = await asyncio.gather(*(world.chat("me", "go to Ulm", tools=tools, **more) for _ in range(3)))
    assert [r.status_code for r in got] == [200] * 3
    for response in got:
        if more.get("stream"):
            sent = events(response)
            (delta,) = [
                e["choices"][0]["delta"] for e in sent[:-1] if e["choices"] and "tool_calls" in e["choices"][0]["delta"]
            ]
            assert sent[-2]["usage"]["total_tokens"] >= 0
            assert [e["choices"][0]["finish_reason"] for e in sent[:-1] if e["choices"]][-1] == "tool_calls"
            (call,) = delta["tool_calls"]
            assert call["index"] == 0
        else:
            (call,) = response.json()["choices"][0]["message"]["tool_calls"]
            assert response.json()["choices"][0]["finish_reason"] == "tool_calls"
        assert json.loads(call["function"]["arguments"])["a"] in "go to Ulm"
    stored = await world.memory.latest("me", 9)
    asked_for = more.get("personaagent", {})
    assert len(stored) == (0 if asked_for.get("remember") is False else 1 if "interaction_id" in asked_for else 3)


async def test_two_requests_of_one_round_at_once_are_one_interaction() -> None:
    world = acting(Wants("f"))
    tools = [function("f", parameters={"properties": {"a": {"type": "string"}}, "required": ["a"]})]
    first = (await world.chat("me", "go to Ulm", tools=tools)).json()["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": c["id"], "content": "there"} for c in first["tool_calls"]]
    messages = [{"role": "user", "content": "go to Ulm"}, first, *results]
    got = await asyncio.gather(*(world.chat("me", messages=messages, tools=tools) for _ in range(4)))
    assert {r.json()["choices"][0]["message"]["content"] for r in got} == {"Done."}
    (stored,) = await world.memory.latest("me", 9)
    assert stored.response == "Done."
    exported = stored.model_dump(mode="json")
    assert json.loads(json.dumps(exported)) == exported


async def test_a_user_who_is_forgotten_meanwhile_leaves_nothing() -> None:
    llm = Wants("f")
    world = acting(llm)

    async def forget(request: ChatRequest) -> None:
        await world.memory.forget("me")

    llm.before = forget
    got = await world.chat("me", "go", tools=[function("f")])
    assert got.status_code >= 400
    assert not await world.memory.latest("me", 9)


NAMES: Iterator[Any] = iter(["ü", "a b", "", "a" * 65, "f.g", "f\n", "<|im_end|>", 3, None, "answer"])


@pytest.mark.parametrize("name", NAMES)
async def test_names_that_no_tool_can_have_are_refused(world: World, name: Any) -> None:
    got = await world.chat("me", tools=[function(name)])
    assert got.status_code in (400, 422)
    assert "tools.0.function" in got.json()["error"]["message"]


async def test_huge_requests_are_refused_or_answered_soon(world: World) -> None:
    big = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(3_000)}}
    began = time.process_time()
    for tools in (
        [function(f"f{n}") for n in range(5_000)],
        [function("f", parameters=big)],
        [function(f"f{n}", parameters={"description": "x" * 50_000}) for n in range(20)],
        [function(f"f{n}", description="x" * 50_000) for n in range(128)],
    ):
        got: httpx.Response = await world.chat("me", tools=tools)
        assert got.status_code in (200, 422)
    assert time.process_time() - began < 10
