"""The HTTP API over an agent in this process: endpoints, errors, exact user ids. The cluster side is in test_serve.py."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import quote

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from personaagent.claims import Claim, ClaimKind, Exemplar
from personaagent.errors import ContextLengthExceeded, UnavailableError
from personaagent.persona.persona import made
from personaagent.prompts import NO_PERSONA
from personaagent.tool_settings import ToolSettings
from personaagent.tools.memory_tools import memory_tools
from personaagent.tools.tool import SourceStatus, Tool
from personaagent.tools.toolbox import CALLS, Toolbox
from personaagent.types import (
    ChatRequest,
    ChatResult,
    Decision,
    Likelihood,
    LikelihoodRequest,
    Origin,
    UserSummary,
    user_key,
)
from serve.http.chat_bodies import ChatBody
from serve.http.middleware import canonical, decoded
from tests.support.api_world import JSON, USERS, EchoLLM, World, assert_error, events, segment


class Likely(EchoLLM):
    """Says every time how often it was asked; each answer is likelier than the one before, for whoever is known."""

    async def chat(self, request: ChatRequest) -> ChatResult:
        self.message = {"role": "assistant", "content": f"{len(self.requests)} to {request.messages[-1].text}"}
        return (await super().chat(request)).model_copy(update={"finish_reason": "stop"})

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        known = [NO_PERSONA not in r.messages[0].text for r in requests]
        return tuple(
            Likelihood(logprob=float(r.answer[0]) if k else 0.0, tokens=4) for k, r in zip(known, requests, strict=True)
        )


@pytest.fixture
def world() -> World:
    return World()


async def test_chat_answers_in_openais_schema_and_remembers(world: World) -> None:
    response = await world.chat("anna")
    body = response.json()
    assert response.status_code == 200
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "you said hello there"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == 10
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert body["personaagent"]["persona"] == 1
    interaction = body["personaagent"]["interaction_id"]
    assert response.headers["X-Interaction-Id"] == interaction
    [kept] = await world.memory.latest("anna", 5)
    assert (kept.id, kept.query, kept.response) == (interaction, "hello there", "you said hello there")


async def test_choice_comes_with_scores(world: World) -> None:
    response = await world.chat("anna", structured_outputs={"choice": ["tea", "coffee"]})
    body = response.json()
    assert body["choices"][0]["message"]["content"] == "tea"
    assert set(body["personaagent"]["scores"]) == {"tea", "coffee"}
    assert sum(body["personaagent"]["scores"].values()) == pytest.approx(1)
    assert body["personaagent"]["why"] is None


async def settle(world: World, user: str, options: list[str], truth: str, count: int = 3) -> None:
    settled = [
        {"id": f"{user}-{n}", "query": f"drink {n}?", "choices": options, "truth": truth, "time": n}
        for n in range(count)
    ]
    assert (await world.post(user, "/interactions", settled)).status_code == 200


async def test_chat_says_why_if_asked(world: World) -> None:
    options = ["black coffee", "green tea"]
    await settle(world, "anna", options, "green tea")
    await settle(world, "bob", ["secret elixir", "green tea"], "green tea")
    ask = {"structured_outputs": {"choice": options}, "personaagent": {"explain": True, "remember": False}}
    told = (await world.chat("anna", "drink?", **ask)).json()["personaagent"]["why"]
    assert told
    assert all(set(reason) == {"text", "weight", "interactions"} for reason in told)
    assert {i for reason in told for i in reason["interactions"]} <= {"anna-0", "anna-1", "anna-2"}
    *_, finish, done = events(await world.chat("anna", "drink?", stream=True, **ask))
    assert done == "[DONE]"
    assert finish["personaagent"]["why"] == told
    prose = (await world.chat("anna", "drink?", personaagent={"explain": True})).json()["personaagent"]
    assert prose["why"] is None
    assert prose["recalled"]
    assert set(prose["saw"]) == {"claims", "exemplars", "episodes"}
    assert prose["saw"]["episodes"] == prose["recalled"]
    assert finish["personaagent"]["saw"]["exemplars"] == []
    assert (await world.chat("anna", "drink?")).json()["personaagent"]["saw"] is None


async def test_an_answer_is_chosen_among_samples_if_asked() -> None:
    world = World(llm=Likely())
    chosen = (await world.chat("anna", personaagent={"samples": 3, "explain": True})).json()
    assert chosen["choices"][0]["message"]["content"] == "2 to hello there"
    assert chosen["usage"]["completion_tokens"] == 9
    told = chosen["personaagent"]
    assert told["samples"] == {"count": 3, "set_aside": 0, "gain": 0.5, "note": None}
    assert told["copied"] == {"words": 0, "share": 0.0, "run": "", "names": []}
    plain = (await world.chat("anna", personaagent={"samples": None})).json()["personaagent"]
    assert (plain["samples"], plain["copied"]) == (None, None)
    streamed = await world.chat("anna", personaagent={"samples": 2}, stream=True)
    assert "streamed" in assert_error(streamed, 422, "invalid_input")["message"]


@pytest.mark.parametrize(
    ("temperature", "asked", "samples"), [(None, None, None), (0.7, None, None), (0, None, 1), (0, 3, 3)]
)
def test_temperature_0_is_the_likeliest_answer_whatever_the_settings(
    temperature: float | None, asked: int | None, samples: int | None
) -> None:
    body = {"model": "m", "user": "anna", "messages": [{"role": "user", "content": "hi"}], "temperature": temperature}
    assert ChatBody.model_validate({**body, "personaagent": {"samples": asked}}).turn("i").samples == samples


async def test_null_is_as_good_as_absent(world: World) -> None:
    for extension in (None, {"explain": None, "remember": None, "interaction_id": None}):
        body = (await world.chat("anna", personaagent=extension)).json()
        assert body["personaagent"]["why"] is None
    assert len(await world.memory.latest("anna", 5)) == 2


async def test_memory_alone_explains_without_the_model(world: World) -> None:
    options = ["black coffee", "green tea"]
    await settle(world, "anna", options, "green tea")
    body = (await world.post("anna", "/explain", {"query": "drink?", "choices": options})).json()
    assert set(body) == {"answer", "probabilities", "expected", "why"}
    assert (body["answer"], body["expected"]) == ("green tea", None)
    assert sum(body["probabilities"].values()) == pytest.approx(1)
    assert body["why"][0]["interactions"]
    unknown = (await world.post("nobody", "/explain", {"query": "drink?", "choices": options})).json()
    assert list(unknown["probabilities"].values()) == pytest.approx([0.5, 0.5])
    assert unknown["why"] == []
    assert (await world.post("nobody", "/explain", {"query": "nice?", "choices": ["1", "2"]})).json()["expected"]
    assert world.llm.requests == []
    assert [u.user for u in await world.memory.users()] == ["anna"]
    assert (await world.memory.summary("anna")).persona is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"choices": None}, "choices"),
        ({"choices": ["one"]}, "choices"),
        ({"choices": ["one", "one"]}, "choices"),
        ({"choices": ["one", ""]}, "choices"),
        ({"choices": [str(n) for n in range(1001)]}, "choices"),
        ({"choices": ["one", "x" * 60_001]}, "choices.1"),
        ({"k": 3}, "k"),
    ],
)
async def test_bad_questions_to_memory(world: World, change: dict[str, Any], param: str) -> None:
    response = await world.post("anna", "/explain", {"query": "q", "choices": ["a", "b"], **change})
    assert assert_error(response, 422, "invalid_input")["param"] == param


async def test_clients_may_choose_the_interaction_id_and_repeat_it(world: World) -> None:
    for _ in range(2):
        response = await world.chat("anna", personaagent={"interaction_id": "gespräch 1"})
        assert response.headers["X-Interaction-Id"] == quote("gespräch 1")
    assert [i.id for i in await world.memory.latest("anna", 5)] == ["gespräch 1"]


async def test_an_id_belongs_to_one_question_with_its_options(world: World) -> None:
    own = {"personaagent": {"interaction_id": "1"}}
    tea, milk = ({"structured_outputs": {"choice": ["tea", other]}} for other in ("coffee", "milk"))
    assert (await world.chat("anna", "drink?", **own)).status_code == 200
    for more in (tea, {"stream": True, **tea}):
        assert_error(await world.chat("anna", "drink?", **own, **more), 409, "conflict")
    assert (await world.chat("bob", "drink?", **own, **tea)).status_code == 200
    asked = len(world.llm.requests)
    for other in (milk, {}):
        assert_error(await world.chat("bob", "drink?", **own, **other), 409, "conflict")
    assert (len(world.llm.requests), (await world.chat("bob", "drink?", **own, **tea)).status_code) == (asked, 200)


async def test_what_must_not_be_remembered_is_not(world: World) -> None:
    assert (await world.chat("anna", personaagent={"remember": False})).status_code == 200
    assert await world.memory.latest("anna", 5) == ()


async def test_a_stream_holds_no_line_end_that_some_clients_break_at(world: World) -> None:
    said = "a\u2028b\u2029c\u0085d\u000be"
    response = await world.chat("anna", said, stream=True)
    assert [line for line in response.text.splitlines() if line and not line.startswith("data: ")] == []
    pieces = [e["choices"][0]["delta"].get("content", "") for e in events(response)[:-1]]
    assert "".join(pieces) == f"you said {said}"


async def test_stream_is_openais_chunks(world: World) -> None:
    response = await world.chat("anna", stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *middle, finish, usage, done = events(response)
    assert done == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(e["choices"][0]["delta"]["content"] for e in middle) == "you said hello there"
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish["personaagent"]["interaction_id"] == response.headers["X-Interaction-Id"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert len({e["id"] for e in [first, *middle, finish, usage]}) == 1


async def test_error_before_the_first_word_of_a_stream_is_an_http_error(world: World) -> None:
    world.llm.error = ContextLengthExceeded("too long")
    assert_error(await world.chat("anna", stream=True), 400, "context_length_exceeded")


async def test_error_inside_a_stream_is_an_event_and_nothing_is_remembered(world: World) -> None:
    world.llm.break_after = 2
    *_, error, done = events(await world.chat("anna", stream=True))
    assert error["error"]["code"] == "unavailable"
    assert done == "[DONE]"
    assert await world.memory.latest("anna", 5) == ()


async def test_tools_of_the_client_go_to_the_model_and_come_back_as_calls(world: World) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    world.llm.message = {"role": "assistant", "content": None, "tool_calls": [call]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    body = (await world.chat("anna", tools=tools, tool_choice="auto")).json()
    assert world.llm.requests[-1].extra.items() >= {"tools": tools, "tool_choice": "auto"}.items()
    assert body["choices"][0]["message"]["tool_calls"] == [call]
    assert body["choices"][0]["message"]["content"] is None
    streamed = events(await world.chat("anna", tools=tools, stream=True))
    calls = [e["choices"][0]["delta"]["tool_calls"] for e in streamed[:-1] if "tool_calls" in e["choices"][0]["delta"]]
    assert calls == [[{**call, "index": 0}]]


async def test_the_openai_client_works_unmodified(world: World) -> None:
    # Its transport speaks to the application through the same ASGI interface.
    class Bridge(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, **kwargs: Any) -> Any:
            response = await world.http.request(
                request.method, str(request.url), headers=dict(request.headers), content=request.content
            )
            headers = {k: v for k, v in response.headers.items() if k != "content-length"}
            kind = type(request).__module__.split(".")[0]
            module = __import__(kind)
            return module.Response(response.status_code, headers=headers, content=response.content, request=request)

    client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=Bridge(), max_retries=0)
    answer = await client.chat.completions.create(
        model="echo", user="anna", messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.choices[0].message.content == "you said hi"
    stream = await client.chat.completions.create(
        model="echo", user="anna", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == "you said hi"
    assert [m.id async for m in client.models.list()] == ["echo"]
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="gpt-9", user="anna", messages=[{"role": "user", "content": "hi"}])
    assert unknown.value.code == "model_not_found"
    world.llm.error = ContextLengthExceeded("too long")
    with pytest.raises(openai.BadRequestError) as long:
        await client.chat.completions.create(model="echo", user="anna", messages=[{"role": "user", "content": "hi"}])
    assert long.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"user": None}, 400, "missing_required_parameter", "user"),
        ({"user": ""}, 400, "missing_required_parameter", "user"),
        ({"user": "x" * 300}, 422, "invalid_input", "user"),
        ({"messages": []}, 422, "invalid_input", "messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, 422, "invalid_input", "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, 422, "invalid_input", None),
        ({"messages": [{"role": "user", "content": "x" * 70_000}]}, 422, "invalid_input", "messages"),
        ({"temperature": -1}, 422, "invalid_input", "temperature"),
        ({"priority": 5}, 400, "unsupported_parameter", "priority"),
        ({"structured_outputs": {"choice": ["one"]}}, 422, "invalid_input", "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["one", "one"]}}, 422, "invalid_input", "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["one", ""]}}, 422, "invalid_input", "structured_outputs.choice"),
        ({"personaagent": {"explain": "perhaps"}}, 422, "invalid_input", "personaagent.explain"),
        ({"personaagent": {"why": True}}, 422, "invalid_input", "personaagent.why"),
        ({"personaagent": {"samples": 0}}, 422, "invalid_input", "personaagent.samples"),
        ({"personaagent": {"samples": 17}}, 422, "invalid_input", "personaagent.samples"),
        ({"personaagent": {"samples": 2}}, 422, "invalid_input", None),  # this model does not tell likelihoods
        ({"personaagent": {"samples": 2}, "stream": True}, 422, "invalid_input", None),
        ({"n": 2}, 400, "unsupported_value", "n"),
        ({"logprobs": True}, 400, "unsupported_parameter", "logprobs"),
        ({"model": "other"}, 404, "model_not_found", "model"),
    ],
)
async def test_bad_chat_requests(world: World, change: dict[str, Any], status: int, code: str, param: str) -> None:
    body = {"model": "echo", "user": "anna", "messages": [{"role": "user", "content": "hi"}], **change}
    body = {k: v for k, v in body.items() if v is not None}
    error = assert_error(await world.http.post("/v1/chat/completions", json=body), status, code)
    assert error["param"] == param


async def test_half_a_surrogate_pair_is_refused_everywhere(world: World) -> None:
    lone = '"\\ud800"'
    for body in (
        f'{{"model": "echo", "user": {lone}, "messages": [{{"role": "user", "content": "hi"}}]}}',
        f'{{"model": "echo", "user": "anna", "messages": [{{"role": "user", "content": {lone}}}]}}',
        f'{{"model": "echo", "user": "anna", "metadata": {{"a": {lone}}}, "messages": [{{"role": "user", "content": "hi"}}]}}',
    ):
        response = await world.http.post("/v1/chat/completions", content=body, headers=JSON)
        assert_error(response, 422, "invalid_input")
    assert_error(await world.http.get("/v1/users/%ED%A0%80/persona"), 422, "invalid_input")
    assert_error(await world.http.get("/v1/users/%FF/persona"), 422, "invalid_input")
    assert await world.memory.users() == ()


async def test_every_error_is_openais(world: World) -> None:
    assert_error(await world.http.get("/nothing/here"), 404, "not_found")
    assert_error(await world.http.get("/v1/chat/completions"), 405, "method_not_allowed")
    path = "/v1/chat/completions"
    assert_error(await world.http.post(path, content="{", headers=JSON), 400, "invalid_json")
    assert_error(await world.http.post(path, content="[1]", headers=JSON), 422, "invalid_input")
    assert_error(await world.http.post(path, content="{}"), 415, "not_json")
    assert_error(await world.http.get("/v1/models/gpt-9"), 404, "model_not_found")
    world.llm.error = UnavailableError("the engine died")
    assert_error(await world.chat("anna"), 503, "unavailable")


async def test_what_says_nothing_is_refused_at_every_door(world: World) -> None:
    await world.chat("anna")
    for blank in ("", " ", "\n"):
        assert_error(await world.get("anna", "/memory", query=blank), 422, "invalid_input")
        for path, body in (
            ("/explain", {"query": blank, "choices": ["a", "b"]}),
            ("/explain", {"query": "q", "choices": ["a", blank]}),
            ("/persona/claims", {"text": blank}),
            ("/interactions", {"query": blank}),
        ):
            assert_error(await world.post("anna", path, body), 422, "invalid_input")
        assert_error(await world.http.put("/v1/users/anna/persona", json={"text": blank}), 422, "invalid_input")
        assert_error(await world.chat("anna", structured_outputs={"choice": ["a", blank]}), 422, "invalid_input")


async def test_a_body_that_cannot_be_read_is_told_how_to_send_it(world: World) -> None:
    path = "/v1/chat/completions"
    packed = await world.http.post(path, content=b"\x1f\x8b", headers={**JSON, "Content-Encoding": "gzip"})
    assert "uncompressed" in assert_error(packed, 415, "content_encoding")["message"]
    for length in ("abc", "-1", ""):
        wrong = await world.http.post(path, content=b"{}", headers={**JSON, "Content-Length": length})
        assert_error(wrong, 400, "invalid_http")


class Spells(EchoLLM):
    """Says what it is told to, in the pieces it is told to."""

    def __init__(self, *answers: list[str]) -> None:
        super().__init__()
        self.answers = list(answers)

    async def chat(self, request: ChatRequest) -> ChatResult:
        self.requests.append(request)
        if self.message:
            return ChatResult(text=self.message["content"] or "", message=self.message)
        text = "".join(self.answers.pop(0))
        return ChatResult(text=text, message={"role": "assistant", "content": text})

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        for piece in self.answers[0]:
            yield piece
        yield await self.chat(request)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (["a \ud83e", "\udd8a b"], "a 🦊 b"),
        (["\ud83e", "\udd8a"], "🦊"),
        (["a\ud83e"], "a\ufffd"),
        (["\ud83e", "b"], "\ufffdb"),
        (["\udd8ab\ud83e\ud83e\udd8a"], "\ufffdb\ufffd🦊"),
    ],
)
async def test_half_a_character_from_a_model_breaks_nothing(pieces: list[str], said: str, stream: bool) -> None:
    world = World(llm=Spells(pieces))
    response = await world.chat("anna", stream=stream)
    assert response.status_code == 200
    if stream:
        told = "".join(e["choices"][0]["delta"].get("content", "") for e in events(response)[:-1])
    else:
        told = response.json()["choices"][0]["message"]["content"]
    [kept] = await world.memory.latest("anna", 5)
    assert (told, kept.response) == (said, said)


async def test_half_a_character_in_the_call_of_a_tool_breaks_nothing_either(world: World) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "\ud83e"}'}}
    world.llm.message = {"role": "assistant", "content": None, "tool_calls": [call]}
    tools = [{"type": "function", "function": {"name": "f"}}]
    told = (await world.chat("anna", tools=tools)).json()["choices"][0]["message"]["tool_calls"]
    assert told[0]["function"]["arguments"] == '{"a": "\ufffd"}'


class Caller(EchoLLM):
    """Wants one call of a tool, writes these arguments for it, and then answers."""

    def __init__(self, arguments: str) -> None:
        super().__init__()
        self.arguments = arguments
        self.wants = ["search_episodes"]

    def result(self, request: ChatRequest) -> ChatResult:
        if request.choices:
            want = self.wants.pop() if self.wants and "answer" in request.choices else request.choices[0]
            scores = tuple((choice, 0.0 if choice == want else -20.0) for choice in request.choices)
            return ChatResult(text=want, first_logprobs=scores)
        text = self.arguments if "structured_outputs" in request.extra else "fine"
        return ChatResult(text=text, message={"role": "assistant", "content": text})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        f'{{"query": {"[" * 3000}}}',
        f'{{"query": {"1" * 5000}}}',
        '{"query": "\\ud800"}',
        '{"\\ud800": "q"}',
        '{"a\\nb": "q"}',
        f'{{"{"x" * 9000}": "q"}}',
        '{"query": "q", "k": NaN}',
    ],
)
async def test_no_call_of_a_tool_that_a_model_writes_breaks_a_turn(arguments: str, stream: bool) -> None:
    world = World(llm=Caller(arguments))
    tools = memory_tools(world.memory, ("search_episodes",), 600)
    world.agent.toolbox = Toolbox(ToolSettings(model_weight=1.0), tools)
    response = await world.chat("anna", stream=stream)
    assert response.status_code == 200
    result = world.llm.requests[-1].messages[-1].text
    assert len(result) < 600
    assert result.encode("utf-8").isascii()
    [kept] = await world.memory.latest("anna", 5)
    assert kept.response == "fine"
    [call] = kept.metadata[CALLS]
    assert call["name"] == "search_episodes"


async def test_an_unforeseen_error_tells_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.llm.error = KeyError("anna's secret")
    response = await world.chat("anna")
    assert_error(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "secret" not in caplog.text
    assert "KeyError" in caplog.text


@pytest.mark.parametrize("user", USERS)
async def test_any_user_id_is_handled_exactly(world: World, user: str) -> None:
    assert (await world.chat("other", "do not show")).status_code == 200
    assert (await world.post(user, "/interactions", {"id": "i/1", "query": "q", "truth": "t"})).status_code == 200
    assert (await world.post(user, "/interactions/i%2F1/feedback", {"truth": "mine"})).json()["truth"] == "mine"
    assert (await world.get(user)).json()["user"] == user
    found = (await world.get(user, "/memory", query="q")).json()["episodes"]
    assert [e["interaction"]["user"] for e in found] == [user]
    assert (await world.get(user, "/persona")).json()["number"] == 1
    assert {u.user for u in await world.memory.users()} == {"other", user}
    receipt = (await world.delete(user)).json()
    assert (receipt["user_key"], receipt["interactions"], receipt["remaining"]) == (user_key(user), 1, 0)
    assert [u.user for u in await world.memory.users()] == ["other"]


@pytest.mark.parametrize("user", USERS[:9])
async def test_one_interaction_is_deleted_by_its_exact_id(world: World, user: str) -> None:
    for id in ("i/1", "i", "1"):
        assert (await world.post(user, "/interactions", {"id": id, "query": f"about {id}"})).status_code == 200
    assert (await world.post("other", "/interactions", {"id": "i/1", "query": "q"})).status_code == 200
    assert (await world.delete(user, "/interactions/i%2F1")).json() == {"id": "i/1", "deleted": True}
    assert_error(await world.delete(user, "/interactions/i%2F1"), 404, "not_found")
    assert {i.id for i in await world.memory.latest(user, 9)} == {"i", "1"}
    assert len(await world.memory.latest("other", 9)) == 1
    assert_error(await world.delete("nobody", "/interactions/i"), 404, "not_found")
    answer = (await world.chat(user)).json()
    assert (await world.delete(user, f"/interactions/{answer['id']}")).json()["id"] in answer["id"]
    assert {i.id for i in await world.memory.latest(user, 9)} == {"i", "1"}


async def test_too_long_a_user_id_is_refused(world: World) -> None:
    assert assert_error(await world.get("x" * 300, "/persona"), 422, "invalid_input")["param"] == "user"
    assert_error(await world.post("x" * 300, "/interactions", {"query": "q"}), 422, "invalid_input")


async def test_unknown_users_are_404_and_stay_unknown(world: World) -> None:
    for rest in ("", "/persona", "/persona/versions", "/memory?query=x", "/memory", "/profile", "/export"):
        assert_error(await world.http.get(f"/v1/users/nobody{rest}"), 404, "not_found")
    assert_error(await world.delete("nobody"), 404, "not_found")
    assert_error(await world.post("nobody", "/align", {}), 404, "not_found")
    assert_error(await world.post("nobody", "/interactions/x/feedback", {"truth": "t"}), 404, "not_found")
    assert_error(await world.post("nobody", "/persona/rollback", {"number": 1}), 404, "not_found")
    assert await world.memory.users() == ()


async def test_users_are_listed_in_pages(world: World) -> None:
    users = sorted((f"user {n}" for n in range(7)), key=user_key)
    for user in users:
        await world.post(user, "/interactions", {"query": "q", "truth": "t"})
    found: list[str] = []
    cursor: str | None = ""
    pages = 0
    while cursor is not None:
        page = (await world.http.get("/v1/users", params={"limit": 3, "after": cursor})).json()
        found += [u["user"] for u in page["users"]]
        cursor, pages = page["next"], pages + 1
    assert (found, pages) == (users, 3)
    whole = (await world.http.get("/v1/users")).json()
    assert ([u["user"] for u in whole["users"]], whole["next"]) == (users, None)
    assert whole["users"][0]["truths"] == 1
    for wrong in ({"limit": 0}, {"limit": 1_001}, {"after": "user 1"}):
        assert_error(await world.http.get("/v1/users", params=wrong), 422, "invalid_input")


async def test_interactions_one_or_many(world: World) -> None:
    one = {"query": "tea or coffee?", "truth": "tea"}
    first = (await world.post("anna", "/interactions", one)).json()
    assert (first["added"], len(first["ids"])) == (1, 1)
    again = (await world.post("anna", "/interactions", [one, {"query": "again?", "user": "bob"}])).json()
    assert (again["added"], again["repeated"]) == (1, 1)
    wrapped = (await world.post("anna", "/interactions", {"interactions": [one, one]})).json()
    assert (wrapped["added"], wrapped["repeated"]) == (1, 1)  # said twice in one request, it happened twice
    assert [u.user for u in await world.memory.users()] == ["anna"]
    wrong: list[Any] = [[], {}, "text", {"query": 1}, {"query": "q", "choices": ["a"]}, {"query": "q", "wish": 1}]
    for bad in wrong:
        assert_error(await world.post("anna", "/interactions", bad), 422, "invalid_input")


async def test_personas_are_versions(world: World) -> None:
    await world.chat("anna")
    made = (await world.http.put("/v1/users/anna/persona", json={"text": "Likes tea."})).json()
    assert (made["number"], made["origin"], made["parent"]) == (2, "manual", 1)
    lost = await world.http.put("/v1/users/anna/persona", json={"text": "Late.", "expected": 1})
    assert_error(lost, 409, "conflict")
    late = await world.http.put("/v1/users/anna/persona", json={"text": "First.", "expected": 0})
    assert_error(late, 409, "conflict")
    pinned = (await world.post("anna", "/persona/pin", {"pinned": True})).json()
    assert (pinned["number"], pinned["pinned"]) == (3, True)
    assert (await world.post("anna", "/persona/pin", {"pinned": True})).json()["number"] == 3
    back = (await world.post("anna", "/persona/rollback", {"number": 1})).json()
    assert (back["number"], back["origin"], back["pinned"]) == (4, "rollback", True)
    versions = (await world.get("anna", "/persona/versions")).json()["versions"]
    assert [v["number"] for v in versions] == [1, 2, 3, 4]
    assert versions[3]["text"] == versions[0]["text"]
    assert_error(await world.post("anna", "/persona/rollback", {"number": 9}), 404, "not_found")
    new = (await world.http.put("/v1/users/bob/persona", json={"text": "New here."})).json()
    assert new["number"] == 1


@pytest.mark.parametrize("path", ["/persona", "/persona/versions"])
async def test_a_look_at_a_persona_stores_nothing(world: World, path: str) -> None:
    await world.post("anna", "/interactions", [{"id": "1", "query": "hi"}])  # imported, but never spoken to
    looked = (await world.get("anna", path)).json()
    assert looked.get("versions", [looked])[0]["number"] == 1
    assert (await world.get("anna")).json()["persona"] is None
    known = world.memory.summary

    async def summary(user: str) -> UserSummary | None:
        await world.memory.forget(user)
        return await known(user)

    world.memory.summary = summary  # type: ignore[method-assign]
    assert_error(await world.get("anna", path), 404, "not_found")


async def test_a_persona_is_changed_claim_by_claim(world: World) -> None:
    await settle(world, "anna", ["tea", "milk"], "tea")
    claim = Claim(text="prefers tea", kind=ClaimKind.PREFERS, sources=("anna-0",), gain=0.1)
    exemplar = Exemplar(source="anna-1", query="drink 1?", truth="tea", choices=("tea", "milk"))
    draft = made([claim], Decision(), Origin.ALIGNED, exemplars=[exemplar], budget=None)
    await world.memory.commit_persona("anna", draft, None)
    told = (await world.get("anna", "/persona")).json()
    assert (told["claims"][0]["gain"], told["exemplars"][0]["source"]) == (0.1, "anna-1")

    body = {"text": "is called Anna", "kind": "rule", "expected": 1}
    added = (await world.post("anna", "/persona/claims", body)).json()
    assert (added["number"], added["origin"]) == (2, "manual")
    assert [c["text"] for c in added["claims"]] == ["prefers tea", "is called Anna"]
    assert added["exemplars"] == told["exemplars"]
    assert_error(await world.post("anna", "/persona/claims", body), 409, "conflict")
    assert_error(await world.post("anna", "/persona/claims", {"text": "Prefers tea."}), 422, "invalid_input")
    assert_error(await world.post("anna", "/persona/claims", {"text": "x", "kind": "no"}), 422, "invalid_input")
    assert_error(await world.post("anna", "/persona/claims", {"text": " "}), 422, "invalid_input")

    pinned = (await world.post("anna", "/persona/claims/1/pin", {"pinned": True})).json()
    assert ([c["pinned"] for c in pinned["claims"]], pinned["pinned"]) == ([True, False], False)
    assert (await world.post("anna", "/persona/claims/1/pin", {"pinned": True})).json()["number"] == 3
    for number in ("0", "3", "99999999999999999999"):
        assert_error(await world.post("anna", f"/persona/claims/{number}/pin", {"pinned": True}), 404, "not_found")
    assert_error(await world.post("anna", "/persona/claims/x/pin", {"pinned": True}), 422, "invalid_input")

    path = "/persona/claims/1"
    assert_error(await world.delete("anna", path, expected=2), 409, "conflict")
    gone = (await world.delete("anna", path, expected=3)).json()
    assert ([c["text"] for c in gone["claims"]], gone["struck"]) == (["is called Anna"], ["prefers tea"])
    put = (await world.http.put("/v1/users/anna/persona", json={"text": "New."})).json()
    assert ([c["text"] for c in put["claims"]], put["struck"]) == (["New."], ["prefers tea"])
    assert put["exemplars"] == told["exemplars"]
    whole = (await world.post("anna", "/persona/pin", {"pinned": True})).json()
    assert (whole["claims"], whole["exemplars"], whole["struck"]) == (put["claims"], put["exemplars"], put["struck"])
    back = (await world.post("anna", "/persona/rollback", {"number": 4})).json()
    assert (back["claims"], back["exemplars"], back["struck"]) == (gone["claims"], gone["exemplars"], gone["struck"])
    assert_error(await world.post("nobody", "/persona/claims", {"text": "x"}), 404, "not_found")
    assert_error(await world.delete("nobody", "/persona/claims/1"), 404, "not_found")


async def test_align_returns_what_it_did(world: World) -> None:
    await world.chat("anna")
    result = (await world.post("anna", "/align?paper=true", {})).json()
    assert (result["user"], result["outcome"]) == ("anna", "skipped")  # nothing with a truth to learn from


async def test_export_is_json_lines(world: World) -> None:
    await world.chat("anna")
    response = await world.get("anna", "/export")
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["type"] for line in response.text.splitlines()] == ["user", "interaction", "persona"]


async def test_api_key_is_asked_for_except_by_probes() -> None:
    world = World(api_key=SecretStr("s3cret"))
    assert_error(await world.chat("anna"), 401, "invalid_api_key")
    for wrong in ("s3cret", "Bearer nope", "Basic s3cret", "Bearer "):
        response = await world.http.get("/v1/models", headers={"Authorization": wrong})
        assert_error(response, 401, "invalid_api_key")
    assert (await world.http.get("/v1/models", headers={"Authorization": "Bearer s3cret"})).status_code == 200
    for probe in ("/healthz", "/readyz"):
        assert (await world.http.get(probe)).status_code == 200


async def test_readyz_is_about_this_replica_and_names_a_part_that_is_missing(world: World) -> None:
    world.llm.error = UnavailableError("the model does not answer")
    response = await world.http.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    assert response.json()["parts"] == {"llm": "the model does not answer", "embedder": "ok", "memory": "ok"}
    assert (await world.http.get("/healthz")).status_code == 200


class Down:
    """An MCP server that is not there."""

    async def tools(self) -> Sequence[Tool]:
        return ()

    def status(self) -> SourceStatus:
        return SourceStatus(name="tickets", connected=False, wrong="its program ended with exit code 1")

    async def close(self) -> None:
        pass


DOWN = {"name": "tickets", "connected": False, "tools": [], "wrong": "its program ended with exit code 1"}


async def test_readyz_lists_mcp_servers_and_is_ready_without_them() -> None:
    response = await World(sources=[Down()]).http.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    assert response.json()["mcp"] == [DOWN]
    assert (await World().http.get("/readyz")).json()["mcp"] == []


async def test_readyz_names_mcp_servers_only_to_those_with_the_key() -> None:
    world = World(sources=[Down()], api_key=SecretStr("s3cret"))
    for stranger in ({}, {"Authorization": "Bearer guess"}):
        response = await world.http.get("/readyz", headers=stranger)
        assert (response.status_code, response.json()["mcp"]) == (200, [{"connected": False}])
        assert "tickets" not in response.text
    response = await world.http.get("/readyz", headers={"Authorization": "Bearer s3cret"})
    assert response.json()["mcp"] == [DOWN]


async def test_the_api_describes_itself(world: World) -> None:
    described = (await world.http.get("/openapi.json")).json()
    assert "/v1/chat/completions" in described["paths"]
    assert "/v1/users/{user}/interactions/{interaction}/feedback" in described["paths"]


async def test_bodies_are_bounded_with_and_without_a_length() -> None:
    world = World(max_body_mb=0.001)
    assert_error(await world.chat("anna", "x" * 2000), 413, "request_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    assert_error(
        await world.http.post("/v1/chat/completions", content=chunks(), headers=JSON), 413, "request_too_large"
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@settings(max_examples=300, deadline=None)
def test_a_path_segment_says_what_was_put_into_it(user: str) -> None:
    path = canonical(f"/v1/users/{segment(user)}/persona".encode())
    empty, version, users, last, rest = path.split("/")
    assert (empty, version, users, decoded(last), rest) == ("", "v1", "users", user, "persona")
    assert canonical(path.encode()) == path


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("/v1/models/", "/v1/models"),
        ("//v1//models//", "/v1/models"),
        ("/v1//chat/completions/", "/v1/chat/completions"),
        ("/v1/users/a%2F%2fb//persona/", "/v1/users/a%2F%2Fb/persona"),
        ("/v1/users/%2F/", "/v1/users/%2F"),
        ("/v1/users/", "/v1/users"),
        ("/v1/users//persona", "/v1/users//persona"),  # nobody's persona, and not the user called persona
        ("/", "/"),
    ],
)
def test_slashes_too_many_lead_to_the_same_route(path: str, same: str) -> None:
    assert canonical(path.encode()) == same


async def test_the_model_list_is_found_with_any_slashes(world: World) -> None:
    for path in ("/v1/models/", "//v1/models", "/v1//models"):
        assert (await world.http.get(f"http://test{path}")).json()["data"][0]["id"] == "echo"
    assert_error(await world.http.get("http://test/v1/users//persona"), 404, "not_found")


async def test_feedback_by_the_responses_own_id_and_as_a_thumb(world: World) -> None:
    answer = (await world.chat("anna", "tea?")).json()
    path = f"/interactions/{answer['id']}/feedback"
    refused = (await world.post("anna", path, {"rating": -1})).json()
    assert (refused["truth"], refused["metadata"]["thumb"]) == (None, -1)
    assert (await world.get("anna")).json()["truths"] == 0
    kept = (await world.post("anna", path, {"rating": 1, "truth": None})).json()
    assert (kept["truth"], kept["metadata"]["thumb"]) == ("you said tea?", 1)
    assert (await world.get("anna")).json()["truths"] == 1
    back = (await world.post("anna", path, {"rating": -1})).json()  # they thought better of it
    assert (back["truth"], (await world.get("anna")).json()["truths"]) == (None, 0)
    other = (await world.post("anna", path, {"rating": -1, "truth": "coffee"})).json()
    assert (other["truth"], other["metadata"]["thumb"]) == ("coffee", -1)
    assert (await world.post("anna", path, {"rating": -1})).json()["truth"] == "coffee"
    await world.post("anna", path, {"rating": 1})
    corrected = (await world.post("anna", path, {"truth": "tea"})).json()  # then the thumb up says nothing any more
    assert (corrected["truth"], "thumb" in corrected["metadata"]) == ("tea", False)
    own = {"personaagent": {"interaction_id": "chatcmpl-1"}}
    assert (await world.chat("anna", "milk?", **own)).json()["id"] == "chatcmpl-chatcmpl-1"
    unknown = await world.post("anna", "/interactions/chatcmpl-x/feedback", {"rating": 1})
    assert "'chatcmpl-x'" in assert_error(unknown, 404, "not_found")["message"]
    for name in ("chatcmpl-1", "chatcmpl-chatcmpl-1"):
        told = (await world.post("anna", f"/interactions/{name}/feedback", {"truth": name})).json()
        assert (told["id"], told["truth"]) == ("chatcmpl-1", name)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"truth": None},
        {"rating": 0},
        {"rating": True},
        {"rating": "1"},
        {"rating": -1, "truth": "you said hello there"},
        {"rating": 2},
        {"rating": "up"},
        {"rating": 1, "truth": "x"},
        {"x": 1},
    ],
)
async def test_feedback_that_says_nothing_is_refused(world: World, body: dict[str, Any]) -> None:
    answer = (await world.chat("anna")).json()
    assert_error(await world.post("anna", f"/interactions/{answer['id']}/feedback", body), 422, "invalid_input")


async def test_a_thumb_needs_an_answer(world: World) -> None:
    await world.post("anna", "/interactions", {"id": "a", "query": "q"})
    assert_error(await world.post("anna", "/interactions/a/feedback", {"rating": 1}), 422, "invalid_input")
    assert (await world.post("anna", "/interactions/a/feedback", {"rating": -1})).json()["metadata"]["thumb"] == -1
    assert_error(await world.post("anna", "/interactions/chatcmpl-x/feedback", {"rating": -1}), 404, "not_found")


class Waiting:
    """Online alignment that notes whom it hears of."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.healthy = True

    def notify(self, user: str) -> None:
        self.heard.append(user)

    async def status(self) -> dict[str, Any]:
        return {"depth": len(self.heard), "healthy": self.healthy}


async def test_online_alignment_hears_of_truths_and_shows_its_state() -> None:
    online = Waiting()
    world = World(online)
    await world.post("ann", "/interactions", [{"id": "a", "query": "tea?"}])
    assert online.heard == []
    await world.post("ann", "/interactions/a/feedback", {"truth": "yes"})
    await world.post("bob", "/interactions", {"query": "tea?", "truth": "no"})
    assert online.heard == ["ann", "bob"]
    response = await world.http.get("/v1/alignment")
    assert (response.status_code, response.json()["depth"]) == (200, 2)
    online.healthy = False
    assert (await world.http.get("/v1/alignment")).status_code == 503
    assert (await World().http.get("/v1/alignment")).json() == {"every": 0, "healthy": True}
