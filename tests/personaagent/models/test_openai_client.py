"""The client of OpenAI-compatible servers, against one in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from personaagent.errors import (
    ContextLengthExceeded,
    InvalidInput,
    LLMError,
    OverloadedError,
    PersonaAgentError,
    RequestRefused,
    UnavailableError,
)
from personaagent.models.openai_client import (
    OpenAILLM,
    StreamParser,
    connected_llm,
    engine_error,
    request_body,
    result_of,
    teacher_llm,
)
from personaagent.settings import TeacherSettings, load_settings
from personaagent.types import ChatRequest, ChatResult, Message

USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 2,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 3},
}


class Server:
    """Answers as told and keeps what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: Any = None
        self.refuses: set[str] = set()
        self.break_stream = False
        self.running = self.most = 0
        self.url = ""

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": []})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization"))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        if unknown := sorted(self.refuses & body.keys()):
            return error(400, f"Unrecognized request argument supplied: {unknown[0]}")
        if self.answer is not None:
            return self.answer if isinstance(self.answer, Response) else JSONResponse(self.answer)
        if not body.get("stream"):
            return JSONResponse(response("Hello you"))
        return StreamingResponse(self.events(), media_type="text/event-stream")

    async def events(self) -> AsyncIterator[str]:
        for piece in ("Hel", "lo", " you"):
            yield event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        if self.break_stream:
            yield f"data: {json.dumps({'error': {'message': 'it broke', 'type': 'server_error', 'code': None}})}\n\n"
            return
        yield event([{"index": 0, "delta": {}, "finish_reason": "length"}])
        yield event([], USAGE)
        yield "data: [DONE]\n\n"


def response(text: str | None, **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}


def event(choices: list[Any], usage: Any = None) -> str:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return f"data: {json.dumps({**head, 'choices': choices, 'usage': usage})}\n\n"


def error(status: int, message: str, code: str | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "x", "param": None, "code": code}}, status)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    told = Server()
    routes = [Route("/v1/models", told.models), Route("/v1/chat/completions", told.chat, methods=["POST"])]
    config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="error", lifespan="off")
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    told.url = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/v1"
    yield told
    running.should_exit = True
    await task


def say(text: str = "hi", **more: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **more)


async def test_whole_answer(server: Server) -> None:
    result = await OpenAILLM(server.url, "m", "key-1").chat(say(max_tokens=9, seed=4, stop=("x",)))
    assert (result.text, result.finish_reason) == ("Hello you", "stop")
    assert (result.usage.calls, result.usage.prompt_tokens, result.usage.cached_tokens) == (1, 5, 3)
    assert server.keys == ["Bearer key-1"]
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "temperature": 0.0,
            "max_tokens": 9,
            "seed": 4,
            "stop": ["x"],
        }
    ]


async def test_extensions_are_sent_only_where_asked_for(server: Server) -> None:
    request = say(choices=("a", "b"), top_logprobs=50, priority=7, continue_final=True, extra={"tool_choice": "auto"})
    await OpenAILLM(server.url, "m").chat(request)
    [body] = server.bodies
    assert body["structured_outputs"] == {"choice": ["a", "b"]}
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)  # OpenAI's bound
    assert body["priority"] == 7
    assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)
    assert body["tool_choice"] == "auto"


async def test_a_server_that_does_not_know_them_is_asked_without(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuses = {"structured_outputs", "priority"}
    llm = OpenAILLM(server.url, "m", "key-1")
    for _ in range(2):
        assert (await llm.chat(say(choices=("a", "b"), priority=7))).text == "Hello you"
    assert len(server.bodies) == 4  # the second call knows already
    assert [r.levelno for r in caplog.records if r.name == "personaagent.models.openai_client"] == [logging.WARNING] * 2
    assert "key-1" not in caplog.text


async def test_stream(server: Server) -> None:
    *pieces, whole = [p async for p in OpenAILLM(server.url, "m").stream(say())]
    assert pieces == ["Hel", "lo", " you"]
    assert isinstance(whole, ChatResult)
    assert (whole.text, whole.finish_reason, whole.usage.completion_tokens) == ("Hello you", "length", 2)


async def test_a_stream_that_breaks_is_an_error(server: Server) -> None:
    server.break_stream = True
    stream = aiter(OpenAILLM(server.url, "m").stream(say()))
    assert [await anext(stream) for _ in range(3)] == ["Hel", "lo", " you"]
    with pytest.raises(LLMError, match="it broke"):
        await anext(stream)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "message", "code", "expected"),
    [
        (400, "This model's maximum context length is 10 tokens. However ...", None, ContextLengthExceeded),
        (400, "too long", "context_length_exceeded", ContextLengthExceeded),
        (400, "no such option", None, RequestRefused),
        (401, "Incorrect API key provided: key-1", "invalid_api_key", LLMError),
        (404, "no such model", "model_not_found", LLMError),
        (429, "slow down", None, OverloadedError),
        (500, "oh no", None, LLMError),
        (503, "starting", None, UnavailableError),
    ],
)
async def test_errors(server: Server, status: int, message: str, code: str | None, expected: type[Exception]) -> None:
    server.answer = error(status, message, code)
    llm = OpenAILLM(server.url, "m", "key-1")
    llm._client = llm._client.with_options(max_retries=0)
    with pytest.raises(PersonaAgentError) as raised:
        await llm.chat(say())
    assert type(raised.value) is expected
    assert "\n" not in raised.value.message
    assert "key-1" not in raised.value.message


@pytest.mark.slow
async def test_nothing_there(server: Server) -> None:
    llm = OpenAILLM("http://127.0.0.1:9/v1", "m", timeout_s=5)
    with pytest.raises(UnavailableError):
        await llm.chat(say())
    with pytest.raises(UnavailableError, match="127"):
        await llm.check()
    await OpenAILLM(server.url, "m").check()


async def test_an_empty_answer_is_an_error(server: Server) -> None:
    server.answer = {**response("x"), "choices": []}
    with pytest.raises(LLMError, match="nothing"):
        await OpenAILLM(server.url, "m").chat(say())


ODD = [
    "{",
    "",
    "null",
    "[]",
    '"x"',
    "{}",
    '{"choices": null}',
    '{"choices": [null]}',
    '{"choices": [{"message": "x", "delta": "x"}]}',
    '{"choices": [{"message": {"content": ["x"]}, "delta": {"content": ["x"]}}]}',
    '{"choices": [{"message": {"content": 5}, "delta": {"content": 5}}]}',
    '{"choices": [{"message": {"content": "x"}, "delta": {"content": "x"}, "finish_reason": 5}]}',
    '{"choices": [{"message": {"content": "x"}, "delta": {"content": "x"}}], "usage": "x"}',
    '{"error": {"message": "no"}}',
]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [*ODD, "<html>"])
async def test_what_is_no_answer_is_an_error_that_says_so(server: Server, sent: str) -> None:
    llm = OpenAILLM(server.url, "m")
    server.answer = Response(sent, media_type="text/html" if sent.startswith("<") else "application/json")
    with pytest.raises(LLMError, match=r"nothing|no chat completion"):
        await llm.chat(say())
    event = "" if sent.startswith("<") else "data: "
    server.answer = Response(f"{event}{sent}\n\n", media_type="text/html" if not event else "text/event-stream")
    with pytest.raises(LLMError, match=r"nothing|no chat completion|the model failed: no"):
        _ = [piece async for piece in llm.stream(say())]


async def test_batch_work_is_bounded_and_chat_is_not(server: Server) -> None:
    llm = OpenAILLM(server.url, "m", batch_slots=2)
    await asyncio.gather(*(llm.chat(say(priority=1)) for _ in range(8)))
    assert server.most == 2
    await asyncio.gather(*(llm.chat(say()) for _ in range(8)))
    assert server.most > 2


async def test_it_travels_to_other_processes(server: Server) -> None:
    llm = pickle.loads(pickle.dumps(OpenAILLM(server.url, "m", "key-1", context_length=77, batch_slots=3)))
    assert (await llm.chat(say())).text == "Hello you"
    assert llm.context_length == 77
    assert server.keys == ["Bearer key-1"]


def test_tool_calls_and_logprobs_are_read() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = response(None, tool_calls=[call], refusal=None, function_call=None)
    top = [{"token": " yes", "logprob": -0.1, "bytes": None}, {"token": "no", "logprob": -2.4, "bytes": None}]
    answer["choices"][0]["logprobs"] = {"content": [{"token": " yes", "logprob": -0.1, "top_logprobs": top}]}
    result = result_of(answer)
    assert result.text == ""
    assert result.message == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert result.first_logprobs == ((" yes", -0.1), ("no", -2.4))


def test_a_stream_without_usage_counts_one_call() -> None:
    parser = StreamParser()
    assert parser.add({"choices": [{"delta": {"role": "assistant"}}]}) == ""
    assert parser.add({"choices": [{"delta": {"content": "a"}}]}) == "a"
    assert parser.result.usage.calls == 1
    assert parser.result.message == {"role": "assistant", "content": "a"}


def test_body_of_a_plain_request_is_plain() -> None:
    assert request_body(say(), "m") == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.0,
    }


def test_a_call_without_an_id_gets_one() -> None:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"function": function}, {"id": "c", "function": function}]
    messages = (Message(role="assistant", content=None, tool_calls=calls), Message(role="user", content="hi"))
    sent = request_body(ChatRequest(messages=messages), "m")["messages"]
    assert [call["id"] for call in sent[0]["tool_calls"]] == ["call_0", "c"]
    assert sent[1] == {"role": "user", "content": "hi"}


def test_an_engines_message_is_one_line() -> None:
    assert engine_error(500, "first\nsecond").message == "the model failed: first"
    assert engine_error(500, "").message == "the model failed: no reason given"


def test_from_settings() -> None:
    with pytest.raises(InvalidInput):
        connected_llm(load_settings())
    named = connected_llm(load_settings(llm={"base_url": "http://x/v1", "model": "m", "max_model_len": 999}))
    assert named.context_length == 999
    assert teacher_llm(TeacherSettings()) is None
    assert teacher_llm(TeacherSettings(base_url="http://x/v1", model="m")) is not None
    with pytest.raises(InvalidInput, match="teacher"):
        teacher_llm(TeacherSettings(model="m"))
