"""Models around other models forward what they are not about."""

from __future__ import annotations

import pytest

from personaagent.models.wrapper import ChatOnly, WholeAnswers, Wrapping, telling
from personaagent.protocols import likely
from personaagent.types import ChatRequest, ChatResult, LikelihoodRequest, Message
from serve.bench.workload import ScriptedEngine
from serve.runtime.system import NoLLM

SAID = (Message(role="user", content="tea or coffee"),)
ASKED = ChatRequest(messages=SAID)
TOLD = [LikelihoodRequest(messages=SAID, answer="tea")]


async def test_a_wrapper_answers_as_the_model_inside() -> None:
    engine = ScriptedEngine()
    model = Wrapping(engine)
    assert model.inner is engine
    assert model.context_length == engine.context_length
    assert await model.chat(ASKED) == await engine.chat(ASKED)
    assert await model.likelihoods(TOLD) == await engine.likelihoods(TOLD)
    assert [p async for p in model.stream(ASKED)] == [p async for p in engine.stream(ASKED)]


async def test_whole_answers_are_streamed_as_chat_gives_them() -> None:
    class Shouting(WholeAnswers):
        async def chat(self, request: ChatRequest) -> ChatResult:
            result = await super().chat(request)
            return result.model_copy(update={"text": result.text.upper()})

    text, whole = [p async for p in Shouting(ScriptedEngine()).stream(ASKED)]
    assert isinstance(whole, ChatResult)
    assert text == whole.text == whole.text.upper()


async def test_what_is_inside_decides_whether_likelihoods_are_told() -> None:
    assert likely(Wrapping(Wrapping(ScriptedEngine()))) is not None
    assert likely(Wrapping(NoLLM())) is None
    assert likely(ChatOnly(ScriptedEngine())) is None
    assert likely(Wrapping(ChatOnly(ScriptedEngine()))) is None
    with pytest.raises(TypeError, match="tells no likelihoods"):
        telling(NoLLM())
    with pytest.raises(TypeError, match="tells no likelihoods"):
        await Wrapping(NoLLM()).likelihoods(TOLD)
