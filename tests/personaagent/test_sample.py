"""The bundled sample: that it is what the demo needs, and that it can be learned from."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from personaagent.memory.local import LocalMemory
from personaagent.readers import read, sample_path
from personaagent.types import Decision, Interaction, Kind, RecallQuery
from tests.support.doubles import HashEmbedder


@pytest.fixture(scope="module")
def by_user() -> dict[str, list[Interaction]]:
    result = read("history", sample_path())
    users: dict[str, list[Interaction]] = defaultdict(list)
    for interaction in result:
        users[interaction.user].append(interaction)
    assert result.errors == []
    return users


def everything(by_user: dict[str, list[Interaction]]) -> list[Interaction]:
    return [i for history in by_user.values() for i in history]


def test_a_dozen_users_with_twenty_interactions_each(by_user: dict[str, list[Interaction]]):
    assert len(by_user) == 12
    assert {len(history) for history in by_user.values()} == {20}


def test_every_interaction_is_usable_as_it_is(by_user: dict[str, list[Interaction]]):
    items = everything(by_user)
    assert len({i.id for i in items}) == len(items)
    assert all(i.truth and len(i.truth) < 160 and len(i.query) < 200 for i in items)
    assert all(i.truth in i.choices for i in items if i.choices)
    assert all(3 <= len(i.choices) <= 5 for i in items if i.choices)
    assert {i.metadata["source"] for i in items} == {"sample"}
    for history in by_user.values():
        assert all(a.time < b.time for a, b in pairwise(history))


def test_every_user_has_every_kind(by_user: dict[str, list[Interaction]]):
    for history in by_user.values():
        kinds = Counter(i.kind for i in history)
        assert kinds[Kind.CHOICE] >= 10
        assert kinds[Kind.RATING] >= 3
        assert kinds[Kind.TEXT] >= 4


def test_requests_are_shared_and_answers_differ(by_user: dict[str, list[Interaction]]):
    truths: dict[str, list[str]] = defaultdict(list)
    for interaction in everything(by_user):
        truths[interaction.query].append(interaction.truth or "")
    shared = [t for t in truths.values() if len(t) > 1]
    assert sum(map(len, shared)) > 0.9 * 240
    assert sum(len(set(t)) > 1 for t in shared) > 0.9 * len(shared)
    assert any(len(t) == 12 for t in shared)  # a request that the demo can put to any two of them


def test_options_stand_in_no_telling_order(by_user: dict[str, list[Interaction]]):
    places = Counter(i.choices.index(i.truth or "") for i in everything(by_user) if i.kind is Kind.CHOICE and i.choices)
    assert max(places.values()) < 2 * min(places[n] for n in range(4))


@pytest.mark.slow
async def test_what_was_chosen_before_tells_what_comes_next(by_user: dict[str, list[Interaction]]):
    """Without any model: hashed words for vectors, so the floor is far below what embeddings reach."""
    memory = LocalMemory(HashEmbedder(64))
    await memory.append_many(everything(by_user))
    hits, chance = [], []
    for user, history in by_user.items():
        asked = [i for at, i in enumerate(history) if at >= 10 and i.kind is Kind.CHOICE]
        found = await memory.recall_many(
            user,
            [RecallQuery(text=i.query, k=0, choices=i.choices, decisions=(Decision(),), before=i.id) for i in asked],
        )
        for item, recall in zip(asked, found, strict=True):
            choices = item.choices or ()
            hits.append(choices[int(np.argmax(recall.evidence[0]))] == item.truth)
            chance.append(1 / len(choices))
    assert np.mean(hits) > 2.5 * np.mean(chance)


def test_two_users_change_their_minds(by_user: dict[str, list[Interaction]]):
    def wanted(user: str, topic: str) -> list[str]:
        return [i.truth or "" for i in by_user[user] if i.metadata["topic"] == topic]

    assert wanted("hugo", "drink") == ["energy drink"] * 3 + ["green tea"] * 3
    assert wanted("ines", "travel") == ["taxi"] * 2 + ["train"] * 2
    assert all("salmon" in dish for dish in wanted("ines", "food")[:3])
    assert not any("salmon" in dish for dish in wanted("ines", "food")[3:])
