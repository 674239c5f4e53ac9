"""Who tells likelihoods, what it costs, and what the handle makes of the replica's answers; without an engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from ray.exceptions import RayActorError

from alignment.aligner import _Charged
from alignment.budget import Budget, Caller
from alignment.evaluation.metering import SharedLLM, counted
from alignment.slots import Slots
from personaagent.errors import BudgetExceeded, ContextLengthExceeded, InvalidInput, UnavailableError
from personaagent.models.openai_client import OpenAILLM
from personaagent.protocols import LLM, likely
from personaagent.types import Likelihood, LikelihoodRequest, Message, Usage
from serve.bench.workload import ScriptedEngine
from serve.calls import AnswerCall, Refusal
from serve.clients.model_client import HandleLLM
from serve.runtime.system import NoLLM
from tests.support.fake_llm import FakeLLM

BUSY = Refusal(503, "no room", busy=True)


def tell(answer: str, persona: str = "a") -> LikelihoodRequest:
    messages = (Message(role="system", content=persona), Message(role="user", content="hi"))
    return LikelihoodRequest(messages=messages, answer=answer)


def caller(budget: Budget) -> Caller:
    return Caller(Slots(4), budget)


def test_wrappers_tell_likelihoods_if_what_they_wrap_does() -> None:
    able: list[LLM] = [ScriptedEngine(), HandleLLM(None, "m", context_length=9)]  # type: ignore[arg-type]
    unable: list[LLM] = [OpenAILLM("http://127.0.0.1:9/v1", "m"), NoLLM(), FakeLLM()]
    for llm in able + unable:
        for wrapped in (
            llm,
            SharedLLM(llm).meter(),
            _Charged(llm, caller(Budget())),
            _Charged(SharedLLM(llm).meter(), caller(Budget())),
        ):
            assert (likely(wrapped) is wrapped) == (llm in able)
            assert (likely(wrapped) is None) == (llm in unable)


async def test_scripted_likelihoods_prefer_words_of_the_conversation() -> None:
    known, unknown = await ScriptedEngine().likelihoods([tell("tea", "likes tea"), tell("tea", "likes jam")])
    assert known.logprob - unknown.logprob == pytest.approx(math.log(2))
    assert known.tokens == 2


async def test_a_users_budget_counts_every_answer() -> None:
    budget = Budget(calls=5)
    llm = _Charged(ScriptedEngine(), caller(budget))
    assert len(await llm.likelihoods([tell("tea"), tell("milk"), tell("jam")])) == 3
    assert (budget.calls, budget.prompt_tokens, budget.completion_tokens) == (3, 12, 0)
    with pytest.raises(BudgetExceeded):
        await llm.likelihoods([tell("tea")] * 3)
    assert await llm.likelihoods([]) == ()
    assert budget.calls == 3
    with pytest.raises(TypeError):
        await _Charged(FakeLLM(), caller(budget)).likelihoods([tell("tea")])


async def test_equal_answers_are_asked_for_once_and_charged_to_every_purpose() -> None:
    shared = SharedLLM(ScriptedEngine())
    first, second = shared.meter(), shared.meter()
    with counted() as tally:
        found = await first.likelihoods([tell("tea"), tell("jam"), tell("tea")])
    assert found == await second.likelihoods([tell("tea"), tell("jam"), tell("tea")])
    assert shared.sent == 2
    assert first.usage == second.usage == tally.usage == Usage(calls=3, prompt_tokens=12)
    with pytest.raises(TypeError):
        await SharedLLM(FakeLLM()).meter().likelihoods([tell("tea")])


class Replica:
    """A Serve handle that answers calls of `likelihoods` by a script; the log-probability is the answer as a number."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.calls: list[list[str]] = []
        self.sessions: set[str] = set()
        self.salts: list[str | None] = []

    def options(self, method_name: str, session_id: str) -> Replica:
        assert method_name == "likelihoods"
        self.sessions.add(session_id)
        return self

    def remote(self, calls: Sequence[AnswerCall]) -> Any:
        self.calls.append([c.answer for c in calls])
        self.salts += [c.body.get("cache_salt") for c in calls]
        step = self.steps.pop(0) if self.steps else {}
        work: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if isinstance(step, Exception):
            work.set_exception(step)
        else:
            usage = Usage(calls=1)
            told = [step.get(c.answer, Likelihood(logprob=-float(c.answer), tokens=1, usage=usage)) for c in calls]
            work.set_result(told)
        return work


def handle(replica: Replica) -> HandleLLM:
    return HandleLLM(replica, "m", context_length=99)  # type: ignore[arg-type]


async def test_the_handle_sends_answers_by_prefix_and_in_chunks() -> None:
    replica = Replica()
    found = await handle(replica).likelihoods([tell(f"{n}", "ab"[n % 2]) for n in range(80)])
    assert [f.logprob for f in found] == [-float(n) for n in range(80)]
    assert sorted(len(c) for c in replica.calls) == [8, 8, 32, 32]
    assert all(len({int(a) % 2 for a in c}) == 1 for c in replica.calls)
    assert len(replica.sessions) == 2
    assert await handle(replica).likelihoods([]) == ()
    assert len(replica.calls) == 4


async def test_the_salt_of_the_prefix_cache_reaches_the_engine() -> None:
    replica = Replica()
    await handle(replica).likelihoods([tell("0"), tell("1").model_copy(update={"cache_salt": "mine"})])
    assert replica.salts == [None, "mine"]


async def test_the_handle_asks_again_only_for_what_found_no_room() -> None:
    replica = Replica({"1": BUSY, "2": BUSY}, RayActorError(), {"2": BUSY})
    found = await handle(replica).likelihoods([tell(f"{n}") for n in range(4)])
    assert [f.logprob for f in found] == [0.0, -1.0, -2.0, -3.0]
    assert replica.calls == [["0", "1", "2", "3"], ["1", "2"], ["1", "2"], ["2"]]


async def test_the_handle_raises_what_is_wrong_with_one_of_them() -> None:
    long = Refusal(400, "This model's maximum context length is 99 tokens.")
    with pytest.raises(ContextLengthExceeded):
        await handle(Replica({"1": long})).likelihoods([tell("0"), tell("1")])
    with pytest.raises(UnavailableError, match="twice"):
        await handle(Replica(RayActorError(), RayActorError())).likelihoods([tell("0")])
    replica = Replica()
    with pytest.raises(InvalidInput, match="empty answer"):
        await handle(replica).likelihoods([tell("0"), tell("")])
    with pytest.raises(InvalidInput, match="no conversation"):
        await handle(replica).likelihoods([LikelihoodRequest(messages=(), answer="0")])
    assert replica.calls == []
