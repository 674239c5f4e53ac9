from __future__ import annotations

import math

import pytest

from personaagent import prompts
from personaagent.agent.agent import Agent, Reply, Saw, Turn
from personaagent.claims import Claim, ClaimKind, Exemplar
from personaagent.errors import ConflictError, ContextLengthExceeded, InvalidInput, UnavailableError
from personaagent.memory.local import LocalMemory
from personaagent.persona.persona import made
from personaagent.settings import AgentSettings
from personaagent.types import ChatRequest, ChatResult, Decision, Message, Origin, PersonaDraft
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM
from tests.support.interactions import settled


def turn(text: str, **more: object) -> Turn:
    return Turn(user="ada", messages=(Message(role="user", content=text),), **more)  # type: ignore[arg-type]


@pytest.fixture
def memory() -> LocalMemory:
    return LocalMemory(HashEmbedder())


def agent(llm: FakeLLM, memory: LocalMemory, **settings: object) -> Agent:
    return Agent(llm, memory, AgentSettings(**settings))  # type: ignore[arg-type]


async def test_a_plain_turn_costs_one_call_and_is_remembered(memory: LocalMemory) -> None:
    llm = FakeLLM("Hello Ada.")
    reply = await agent(llm, memory).respond(turn("say hello"))
    assert (reply.text, reply.steps, reply.usage.calls) == ("Hello Ada.", 1, 1)
    (stored,) = await memory.latest("ada", 10)
    assert (stored.id, stored.query, stored.response, stored.truth) == (
        reply.interaction_id,
        "say hello",
        "Hello Ada.",
        None,
    )


async def test_confirmed_episodes_become_dialogue_and_unconfirmed_ones_do_not(memory: LocalMemory) -> None:
    await memory.append("ada", [settled(1, "greet my boss", "Good day, Sir.")])
    llm = FakeLLM("hi")
    a = agent(llm, memory)
    await a.respond(turn("greet my boss please"))
    await a.respond(turn("greet my boss now"))
    dialogue = [m.text for m in llm.requests[-1].messages[1:]]
    assert dialogue == ["greet my boss", "Good day, Sir.", "greet my boss now"]


async def test_the_prompt_begins_alike_for_all_users(memory: LocalMemory) -> None:
    llm = FakeLLM()
    a = agent(llm, memory)
    await a.respond(turn("hello"))
    await a.respond(Turn(user="bob", messages=(Message(role="user", content="hello"),)))
    assert llm.requests[0].messages[0] == llm.requests[1].messages[0]


@pytest.mark.parametrize("text", ["plain answer", "a < b and <tool is no call", ""])
async def test_streaming_says_what_responding_says(memory: LocalMemory, text: str) -> None:
    a = agent(FakeLLM(text), memory)
    whole = await a.respond(turn("hi"))
    pieces = [p async for p in a.stream(turn("hi"))]
    assert "".join(p for p in pieces if isinstance(p, str)) == whole.text == text


async def test_a_closed_choice_follows_memory_where_the_model_has_no_view(memory: LocalMemory) -> None:
    options = ("tea", "coffee")
    await memory.append("ada", [settled(n, "what shall I drink", "coffee", options) for n in range(3)])
    reply = await agent(FakeLLM(), memory).respond(turn("what shall I drink", choices=options))
    assert reply.text == "coffee"
    assert reply.scores is not None
    assert reply.scores["coffee"] > reply.scores["tea"]
    assert sum(reply.scores.values()) == pytest.approx(1)
    assert reply.reasons is None


async def test_an_answer_comes_with_its_reasons_if_they_are_asked_for(memory: LocalMemory) -> None:
    options = ("green tea", "black coffee")
    await memory.append("ada", [settled(n, "what shall I drink", "green tea", options) for n in range(3)])
    a = agent(FakeLLM(), memory)
    reply = await a.respond(turn("what shall I drink", choices=options, explain=True))
    assert reply.text == "green tea"
    assert reply.reasons
    assert {r.text for r in reply.reasons} <= {"green tea", "green", "tea"}
    assert {s for r in reply.reasons for s in r.sources} <= {"i0", "i1", "i2"}
    assert all(r.weight > 0 for r in reply.reasons)
    streamed = [p async for p in a.stream(turn("what shall I drink", choices=options, explain=True))][-1]
    assert isinstance(streamed, Reply)
    assert streamed.reasons == reply.reasons


async def test_reasons_are_about_the_answer_also_where_the_model_made_it_another(memory: LocalMemory) -> None:
    options = ("green tea", "black coffee")
    await memory.append("ada", [settled(n, "what shall I drink", "green tea", options) for n in range(3)])
    llm = FakeLLM()
    llm.choice = lambda r: {"b": -1e-9, "g": -29.0}
    draft = PersonaDraft(text="x", origin=Origin.MANUAL, decision=Decision(model_weight=5))
    await memory.commit_persona("ada", draft, None)
    reply = await agent(llm, memory).respond(turn("what shall I drink", choices=options, explain=True))
    assert reply.text == "black coffee"
    assert reply.reasons
    assert {r.text for r in reply.reasons} <= {"black coffee", "black", "coffee"}
    assert all(r.weight < 0 for r in reply.reasons)


async def test_a_rating_is_its_median_with_its_mean_and_reasons(memory: LocalMemory) -> None:
    grades = ("1", "2", "3", "4", "5")
    await memory.append("ada", [settled(n, f"how is tea {n}", "45"[n % 2], grades) for n in range(6)])
    reply = await agent(FakeLLM(), memory).respond(turn("how is tea 3", choices=grades, explain=True))
    assert reply.scores is not None
    assert reply.text in ("4", "5")
    assert reply.expected == pytest.approx(sum(float(g) * p for g, p in reply.scores.items()))
    assert reply.reasons


async def test_no_reasons_where_memory_had_no_say_or_the_answer_is_prose(memory: LocalMemory) -> None:
    options = ("green tea", "black coffee")
    await memory.append("ada", [settled(n, "what shall I drink", "green tea", options) for n in range(3)])
    a = agent(FakeLLM("soup"), memory)
    prose = await a.respond(turn("what shall I drink", explain=True))
    assert prose.reasons is None
    assert prose.recalled
    current = await memory.persona("ada")
    assert current is not None
    draft = PersonaDraft(text="x", origin=Origin.MANUAL, decision=Decision(evidence=False))
    await memory.commit_persona("ada", draft, current.number)
    assert (await a.respond(turn("what shall I drink", choices=options, explain=True))).reasons == ()


async def test_recalled_episodes_give_way_when_the_prompt_is_too_long(memory: LocalMemory) -> None:
    await memory.append("ada", [settled(n, f"story {n} " + "word " * 200, "once") for n in range(4)])
    llm = FakeLLM("ok", limit=2_600)
    reply = await agent(llm, memory, recall_tokens=100_000).respond(turn("story"))
    assert reply.text == "ok"
    assert len(llm.requests) > 1
    with pytest.raises(ContextLengthExceeded):
        await agent(FakeLLM("ok", limit=50), memory).respond(turn("story"))


async def test_replay_sees_memory_as_it_was_and_leaves_no_trace(memory: LocalMemory) -> None:
    options = ("tea", "coffee")
    history = [settled(1, "drink now", "tea", options), settled(2, "drink now", "coffee", options)]
    await memory.append("ada", history)
    a = agent(FakeLLM(), memory)
    draft = PersonaDraft(text="likes drinks", origin=Origin.INITIAL)
    replay = await a.replay(history[1], draft, [Decision(model_weight=w) for w in (1.0, 0.0)])
    assert replay.choices[1].answer == "tea"  # the coffee came later
    assert len(replay.choices) == 2
    first = await a.replay(history[0], draft)
    assert first.evidence[0] == pytest.approx([math.log(0.5)] * 2)
    assert len(await memory.latest("ada", 10)) == 2
    assert await memory.persona("ada") is None


def styled(*sources: str, **more: object) -> PersonaDraft:
    exemplars = [Exemplar(source=s, query=f"query {s}", truth=f"own words {s} " + "x " * 150) for s in sources]
    claim = Claim(text="writes briefly", kind=ClaimKind.WRITES, sources=sources)
    return made([claim], Decision(**more), Origin.ALIGNED, exemplars=exemplars, budget=None)  # type: ignore[arg-type]


async def test_the_reply_says_what_the_model_saw_if_asked(memory: LocalMemory) -> None:
    await memory.append("ada", [settled(n, f"query {n}", f"answer {n}") for n in range(4)])
    await memory.commit_persona("ada", styled("i1"), None)
    a = agent(FakeLLM("ok"), memory)
    assert (await a.respond(turn("query 1"))).saw is None
    for choices in (None, ("yes", "no")):
        reply = await a.respond(turn("query 1", choices=choices, explain=True, remember=False))
        assert reply.saw is not None
        assert "i1" in reply.recalled  # so it is shown where it was recalled
        assert (reply.saw.claims, reply.saw.exemplars) == (("writes briefly",), ())
        assert reply.saw.episodes == reply.recalled
    other = await a.respond(turn("nothing alike", explain=True, remember=False))
    assert other.saw is not None
    assert ("i1" in other.saw.exemplars) is ("i1" not in other.recalled)
    unknown = await a.respond(Turn(user="bob", messages=(Message(role="user", content="hi"),), explain=True))
    assert unknown.saw == Saw()


async def test_exemplars_give_way_after_the_episodes(memory: LocalMemory) -> None:
    await memory.append("ada", [settled(n, f"query {n} " + "word " * 50, "once") for n in range(4)])
    await memory.commit_persona("ada", styled("a", "b", "c", "d"), None)
    system = len(prompts.INSTRUCTIONS)
    replies = []
    for limit in (system + 2_600, system + 1_600, system + 900, system + 150):
        a = agent(FakeLLM("ok", limit=limit), memory, recall_tokens=100_000)
        replies.append(await a.respond(turn("query", explain=True, remember=False)))
    seen = [(r.saw.exemplars, len(r.saw.episodes)) for r in replies if r.saw is not None]
    assert seen[0] == (("a", "b", "c", "d"), 3)
    assert seen[1][0] == ("a", "b", "c", "d")
    assert seen[1][1] < 3
    assert seen[2] == (("a", "b"), 0)
    assert seen[3] == ((), 0)
    with pytest.raises(ContextLengthExceeded):
        await agent(FakeLLM("ok", limit=50), memory).respond(turn("query"))


async def test_a_replay_is_not_shown_its_own_answer_as_an_exemplar(memory: LocalMemory) -> None:
    asked = [settled(1, "query", "tea"), settled(2, "query", "tea"), settled(3, "query", "sure")]
    await memory.append("ada", asked)
    draft = styled("i1", "i2", "i3", "i4", episodes=0)
    llm = FakeLLM("ok")
    a = agent(llm, memory)
    for interaction, without, left in (
        (asked[0], (), ["i2", "i3", "i4"]),
        (asked[0], ("i1", "i2"), ["i3", "i4"]),
        (asked[2], (), ["i1", "i2", "i4"]),
    ):
        await a.replay(interaction, draft, without=without)
        said = [m.text.split()[2] for m in llm.requests[-1].messages if m.role == "assistant" and m.text]
        assert said == left


async def test_no_user_message_is_refused(memory: LocalMemory) -> None:
    with pytest.raises(InvalidInput, match="user message"):
        await agent(FakeLLM(), memory).respond(Turn(user="ada", messages=(Message(role="system", content="x"),)))


class Calling(FakeLLM):
    """Calls a tool of the application until it is given two results."""

    async def chat(self, request: ChatRequest) -> ChatResult:
        results = sum(m.role == "tool" for m in request.messages)
        if results == 2:
            return ChatResult(text="It is sunny.", message={"role": "assistant", "content": "It is sunny."})
        calls = [{"id": f"call-{results}", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
        return ChatResult(
            text="", finish_reason="tool_calls", message={"role": "assistant", "content": None, "tool_calls": calls}
        )


async def test_a_clients_tool_loop_is_one_interaction_with_the_last_answer(memory: LocalMemory) -> None:
    a = agent(Calling(), memory)
    asked = (Message(role="user", content="what is the weather"),)
    tool: dict[str, object] = {"extra": {"tools": [{"type": "function", "function": {"name": "weather"}}]}}

    async def send(*more: Message) -> Reply:
        return await a.respond(Turn(user="ada", messages=(*asked, *more), **tool))  # type: ignore[arg-type]

    def round_of(n: int) -> tuple[Message, Message]:
        call = {"id": f"call-{n}", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        return (
            Message.model_validate({"role": "assistant", "content": None, "tool_calls": [call]}),
            Message.model_validate({"role": "tool", "tool_call_id": f"call-{n}", "content": "sun"}),
        )

    first = await send()
    await memory.feedback("ada", first.interaction_id, "sunny")
    second = await send(*round_of(0))
    third = await send(*round_of(0), *round_of(1))
    again = await send(*round_of(0), *round_of(1))
    assert {second.interaction_id, third.interaction_id, again.interaction_id} == {first.interaction_id}
    (stored,) = await memory.latest("ada", 10)
    assert (stored.response, stored.truth) == ("It is sunny.", "sunny")
    # The same question another day is another interaction.
    assert (await send()).interaction_id != first.interaction_id
    assert len(await memory.latest("ada", 10)) == 2


async def test_a_turn_that_fails_or_is_not_remembered_leaves_nothing(memory: LocalMemory) -> None:
    class Down(FakeLLM):
        async def chat(self, request: ChatRequest) -> ChatResult:
            raise UnavailableError("down")

    with pytest.raises(UnavailableError):
        await agent(Down(), memory).respond(turn("hello"))
    reply = await agent(FakeLLM("hi"), memory).respond(turn("hello", remember=False))
    assert (reply.text, reply.persona) == ("hi", 0)
    assert await memory.summary("ada") is None
    assert (await agent(FakeLLM("hi"), memory).respond(turn("hello"))).persona == 1


async def test_an_id_of_another_question_is_refused_before_the_model_is_asked(memory: LocalMemory) -> None:
    llm = FakeLLM("hi")
    a = agent(llm, memory)
    await a.respond(turn("first", interaction_id="x"))
    await a.respond(turn("first", interaction_id="x"))
    with pytest.raises(ConflictError, match="another question"):
        await a.respond(turn("second", interaction_id="x"))
    assert len(llm.requests) == 2
    assert [i.query for i in await memory.latest("ada", 5)] == ["first"]
