from __future__ import annotations

import asyncio
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent import prompts
from personaagent.claims import Claim, ClaimKind
from personaagent.memory.local import LocalMemory
from personaagent.persona.facts import parse_facts, trim
from personaagent.persona.persona import initial_persona, tokens
from personaagent.persona.profile import BATCH, build_profile
from personaagent.types import ChatRequest, ChatResult, Decision, Fact, Profile
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM
from tests.support.interactions import START, settled


async def test_a_changed_preference_supersedes_and_stays_in_history() -> None:
    memory, embedder = LocalMemory(HashEmbedder()), HashEmbedder()
    options = ("tea", "coffee")
    await memory.append(
        "ada", [settled(1, "morning drink", "tea", options), settled(2, "morning drink", "tea", options)]
    )
    first = (await build_profile(memory, embedder, "ada")).profile
    assert [len(f.evidence) for f in first.current] == [2]
    await memory.append("ada", [settled(3, "morning drink", "coffee", options)])
    second = (await build_profile(memory, embedder, "ada")).profile
    (now,) = second.current
    assert "coffee" in now.text
    (old,) = [f for f in second.facts if f.valid_until is not None]
    assert (old.superseded_by, "tea" in old.text) == (now.id, True)


async def test_an_answer_that_was_not_on_offer_is_no_contradiction() -> None:
    memory, embedder = LocalMemory(HashEmbedder()), HashEmbedder()
    await memory.append(
        "ada",
        [
            settled(1, "morning drink", "tea", ("tea", "milk")),
            settled(2, "morning drink", "coffee", ("coffee", "milk")),
        ],
    )
    built = (await build_profile(memory, embedder, "ada")).profile
    assert len(built.current) == 2


async def test_a_withdrawn_truth_leaves_the_profile_and_what_it_had_replaced_comes_back() -> None:
    memory, embedder = LocalMemory(HashEmbedder()), HashEmbedder()
    answered = settled(2, "morning drink", "tea").model_copy(update={"truth": None, "response": "coffee"})
    other = settled(3, "city to live in", "Lisbon").model_copy(update={"truth": None, "response": "Lisbon"})
    await memory.append("ada", [settled(1, "morning drink", "tea"), answered, other])
    for asked in ("i2", "i3"):
        await memory.feedback("ada", asked, None, rating=1)
    built = (await build_profile(memory, embedder, "ada")).profile
    assert {f.text for f in built.current} == {
        "asked “morning drink”, wanted “coffee”",
        "asked “city to live in”, wanted “Lisbon”",
    }
    for asked in ("i2", "i3"):
        await memory.feedback("ada", asked, None, rating=-1)
    shown = (await build_profile(memory, embedder, "ada", commit=False)).profile
    built = (await build_profile(memory, embedder, "ada")).profile  # though no truth is new
    assert shown == built
    assert [f.text for f in built.facts] == ["asked “morning drink”, wanted “tea”"]
    assert built.current == built.facts
    assert (await build_profile(memory, embedder, "ada")).profile == built
    await memory.feedback("ada", "i2", None, rating=1)
    again = (await build_profile(memory, embedder, "ada")).profile
    assert [f.text for f in again.current] == ["asked “morning drink”, wanted “coffee”"]


async def test_nothing_new_costs_nothing() -> None:
    memory, embedder, llm = LocalMemory(HashEmbedder()), HashEmbedder(), FakeLLM("")
    await memory.append("ada", [settled(1, "drink", "tea")])
    await build_profile(memory, embedder, "ada", llm)
    calls = len(llm.requests)
    again = await build_profile(memory, embedder, "ada", llm)
    assert (again.read, len(llm.requests)) == (0, calls)


class MeetingLLM(FakeLLM):
    """Answers nobody before `parties` have asked."""

    def __init__(self, parties: int) -> None:
        super().__init__(lambda request: "- likes black coffee [1]")
        self._all = asyncio.Barrier(parties)

    async def chat(self, request: ChatRequest) -> ChatResult:
        async with asyncio.timeout(5):
            await self._all.wait()
        return await super().chat(request)


async def test_a_long_history_is_read_in_calls_side_by_side_and_no_fact_counts_twice() -> None:
    memory, embedder, llm = LocalMemory(HashEmbedder()), HashEmbedder(), MeetingLLM(3)
    await memory.append("ada", [settled(n, f"drink {n}", "black coffee") for n in range(2 * BATCH + 1)])
    built = await build_profile(memory, embedder, "ada", llm, budget=10_000)
    assert built.usage.calls == 3
    (written,) = [f for f in built.profile.current if f.source != "extracted"]
    assert set(written.evidence) == {"i0", f"i{BATCH}", f"i{2 * BATCH}"}


def test_only_grounded_lines_of_a_model_are_kept() -> None:
    shown = [settled(1, "morning drink", "black coffee"), settled(2, "evening drink", "herbal tea")]
    text = "\n".join(
        [
            "- likes black coffee in the morning [1]",
            "- enjoys skydiving at weekends [2]",  # shares no word with its evidence
            "- drinks herbal tea [7]",  # cites what it was not shown
            "prefers herbal infusions",  # cites nothing
        ]
    )
    facts = parse_facts(text, shown)
    assert [(f.text, f.evidence) for f in facts] == [("likes black coffee in the morning", ("i1",))]


@given(st.lists(st.tuples(st.text(max_size=300), st.booleans()), max_size=60), st.integers(50, 400))
@settings(max_examples=50)
def test_the_profile_keeps_its_budget(texts: list[tuple[str, bool]], budget: int) -> None:
    facts = [
        Fact(
            id=str(n),
            text=text,
            evidence=("i",),
            first_seen=START,
            last_seen=START + timedelta(n),
            valid_until=START if past else None,
            superseded_by="0" if past else None,
        )
        for n, (text, past) in enumerate(texts)
    ]
    kept = trim(facts, budget)
    assert sum(tokens(f.text) for f in kept if f.valid_until is None) <= budget
    ids = {f.id for f in kept}
    assert all(f.superseded_by in ids for f in kept if f.superseded_by)


async def test_the_first_persona_states_the_profile_within_its_budget() -> None:
    memory, embedder = LocalMemory(HashEmbedder()), HashEmbedder()
    await memory.append("ada", [settled(n, f"question number {n}", f"answer {n}") for n in range(80)])
    profile = (await build_profile(memory, embedder, "ada", budget=2000)).profile
    draft = initial_persona(profile, Decision(), budget=100)
    assert "answer 79" in draft.text
    assert tokens(draft.text) <= 50
    assert all(c.kind is ClaimKind.FACT and c.sources and c.since for c in draft.claims)
    assert set(draft.sources) == {s for c in draft.claims for s in c.sources}
    counted = Claim(text="answers with a number", kind=ClaimKind.WRITES, sources=("i1",))
    # Beside claims, what only repeats a request and its answer is left to recall; what a model concluded is not.
    assert initial_persona(profile, Decision(), budget=100, claims=[counted]).claims == (counted,)
    said = profile.current[0].model_copy(update={"text": "likes numbers", "source": "model", "id": "x"})
    more = profile.model_copy(update={"facts": (said, *profile.facts)})
    first = initial_persona(more, Decision(), budget=100, claims=[counted])
    assert first.text == "This user answers with a number.\n- likes numbers"
    assert initial_persona(Profile(), Decision()).text == prompts.NEW_USER
