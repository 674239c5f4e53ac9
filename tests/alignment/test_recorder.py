"""What a recorder passes on and counts, and how a clock divides the time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from alignment.recorder import OWN, WAITING, Recorder, Timed, WallClock
from alignment.stages import OTHER, current_stage, stage
from personaagent.aio import together
from personaagent.memory.local import LocalMemory
from personaagent.models.wrapper import ChatOnly
from personaagent.protocols import likely
from personaagent.types import ChatRequest, ChatResult, Likelihood, LikelihoodRequest, Message
from serve.bench.workload import ScriptedEmbedder, ScriptedEngine


def say(text: str) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),))


def tell(answer: str) -> LikelihoodRequest:
    return LikelihoodRequest(messages=(Message(role="user", content="Which?"),), answer=answer)


async def test_a_recorder_salts_what_it_sends_but_keeps_what_was_asked() -> None:
    seen: list[ChatRequest] = []

    class Inner(ScriptedEngine):
        async def chat(self, request: ChatRequest) -> ChatResult:
            seen.append(request)
            return await super().chat(request)

    recorder = Recorder(Inner(), "run-a")
    request = ChatRequest(messages=(Message(role="user", content="hi"),))
    await recorder.chat(request)
    assert seen[0].extra == {"cache_salt": "run-a"}
    assert recorder.requests == [request]
    assert recorder.usage.calls == 1


async def test_a_recorder_salts_and_keeps_likelihoods_too() -> None:
    seen: list[Sequence[LikelihoodRequest]] = []

    class Inner(ScriptedEngine):
        async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
            seen.append(requests)
            return await super().likelihoods(requests)

    requests = [tell("tea"), tell("coffee")]
    for singly, sizes in ((False, [2]), (True, [1, 1])):
        seen.clear()
        recorder = Recorder(Inner(), "run-a", singly=singly)
        assert await recorder.likelihoods(requests) == await ScriptedEngine().likelihoods(requests)
        assert [len(some) for some in seen] == sizes
        assert {r.cache_salt for some in seen for r in some} == {"run-a"}
        assert recorder.requests == requests
        assert recorder.usage.calls == 2


async def test_a_model_that_only_chats_tells_no_likelihoods() -> None:
    assert likely(Recorder(ScriptedEngine())) is not None
    chatting = Recorder(ChatOnly(ScriptedEngine()))
    assert likely(chatting) is None
    assert (await chatting.chat(say("hi"))).text == (await ScriptedEngine().chat(say("hi"))).text
    with pytest.raises(TypeError):
        await chatting.likelihoods([tell("tea")])


async def test_calls_are_counted_for_the_innermost_stage() -> None:
    recorder = Recorder(ScriptedEngine())

    @stage("inner")
    async def inner() -> str:
        await recorder.chat(say("c"))
        return current_stage()

    @stage("outer")
    async def outer(text: str) -> list[str]:
        await recorder.chat(say(text))
        return [*await together([inner(), inner()]), current_stage()]

    assert await outer("a") == ["inner", "inner", "outer"]
    await recorder.chat(say("b"))
    assert {name: usage.calls for name, usage in recorder.stages.items()} == {"outer": 1, "inner": 2, OTHER: 1}
    assert current_stage() == OTHER


def test_the_wall_clock_adds_up() -> None:
    wall, used = [0.0], [0.0]

    def passes(seconds: float, computing: float = 0.0) -> None:
        wall[0] += seconds
        used[0] += computing

    clock = WallClock(lambda: wall[0], lambda: used[0])
    passes(1.0, 0.25)
    with clock.beside("memory"):
        passes(2.0, 0.5)
        with clock.call("gate"):
            passes(4.0, 4.0)
            with clock.call("profile", 3):
                passes(8.0)
    passes(1.0, 9.0)  # threads can use more processor time than passes
    calls, between = clock.seconds()
    assert calls == {"gate": 6.0, "profile": 6.0}
    assert between == {OWN: 1.75, WAITING: 0.75, "memory": 1.5}
    assert sum(calls.values()) + sum(between.values()) == wall[0]


async def test_a_timed_part_is_that_part() -> None:
    wall = iter(range(100))
    clock = WallClock(lambda: float(next(wall)), lambda: 0.0)
    memory = Timed(LocalMemory(ScriptedEmbedder(16)), "memory", clock)
    assert await memory.latest("nobody", 3) == ()
    assert clock.seconds()[1] == {OWN: 0.0, WAITING: 2.0, "memory": 1.0}
    with pytest.raises(AttributeError):
        memory.nothing  # noqa: B018
