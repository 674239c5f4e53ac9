"""Who is refused at the door, and when they are told to come again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import strategies as st

from personaagent.settings import ServeSettings
from serve.http.admission import PLACES, Admission, Load
from serve.http.edge import Edge
from serve.http.shedding import PROBE_S, Shedding
from serve.http.turnover import LONGEST_S, Turnover

CHAT = "/v1/chat/completions"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    places=st.integers(1, 500), seconds=st.floats(0.0, 1e4), refused=st.integers(1, 300), apart=st.floats(0.0, 100.0)
)
def test_a_wait_is_always_some_seconds_and_never_endless(
    places: int, seconds: float, refused: int, apart: float
) -> None:
    clock = Clock()
    turnover = Turnover(places, clock)
    number = turnover.begin()
    clock.now += seconds
    turnover.end(number)
    for _ in range(refused):
        assert 1 <= turnover.refuse() <= LONGEST_S
        clock.now += apart


def test_the_wait_grows_with_the_work_and_with_those_who_wait_and_ends_with_them() -> None:
    clock = Clock()
    turnover = Turnover(16, clock)
    for _ in range(16):
        turnover.begin()
    clock.now += 10.0
    first = turnover.refuse()
    for _ in range(200):
        turnover.refuse()
    crowded = turnover.refuse()
    assert first == 1
    assert crowded > 10
    clock.now += 100.0  # they are gone, or have been let in
    for number in range(1, 17):
        turnover.end(number)
    number = turnover.begin()
    for _ in range(40):
        turnover.end(number)
        number = turnover.begin()
    assert turnover.refuse() == 1


def test_a_proxy_refuses_by_itself_what_its_routers_would_until_they_take_more() -> None:
    clock = Clock()
    chats = Shedding(clock)
    assert [chats.refuse() for _ in range(4)] == [None] * 4
    inside = [chats.begin() for _ in range(4)]
    for number in inside[2:]:
        chats.answered(429)
        chats.end(number, 429)
    assert (chats.refuse() or 0) >= 1
    clock.now += PROBE_S  # one may ask again
    assert chats.refuse() is None
    assert chats.refuse() is not None
    chats.end(inside[0], 200)
    assert chats.refuse() is None  # a place is free
    chats.begin()
    clock.now += PROBE_S
    assert chats.refuse() is None
    number = chats.begin()
    chats.answered(200)  # another router has come
    assert chats.refuse() is None


def test_a_rush_is_refused_before_any_router_is_asked_once_their_limit_is_known() -> None:
    chats = Shedding(Clock())
    chats.learn(8)
    let_in = [chats.refuse() is None and chats.begin() for _ in range(200)]
    assert sum(map(bool, let_in)) == 9  # and one that asks whether it still holds


def test_a_proxy_without_chats_refuses_nobody() -> None:
    clock = Clock()
    chats = Shedding(clock)
    for status in (429, None):
        number = chats.begin()
        if status is not None:
            chats.answered(status)
        chats.end(number, status)
        assert chats.refuse() is None


class Router:
    """Takes so many chats at once, and holds them until it is told."""

    def __init__(self, places: int) -> None:
        self.app = FastAPI()
        self.places = places
        self.inside = self.seen = 0
        self.full, self.go = asyncio.Event(), asyncio.Event()
        self.app.post(CHAT)(self._chat)
        self.app.get("/v1/models")(lambda: {"data": []})

    async def _chat(self) -> Any:
        self.seen += 1
        if self.inside >= self.places:
            return JSONResponse({"error": {"message": "full"}}, 429, headers={"Retry-After": "3"})
        self.inside += 1
        if self.inside == self.places:
            self.full.set()
        try:
            await self.go.wait()
        finally:
            self.inside -= 1
        return {"ok": True}


async def test_most_refusals_never_reach_a_router_and_all_have_one_form() -> None:
    router, shed = Router(3), []
    edge = Edge(router.app, shed=lambda: shed.append(1))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://x") as http:
        inside = [asyncio.create_task(http.post(CHAT)) for _ in range(3)]
        await router.full.wait()
        refused = [await http.post(CHAT) for _ in range(50)]
        assert {r.status_code for r in refused} == {429}
        assert all(int(r.headers["Retry-After"]) >= 1 for r in refused)
        assert refused[-1].json()["error"]["code"] == "rate_limit_exceeded"
        assert router.seen <= 3 + 10  # those who ask whether it takes more
        assert len(shed) == 53 - router.seen
        assert (await http.get("/v1/models")).status_code == 200
        router.go.set()
        assert {(await one).status_code for one in inside} == {200}
        assert [(await http.post(CHAT)).status_code for _ in range(5)] == [200] * 5


async def test_the_routers_limit_is_a_word_among_ourselves() -> None:
    async def answer() -> dict[str, bool]:
        return {"ok": True}

    app = FastAPI()
    app.post(CHAT)(answer)
    settings = ServeSettings(max_concurrent_chats=5, router_replicas=2, max_router_replicas=3)
    admission = Admission(app, Load.of(settings, 5), settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(admission), base_url="http://x") as http:
        assert (await http.post(CHAT)).headers[PLACES.decode()] == "15"
    edge = Edge(admission)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://x") as http:
        assert PLACES.decode() not in (await http.post(CHAT)).headers
    assert sum(edge._chats.refuse() is None and edge._chats.begin() > 0 for _ in range(50)) == 16
