"""Whatever ends the waiting for a part of the system also ends the work there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from actors.memory.client import ShardedMemory
from personaagent import deadline
from personaagent.agent.agent import Agent, Turn
from personaagent.aio import together
from personaagent.errors import DeadlineExceeded, LLMError, OverloadedError, UnavailableError
from personaagent.memory.local import LocalMemory
from personaagent.settings import AgentSettings
from personaagent.types import ChatRequest, LikelihoodRequest, Message, RecallQuery
from serve.clients.model_client import HandleLLM
from serve.embedder import HandleEmbedder
from tests.support.doubles import HashEmbedder
from tests.support.slow_parts import Part, full

SAID = (Message(role="user", content="hello"),)


def llm(part: Part, timeout_s: float) -> HandleLLM:
    return HandleLLM(part, "m", context_length=100, timeout_s=timeout_s)  # type: ignore[arg-type]


async def chat(part: Part, timeout_s: float) -> Any:
    return await llm(part, timeout_s).chat(ChatRequest(messages=SAID))


async def batch(part: Part, timeout_s: float) -> Any:
    return await llm(part, timeout_s).chat(ChatRequest(messages=SAID, priority=10))


async def stream(part: Part, timeout_s: float) -> Any:
    return [piece async for piece in llm(part, timeout_s).stream(ChatRequest(messages=SAID))]


async def likelihoods(part: Part, timeout_s: float) -> Any:
    asked = [LikelihoodRequest(messages=SAID, answer=f"answer {n}") for n in range(70)]
    return await llm(part, timeout_s).likelihoods(asked)


async def embed(part: Part, timeout_s: float) -> Any:
    embedder = HandleEmbedder(part, max_batch=1, timeout_s=timeout_s)  # type: ignore[arg-type]
    return await embedder.embed([f"text {n}" for n in range(10)])


async def recall(part: Part, timeout_s: float) -> Any:
    return await ShardedMemory(HashEmbedder(), [part], []).recall("ann", RecallQuery(text="tea"))


async def ask_shards(part: Part, timeout_s: float) -> Any:
    return await ShardedMemory(HashEmbedder(), [part, part], []).incarnations()


async def respond(part: Part, timeout_s: float) -> Any:
    agent = Agent(llm(part, timeout_s), LocalMemory(HashEmbedder()), AgentSettings())
    return await agent.respond(Turn(user="ann", messages=SAID))


Call = Callable[[Part, float], Awaitable[Any]]
MODEL: list[Call] = [chat, batch, stream, likelihoods, respond]
CALLS: list[Call] = [*MODEL, embed, recall, ask_shards]


@pytest.mark.parametrize("call", [*MODEL, embed])
async def test_a_call_that_times_out_is_cancelled(call: Call) -> None:
    part = Part()
    with pytest.raises(UnavailableError, match=r"did not answer within 0\.02 s"):
        await call(part, 0.02)
    assert part.calls
    assert part.left == 0


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
async def test_at_the_deadline_every_call_is_cancelled(call: Call) -> None:
    part = Part()
    with deadline.until(0.3), pytest.raises(DeadlineExceeded):
        await call(part, 100)
    assert part.calls
    assert part.left == 0


@pytest.mark.parametrize("call", CALLS)
async def test_when_the_client_goes_away_every_call_is_cancelled(call: Call) -> None:
    part = Part()
    task = asyncio.ensure_future(call(part, 100))
    while not part.calls:  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert part.left == 0


@pytest.mark.parametrize("call", CALLS)
async def test_when_something_beside_it_fails_every_call_is_cancelled(call: Call) -> None:
    part = Part()

    async def fail() -> None:
        while not part.calls:  # noqa: ASYNC110
            await asyncio.sleep(0)
        raise LLMError("broken")

    async def asked() -> None:
        await call(part, 100)

    with pytest.raises(LLMError):
        await together([asked(), fail()])
    assert part.left == 0


@pytest.mark.parametrize("call", CALLS)
async def test_after_the_deadline_nothing_is_begun(call: Call) -> None:
    part = Part()
    with deadline.until(0.0), pytest.raises(DeadlineExceeded):
        await call(part, 100)
    assert part.calls == []


async def test_who_stops_reading_a_stream_stops_the_model() -> None:
    part = Part(pieces=2)
    pieces = llm(part, 100).stream(ChatRequest(messages=SAID))
    assert await anext(pieces) == "word "
    await pieces.aclose()  # type: ignore[attr-defined]
    assert part.left == 0


async def test_who_stops_reading_an_answer_stops_the_model() -> None:
    part = Part(pieces=9)
    agent = Agent(llm(part, 100), LocalMemory(HashEmbedder()), AgentSettings())
    pieces = agent.stream(Turn(user="ann", messages=SAID))
    await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]
    assert part.left == 0


async def test_an_embedder_that_is_away_costs_the_other_calls_too() -> None:
    part = Part(error=full())
    with deadline.until(100), pytest.raises(OverloadedError):
        await embed(part, 100)
    assert part.left == 0


@pytest.mark.parametrize("call", [chat, stream, embed, likelihoods, respond])
async def test_a_request_that_finds_no_room_hears_so_at_once(call: Call) -> None:
    part = Part(error=full())
    with deadline.until(100), pytest.raises(OverloadedError):
        await call(part, 100)


@pytest.mark.slow
@pytest.mark.parametrize("call", [batch, embed])
async def test_work_that_is_nobodys_request_waits_for_room(call: Call) -> None:
    part = Part(error=full())
    task = asyncio.ensure_future(call(part, 0.5))
    while len(part.calls) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    part.error = None  # there is room now, and the call goes through
    with pytest.raises(UnavailableError, match="did not answer"):
        await task


@pytest.mark.slow
async def test_batch_work_waits_for_room_until_its_deadline() -> None:
    part = Part(error=full())
    with deadline.until(1.0), pytest.raises(DeadlineExceeded):
        await batch(part, 100)
    assert len(part.calls) > 1


async def test_the_replica_hears_how_much_time_there_is() -> None:
    part = Part()
    with deadline.until(0.3), pytest.raises(DeadlineExceeded):
        await chat(part, 100)
    (call,) = part.arguments[0]
    assert 0 < call.within_s <= 0.3


async def test_an_inner_deadline_is_never_later_than_the_outer_one() -> None:
    assert deadline.remaining() is None
    with deadline.until(1), deadline.until(100):
        assert 0 < (deadline.remaining() or 0) <= 1
    assert deadline.remaining() is None


async def test_a_timeout_of_what_is_inside_stays_what_it_is() -> None:
    with pytest.raises(TimeoutError), deadline.until(100):
        async with deadline.bounded(100):
            raise TimeoutError
