"""One door per verb: who forwards a memory inherits it, and no verb gets past a view that is read-only."""

from __future__ import annotations

import inspect

import pytest

from alignment.memory_views import MemoryView
from personaagent.errors import NotFoundError
from personaagent.memory.forwarding import ForwardingMemory
from personaagent.memory.local import LocalMemory
from personaagent.protocols import Memory
from personaagent.types import RecallQuery
from tests.personaagent.memory.test_user_memory import interaction
from tests.support.doubles import HashEmbedder

VERBS = {name for name, _ in inspect.getmembers(Memory, inspect.isfunction) if not name.startswith("_")}
REST_ON_OTHERS = {"recall", "export"}
READS = {"incarnation", "latest", "interactions", "truths", "summary", "users", "population", "export_page"}


def test_everything_is_forwarded_but_what_rests_on_others() -> None:
    assert set(vars(ForwardingMemory)) & VERBS == VERBS - REST_ON_OTHERS


def test_a_view_has_its_own_word_on_all_that_could_change_the_memory_behind_it() -> None:
    assert set(vars(MemoryView)) & VERBS == VERBS - REST_ON_OTHERS - READS


async def test_a_forwarding_memory_answers_as_the_one_behind_it() -> None:
    memory = LocalMemory(HashEmbedder())
    front = ForwardingMemory(memory)
    assert (await front.append("ann", [interaction("1"), interaction("2")])).added == 2
    query = RecallQuery(text="query 1", k=2)
    assert await front.recall("ann", query) == await memory.recall("ann", query)
    assert await front.export("ann") == await memory.export("ann")
    assert await front.users() == await memory.users()
    await front.forget("ann")
    with pytest.raises(NotFoundError):
        await front.export("ann")


async def test_a_subclass_sends_users_elsewhere() -> None:
    class Double(ForwardingMemory):
        async def _behind(self, user: str) -> tuple[Memory, str]:
            return self._base, "ann"

    memory = LocalMemory(HashEmbedder())
    await Double(memory).append("bob", [interaction("1")])
    assert len(await Double(memory).latest("carl", 9)) == len(await memory.latest("ann", 9)) == 1
    assert await memory.latest("bob", 9) == ()
