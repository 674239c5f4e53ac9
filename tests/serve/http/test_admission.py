"""What the server lets in: how many requests, how many bytes, for how long; and what it says to the others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from personaagent.errors import InvalidInput, OverloadedError
from personaagent.settings import Settings
from personaagent.types import AlignmentResult, ChatRequest, ChatResult, Outcome
from serve.bench import overload as bench_overload
from serve.bench.overload import Seen, overload_settings
from serve.clients.model_client import HandleLLM
from serve.http import health
from serve.http.alignments import Alignments
from serve.http.health import UNSEEN, Health
from serve.router import chats_of
from tests.support.api_world import EchoLLM, World, assert_error
from tests.support.slow_parts import Part

CHAT = "/v1/chat/completions"


class HeldLLM(EchoLLM):
    """Answers once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def chat(self, request: ChatRequest) -> ChatResult:
        result = await super().chat(request)
        await self.go.wait()
        await asyncio.sleep(0)  # as any real model lets others have their turn
        return result

    async def asked(self, n: int) -> None:
        while len(self.requests) < n:  # noqa: ASYNC110
            await asyncio.sleep(0)


class Client:
    """One request to an application, piece by piece as a connection brings it."""

    def __init__(self, world: World, path: str, method: str = "POST", **headers: str) -> None:
        self._app = world.http._transport.app  # type: ignore[attr-defined]
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        headers = {"transfer_encoding": "chunked", **headers}
        named = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(b"host", b"test"), (b"content-type", b"application/json"), *named],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        self._task = asyncio.create_task(self._app(self._scope, self._messages.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def body(self, content: bytes, more: bool = False) -> None:
        self._messages.put_nowait({"type": "http.request", "body": content, "more_body": more})

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def done(self) -> httpx.Response | None:
        await self._task
        if not self.sent:
            return None
        content = b"".join(m.get("body", b"") for m in self.sent[1:])
        return httpx.Response(self.sent[0]["status"], headers=self.sent[0]["headers"], content=content)


def asking(text: str = "hi", **more: Any) -> bytes:
    return json.dumps(
        {"model": "echo", "user": "ann", "messages": [{"role": "user", "content": text}], **more}
    ).encode()


def assert_refused(response: httpx.Response | None) -> None:
    assert response is not None
    error = assert_error(response, 429, "rate_limit_exceeded")
    assert error["type"] == "requests"
    assert 1 <= int(response.headers["Retry-After"]) <= 3


async def test_chats_beyond_the_bound_are_refused_and_nothing_else_is() -> None:
    llm = HeldLLM()
    world = World(llm=llm, max_concurrent_chats=2)
    inside = [asyncio.create_task(world.chat("ann", f"question {n}")) for n in range(2)]
    await llm.asked(2)
    for path in (CHAT, "/v1//chat/completions", f"{CHAT}/"):
        assert_refused(await world.http.post(path, content=asking(), headers={"Content-Type": "application/json"}))
    assert (await world.http.get("/healthz")).status_code == 200
    assert (await world.get("ann", "/memory")).status_code in (200, 404)
    state = (await world.http.get("/readyz")).json()
    assert state["status"] == "ready"
    assert state["load"]["chats"] == {"now": 2, "limit": 2, "refused": 3}
    assert len(llm.requests) == 2
    llm.go.set()
    assert [r.status_code for r in await asyncio.gather(*inside)] == [200, 200]
    assert (await world.chat("ann")).status_code == 200


async def test_a_refusal_does_not_wait_for_the_body() -> None:
    llm = HeldLLM()
    world = World(llm=llm, max_concurrent_chats=1)
    inside = asyncio.create_task(world.chat("ann"))
    await llm.asked(1)
    assert_refused(await Client(world, CHAT).done())
    llm.go.set()
    await inside


async def test_other_requests_have_a_bound_of_their_own() -> None:
    world = World(max_concurrent_requests=1)
    slow = Client(world, "/v1/users/ann/interactions")
    slow.body(b"[", more=True)
    await asyncio.sleep(0)
    assert (await world.http.get("/v1/models")).status_code == 200  # who only sends holds up nobody
    go = asyncio.Event()
    summary = world.memory.summary

    async def held(user: str) -> Any:
        await go.wait()
        return await summary(user)

    world.memory.summary = held  # type: ignore[method-assign]
    first = asyncio.create_task(world.get("bob"))
    await asyncio.sleep(0.01)
    assert_refused(await world.http.get("/v1/models"))
    assert (await world.chat("ann")).status_code == 200
    go.set()
    assert (await first).status_code == 404
    slow.leave()
    assert await slow.done() is None


@pytest.mark.slow
async def test_a_request_ends_at_its_deadline_and_what_it_asked_with_it() -> None:
    part = Part()
    world = World(llm=HandleLLM(part, "m", context_length=4096), request_timeout_s=0.5)  # type: ignore[arg-type]
    error = assert_error(await world.chat("ann"), 504, "timeout")
    assert error["type"] == "server_error"
    assert part.calls
    assert part.left == 0
    assert await world.memory.latest("ann", 5) == ()


@pytest.mark.slow
async def test_a_stream_says_that_its_time_is_over() -> None:
    part = Part(pieces=3)
    world = World(llm=HandleLLM(part, "m", context_length=4096), request_timeout_s=1.0)  # type: ignore[arg-type]
    response = await world.chat("ann", stream=True)
    assert response.status_code == 200
    *events, last, done = [line for line in response.text.split("\n\n") if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    assert done == "data: [DONE]"
    assert any("word" in event for event in events)
    assert part.left == 0


@pytest.mark.parametrize("headers", [{}, {"x_request_disconnect_disabled": "?1"}])
@pytest.mark.parametrize("streamed", [False, True])
async def test_who_goes_away_stops_the_model_whatever_a_header_says(streamed: bool, headers: dict[str, str]) -> None:
    part = Part(pieces=2)
    world = World(llm=HandleLLM(part, "m", context_length=4096), max_concurrent_chats=1)  # type: ignore[arg-type]
    client = Client(world, CHAT, **headers)
    client.body(asking(stream=streamed))
    while not part.calls:  # noqa: ASYNC110
        await asyncio.sleep(0)
    client.leave()
    await client.done()
    assert part.left == 0
    second = Client(world, CHAT)
    second.body(asking())
    while len(part.calls) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    second.leave()
    assert await second.done() is None


async def test_a_body_that_does_not_arrive_ends_the_request() -> None:
    world = World(body_timeout_s=0.05, max_concurrent_chats=1)
    for begun in (b"", b'{"model": '):
        client = Client(world, CHAT)
        client.body(begun, more=True)
        response = await client.done()
        assert response is not None
        assert_error(response, 408, "request_timeout")
    assert (await world.chat("ann")).status_code == 200


async def test_bodies_are_bounded_in_sum() -> None:
    world = World(max_body_mb=0.002, max_bodies_mb=0.003)
    slow = Client(world, CHAT)
    slow.body(b" " * 1900, more=True)
    await asyncio.sleep(0.01)
    large = "x" * 1500
    assert_refused(await world.chat("ann", large))  # its length is said in advance

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(15):
            yield b" " * 100

    json_type = {"Content-Type": "application/json"}
    assert_refused(await world.http.post(CHAT, content=chunks(), headers=json_type))
    assert (await world.chat("ann", "small")).status_code == 200
    slow.leave()
    assert await slow.done() is None
    assert (await world.chat("ann", large)).status_code == 200
    assert (await world.http.get("/readyz")).json()["load"]["body_bytes"]["now"] == 0


async def test_one_body_that_is_allowed_always_fits() -> None:
    world = World(max_body_mb=0.01, max_bodies_mb=0.001)
    assert (await world.chat("ann", "x" * 5000)).status_code == 200


async def truths(world: World, user: str) -> None:
    items = [{"query": f"question {i}", "truth": f"t{i}"} for i in range(14)]
    await world.post(user, "/interactions", items)


async def test_alignments_of_a_user_join() -> None:
    world = World()
    await truths(world, "ann")
    await truths(world, "bob")
    await world.http.post("/v1/users/bob/align")
    one = len(world.llm.requests)
    world.llm.requests.clear()
    answers = await asyncio.gather(*(world.http.post("/v1/users/ann/align") for _ in range(20)))
    assert {a.status_code for a in answers} == {200}
    assert len({a.text for a in answers}) == 1
    assert one / 2 <= len(world.llm.requests) <= 2 * one


async def test_alignments_share_a_bound() -> None:
    world = World(llm=HeldLLM(), max_concurrent_alignments=2)
    llm = world.llm
    assert isinstance(llm, HeldLLM)
    for user in "abc":
        await truths(world, user)
    inside = [asyncio.create_task(world.http.post(f"/v1/users/{user}/align")) for user in "ab"]
    await llm.asked(2)
    assert_refused(await world.http.post("/v1/users/c/align"))
    llm.go.set()
    assert {(await task).status_code for task in inside} == {200}
    assert (await world.http.post("/v1/users/c/align")).status_code == 200


class Work:
    """Alignments that can be watched."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.go = asyncio.Event()

    async def __call__(self) -> AlignmentResult:
        self.begun += 1
        try:
            await self.go.wait()
        finally:
            self.ended += 1
        return AlignmentResult(user="ann", outcome=Outcome.SKIPPED)


async def test_an_alignment_goes_on_for_those_who_stay_and_ends_with_the_last() -> None:
    work, jobs = Work(), Alignments(1, 100)
    first, second = [asyncio.create_task(jobs.run("ann", work)) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert (work.begun, work.ended) == (1, 0)
    with pytest.raises(OverloadedError):
        await jobs.run("bob", work)
    second.cancel()
    await asyncio.wait([second])
    await asyncio.sleep(0)
    assert work.ended == 1
    work.go.set()
    assert (await jobs.run("bob", work)).outcome is Outcome.SKIPPED


async def test_readiness_waits_for_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FRESH_S", 0.0)
    monkeypatch.setattr(health, "FIRST_S", 0.05)
    down = False

    async def hangs() -> None:
        await asyncio.sleep(100)

    async def answers() -> None:
        if down:
            raise OverloadedError("full")

    known = Health({"llm": hangs, "memory": answers})
    states, ages = await known.report()
    assert states == {"llm": UNSEEN, "memory": "ok"}
    assert ages["llm"] is None
    known.close()
    await asyncio.sleep(0)
    down = True
    known = Health({"memory": answers})
    assert (await known.report())[0] == {"memory": "full"}
    down = False
    assert (await known.report())[0] == {"memory": "full"}  # what was seen last; the next look is under way
    await asyncio.sleep(0.01)
    assert (await known.report())[0] == {"memory": "ok"}


async def test_a_replica_that_is_being_ended_is_not_ready() -> None:
    world = World()
    app = world.http._transport.app  # type: ignore[attr-defined]
    async with app.router.lifespan_context(app):
        assert (await world.http.get("/readyz")).status_code == 200
    response = await world.http.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (503, "closing")


@pytest.mark.parametrize(
    ("llm", "serve", "gpu", "chats"),
    [
        ({}, {}, False, 16),
        ({}, {}, True, 64),
        ({"max_replicas": 4}, {"router_replicas": 2}, True, 128),
        ({"max_num_seqs": 4}, {}, False, 8),
        ({"base_url": "http://e/v1", "model": "m"}, {}, False, 128),
        ({}, {"max_concurrent_chats": 5}, True, 5),
    ],
)
def test_how_many_chats_a_replica_takes(llm: dict[str, Any], serve: dict[str, Any], gpu: bool, chats: int) -> None:
    assert chats_of(Settings(llm=llm, serve=serve), gpu) == chats


async def test_the_bench_counts_who_is_refused_and_waits_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = HeldLLM()
    world = World(llm=llm, max_concurrent_chats=2)
    waited: list[float] = []
    sleep = asyncio.sleep

    async def waits(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0.001)

    monkeypatch.setattr(bench_overload, "asyncio", SimpleNamespace(sleep=waits))
    seen = Seen()
    clients = [asyncio.create_task(bench_overload._chat(world.http, "echo", f"{n}", seen)) for n in range(4)]
    while len(seen.refused_ms) < 4:
        await sleep(0.001)
    llm.go.set()
    while len(seen.accepted_s) < 4:
        await sleep(0.001)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    assert (seen.without_retry_after, seen.errors.total()) == (0, 0)
    assert {1.0, 2.0, 3.0} >= set(waited)
    assert seen.requests == len(seen.refused_ms) + len(seen.accepted_s)


def test_the_bench_loads_no_cluster_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    own = overload_settings(Settings(), tmp_path)
    assert (own.home, own.serve.port, own.memory.uri) == (tmp_path, 0, None)
    with pytest.raises(InvalidInput, match="ray_address"):
        overload_settings(Settings(serve={"ray_address": "auto"}), tmp_path)
