"""The embedded model in the real vLLM under the real application. About a minute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from personaagent.errors import ContextLengthExceeded
from personaagent.protocols import likely
from personaagent.settings import load_settings
from personaagent.types import ChatRequest, ChatResult, Likelihood, LikelihoodRequest, Message
from serve.runtime.system import System

pytestmark = [pytest.mark.model, pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    home: Path = tmp_path_factory.mktemp("vllm")
    running = await System.start(load_settings(home=home, llm={"max_model_len": 1024, "kv_cache_gb": 1}))
    yield running
    await running.close()


def say(text: str, **more: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **more)


async def test_it_chats_and_streams_the_same(system: System) -> None:
    request = say("What is the capital of France?", max_tokens=12)
    whole = await system.llm.chat(request)
    assert "Paris" in whole.text
    assert whole.usage.completion_tokens > 0
    *pieces, last = [piece async for piece in system.llm.stream(request)]
    assert isinstance(last, ChatResult)
    assert "".join(str(p) for p in pieces) == last.text == whole.text
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens


async def test_first_position_is_normalised_over_what_the_choices_allow(system: System) -> None:
    choices = ("red", "green", "blue")
    result = await system.llm.chat(
        say("Which colour is grass: red, green or blue?", choices=choices, top_logprobs=15, max_tokens=1)
    )
    allowed = [(token, p) for token, p in result.first_logprobs if p > -100]
    assert all(any(choice.startswith(token) for choice in choices) for token, _ in allowed)
    continued = await system.llm.chat(
        ChatRequest(
            messages=(
                Message(role="user", content="Tea or coffee?"),
                Message(role="assistant", content="I drink black"),
            ),
            choices=(" coffee", " tea"),
            top_logprobs=10,
            max_tokens=1,
            continue_final=True,
        )
    )
    assert {token for token, p in continued.first_logprobs if p > -100} >= {" coffee", " tea"}


async def test_prefixes_are_cached(system: System) -> None:
    shared = "You like short answers. " * 60
    used = []
    for question in ("One?", "Two?"):
        messages = (Message(role="system", content=shared), Message(role="user", content=question))
        used.append((await system.llm.chat(ChatRequest(messages=messages, max_tokens=2))).usage)
    assert used[1].cached_tokens > used[1].prompt_tokens / 2


async def test_a_prompt_that_is_too_long_is_said_to_be(system: System) -> None:
    with pytest.raises(ContextLengthExceeded):
        await system.llm.chat(say("word " * 3000))
    with pytest.raises(ContextLengthExceeded):
        await anext(aiter(system.llm.stream(say("word " * 3000))))


def tell(number: int, persona: str, priority: int = 0) -> LikelihoodRequest:
    messages = (
        Message(role="system", content=persona + " You like mint tea, slow trains and short answers." * 30),
        Message(role="user", content=f"Question {number}: which one shall it be?"),
    )
    answer = (
        f"I would take number {number}, please, and a cup of tea with it. Thank you, that is very kind of you indeed."
    )
    return LikelihoodRequest(messages=messages, answer=answer, priority=priority)


async def likelihoods(system: System, requests: list[LikelihoodRequest]) -> tuple[Likelihood, ...]:
    llm = likely(system.llm)
    assert llm is not None
    return await llm.likelihoods(requests)


def logprobs(found: Sequence[Likelihood]) -> Any:
    """To compare with: the engine computes a token alike, whatever it shares a step with, up to the last bits."""
    return pytest.approx([f.logprob for f in found], abs=1e-2)


async def test_likelihoods_are_the_same_with_and_without_the_prefix_cache(system: System) -> None:
    requests = [tell(n, "Anna.") for n in range(20)]
    shared = await likelihoods(system, requests)
    again = await likelihoods(system, requests)  # the answers are in the cache now
    assert [f.logprob for f in again] == logprobs(shared)
    assert sum(f.usage.cached_tokens > f.usage.prompt_tokens / 2 for f in shared) >= 10
    for (
        f
    ) in again:  # all of the conversation but the block of 32 tokens in which the answer begins; nothing of the answer
        before = f.usage.prompt_tokens - f.tokens
        assert before - 32 <= f.usage.cached_tokens < before
    for number in (0, 7):
        await system.llm._handle.reset_prefix_cache.remote()  # type: ignore[attr-defined]
        (alone,) = await likelihoods(system, [requests[number]])
        assert alone.usage.cached_tokens == 0
        assert [alone.logprob] == logprobs([shared[number]])


async def test_likelihoods_read_in_short_steps_beside_chats_are_the_same(system: System) -> None:
    requests = [tell(n, "Ben.", priority=10) for n in range(5)]
    chats = [asyncio.create_task(system.llm.chat(say(f"Count to {i}.", max_tokens=60))) for i in range(70, 73)]
    await asyncio.sleep(0.2)
    beside = await likelihoods(system, requests)
    await asyncio.gather(*chats)
    await system.llm._handle.reset_prefix_cache.remote()  # type: ignore[attr-defined]
    assert [f.logprob for f in await likelihoods(system, requests)] == logprobs(beside)


async def test_a_likely_answer_is_likelier_than_another(system: System) -> None:
    question = (Message(role="user", content="What is the capital of France?"),)
    own = (await system.llm.chat(ChatRequest(messages=question, max_tokens=40))).text
    answers = (own, "The capital of France is Berlin.", "zxq jjk")
    found = await likelihoods(system, [LikelihoodRequest(messages=question, answer=a) for a in answers])
    assert found[0].per_token > found[1].per_token > found[2].per_token


async def test_an_answer_that_does_not_fit_is_said_not_to(system: System) -> None:
    for question, answer in (("Hi", "word " * 3000), ("word " * 3000, "Hi"), ("Hi", "word " * 1010)):
        messages = (Message(role="user", content=question),)
        with pytest.raises(ContextLengthExceeded):
            await likelihoods(system, [LikelihoodRequest(messages=messages, answer=answer)])


async def test_tools_become_calls(system: System) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "description": "weather", "parameters": parameters}}
    extra = {"tools": [tool], "tool_choice": "required"}
    result = await system.llm.chat(say("How is the weather in Paris?", max_tokens=80, extra=extra))
    assert result.message["tool_calls"][0]["function"]["name"] == "weather"
    plain = await system.llm.chat(say("Say hello.", max_tokens=8, extra={"tools": [tool], "tool_choice": "auto"}))
    assert plain.text


async def test_batch_work_and_chat_run_together(system: System) -> None:
    batch = [system.llm.chat(say(f"Count to {i}.", max_tokens=24, priority=10)) for i in range(60)]
    chat = [system.llm.chat(say(f"Hello {i}.", max_tokens=4)) for i in range(4)]
    answers = await asyncio.gather(*batch, *chat)
    assert all(answer.usage.completion_tokens for answer in answers)
    stats = await system.llm.stats()  # type: ignore[attr-defined]
    assert stats.batch_peak == 56


async def test_seeds_with_prompts_prefilled_in_chunks_do_not_end_the_engine(system: System) -> None:
    """vLLM's CPU worker winds back the random generator of a seeded request that it prefills in parts, and cannot."""
    long = [f"{n} " + "word " * 800 for n in range(12)]  # more tokens together than one step takes
    calls = (system.llm.chat(say(text, max_tokens=2, temperature=1.0, seed=n)) for n, text in enumerate(long))
    assert len(await asyncio.gather(*calls)) == len(long)
