"""The HTTP API over an agent in this process, and how its tests speak to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from personaagent.agent.agent import Agent
from personaagent.errors import UnavailableError
from personaagent.memory.local import LocalMemory
from personaagent.settings import ServeSettings, Settings
from personaagent.tool_settings import ToolSettings
from personaagent.tools.tool import ToolSource, ToolSpec
from personaagent.tools.toolbox import Toolbox
from personaagent.types import ChatRequest, ChatResult, Usage
from serve.http.api import create_api
from serve.http.services import Online, Services
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM
from tests.support.fake_tool import FakeTool

__all__ = ["JSON", "USERS", "EchoLLM", "World", "assert_error", "events", "segment"]

USERS = [
    "anna",
    "a/b",
    "a//b",
    "/",
    "...",
    "q\"uote's",
    "new\nline",
    "tab\t",
    "ünïcødé 名前",
    "🦊",
    "%2F",
    "a%20b",
    "a b?c#d",
    "x" * 256,
]
JSON = {"Content-Type": "application/json"}


class EchoLLM(FakeLLM):
    """Answers with the last message, or says yes to the first choice; fails on demand."""

    def __init__(self) -> None:
        super().__init__(context_length=4096)
        self.break_after: int | None = None
        self.message: dict[str, Any] = {}

    def result(self, request: ChatRequest) -> ChatResult:
        if request.choices:
            logprobs = tuple((choice, -1.0 - i) for i, choice in enumerate(request.choices))
            return ChatResult(text=request.choices[0], first_logprobs=logprobs, usage=Usage(calls=1, prompt_tokens=3))
        text = f"you said {request.messages[-1].text}"
        message = self.message or {"role": "assistant", "content": text}
        usage = Usage(calls=1, prompt_tokens=7, completion_tokens=3, cached_tokens=4)
        finish = "tool_calls" if self.message else "stop"
        return ChatResult(text=message["content"] or "", finish_reason=finish, usage=usage, message=message)

    def pieces(self, result: ChatResult) -> Iterator[str]:
        for i, word in enumerate(result.text.split(" ")):
            if i == self.break_after:
                raise UnavailableError("the model's replica died while it answered")
            yield word if i == 0 else f" {word}"


class World:
    """The application around an `EchoLLM` and a memory in RAM, and a client of it."""

    def __init__(
        self,
        online: Online | None = None,
        llm: EchoLLM | None = None,
        specs: Sequence[ToolSpec] = (),
        sources: Sequence[ToolSource] = (),
        **serve_settings: Any,
    ) -> None:
        self.llm = llm or EchoLLM()
        embedder = HashEmbedder()
        self.memory = LocalMemory(embedder)
        tree = Settings(serve=ServeSettings(**{"allowed_hosts": ("test",), **serve_settings}))

        async def check() -> None:
            if self.llm.error is not None:
                raise self.llm.error

        # They are known, and never called: requests of these tests are answered at once.
        box = Toolbox(ToolSettings(calls=0), [FakeTool(spec) for spec in specs], sources) if specs or sources else None
        self.agent = Agent(self.llm, self.memory, tree.agent, toolbox=box)
        services = Services(
            settings=tree,
            model="echo",
            agent=self.agent,
            memory=self.memory,
            llm=self.llm,
            embedder=embedder,
            teacher=None,
            check_llm=check,
            check_memory=self.memory.users,
            online=online,
        )
        self.app = create_api(services)
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test", headers={"X-PersonaAgent": "1"})

    async def chat(self, user: str, text: str = "hello there", **more: Any) -> httpx.Response:
        body = {"model": "echo", "user": user, "messages": [{"role": "user", "content": text}], **more}
        return await self.http.post("/v1/chat/completions", json=body)

    async def get(self, user: str, rest: str = "", **params: Any) -> httpx.Response:
        return await self.http.get(f"/v1/users/{segment(user)}{rest}", params=params)

    async def delete(self, user: str, rest: str = "", **params: Any) -> httpx.Response:
        return await self.http.delete(f"/v1/users/{segment(user)}{rest}", params=params)

    async def post(self, user: str, rest: str, body: Any) -> httpx.Response:
        return await self.http.post(f"/v1/users/{segment(user)}{rest}", json=body)


def segment(user: str) -> str:
    # HTTP clients resolve dot segments before they send a path, encoded or not; nobody can address these two.
    return quote(user, safe="")


def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def assert_error(response: httpx.Response, status: int, code: str | None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert "\n" not in error["message"]
    return error
