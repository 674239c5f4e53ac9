"""A user who is searched in the store answers as the same user does in RAM."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from actors.memory.large_user import LargeUser
from personaagent.errors import PersonaAgentError, TooLarge
from personaagent.memory.changes import Change, commit, confirmed, embed_interactions, embed_recalls
from personaagent.memory.ram_store import VolatileStore
from personaagent.memory.user_memory import UserMemory
from personaagent.settings import MemorySettings
from personaagent.tools.lessons import lessons
from personaagent.types import Action, Decision, Interaction, Origin, PersonaDraft, Profile, RecallQuery
from tests.support.doubles import HashEmbedder
from tests.support.taught import SPECS

START = datetime(2025, 1, 1, tzinfo=UTC)
NOW = 1_767_000_000_000_000  # microseconds since 1970, later than START
EMBEDDER = HashEmbedder(16)
TIGHT = MemorySettings(limits={"user_mb": 0.02, "interaction_kb": 3})
IDS = [str(n) for n in range(25)]


def taught(n: str, tool: str = "weather") -> list[Interaction]:
    """The lessons of interaction number `n`, of a time of its own."""
    about = Interaction(id=n, user="ann", time=START + timedelta(minutes=int(n) % 8), query=f"q{n} about {int(n) % 4}")
    arguments = {"units": "metric"} if tool == "weather" else {}
    return lessons(about, Action(tool=tool, arguments=arguments), SPECS)


LESSONS = [i.id for n in IDS for i in taught(n)]
# What memory says about options is compared where everything is in reach: elsewhere the user in RAM knows more words.
WHOLE: dict[str, Any] = {
    "decisions": (Decision(),),
    "before": None,
    "exclude": (),
    "since": None,
    "until": None,
    "metadata": {},
}
TEA, GRADES = ("tea", "ale", "rum"), ("1", "2", "3")


class Pair:
    """One user twice: in RAM, and on a store."""

    def __init__(self, settings: MemorySettings) -> None:
        self.settings, self.now = settings, NOW
        self.stores = [VolatileStore(16), VolatileStore(16)]
        self.reload()

    def reload(self) -> None:
        def clock() -> int:
            return self.now

        stored = self.stores[0].load("ann")
        self.users: list[Any] = [
            UserMemory("ann", 16, stored, self.settings, clock),
            LargeUser("ann", self.stores[1], self.settings, clock),
        ]

    def both(self, call: Callable[[Any], Any]) -> None:
        one, other = [self._answer(n, call) for n in range(2)]
        assert other == one

    def _answer(self, n: int, call: Callable[[Any], Any]) -> Any:
        try:
            answer = call(self.users[n])
            if not isinstance(answer, Change):
                return answer
            answer = replace(answer, token="")
            commit(self.stores[n], [answer])
            self.users[n].apply(answer)
        except PersonaAgentError as e:
            return type(e), e.message
        return sorted((r.id, r.arrived, r.truth_arrived, r.payload) for r in answer.rows), answer.profile, answer.seen


class Near:
    """Evidence. An option's vector is that of its first use, as an offer or as a truth, which are rounded differently."""

    def __init__(self, rows: tuple[tuple[float, ...], ...]) -> None:
        self._rows = rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Near) and self._rows == tuple(pytest.approx(row, abs=0.03) for row in other._rows)

    def __hash__(self) -> int:
        return len(self._rows)


def made(r: random.Random, long: int) -> Interaction:
    id = r.choice(IDS)
    choices = r.choice([None, TEA, GRADES]) if int(id) % 3 == 0 else None
    return Interaction(
        id=id,
        user="ann",
        time=START + timedelta(minutes=r.randrange(8)),
        query=f"q{id} about {r.choice('abc') if r.random() < 0.2 else int(id) % 4}" + " x" * r.choice([0, 0, long]),
        truth=r.choice([None, "tea", "2", "a long story"]),
        response=r.choice([None, "tea", "ale"]),
        choices=choices,
        metadata=r.choice([{}, {"k": 1}, {"k": "a"}]),
    )


def asked(r: random.Random) -> RecallQuery:
    return RecallQuery(
        text=r.choice(["q3 about 3", "q5 about a", "tea"]),
        k=r.choice([0, 3, 30]),
        before=r.choice([None, None, r.choice(IDS), r.choice(LESSONS)]),
        exclude=(*r.sample([*IDS, *LESSONS], r.choice([0, 3])), *r.choice([(), ("5", "5")])),
        lessons=r.random() < 0.3,
        since=r.choice([None, START + timedelta(minutes=2)]),
        until=r.choice([None, START + timedelta(minutes=6)]),
        with_truth=r.random() < 0.3,
        metadata=r.choice([{}, {}, {"k": 1}, {"thumb": 1}, {"thumb": -1}, {"action": "tool"}]),
        max_tokens=r.choice([None, 20]),
        ranking="dense",
    ).model_copy(update=r.choice([{}, {**WHOLE, "choices": TEA}, {**WHOLE, "choices": GRADES}]))


def told(recall: Any) -> Any:
    """What of a recall must be the same."""
    episodes = [(e.interaction, e.age, round(e.similarity, 3), round(e.score, 3)) for e in recall.episodes]
    return episodes, recall.known, recall.lessons, Near(recall.evidence)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_both_say_the_same(seed: int) -> None:
    r = random.Random(seed)
    pair = Pair(TIGHT if seed % 2 else MemorySettings())
    for step in range(60):
        pair.now += r.choice([0, 1, 50])
        id, after, n, skip = r.choice(IDS), r.choice([0, NOW + r.randrange(1500)]), r.randrange(1, 6), r.random() < 0.5
        match r.choice(
            ["append"] * 4
            + ["teach"] * 3
            + ["truth"] * 3
            + ["thumb"] * 3
            + ["recall"] * 4
            + ["marks", "read", "export", "reload"]
        ):
            case "append":
                items = await embed_interactions(EMBEDDER, [made(r, 900 if seed % 2 else 3) for _ in range(n)])
                pair.both(lambda user, items=items, skip=skip: user.append(items, skip))
            case "teach":
                told_of = taught(id, r.choice(["weather", "trains", "answer"]))
                items = await embed_interactions(EMBEDDER, told_of)
                pair.both(lambda user, items=items, skip=skip: user.append(items, skip))
            case "truth":
                said = r.choice(["tea", "2", "ale", "y" * 1200])
                vector = EMBEDDER.encode([said])[0]
                pair.both(lambda user, id=id, said=said, vector=vector: user.feedback(id, said, vector))
            case "thumb":
                rating = r.choice([1, -1])

                def thumb(user: Any, id: str = id, rating: int = rating) -> Change:
                    truth = confirmed(user.interaction(id), None, rating)
                    return user.feedback(id, truth, None if truth is None else EMBEDDER.encode([truth])[0], rating)

                pair.both(thumb)
            case "recall":
                query = asked(r)
                if query.choices:  # a truth that was taken back is remembered in RAM until the user is loaded again
                    pair.reload()
                ((vector, choices),) = await embed_recalls(EMBEDDER, [query])
                pair.both(lambda user, q=query, v=vector, c=choices: told(user.recall(q, v, c)))
            case "marks":
                profile = Profile(covered=step, mark=after or None)
                pair.both(lambda user, profile=profile: user.commit_profile(profile, user.profile().version))
                pair.both(lambda user, after=after: user.note_alignment(after))
            case "read":
                pair.both(lambda user, n=n, skip=skip: user.latest(n, skip))
                pair.both(lambda user, n=n, skip=skip: user.latest(n, skip, lessons=True))
                end = r.choice([*IDS, *LESSONS])
                pair.both(lambda user, n=n, skip=skip, end=end: user.latest(n, skip, end))
                pair.both(lambda user, n=n, skip=skip, end=end: user.latest(n, skip, end, lessons=True))
                pair.both(lambda user, id=id: sorted(user.lessons([id, "never"])))
                pair.both(lambda user, after=after, n=n: user.truths(after, n))
                pair.both(lambda user: (user.summary(), user.interactions(IDS), len(user), user.exists))
            case "export":
                pair.both(lambda user: [(row.id, row.payload) for row in user.rows_after(-1)])
            case "reload":
                pair.reload()


def test_personas_are_those_of_a_user_in_ram() -> None:
    pair = Pair(MemorySettings())
    for n in range(3):
        for store, user in zip(pair.stores, pair.users, strict=True):
            change = user.commit_persona(PersonaDraft(text=f"p{n}", origin=Origin.MANUAL), n or None)
            commit(store, [change])
            user.apply(change)
    pair.both(lambda user: [(p.number, p.text) for p in user.personas()])
    pair.both(lambda user: user.persona(2).text)


async def test_truths_told_later_count_for_the_limit_of_a_user() -> None:
    """Also for one of whom RAM holds nothing."""
    store, settings = VolatileStore(16), MemorySettings(limits={"user_mb": 0.5, "interaction_kb": 64})
    user, vector = LargeUser("ann", store, settings), EMBEDDER.encode(["y"])[0]

    def follow(change: Change) -> None:
        commit(store, [change])
        user.apply(change)

    refused = 0
    for n in range(30):
        items = await embed_interactions(EMBEDDER, [Interaction(id=str(n), user="ann", time=START, query=f"q{n}")])
        try:
            follow(user.append(items))
        except TooLarge:
            refused += 1
            continue
        follow(user.feedback(str(n), "y" * 30_000, vector))
    assert refused > 10


@pytest.mark.parametrize("at", [0, 1], ids=["in RAM", "on the store"])
async def test_a_thumb_is_found_by_who_looks_for_it(at: int) -> None:
    pair = Pair(MemorySettings())
    user = pair.users[at]
    asked_for = [RecallQuery(text="q", k=5, metadata={"thumb": rating}) for rating in (1, -1)]
    vectors = await embed_recalls(EMBEDDER, asked_for)

    def found() -> list[list[str]]:
        recalls = [user.recall(q, *needed) for q, needed in zip(asked_for, vectors, strict=True)]
        return [[e.interaction.id for e in recall.episodes] for recall in recalls]

    def follow(change: Change) -> None:
        commit(pair.stores[at], [change])
        user.apply(change)

    follow(user.append(await embed_interactions(EMBEDDER, [Interaction(id="1", user="ann", time=START, query="q")])))
    assert found() == [[], []]
    follow(user.feedback("1", None, None, -1))
    assert found() == [[], ["1"]]
    follow(user.feedback("1", "tea", EMBEDDER.encode(["tea"])[0], 1))
    assert found() == [["1"], []]
