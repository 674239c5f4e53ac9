"""A deleted interaction is gone wherever it was: the store, recall, evidence, what was learned from it alone, exports."""

from __future__ import annotations

from typing import Any

import pytest

from personaagent.claims import Claim, Exemplar
from personaagent.errors import ForgottenError, NotFoundError
from personaagent.memory.deletion import without_sources
from personaagent.memory.local import LocalMemory
from personaagent.memory.ram_store import VolatileStore
from personaagent.persona.persona import made
from personaagent.tools.lessons import teach
from personaagent.types import (
    ACTION,
    LESSON,
    OF,
    Action,
    Decision,
    Fact,
    Interaction,
    Origin,
    Persona,
    Profile,
    RecallQuery,
)
from tests.personaagent.memory.test_user_memory import interaction
from tests.support.doubles import HashEmbedder
from tests.support.store_contract import START
from tests.support.taught import SPECS


@pytest.fixture
def memory() -> LocalMemory:
    return LocalMemory(HashEmbedder())


def lesson(of: str, id: str, **more: Any) -> Interaction:
    about = {ACTION: "tool", OF: of}
    return interaction(LESSON + id, f"query {of}", choices=("answer", "search"), truth="search", metadata=about, **more)


def fact(id: str, *evidence: str) -> Fact:
    return Fact(id=id, text=f"fact {id}", evidence=evidence, first_seen=START, last_seen=START)


async def test_what_is_deleted_is_not_recalled_listed_or_exported(memory: LocalMemory) -> None:
    rows = [interaction(str(i), f"query {i} SECRET{i}", minute=i, truth=f"truth {i}") for i in range(5)]
    await memory.append("ann", rows)
    await memory.append("bob", [interaction("2", user="bob")])
    assert await memory.delete("ann", ["2", "unknown", "2"]) == 1
    assert [i.id for i in await memory.latest("ann", 9)] == ["0", "1", "3", "4"]
    found = await memory.recall("ann", RecallQuery(text="query 2 SECRET2", k=9))
    assert {e.interaction.id for e in found.episodes} == {"0", "1", "3", "4"}
    assert "SECRET2" not in "".join(await memory.export("ann"))
    assert await memory.interactions("ann", ["2"]) == ()
    assert [i.id for i in (await memory.truths("ann", 0, 9)).interactions] == ["0", "1", "3", "4"]
    summary = await memory.summary("ann")
    assert summary is not None
    assert summary.interactions == 4
    assert [i.id for i in await memory.latest("bob", 9)] == ["2"]
    assert await memory.delete("ann", ["2"]) == 0


async def test_evidence_forgets_it_too(memory: LocalMemory) -> None:
    options = ("tea", "coffee")
    past = [interaction(str(i), "a drink", minute=i, choices=options, truth="tea") for i in range(4)]
    await memory.append("ann", past)
    query = RecallQuery(text="a drink", k=0, choices=options, decisions=(Decision(),))
    (before,) = (await memory.recall("ann", query)).evidence
    await memory.delete("ann", [i.id for i in past])
    (after,) = (await memory.recall("ann", query)).evidence
    assert before[0] - before[1] > 0.5
    assert after[0] == pytest.approx(after[1])


async def test_the_last_interaction_takes_the_user_with_it(memory: LocalMemory) -> None:
    await memory.append("ann", [interaction("1")])
    assert await memory.delete("ann", ["1"]) == 1
    assert await memory.summary("ann") is None
    assert await memory.users() == ()
    with pytest.raises(NotFoundError):
        await memory.export("ann")
    assert (await memory.append("ann", [interaction("1")])).added == 1  # who says it again is heard


async def test_what_rests_on_it_alone_goes_and_what_others_support_stays(memory: LocalMemory) -> None:
    await memory.append("ann", [interaction(str(i), minute=i) for i in range(3)])
    await memory.commit_profile("ann", Profile(facts=(fact("f", "0"), fact("g", "0", "1"))), 0)
    claims = [
        Claim(text="only from 0", sources=("0",)),
        Claim(text="from both", sources=("0", "1")),
        Claim(text="said by a person", sources=("0",), origin="person"),
        Claim(text="pinned", sources=("0",), pinned=True),
    ]
    exemplars = [Exemplar(source=s, query="q", truth=f"copy of {s}") for s in ("0", "1")]
    for expected in (None, 1):  # every version of it
        draft = made(claims, Decision(), Origin.ALIGNED, exemplars=exemplars, budget=None)
        await memory.commit_persona("ann", draft.model_copy(update={"sources": ("0", "2")}), expected)
    assert await memory.delete("ann", ["0"]) == 1
    assert (await memory.profile("ann")).facts == (fact("g", "1"),)
    for persona in await memory.personas("ann"):
        left = {c.text: c.sources for c in persona.claims}
        assert left == {"from both": ("1",), "said by a person": (), "pinned": ()}
        assert "only from 0" not in persona.text
        assert "from both" in persona.text
        assert [e.source for e in persona.exemplars] == ["1"]
        assert persona.sources == ("2",)
    assert "copy of 0" not in "".join(await memory.export("ann"))


async def test_lessons_of_it_go_too_and_nothing_else_that_happens_to_say_of(memory: LocalMemory) -> None:
    bystander = interaction("mine", "something else", metadata={OF: "1", ACTION: "tool"})
    told = [lesson("1", "a"), lesson("1", "tool:c"), lesson("2", "b")]
    await memory.append("ann", [interaction("1"), interaction("2"), *told, bystander])
    assert await memory.delete("ann", ["1"]) == 1
    assert {i.id for i in await memory.latest("ann", 9)} == {"2", "mine"}
    assert {i.id for i in await memory.latest("ann", 9, lessons=True)} == {LESSON + "b"}


async def test_lessons_that_were_taken_back_go_too(memory: LocalMemory) -> None:
    await memory.append("ann", [interaction("r1", "will it rain"), interaction("r2", "and tomorrow")])
    await teach(memory, "ann", "r1", Action(tool="weather", arguments={"units": "metric"}), SPECS)
    await teach(memory, "ann", "r1", Action(tool="trains"), SPECS)  # the lesson on units has no truth any more
    await teach(memory, "ann", "r2", Action(tool="weather", arguments={"units": "metric"}), SPECS)
    assert await memory.delete("ann", ["r1"]) == 1
    left = await memory.latest("ann", 9, lessons=True)
    assert [i.metadata[OF] for i in left] == ["r2", "r2"]
    assert "will it rain" not in "".join(await memory.export("ann"))


async def test_work_from_before_a_forgetting_deletes_nothing(memory: LocalMemory) -> None:
    await memory.append("ann", [interaction("1")])
    began = await memory.incarnation("ann")
    await memory.forget("ann")
    await memory.append("ann", [interaction("1")])
    with pytest.raises(ForgottenError):
        await memory.delete("ann", ["1"], incarnation=began)
    assert await memory.delete("ann", ["1"], incarnation=await memory.incarnation("ann")) == 1


async def test_a_memory_on_the_same_store_does_not_see_it_either() -> None:
    store = VolatileStore(HashEmbedder().dim)
    memory = LocalMemory(HashEmbedder(), store=store)
    await memory.append("ann", [interaction("1"), interaction("2", minute=1)])
    await memory.delete("ann", ["1"])
    assert [i.id for i in await LocalMemory(HashEmbedder(), store=store).latest("ann", 9)] == ["2"]


def test_retention_keeps_the_words_of_a_claim_and_deletion_does_not() -> None:
    draft = made([Claim(text="from 0", sources=("0",))], Decision(), Origin.ALIGNED, budget=None)
    persona = Persona(**dict(draft), number=1, parent=None, time=START)
    expired, deleted = (without_sources(persona, {"0"}, silent) for silent in (True, False))
    assert expired is not None
    assert [c.text for c in expired.claims] == ["from 0"]
    assert deleted is not None
    assert deleted.claims == ()
    assert expired.text == deleted.text != persona.text
    assert without_sources(persona, {"1"}, False) is None
