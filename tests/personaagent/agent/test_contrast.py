"""Answers chosen among samples: which one, at what cost, and when there is nothing to choose by."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from personaagent import prompts
from personaagent.agent.agent import Agent, Reply, Turn
from personaagent.agent.contrast import TEMPERATURE, Samples
from personaagent.agent.copying import Copy
from personaagent.claims import Claim, ClaimKind, Exemplar
from personaagent.errors import ContextLengthExceeded, InvalidInput, LLMError
from personaagent.memory.local import LocalMemory
from personaagent.persona.persona import made
from personaagent.settings import AgentSettings
from personaagent.types import (
    ChatRequest,
    ChatResult,
    Decision,
    Interaction,
    Likelihood,
    LikelihoodRequest,
    Message,
    Origin,
    Usage,
)
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM

OLD = "Dear Noor, I shall come and admire every cupboard."
NEW = "Robin invites me to a picnic. Write my reply."
START = datetime(2026, 1, 1, tzinfo=UTC)


class Sampler(FakeLLM):
    """Gives `answers` in turn; a persona adds `gains` nats per token to them (0 unless named)."""

    def __init__(self, *answers: str, **gains: float) -> None:
        turns = itertools.cycle(answers)
        super().__init__(lambda _: next(turns))
        self.gains = gains
        self.asked: list[LikelihoodRequest] = []
        self.fails: Exception | None = None

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        self.asked += requests
        if self.fails is not None:
            raise self.fails
        return tuple(self._told(r) for r in requests)

    def _told(self, request: LikelihoodRequest) -> Likelihood:
        tokens = len(request.answer.split()) + 1
        known = prompts.NO_PERSONA not in request.messages[0].text
        gain = self.gains.get(request.answer.split()[0].rstrip(","), 0.0) if known else 0.0
        return Likelihood(logprob=tokens * (gain - 3), tokens=tokens, usage=Usage(calls=1, prompt_tokens=10))


@pytest.fixture
async def memory() -> LocalMemory:
    memory = LocalMemory(HashEmbedder())
    past = Interaction(id="noor", user="ada", time=START, query="Noor has a new flat. Write my reply.", truth=OLD)
    await memory.append("ada", [past])
    claim = Claim(text="writes gladly", kind=ClaimKind.WRITES, sources=("noor",))
    exemplar = Exemplar(source="gone", query="Say thanks.", truth="Many thanks, from one old sailor to another.")
    draft = made([claim], Decision(), Origin.ALIGNED, exemplars=[exemplar], budget=None)
    await memory.commit_persona("ada", draft, None)
    return memory


def turn(text: str = NEW, **more: object) -> Turn:
    fields: dict[str, object] = {"explain": True, "remember": False, **more}
    return Turn(user="ada", messages=(Message(role="user", content=text),), **fields)  # type: ignore[arg-type]


async def answer(llm: FakeLLM, memory: LocalMemory, settings: int = 1, **more: object) -> Reply:
    return await Agent(llm, memory, AgentSettings(samples=settings)).respond(turn(**more))  # type: ignore[arg-type]


async def test_the_answer_that_the_persona_makes_likelier_is_taken(memory: LocalMemory) -> None:
    llm = Sampler("fine then", "gladly so", "sure thing", gladly=0.5, sure=0.2)
    reply = await answer(llm, memory, samples=3)
    assert reply.text == reply.message["content"] == "gladly so"
    assert reply.samples is not None
    assert reply.samples.gain == pytest.approx(0.5)
    assert (reply.samples.count, reply.samples.set_aside, reply.samples.note) == (3, 0, None)
    with_user, alone = llm.asked[0].messages, llm.asked[-1].messages
    assert with_user == llm.requests[0].messages
    assert len(alone) == 2
    assert alone[-1] == with_user[-1]
    assert "gladly" not in alone[0].text
    # The prompt without the user begins as it does with them, so that it is in the cache.
    assert with_user[0].text.split(prompts.PERSONA_HEADING)[0] == alone[0].text.split(prompts.PERSONA_HEADING)[0]


async def test_the_first_sample_is_the_answer_that_there_was_without_and_draws(memory: LocalMemory) -> None:
    llm = Sampler("one", "two", "three")
    assert (await answer(llm, memory, samples=3, seed=7)).text == "one"
    assert [(r.temperature, r.seed) for r in llm.requests] == [(0.0, 7), (TEMPERATURE, 8), (TEMPERATURE, 9)]
    assert len({r.messages for r in llm.requests}) == 1
    llm.requests.clear()
    await answer(llm, memory, samples=2, temperature=1.2)
    assert [(r.temperature, r.seed) for r in llm.requests] == [(1.2, None), (1.2, None)]


async def test_usage_is_that_of_all_samples_and_of_comparing_them(memory: LocalMemory) -> None:
    llm = Sampler("one", "two", "one")
    alone = (await answer(llm, memory)).usage
    usage = (await answer(llm, memory, samples=3)).usage
    assert len(llm.asked) == 4  # equal answers are compared once
    assert usage.calls == 3 + 4
    assert usage.completion_tokens == 3 * alone.completion_tokens
    assert usage.prompt_tokens == 3 * alone.prompt_tokens + 4 * 10


async def test_a_copy_is_not_taken_however_likely_it_is(memory: LocalMemory) -> None:
    llm = Sampler(OLD, "Robin, with pleasure", "Gladly, dear Noor", "Splendid, Robin", Dear=9, Gladly=8, Splendid=1)
    reply = await answer(llm, memory, samples=4)
    assert reply.text == "Splendid, Robin"
    assert reply.samples is not None
    assert (reply.samples.count, reply.samples.set_aside) == (4, 2)
    assert {r.answer for r in llm.asked} == {"Robin, with pleasure", "Splendid, Robin"}
    assert reply.copied == Copy()


async def test_a_copy_of_an_exemplar_is_one_too(memory: LocalMemory) -> None:
    reply = await answer(Sampler("Many thanks, from one old sailor to you", "Robin, yes"), memory, samples=2)
    assert reply.text == "Robin, yes"


async def test_where_all_copy_the_smallest_copy_is_taken(memory: LocalMemory) -> None:
    llm = Sampler(OLD, "Hello Noor", Dear=9)
    reply = await answer(llm, memory, samples=2)
    assert reply.text == "Hello Noor"
    assert reply.samples == Samples(count=2, set_aside=1)
    assert reply.copied is not None
    assert (reply.copied.names, reply.copied.fault) == (("noor",), True)
    assert llm.asked == []


async def test_what_a_user_says_again_and_again_is_no_copy(memory: LocalMemory) -> None:
    for n in range(2):
        time = START + timedelta(days=n + 1)
        said = f"I hope this message finds you in the best of health, and {'ab'[n]}."
        past = Interaction(id=f"i{n}", user="ada", time=time, query="How do I open a letter?", truth=said)
        await memory.append("ada", [past])
    llm = Sampler("no", "I hope this message finds you in the best of health, Robin", I=1)
    assert (await answer(llm, memory, samples=2)).text.startswith("I hope")


async def test_the_settings_choose_too_unless_the_request_says_how_many(memory: LocalMemory) -> None:
    llm = Sampler("one", "two", two=1)
    assert (await answer(llm, memory, settings=2)).text == "two"
    llm.requests.clear()
    reply = await answer(llm, memory, settings=2, samples=1)
    assert (reply.text, reply.samples, len(llm.requests)) == ("one", Samples(), 1)
    quiet = await answer(llm, memory, settings=2, explain=False)
    assert (quiet.samples, quiet.copied) == (None, None)


async def test_a_server_without_likelihoods_is_no_reason_for_silence(memory: LocalMemory) -> None:
    llm = FakeLLM("one")
    reply = await answer(llm, memory, settings=4, explain=False)
    assert (reply.text, len(llm.requests)) == ("one", 1)
    assert reply.samples is not None
    assert reply.samples.note is not None
    assert "instead of 4" in reply.samples.note
    with pytest.raises(InvalidInput, match="does not tell likelihoods"):
        await answer(llm, memory, samples=2)
    assert len(llm.requests) == 1
    assert (await answer(llm, memory, samples=1)).text == "one"


@pytest.mark.parametrize(
    "more",
    [{"choices": ("yes", "no")}, {"extra": {"tools": [{}]}}, {"extra": {"response_format": {}}}],
)
async def test_only_free_text_is_chosen(memory: LocalMemory, more: dict[str, object]) -> None:
    llm = Sampler("one", "two")
    with pytest.raises(InvalidInput, match="only free text"):
        await answer(llm, memory, samples=2, **more)
    assert llm.requests == []
    await answer(llm, memory, settings=2, **more)
    assert len(llm.requests) == 1


async def test_what_is_streamed_is_not_chosen(memory: LocalMemory) -> None:
    llm = Sampler("one", "two", two=1)
    a = Agent(llm, memory, AgentSettings(samples=2))
    *pieces, reply = [p async for p in a.stream(turn())]
    assert "".join(str(p) for p in pieces) == "one"
    assert isinstance(reply, Reply)
    assert len(llm.requests) == 1
    with pytest.raises(InvalidInput, match="streamed"):
        _ = [p async for p in a.stream(turn(samples=2))]


async def test_silence_beside_an_answer_is_none(memory: LocalMemory) -> None:
    reply = await answer(Sampler("one", "", one=-1), memory, samples=2)
    assert (reply.text, reply.steps, reply.samples) == ("one", 1, Samples(count=2))
    assert (await answer(Sampler("", " "), memory, samples=2)).text == ""


async def test_too_long_to_be_compared_is_said(memory: LocalMemory) -> None:
    llm = Sampler("one", "two", two=1)
    llm.fails = ContextLengthExceeded("too long")
    reply = await answer(llm, memory, samples=2)
    assert reply.text == "one"
    assert reply.samples is not None
    assert "too long" in (reply.samples.note or "")
    llm.fails = LLMError("broken")
    with pytest.raises(LLMError, match="broken"):
        await answer(llm, memory, samples=2)


async def test_samples_fit_by_showing_less(memory: LocalMemory) -> None:
    llm = Sampler("one", "two", two=1)
    llm.limit = len(prompts.INSTRUCTIONS) + 150
    llm.context_length = llm.limit // 4
    reply = await answer(llm, memory, samples=2)
    assert reply.text == "two"
    assert reply.saw is not None
    assert reply.saw.episodes == ()


class Slow(Sampler):
    """Its first call fails if told to, all others never end."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__("late")
        self.error = error
        self.waiting = 0
        self.all_wait = asyncio.Event()
        self.ended = 0

    async def chat(self, request: ChatRequest) -> ChatResult:
        self.waiting += 1
        if self.waiting == 4:
            self.all_wait.set()
        if self.error is not None and request.temperature == 0:
            await asyncio.sleep(0)
            raise self.error
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1
        raise AssertionError("never")


async def test_cancelling_a_request_cancels_all_samples(memory: LocalMemory) -> None:
    llm = Slow(None)
    asked = asyncio.create_task(answer(llm, memory, samples=4, remember=True))
    await llm.all_wait.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert llm.ended == 4
    assert [i.id for i in await memory.latest("ada", 9)] == ["noor"]


async def test_a_sample_that_fails_ends_the_others(memory: LocalMemory) -> None:
    llm = Slow(LLMError("broken"))
    with pytest.raises(LLMError, match="broken"):
        await answer(llm, memory, samples=4)
    assert llm.ended == 3


async def test_replays_are_the_plain_answer(memory: LocalMemory) -> None:
    llm = Sampler("one", "two", two=1)
    (past,) = await memory.latest("ada", 1)
    persona = await memory.persona("ada")
    assert persona is not None
    replay = await Agent(llm, memory, AgentSettings(samples=4)).replay(past, persona)
    assert (replay.text, len(llm.requests)) == ("one", 1)
