from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pytest

from alignment.evaluation.baselines import BASELINES, MODEL_FREE, baseline
from alignment.memory_views import MemoryView, Recalled
from personaagent import prompts
from personaagent.errors import ConflictError, InvalidInput
from personaagent.evidence.evidence import uniform
from personaagent.memory.local import LocalMemory
from personaagent.persona.profile import build_profile
from personaagent.settings import AgentSettings
from personaagent.types import ChatRequest, Decision, Interaction, Origin, PersonaDraft, RecallQuery
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM

START = datetime(2024, 1, 1, tzinfo=UTC)
OPTIONS = ("tea", "milk", "rum")
SETTINGS = AgentSettings(decision=Decision(episodes=2))


def said(user: str, n: int, query: str, truth: str) -> Interaction:
    time = START + timedelta(hours=n)
    return Interaction(id=f"{user}{n}", user=user, time=time, query=query, truth=truth, choices=OPTIONS)


QUESTION = said("ann", 99, "a hot drink for breakfast", "tea")


async def memory() -> LocalMemory:
    result = LocalMemory(HashEmbedder(64))
    await result.append(
        "ann",
        [
            said("ann", 0, "a hot drink for breakfast", "tea"),
            said("ann", 1, "something for the ship", "rum"),
            said("ann", 2, "something for the cat", "milk"),
            said("ann", 3, "something for the captain", "rum"),
        ],
    )
    await result.append("bob", [said("bob", 0, "a hot drink for breakfast", "rum")])
    await build_profile(result, HashEmbedder(64), "ann")
    return result


async def ask(name: str, llm: FakeLLM, settings: AgentSettings = SETTINGS) -> str:
    return (await baseline(name, llm, await memory(), settings).answer(QUESTION)).text


def system(request: ChatRequest) -> str:
    return request.messages[0].text


def shown(request: ChatRequest) -> list[str]:
    return [m.text for m in request.messages if m.role == "assistant"]


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("none", []),
        ("icl", ["milk", "rum"]),  # the newest two, the newest of them next to the request
        ("rag", ["tea"]),  # the most similar one stands next to the request
        ("pag", ["tea"]),
        ("persona", ["tea"]),
    ],
)
async def test_what_a_method_shows_the_model(name: str, answers: list[str]) -> None:
    llm = FakeLLM()
    await ask(name, llm)
    (request,) = llm.requests
    assert shown(request)[-len(answers) or 9 :] == answers
    assert len(shown(request)) in (len(answers), 2)
    knows = "a hot drink for breakfast" in system(request)
    assert knows is (name in ("pag", "persona"))
    assert (prompts.NO_PERSONA in system(request)) is not knows


async def test_only_persona_and_evidence_read_memory_as_evidence() -> None:
    for name in ("evidence", *(b for b in BASELINES if b not in MODEL_FREE)):
        llm = FakeLLM()
        llm.choice = lambda request: {"r": -0.1, "m": -2.0, "t": -2.5}  # the model itself would say rum
        assert await ask(name, llm) == ("tea" if name in ("persona", "evidence") else "rum")


async def test_evidence_alone_calls_no_model() -> None:
    llm = FakeLLM()
    assert await ask("evidence", llm) == "tea"
    assert llm.requests == []
    unknown = QUESTION.model_copy(update={"user": "carl"})
    assert (await baseline("evidence", llm, await memory(), SETTINGS).answer(unknown)).text in OPTIONS


async def test_react_chooses_after_what_its_tools_found() -> None:
    wants = iter(["search_episodes", "answer"])

    def choice(request: ChatRequest) -> dict[str, float]:
        options = request.choices or ()
        want = next(wants) if "answer" in options else options[0]
        return {option: 0.0 if option == want else -20.0 for option in options}

    llm = FakeLLM(lambda request: '{"query": "breakfast"}' if "structured_outputs" in request.extra else "I see.")
    llm.choice = choice
    await ask("react", llm)
    first, arguments, again, thought, last = llm.requests
    assert set(first.choices or ()) == {"answer", "search_episodes", "read_profile", "last_wanted"}
    assert shown(first) == []  # nothing is recalled beforehand
    assert "structured_outputs" in arguments.extra
    assert "answer" in (again.choices or ())
    assert thought.choices is None
    assert "a hot drink for breakfast" in thought.messages[-1].text
    assert last.choices == OPTIONS
    assert any("a hot drink for breakfast" in m.text and "tea" in m.text for m in last.messages[1:-3])
    assert shown(last)[-1] == "I see."


async def test_free_text_goes_through_the_loop_of_the_agent() -> None:
    item = QUESTION.model_copy(update={"choices": None})
    for name in ("none", "icl", "rag", "pag", "react", "persona"):
        assert (await baseline(name, FakeLLM("hello"), await memory(), SETTINGS).answer(item)).text == "hello"
    assert (await baseline("evidence", FakeLLM(), await memory(), SETTINGS).answer(item)).text == "tea"


def told(n: int, query: str, truth: str) -> Interaction:
    return said("ann", n, query, truth).model_copy(update={"choices": None})


async def evidence_of(held: LocalMemory, query: str) -> str:
    return (await baseline("evidence", FakeLLM(), held, SETTINGS).answer(told(99, query, ""))).text


async def test_free_text_gets_what_was_said_last_to_the_same_request() -> None:
    """The words of an older answer do not matter, nor how often it was given."""
    held = LocalMemory(HashEmbedder(64))
    older = "my usual drink please"
    await held.append("ann", [told(n, "my usual drink", older) for n in range(4)])
    await held.append("ann", [told(5, "my usual drink", "elderflower cordial, the one from the market")])
    await held.append("ann", [told(n, f"drink please, my guest {n}", "usual") for n in range(10, 20)])
    assert await evidence_of(held, "my usual drink please") == "elderflower cordial, the one from the market"
    await held.append("ann", [told(20, "my usual drink", older)])
    assert await evidence_of(held, "my usual drink please") == older


async def test_free_text_gets_what_was_said_last_though_embeddings_round() -> None:
    class Rounding(HashEmbedder):
        async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            vectors = await super().embed(texts)
            return vectors * np.float32(1.0 - 1e-7 * (self.calls % 5))

    held = LocalMemory(Rounding(64))
    for n in range(10):
        await held.append("ann", [told(n, "my usual drink", f"drink {n}")])
        assert await evidence_of(held, "my usual drink please") == f"drink {n}"


async def test_common_words_do_not_make_a_request_similar() -> None:
    class Meaning(HashEmbedder):
        """Requests about drowsiness are alike whatever their words."""

        async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            return await super().embed(["drowsy" if "drowsy" in t or "sleepy" in t else t for t in texts])

    held = LocalMemory(Meaning(64))
    await held.append("ann", [told(0, "Feeling drowsy.", "herbal tea")])
    await held.append("ann", [told(n, f"so this is my afternoon {n}", f"biscuit {n}") for n in range(1, 9)])
    assert await evidence_of(held, "I am so sleepy this afternoon") == "herbal tea"


async def test_nothing_is_remembered() -> None:
    for name in BASELINES:
        held = await memory()
        await baseline(name, FakeLLM(), held, SETTINGS, HashEmbedder(64)).answer(QUESTION)
        assert len(await held.latest("ann", 100)) == 4
        assert await held.personas("ann") == ()


async def test_a_view_refuses_writes() -> None:
    view = MemoryView(await memory())
    with pytest.raises(InvalidInput):
        await view.append("ann", [QUESTION])
    with pytest.raises(InvalidInput):
        await view.feedback("ann", "ann0", "rum")
    with pytest.raises(InvalidInput):
        await view.forget("ann")


async def test_a_view_keeps_its_own_personas() -> None:
    held = await memory()
    one, two = MemoryView(held), MemoryView(held)
    draft = PersonaDraft(text="likes tea", origin=Origin.INITIAL)
    assert (await one.commit_persona("ann", draft, None)).number == 1
    with pytest.raises(ConflictError):
        await one.commit_persona("ann", draft, None)
    assert (await one.commit_persona("ann", draft, 1)).parent == 1
    assert [p.number for p in await one.personas("ann")] == [1, 2]
    assert await one.persona("ann", 3) is None
    assert await two.persona("ann") is None
    profile = await one.profile("ann")
    assert (await one.commit_profile("ann", profile, profile.version)).version == profile.version + 1
    with pytest.raises(ConflictError):
        await one.commit_profile("ann", profile, profile.version)
    assert await two.profile("ann") == profile == await held.profile("ann")
    heir = MemoryView(held, personas_of=one, text="nothing")
    found = await heir.persona("ann")
    assert found is not None
    assert (found.number, found.text) == (2, "nothing")


async def test_a_view_can_read_another_users_memory_and_persona() -> None:
    held = await memory()
    own = MemoryView(held)
    await own.commit_persona("bob", PersonaDraft(text="likes rum", origin=Origin.INITIAL), None)
    other = {"ann": "bob", "bob": "ann"}
    view = MemoryView(held, personas_of=own, memory_as=other, persona_as=other)
    persona = await view.persona("ann")
    assert persona is not None
    assert persona.text == "likes rum"
    assert [i.user for i in await view.latest("ann", 9)] == ["bob"]
    query = RecallQuery(text=QUESTION.query, choices=OPTIONS, decisions=(Decision(),), with_truth=True)
    found = await view.recall("ann", query)
    assert [e.interaction.user for e in found.episodes] == ["bob"]
    assert max(zip(found.evidence[0], OPTIONS, strict=True))[1] == "rum"
    assert (await view.profile("bob")).current == (await held.profile("ann")).current


async def test_what_a_view_hides_gives_no_evidence() -> None:
    for episodes in ("latest", "none"):
        view = MemoryView(await memory(), episodes=episodes)
        query = RecallQuery(text=QUESTION.query, choices=OPTIONS, decisions=(Decision(), Decision()))
        assert (await view.recall("ann", query)).evidence == (uniform(OPTIONS),) * 2


async def test_the_newest_episodes_keep_to_the_token_budget() -> None:
    view = MemoryView(await memory(), episodes="latest")
    found = await view.recall("ann", RecallQuery(text="x", k=4, max_tokens=16))
    assert [e.interaction.id for e in found.episodes] == ["ann3", "ann2"]


async def test_many_requests_are_recalled_as_they_are_one_by_one() -> None:
    held = await memory()
    queries = [
        RecallQuery(text=QUESTION.query, k=2, choices=OPTIONS, decisions=(Decision(),)),
        RecallQuery(text="ship", k=0),
        RecallQuery(text="ship", k=1, exclude=("ann1",)),
        RecallQuery(text="captain", k=1, before="ann3"),
    ]
    plain = [await held.recall("ann", query) for query in queries]
    assert await held.recall_many("ann", queries) == tuple(plain)
    for view in (
        MemoryView(held),
        MemoryView(held, episodes="latest"),
        MemoryView(held, episodes="none"),
        Recalled(held),
    ):
        assert await view.recall_many("ann", queries) == tuple([await view.recall("ann", q) for q in queries])
        assert await view.recall_many("ann", []) == ()


async def test_what_was_recalled_once_stays_the_same_for_all_candidates() -> None:
    held = await memory()
    view, query = Recalled(held), RecallQuery(text="something for the ship", k=1)
    before = await view.recall("ann", query)
    await held.append("ann", [said("ann", 4, "something for the ship", "tea")])
    assert await view.recall_many("ann", [query, query]) == (before, before)
    assert await view.recall("ann", query.model_copy(update={"k": 2})) != before
    assert (await view.recall("bob", query)).episodes != before.episodes
    assert await Recalled(held).recall("ann", query) != before
    broken = RecallQuery(text="half a character \ud83d", k=1)  # as a model's tool call may have it
    assert await view.recall("ann", broken) == await held.recall("ann", broken)


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="there are evidence"):
        baseline("magic", FakeLLM(), LocalMemory(HashEmbedder()), SETTINGS)
