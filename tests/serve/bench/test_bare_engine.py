"""The bare engine is given what the served one was: the same tokens, sampled alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from personaagent.types import ChatRequest, LikelihoodRequest, Message
from serve.bench.bare_engine import _Prompts
from serve.engine.scheduler import CACHED_UNTIL

ASKED = (Message(role="user", content="Tea?"),)


class Letters:
    """A tokeniser of letters, to which "\\n!" is one token, and whose template ends with a newline."""

    eos_token_id = 0

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool, **_: Any) -> str:
        return "".join(m["content"] for m in messages) + ("\n" if add_generation_prompt else "")

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text.replace("\n!", "§")]}


def prompts() -> _Prompts:
    return _Prompts(Letters(), 100)


def spelt(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_a_likelihood_reads_conversation_answer_and_end_with_the_conversation_cached() -> None:
    tokens, params = prompts().likelihood(LikelihoodRequest(messages=ASKED, answer="Yes"))
    assert tokens == [*spelt("Tea?\nYes"), 0]
    assert (params.prompt_logprobs, params.max_tokens, params.skip_reading_prefix_cache) == (0, 1, False)
    assert params.extra_args == {CACHED_UNTIL: len("Tea?\n") - 1}


def test_an_answer_does_not_join_the_end_of_the_template() -> None:
    tokens, params = prompts().likelihood(LikelihoodRequest(messages=ASKED, answer="!Yes"))
    assert tokens == [*spelt("Tea?\n!Yes"), 0]
    assert params.extra_args == {CACHED_UNTIL: len("Tea?\n") - 1}


def test_chats_are_bound_as_they_were() -> None:
    tokens, params = prompts().chat(ChatRequest(messages=ASKED, choices=("yes", "no"), top_logprobs=5, max_tokens=1))
    assert tokens == spelt("Tea?\n")
    assert params.structured_outputs.choice == ["yes", "no"]
    assert (params.logprobs, params.max_tokens, params.prompt_logprobs) == (5, 1, None)
    extra = {"structured_outputs": {"json": {"type": "object"}}}
    _, params = prompts().chat(ChatRequest(messages=ASKED, extra=extra))
    assert params.structured_outputs.json == {"type": "object"}
    assert params.max_tokens == 95
    _, params = prompts().chat(ChatRequest(messages=ASKED, continue_final=True))
    assert params.structured_outputs is None
