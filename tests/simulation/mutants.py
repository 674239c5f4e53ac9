"""The memory service without one of its mechanisms: each has to be noticed by the checker, or the checker proves nothing.

`seed` is one that catches it, which a test runs. `python -m tests.simulation --mutants` looks for them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import actors.memory.shard_changes
import actors.milvus.counts
import personaagent.memory.changes
import personaagent.memory.one_user
import personaagent.memory.persona_changes
from actors.memory.shard_changes import ShardChanges
from actors.memory.shard_users import ShardUsers
from actors.memory.writer import Writer
from actors.milvus.connection import MilvusConnection
from actors.milvus.counts import UserCounts
from actors.milvus.milvus_store import MilvusStore
from actors.milvus.tenure import Tenure
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import ConflictError
from personaagent.memory.changes import Change, commit
from personaagent.memory.store import Tombstone
from tests.simulation.clients import DELETING
from tests.simulation.patching import Patch, patched

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """A mechanism, and what stands in its place. `seed` catches it."""

    name: str
    patches: Callable[[], list[Patch]]
    seed: int

    def applied(self) -> AbstractContextManager[None]:
        """Let the product run without the mechanism."""
        return patched(self.patches())


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


class _Trusting:
    """A tenure that believes at writes that it lasts."""

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure

    def check(self) -> None:
        pass

    def next_incarnation(self) -> int:
        return self._tenure.next_incarnation()


def no_epoch_at_writes() -> list[Patch]:
    make = Writer.__init__

    def init(self: Writer, store: UpkeepStore, tenure: Tenure, audit: Any, limits: Any = None) -> None:
        make(self, store, _Trusting(tenure), audit, limits)  # type: ignore[arg-type]

    return [(Writer, "__init__", init), (Tenure, "guard", nothing)]


def no_guard() -> list[Patch]:
    return [(Tenure, "guard", nothing)]


def no_check_after_writes() -> list[Patch]:
    write = Writer.write

    def unchecked(self: Writer, changes: Sequence[Change], action: str, by: str, held: Mapping[str, Any]) -> None:
        tenure, self._tenure = self._tenure, _Trusting(self._tenure)  # type: ignore[assignment]
        try:
            write(self, changes, action, by, held)
        finally:
            self._tenure = tenure

    return [(Writer, "write", unchecked), (Tenure, "guard", nothing)]


def no_lease_at_reads() -> list[Patch]:
    return [(Tenure, "lapsed", property(lambda self: self._deposed))]


def no_wait_for_the_former_lease() -> list[Patch]:
    take = Tenure.take

    def at_once(self: Tenure) -> float:
        take(self)
        return 0.0

    return [(Tenure, "take", at_once)]


def _without_incarnation(method: str) -> list[Patch]:
    call = vars(ShardChanges)[method]

    async def unfenced(self: ShardChanges, *args: Any) -> Any:
        return await call(self, *args[:-1], None)

    return [(ShardChanges, method, unfenced)]


def no_incarnation_at_appends() -> list[Patch]:
    return _without_incarnation("append")


def no_incarnation_at_imports() -> list[Patch]:
    return _without_incarnation("append_many")


def no_incarnation_at_personas() -> list[Patch]:
    return _without_incarnation("commit_persona")


def no_incarnation_at_profiles() -> list[Patch]:
    return _without_incarnation("commit_profile")


def no_incarnation_at_restores() -> list[Patch]:
    return _without_incarnation("restore")


def incarnation_of_the_first_try() -> list[Patch]:
    bury = MilvusStore.bury

    def kept(self: MilvusStore, key: str, tombstone: Tombstone) -> None:
        earlier = self.tombstone(key)
        if tombstone.done and earlier is not None:
            tombstone = replace(tombstone, incarnation=earlier.incarnation)
        bury(self, key, tombstone)

    return [(MilvusStore, "bury", kept)]


def deleted_before_the_tombstone() -> list[Patch]:
    bury = MilvusStore.bury

    def late(self: MilvusStore, key: str, tombstone: Tombstone) -> None:
        if not tombstone.done:
            for name in (self._episodes, self._records):
                self._delete_user(name, key)
        bury(self, key, tombstone)

    return [(MilvusStore, "bury", late)]


def no_scrub() -> list[Patch]:
    return [(MilvusConnection, "scrub", lambda self, owners: (0, ""))]


def no_recovery() -> list[Patch]:
    return [(Writer, "recover", nothing), (MilvusStore, "is_unfinished", lambda self, key: False)]


def appends_that_know_no_ids() -> list[Patch]:
    plan = personaagent.memory.changes.plan_append

    def blind(user: str, items: Any, existing: Any, *rest: Any, **options: Any) -> Change:
        return plan(user, items, lambda _: None, *rest, **options)

    return [(owner, "plan_append", blind) for owner in (personaagent.memory.one_user, actors.memory.shard_changes)]


def no_compare_and_set_of_personas() -> list[Patch]:
    plan = personaagent.memory.persona_changes.plan_persona

    def forced(current: Any, draft: Any, expected: Any, limits: Any) -> Any:
        return plan(current, draft, current.number if current else None, limits)

    return [(personaagent.memory.one_user, "plan_persona", forced)]


def no_compare_and_set_of_profiles() -> list[Patch]:
    plan = personaagent.memory.persona_changes.plan_profile
    put = MilvusStore.put_profile

    def forced(current: Any, profile: Any, expected: int) -> Any:
        return plan(current, profile, current.version)

    def put_forced(self: MilvusStore, user: str, profile: Any, expected: int, token: str) -> None:
        put(self, user, profile, profile.version - 1, token)

    return [(personaagent.memory.one_user, "plan_profile", forced), (MilvusStore, "put_profile", put_forced)]


def claims_without_a_second_look() -> list[Patch]:
    claimed = MilvusStore._claimed

    def alone(self: MilvusStore, key: str, kind: str, number: int, token: str) -> bool:
        try:
            return claimed(self, key, kind, number, token)
        except ConflictError:
            return False

    return [(MilvusStore, "_claimed", alone)]


def ram_before_the_store() -> list[Patch]:
    written = ShardChanges._written

    def eager(writer: Writer, memory: Any, action: str, by: str, plan: Any, incarnation: int | None) -> Change:
        def planned(memory: Any) -> Change:
            change = plan(memory)
            memory.apply(change)
            return change

        change = written(writer, memory, action, by, planned, incarnation)
        return Change(user=change.user, added=change.added, rows=())

    return [(ShardChanges, "_written", staticmethod(eager))]


def ram_kept_after_forgetting() -> list[Patch]:
    async def kept(self: ShardChanges, user: str, by: str, audit_id: str) -> Any:
        store = await self._current()
        async with self._exclusive(user):
            return await self._run(lambda: self._writer(store).forget(user, by, audit_id))

    return [(ShardChanges, "_forget", kept)]


def ram_kept_after_a_deletion() -> list[Patch]:
    async def kept(self: ShardChanges, user: str, ids: Any, by: str, incarnation: int | None) -> Any:
        store = await self._current()
        async with self._exclusive(user):
            memory = await self._activated(user)
            return await self._run(lambda: self._writer(store).delete(memory, ids, by, incarnation))

    return [(ShardChanges, "_delete", kept)]


def no_scrub_after_a_deletion() -> list[Patch]:
    return [(UpkeepStore, "scrub", lambda self, users: "")]


def ram_kept_in_doubt() -> list[Patch]:
    return [(ShardUsers, "_doubt", nothing)]


def changes_without_audit() -> list[Patch]:
    def write(self: Writer, changes: Sequence[Change], action: str, by: str, held: Mapping[str, Any]) -> None:
        self._compare([row for c in changes if c.user in held for row in c.rows], held)
        commit(self._store, changes)
        self._tenure.check()

    return [(Writer, "write", write)]


def forgetting_without_audit() -> list[Patch]:
    return [(Writer, "_telling", lambda self, by: nothing)]


def counts_that_are_not_opened() -> list[Patch]:
    opening = UserCounts.opening

    def once(self: UserCounts, users: Any) -> Any:
        made = opening(self, users)
        pks = [e["pk"] for e in made]
        there = {e["pk"] for e in self._milvus.by_pk(self._records, pks, ["pk"])}
        return [e for e in made if e["pk"] not in there]

    return [(UserCounts, "opening", once)]


def names_that_are_forgotten_to_be_written() -> list[Patch]:
    """A user who comes back finds no name: RAM believes that it is stored."""

    def erase(self: MilvusStore, key: str) -> Any:
        named = set(self._named)
        erased = original(self, key)
        self._named |= named
        return erased

    original = MilvusStore.erase
    return [(MilvusStore, "erase", erase)]


def one_page_only() -> list[Patch]:
    def first(
        self: MilvusConnection, collection: str, where: str, fields: list[str], *, after: str = "", size: int = 3
    ) -> Any:
        from actors.milvus import rows

        span = rows.both(*filter(None, [where, rows.greater("pk", after)]))
        yield from sorted(self.query(collection, span, fields, limit=size), key=lambda e: str(e["pk"]))

    return [(MilvusConnection, "pages", first)]


MUTANTS = [
    Mutant("the epoch is compared at no write", no_epoch_at_writes, 348),
    Mutant("the epoch is compared neither amid a write nor after it", no_check_after_writes, 81),
    Mutant("calls are sent on what was compared long ago", no_guard, 81),
    Mutant("reads do not end with the lease", no_lease_at_reads, 1296),
    Mutant("whoever takes over does not wait for the lease", no_wait_for_the_former_lease, 5),
    Mutant("appends do not say when they began", no_incarnation_at_appends, 1),
    Mutant("imports do not say when they began", no_incarnation_at_imports, 8),
    Mutant("personas do not say when they began", no_incarnation_at_personas, 1),
    Mutant("profiles do not say when they began", no_incarnation_at_profiles, 2),
    Mutant("restores do not say when they began", no_incarnation_at_restores, 14),
    Mutant("a forgetting that is finished keeps the number of its first try", incarnation_of_the_first_try, 187),
    Mutant("deletion before the tombstone", deleted_before_the_tombstone, 42),
    Mutant("files are not scrubbed", no_scrub, 1),
    Mutant("unfinished forgetting is not taken up at the opening", no_recovery, 6),
    Mutant("appends replace what has the same id", appends_that_know_no_ids, 0),
    Mutant("personas without compare-and-set", no_compare_and_set_of_personas, 6),
    Mutant("profiles without compare-and-set", no_compare_and_set_of_profiles, 8),
    Mutant("numbers are claimed without a second look", claims_without_a_second_look, 6),
    Mutant("RAM follows before the store has it", ram_before_the_store, 0),
    Mutant("RAM keeps who was forgotten", ram_kept_after_forgetting, 2),
    Mutant("RAM is kept when a write is in doubt", ram_kept_in_doubt, 122),
    Mutant("changes are not logged", changes_without_audit, 0),
    Mutant("forgetting is not logged", forgetting_without_audit, 0),
    Mutant("RAM keeps what was deleted", ram_kept_after_a_deletion, DELETING),
    Mutant("what was deleted stays in the files", no_scrub_after_a_deletion, DELETING),
    Mutant("counts are not opened before a change", counts_that_are_not_opened, 7),
    Mutant("who comes back has no name", names_that_are_forgotten_to_be_written, 3),
    Mutant("only the first page is read", one_page_only, 0),
]
