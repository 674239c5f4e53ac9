"""What chat clients send beside a question: who asks, fields that are absent, ignored or refused, and what is not remembered."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from personaagent.errors import ContextLengthExceeded
from personaagent.settings import ServeSettings
from personaagent.types import ChatRequest, ChatResult
from serve.http.chat_bodies import ChatBody
from tests.support.api_world import JSON, EchoLLM, World, assert_error

HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "default": None}}}
HEADERS = ["X-OpenWebUI-User-Id", "x-litellm-end-user-id"]


async def send(world: World, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    """A chat request with nothing in it but what is said."""
    content = json.dumps({"messages": HI, **body})
    return await world.http.post("/v1/chat/completions", content=content, headers={**JSON, **(headers or {})})


@pytest.mark.parametrize(
    ("body", "headers", "user", "identity"),
    [
        ({"user": "ann", "metadata": {"user_id": "bob"}, "safety_identifier": "eve"}, {}, "ann", "user"),
        ({"user": "", "metadata": {"user_id": "bob"}, "safety_identifier": "eve"}, {}, "bob", "metadata.user_id"),
        ({"user": None, "metadata": {"user_id": ""}, "safety_identifier": "eve"}, {}, "eve", "safety_identifier"),
        (
            {"metadata": {}, "safety_identifier": ""},
            {"x-openwebui-user-id": "dan", "X-LiteLLM-End-User-Id": "fay"},
            "dan",
            "header:X-OpenWebUI-User-Id",
        ),
        ({}, {"X-OpenWebUI-User-Id": " ", "X-LiteLLM-End-User-Id": "fay"}, "fay", "header:x-litellm-end-user-id"),
        ({"prompt_cache_key": "key"}, {"X-Forwarded-User": "forged"}, "me", "default"),
    ],
)
async def test_who_asks_is_found_in_one_order_and_kept(
    body: dict[str, Any], headers: dict[str, str], user: str, identity: str
) -> None:
    world = World(user_headers=HEADERS, default_user="me")
    assert (await send(world, headers, **body)).status_code == 200
    assert [u.user for u in await world.memory.users()] == [user]
    [kept] = await world.memory.latest(user, 5)
    assert kept.metadata["identity"] == identity


async def test_a_header_names_nobody_unless_the_settings_say_so(world: World) -> None:
    response = await send(world, {"X-OpenWebUI-User-Id": "ann"}, prompt_cache_key="key", user=None)
    error = assert_error(response, 400, "missing_required_parameter")
    for way in ("user", "metadata.user_id", "safety_identifier", "serve.user_headers", "serve.default_user"):
        assert way in error["message"]
    assert await world.memory.users() == ()


async def test_a_name_in_a_header_is_the_same_as_in_a_body() -> None:
    world = World(user_headers=["X-Forwarded-User"])
    name = "ünïcødé 名前"
    response = await world.http.post(
        "/v1/chat/completions", json={"messages": HI}, headers=[(b"X-Forwarded-User", name.encode())]
    )
    assert response.status_code == 200
    assert [u.user for u in await world.memory.users()] == [name]
    twice = [(b"X-Forwarded-User", b"ann"), (b"X-Forwarded-User", b"bob")]
    assert_error(
        await world.http.post("/v1/chat/completions", json={"messages": HI}, headers=twice), 400, "unsupported_value"
    )
    for bad in (b"\xff", b"x" * 300):
        sent = await world.http.post(
            "/v1/chat/completions", json={"messages": HI}, headers=[(b"X-Forwarded-User", bad)]
        )
        assert assert_error(sent, 400, "invalid_value")["param"] in ("X-Forwarded-User", "header:X-Forwarded-User")


@pytest.mark.parametrize("blank", ["", " ", ",", ", ,", "\u00a0", "\u3000"])
async def test_a_blank_in_a_header_names_nobody(blank: str) -> None:
    world = World(user_headers=["X-A", "X-B"])
    sent = [(b"X-A", blank.encode()), (b"X-A", b""), (b"X-B", b"bob"), (b"X-B", blank.encode())]
    response = await world.http.post("/v1/chat/completions", json={"messages": HI}, headers=sent)
    assert response.status_code == 200
    assert [u.user for u in await world.memory.users()] == ["bob"]
    response = await world.http.post("/v1/chat/completions", json={"messages": HI}, headers=sent[:2])
    assert_error(response, 400, "missing_required_parameter")


@pytest.mark.parametrize("name", ["Authorization", "cookie", "X Y", "", "X-Ü"])
def test_headers_that_could_not_name_a_user_are_no_setting(name: str) -> None:
    with pytest.raises(ValidationError, match="no header that could name a user"):
        ServeSettings(user_headers=[name])  # type: ignore[arg-type]


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000"])
async def test_a_blank_names_nobody_and_nothing_wherever_it_stands(world: World, blank: str) -> None:
    named = {"user": blank, "metadata": {"user_id": blank}, "model": blank}
    assert (await send(world, **named, safety_identifier="eve")).status_code == 200
    assert [u.user for u in await world.memory.users()] == ["eve"]
    assert_error(await send(world, **named, safety_identifier=blank), 400, "missing_required_parameter")
    assert (await send(world, {"X-PersonaAgent-Remember": ""}, user="eve")).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ({"stop": 5}, "stop", "Input should be a valid string or a valid list"),
        ({"stop": ["x"] * 65}, "stop", "at most 64 items"),
        ({"stop": [5]}, "stop.0", "Input should be a valid string"),
        ({"tool_choice": 5}, "tool_choice", "Input should be a valid string or a valid object"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "a valid string or a valid list"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages.0.content.0", "a valid object"),
        ({"messages": ["hi"]}, "messages.0", "a valid object"),
        ({"messages": {}}, "messages", "a valid list"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "should match"),
        ({"logit_bias": {"a\nb": 1}}, "logit_bias.a\\nb", "should match"),
        ({"logit_bias": {"a" * 100_000: 1}}, f"logit_bias.{'a' * 64}", "should match"),
        ({"personaagent": {"a\r\nb": 1}}, "personaagent.a\\r\\nb", "this field is not known here"),
        ({"personaagent": {"str": 1}}, "personaagent.str", "this field is not known here"),
        ({"user": 5}, "user", "a valid string"),
    ],
)
async def test_a_fault_is_told_by_the_clients_own_names_in_one_line(
    world: World, body: dict[str, Any], param: str, reason: str
) -> None:
    error = assert_error(await send(world, **{"user": "ann", **body}), 422, "invalid_input")
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")
    assert reason in error["message"]


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text", "refusal"])
async def test_a_question_in_parts_is_bounded_as_any_other(world: World, kind: str) -> None:
    part = {"type": kind, "refusal" if kind == "refusal" else "text": "x" * 30_000}
    for parts, status in (([part], 200), ([part] * 2, 422)):
        response = await send(world, user="ann", messages=[{"role": "user", "content": parts}])
        assert response.status_code == status, response.text


async def test_old_fields_that_ask_for_nothing_are_no_fault(world: World) -> None:
    response = await send(world, user="ann", function_call="none", functions=[], best_of=1, add_generation_prompt=True)
    assert response.status_code == 200
    choice = {"choice": ["a", "b"]}
    response = await send(world, user="ann", structured_outputs=choice, tools=[TOOL], tool_choice="auto")
    assert response.headers["X-PersonaAgent-Ignored"] == "tools"
    calls = [{"function": {"name": "f", "arguments": "{}"}}]
    response = await send(world, user="ann", messages=[{"role": "user", "content": "hi", "tool_calls": calls}])
    assert response.headers["X-PersonaAgent-Ignored"] == "messages.tool_calls"


async def test_a_user_that_is_no_text_is_refused(world: World) -> None:
    assert_error(await send(world, user={"id": "ann"}), 422, "invalid_input")
    assert_error(await send(world, metadata={"user_id": ["ann"]}), 400, "invalid_value")
    assert_error(await send(world, safety_identifier="x" * 300), 400, "invalid_value")
    assert (await send(world, user="ann", safety_identifier="x" * 300)).status_code == 200


async def test_null_and_empty_lists_are_absent_at_every_level(world: World) -> None:
    text = (
        "model stream stream_options max_tokens max_completion_tokens temperature top_p seed stop n logprobs top_logprobs"
        " tools tool_choice parallel_tool_calls response_format logit_bias structured_outputs personaagent metadata functions"
        " function_call modalities verbosity audio prediction priority chat_template chat_template_kwargs top_k min_p"
    )
    names = text.split()
    messages = [
        {"role": "user", "content": "hi", "name": None},
        {"role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None, "tool_calls": []},
        {"role": "user", "content": [{"type": "text", "text": "again", "cache_control": None}], "function_call": None},
    ]
    response = await send(world, user="ann", **dict.fromkeys(names), messages=messages)
    assert response.status_code == 200, response.text
    assert "X-PersonaAgent-Ignored" not in response.headers
    sent = [m.model_dump() for m in world.llm.requests[-1].messages[1:]]
    assert sent == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "again"},
    ]
    plain = world.llm.requests[-1]
    empty = {"tools": [], "stop": [], "functions": [], "modalities": [], "logit_bias": {}, "structured_outputs": {}}
    nested = {"structured_outputs": {"choice": []}, "response_format": {"type": "text", "json_schema": None}}
    for body in (empty, nested, {"stop": ""}, {"model": ""}, {"tools": [], "tool_choice": "none"}):
        assert (await send(world, user="bob", messages=messages, **body)).status_code == 200, body
        assert world.llm.requests[-1].extra == plain.extra
        assert world.llm.requests[-1].stop == ()


async def test_a_tools_own_nulls_stay(world: World) -> None:
    tool = {"type": "function", "function": {**TOOL["function"], "strict": None, "description": None}}  # type: ignore[dict-item]
    assert (
        await send(world, user="ann", tools=[tool], tool_choice="auto", parallel_tool_calls=False)
    ).status_code == 200
    extra = world.llm.requests[-1].extra
    assert (extra["tools"], extra["tool_choice"], extra["parallel_tool_calls"]) == ([TOOL], "auto", False)


async def test_fields_that_change_nothing_are_ignored_and_named(world: World) -> None:
    harmless = {
        "verbosity": "low",
        "reasoning_effort": "high",
        "service_tier": "auto",
        "store": True,
        "web_search_options": {},
    }
    more = {"prompt_cache_key": "k", "prediction": {"type": "content"}, "chat_id": "c", "metadata": {"a": "b"}}
    plain = {"logprobs": False, "n": 1, "modalities": ["text"], "echo": False}
    messages = [{"role": "user", "content": "hi", "id": "m1"}]
    response = await send(world, user="ann", messages=messages, **harmless, **more, **plain)
    assert response.status_code == 200
    told = response.headers["X-PersonaAgent-Ignored"].split(", ")
    assert set(told) == {*harmless, *more, "messages.id"}
    assert not world.llm.requests[-1].extra.keys() & {*harmless, *more}
    odd = await send(world, user="ann", **{"x\r\nSet-Cookie: a": 1, "naïve": 2})
    assert odd.headers["X-PersonaAgent-Ignored"] == "?"
    stream = {"include_usage": True, "include_obfuscation": False}
    streamed = await send(world, user="ann", stream=True, stream_options=stream)
    assert streamed.headers["X-PersonaAgent-Ignored"] == "stream_options.include_obfuscation"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "weather"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "stocks"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0.function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]},
            "tools.0.function.parameters",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"json_schema": {"schema": {}}}}, "response_format.type"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"guided_choice": ["a", "b"]}, "guided_choice"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": {"b": 1}}}, "chat_template_kwargs.a"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content.0"),
        ({"messages": [*HI, {"role": "function", "name": "f", "content": "x"}]}, "messages.1.role"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}, *HI]}, "messages.0.function_call"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}, *HI]}, "messages.0.tool_calls.0"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": 1, "function": {"name": "f"}}]}, *HI]},
            "messages.0.tool_calls.0",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom", "function": {"name": "f"}}]}, *HI]},
            "messages.0.tool_calls.0",
        ),
        ({"messages": [{"role": "user", "content": "hi", "name": {"first": "Ann"}}]}, "messages.0.name"),
        ({"messages": [{"role": "assistant", "content": "x", "reasoning": 5}, *HI]}, "messages.0.reasoning"),
        ({"messages": [*HI, {"role": "tool", "content": "x", "tool_call_id": 5}]}, "messages.1.tool_call_id"),
        ({"tools": [{"function": {"name": "f", "description": 5}}]}, "tools.0.function.description"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": 5, "schema": {}}}},
            "response_format.json_schema.name",
        ),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"structured_outputs": {"choice": ["a", "b"], "regex": "a|b"}}, "structured_outputs.regex"),
        (
            {"structured_outputs": {"choice": ["a", "b"]}, "response_format": {"type": "json_object"}},
            "response_format",
        ),
        ({"structured_outputs": {"choice": ["a", "b"]}, "tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, *HI]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "\\ud800"}'}}]},
                    *HI,
                ]
            },
            "messages.0.tool_calls.0.function.arguments",
        ),
    ],
)
async def test_what_cannot_be_done_is_a_400_that_says_why(world: World, body: dict[str, Any], param: str) -> None:
    response = await send(world, **{"user": "ann", **body})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert error["message"].startswith(param)
    assert world.llm.requests == []
    assert await world.memory.users() == ()


@pytest.mark.parametrize(
    "body",
    [
        {"seed": 2**63},
        {"seed": -(2**63) - 1},
        {"top_k": 2**31},
        {"top_k": -2},
        {"min_tokens": 2**31},
        {"repetition_penalty": 5e-324},
        {"logit_bias": {"x": 1}},
    ],
)
async def test_numbers_that_the_engine_cannot_take_are_refused(world: World, body: dict[str, Any]) -> None:
    assert_error(await send(world, user="ann", **body), 422, "invalid_input")


@pytest.mark.parametrize("body", [{"temperature": float("nan")}, {"logit_bias": {"5": float("inf")}}])
async def test_numbers_that_json_does_not_have_are_refused(world: World, body: dict[str, Any]) -> None:
    assert_error(await send(world, user="ann", **body), 400, "invalid_json")


async def test_the_smallest_temperature_is_none(world: World) -> None:
    for temperature, taken in ((5e-324, 0.0), (1e-6, 0.0), (0.01, 0.01), (2, 2.0)):
        assert (await send(world, user="ann", temperature=temperature, seed=2**63 - 1)).status_code == 200
        assert world.llm.requests[-1].temperature == taken


async def test_what_the_chat_template_takes_reaches_the_engine(world: World) -> None:
    assert (await send(world, user="ann", chat_template_kwargs={"enable_thinking": False})).status_code == 200
    assert world.llm.requests[-1].extra["chat_template_kwargs"] == {"enable_thinking": False}


async def test_words_for_infinity_and_huge_numbers_are_options_like_others(world: World) -> None:
    for options in (["nan", "inf"], ["-inf", "1"], ["1e308", "-1e308"], ["NaN", "Infinity", "2"]):
        for _ in range(2):
            body = (await send(world, user="ann", structured_outputs={"choice": options})).json()
            assert sum(body["personaagent"]["scores"].values()) == pytest.approx(1)
            told = await world.post("ann", f"/interactions/{body['id']}/feedback", {"rating": 1})
            assert told.json()["truth"] in options


async def test_more_tokens_than_the_context_has_are_capped_and_told(world: World) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        response = await send(world, user="ann", **{field: 10**30})
        assert response.headers["X-PersonaAgent-Capped"] == "max_tokens=4096"
        assert world.llm.requests[-1].max_tokens == 4096
    fits = await send(world, user="ann", max_tokens=100)
    assert "X-PersonaAgent-Capped" not in fits.headers
    assert world.llm.requests[-1].max_tokens == 100


class Small(EchoLLM):
    """Refuses as an engine does: prompt and allowed answer must fit together."""

    async def chat(self, request: ChatRequest) -> ChatResult:
        if (request.max_tokens or 0) > 1000:
            self.requests.append(request)
            raise ContextLengthExceeded("the context length is exceeded")
        return await super().chat(request)


async def test_a_generous_limit_costs_no_memory() -> None:
    world = World(llm=Small())
    await world.post("ann", "/interactions", {"query": "hi", "truth": "hello, my dear"})
    for stream in (False, True):
        response = await send(world, user="ann", max_tokens=4096, stream=stream)
        assert response.status_code == 200
        assert 256 <= (world.llm.requests[-1].max_tokens or 0) <= 1000
        assert "hello, my dear" in [m.text for m in world.llm.requests[-1].messages]


async def test_system_messages_alone_are_answered_and_not_remembered(world: World) -> None:
    for role in ("system", "developer"):
        response = await send(world, user="ann", messages=[{"role": role, "content": "Say good morning."}])
        assert response.json()["choices"][0]["message"]["content"] == "you said Say good morning."
        assert response.headers["X-PersonaAgent-Remembered"] == "false"
    assert await world.memory.latest("ann", 5) == ()


async def test_a_model_may_be_left_out_and_others_do_not_exist(world: World) -> None:
    for model in ({}, {"model": None}, {"model": ""}, {"model": "echo"}):
        assert (await send(world, user="ann", **model)).json()["model"] == "echo"
    assert_error(await send(world, user="ann", model="gpt-9"), 404, "model_not_found")


async def test_a_header_keeps_a_request_out_of_memory(world: World) -> None:
    for said, told, kept in (("false", "false", 0), ("0", "false", 0), ("True", "true", 1)):
        response = await send(world, {"X-PersonaAgent-Remember": said}, user="ann")
        assert response.headers["X-PersonaAgent-Remembered"] == told
        assert len(await world.memory.latest("ann", 5)) == kept
    assert_error(await send(world, {"X-PersonaAgent-Remember": "maybe"}, user="ann"), 422, "invalid_input")
    both = await send(world, {"X-PersonaAgent-Remember": "true"}, user="eve", personaagent={"remember": False})
    assert both.headers["X-PersonaAgent-Remembered"] == "false"


@pytest.fixture
def world() -> World:
    return World()


NAMES = (
    "role content type text function name arguments parameters tool_calls json_schema schema choice user_id remember samples"
    " include_usage enable_thinking 5 é"
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(
        ["", "auto", "none", "user", "tool", "function", "text", "json_schema", "f", "{}", "1e999", "\u2028"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES.split()),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@pytest.mark.slow
@given(
    st.dictionaries(
        st.sampled_from([*ChatBody.model_fields, "functions", "function_call", "n", "logprobs", "modalities", "store"]),
        VALUES,
        max_size=6,
    ),
    st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "system"])}, optional={
        "content": VALUES, "tool_calls": VALUES, "name": VALUES, "refusal": VALUES}), max_size=3),
    st.booleans(),
)  # fmt: skip
@settings(max_examples=int(os.environ.get("PERSONAAGENT_EXAMPLES", "40")), deadline=None)
def test_no_body_is_an_error_of_ours(body: dict[str, Any], messages: list[dict[str, Any]], own: bool) -> None:
    asked = {"user": "ann", "messages": [*messages, *HI], **body} if own else {"user": "ann", "messages": HI, **body}

    async def post() -> httpx.Response:
        world = World()
        content = json.dumps(asked)
        return await world.http.post("/v1/chat/completions", content=content, headers=JSON)

    response = asyncio.run(post())
    assert response.status_code in (200, 400, 404, 422), response.text
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
