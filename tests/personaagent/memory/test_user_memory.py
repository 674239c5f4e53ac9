from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from personaagent.errors import ConflictError, InvalidInput, NotFoundError
from personaagent.memory.local import LocalMemory
from personaagent.memory.ram_store import VolatileStore
from personaagent.types import Decision, Fact, Interaction, Origin, PersonaDraft, Profile, RecallQuery
from tests.support.doubles import HashEmbedder

START = datetime(2024, 5, 1, tzinfo=UTC)


def interaction(id: str, query: str = "q", user: str = "ann", minute: int = 0, **fields: object) -> Interaction:
    return Interaction(id=id, user=user, time=START + timedelta(minutes=minute), query=query, **fields)


@pytest.fixture
def memory() -> LocalMemory:
    return LocalMemory(HashEmbedder())


async def test_appends_are_idempotent_and_fill_what_was_missing(memory: LocalMemory) -> None:
    first = interaction("1", "coffee or tea")
    assert (await memory.append("ann", [first])).model_dump() == {"added": 1, "repeated": 0, "updated": 0}
    assert (await memory.append("ann", [first])).repeated == 1
    told = first.model_copy(update={"truth": "tea"})
    assert (await memory.append("ann", [told])).updated == 1
    assert (await memory.append("ann", [told.model_copy(update={"truth": "coffee"})])).repeated == 1
    answered = first.model_copy(update={"response": "tea it is"})
    assert (await memory.append("ann", [answered, answered])).model_dump() == {"added": 0, "repeated": 1, "updated": 1}
    (stored,) = await memory.latest("ann", 5)
    assert (stored.query, stored.truth, stored.response) == ("coffee or tea", "tea", "tea it is")


async def test_an_id_of_another_question_is_a_conflict_and_changes_nothing(memory: LocalMemory) -> None:
    first = interaction("1", "coffee or tea")
    await memory.append("ann", [first])
    other = first.model_copy(update={"query": "what is the weather", "truth": "rain"})
    with pytest.raises(ConflictError, match="another question"):
        await memory.append("ann", [interaction("2", "new"), other])
    assert await memory.latest("ann", 5) == (first,)
    result = await memory.append_many([interaction("2", "new"), other, interaction("2", "newer")])
    assert (result.added, result.conflicts) == (1, (("ann", "1"), ("ann", "2")))
    assert [i.query for i in await memory.latest("ann", 5)] == ["coffee or tea", "new"]
    lines = await memory.export("ann")
    await memory.forget("ann")
    await memory.append("ann", [other])
    restored = await memory.restore(lines)
    assert (restored.added, restored.conflicts) == (1, (("ann", "1"),))
    assert (await memory.interactions("ann", ["1"]))[0].truth == "rain"


async def test_an_append_cannot_reach_another_user(memory: LocalMemory) -> None:
    with pytest.raises(InvalidInput):
        await memory.append("ann", [interaction("1", user="bob")])
    assert await memory.users() == ()


async def test_the_same_id_of_two_users_is_two_interactions(memory: LocalMemory) -> None:
    await memory.append("ann", [interaction("1", "mine")])
    await memory.append("bob", [interaction("1", "his", user="bob")])
    assert [i.query for i in await memory.latest("ann", 5)] == ["mine"]
    assert [i.query for i in await memory.latest("bob", 5)] == ["his"]


async def test_feedback_sets_and_corrects_the_truth(memory: LocalMemory) -> None:
    await memory.append("ann", [interaction("1", "coffee or tea")])
    assert (await memory.feedback("ann", "1", "tea")).truth == "tea"
    assert (await memory.feedback("ann", "1", "coffee")).truth == "coffee"
    assert [i.truth for i in await memory.latest("ann", 1, with_truth=True)] == ["coffee"]
    with pytest.raises(NotFoundError):
        await memory.feedback("ann", "2", "x")
    with pytest.raises(NotFoundError):
        await memory.feedback("bob", "1", "x")
    with pytest.raises(InvalidInput):
        await memory.feedback("ann", "1", "x" * 60_001)


async def test_nothing_learns_from_an_answer_that_was_refused(memory: LocalMemory) -> None:
    options = ("tea", "coffee")
    await memory.append("ann", [interaction("1", "what?", response="coffee", choices=options)])
    asked = RecallQuery(text="what?", choices=options, decisions=(Decision(),), with_truth=True)
    assert (await memory.feedback("ann", "1", None, rating=1)).truth == "coffee"
    tea, coffee = (await memory.recall("ann", asked)).evidence[0]
    assert coffee > tea
    refused = await memory.feedback("ann", "1", None, rating=-1)
    assert (refused.truth, refused.response, refused.refused) == (None, "coffee", True)
    found = await memory.recall("ann", asked)
    assert found.episodes == ()
    assert found.evidence[0][0] == pytest.approx(found.evidence[0][1])
    assert (await memory.truths("ann", 0, 9)).interactions == ()
    assert (await memory.feedback("ann", "1", "tea", rating=-1)).truth == "tea"
    assert (await memory.feedback("ann", "1", "coffee")).refused is False  # it was right after all
    lines = await memory.export("ann")
    other = LocalMemory(HashEmbedder())
    await other.restore(lines)
    assert await other.export("ann") == lines


async def test_an_unknown_user_has_nothing(memory: LocalMemory) -> None:
    assert (await memory.recall("ann", RecallQuery(text="x"))).known == 0
    assert await memory.latest("ann", 3) == ()
    assert await memory.persona("ann") is None
    assert (await memory.profile("ann")).version == 0
    assert await memory.summary("ann") is None
    for call in (memory.export("ann"), memory.forget("ann")):
        with pytest.raises(NotFoundError):
            await call


async def test_personas_are_numbered_and_replaced_only_from_the_expected_one(memory: LocalMemory) -> None:
    one = await memory.commit_persona("ann", PersonaDraft(text="one", origin=Origin.INITIAL), None)
    assert (one.number, one.parent) == (1, None)
    with pytest.raises(ConflictError):
        await memory.commit_persona("ann", PersonaDraft(text="late", origin=Origin.ALIGNED), None)
    decision = Decision(episodes=2)
    two = await memory.commit_persona("ann", PersonaDraft(text="two", origin=Origin.ALIGNED, decision=decision), 1)
    assert (two.number, two.parent, two.decision) == (2, 1, decision)
    assert await memory.persona("ann") == two
    assert await memory.persona("ann", 1) == one
    assert await memory.persona("ann", 3) is None
    assert await memory.personas("ann") == (one, two)


async def test_profiles_are_replaced_only_from_the_expected_version(memory: LocalMemory) -> None:
    fact = Fact(id="f", text="likes tea", evidence=("1",), first_seen=START, last_seen=START)
    stored = await memory.commit_profile("ann", Profile(facts=(fact,), covered=3), 0)
    assert stored.version == 1
    with pytest.raises(ConflictError):
        await memory.commit_profile("ann", Profile(), 0)
    assert await memory.profile("ann") == stored


async def test_summary_counts_truths_since_the_last_alignment(memory: LocalMemory) -> None:
    await memory.append("ann", [interaction("1", truth="a"), interaction("2", truth="b", minute=3), interaction("3")])
    summary = await memory.summary("ann")
    assert summary is not None
    assert (summary.interactions, summary.truths, summary.truths_since_alignment, summary.persona) == (3, 2, 2, None)
    assert summary.last_time == START + timedelta(minutes=3)
    await memory.commit_persona("ann", PersonaDraft(text="x", origin=Origin.ALIGNED, pinned=True), None)
    await memory.feedback("ann", "3", "c")
    summary = await memory.summary("ann")
    assert summary is not None
    assert (summary.truths_since_alignment, summary.persona, summary.pinned) == (1, 1, True)
    assert await memory.users() == (summary,)


async def test_forget_removes_one_user_only(memory: LocalMemory) -> None:
    for user in ("ann", "bob"):
        await memory.append(user, [interaction("1", user=user)])
        await memory.commit_persona(user, PersonaDraft(text=user, origin=Origin.INITIAL), None)
    receipt = await memory.forget("ann")
    assert (receipt.interactions, receipt.personas, receipt.remaining) == (1, 1, 0)
    assert await memory.summary("ann") is None
    assert [s.user for s in await memory.users()] == ["bob"]


async def test_an_export_restores_to_an_equal_memory(memory: LocalMemory) -> None:
    await memory.append(
        "ann",
        [
            interaction(
                "1", 'tea "or" \x00 coffee 🫖', truth="tea", choices=("tea", "coffee"), metadata={"a": [1, None]}
            ),
            interaction("2", "later", minute=2),
        ],
    )
    await memory.commit_persona("ann", PersonaDraft(text="p", origin=Origin.INITIAL), None)
    await memory.commit_persona("ann", PersonaDraft(text="q", origin=Origin.ALIGNED), 1)
    await memory.feedback("ann", "2", "now")
    for version in range(3):
        await memory.commit_profile("ann", Profile(covered=version), version)
    lines = await memory.export("ann")

    other = LocalMemory(HashEmbedder())
    assert (await other.restore(lines)).added == 2
    assert await other.export("ann") == lines
    assert await other.summary("ann") == await memory.summary("ann")
    assert (await other.restore(lines)).repeated == 2  # once more changes nothing
    assert await other.export("ann") == lines
    await other.commit_persona("ann", PersonaDraft(text="new", origin=Origin.MANUAL), 2)
    with pytest.raises(ConflictError):
        await other.restore(lines)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["nonsense"],
        ['{"type": "interaction"}'],
        ['{"type": "user", "user": "a", "version": 2}'],
        ['{"type": "user", "user": "a", "version": 1}', '{"type": "persona", "text": "x"}'],
        ['{"type": "user", "user": "a", "version": 1}', '{"type": "song"}'],
        ['{"type": "user", "user": "a", "version": 1}', "[]"],
    ],
)
async def test_a_broken_export_is_refused(memory: LocalMemory, lines: list[str]) -> None:
    with pytest.raises(InvalidInput):
        await memory.restore(lines)
    assert await memory.users() == ()


async def test_a_second_process_on_the_same_store_sees_what_was_acknowledged() -> None:
    store = VolatileStore(16)
    first = LocalMemory(HashEmbedder(), store=store)
    await first.append("ann", [interaction("1", truth="a")])
    await first.commit_persona("ann", PersonaDraft(text="x", origin=Origin.INITIAL), None)
    second = LocalMemory(HashEmbedder(), store=store)
    assert await second.export("ann") == await first.export("ann")
    await second.commit_persona("ann", PersonaDraft(text="y", origin=Origin.ALIGNED), 1)
    with pytest.raises(ConflictError):  # the first still believes in version 1
        await first.commit_persona("ann", PersonaDraft(text="z", origin=Origin.ALIGNED), 1)


async def test_the_newest_are_read_in_pages(memory: LocalMemory) -> None:
    rows = [interaction(str(i), minute=i // 2, truth="x" if i % 3 else None) for i in range(9)]
    await memory.append("ann", rows)
    for with_truth in (False, True):
        expected = [i.id for i in rows if i.truth or not with_truth]
        found: list[str] = []
        while page := await memory.latest("ann", 2, with_truth, found[0] if found else None):
            found = [*(i.id for i in page), *found]
        assert found == expected
    with pytest.raises(NotFoundError):
        await memory.latest("ann", 2, before="never")
