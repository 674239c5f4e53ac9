"""How a change of users' memories becomes durable: who may write, what is logged, and what a write may replace.

    1. the tenure is compared with the store: a shard that was taken over writes nothing
    2. users who were forgotten since the work began are refused
    3. the change is planned; rows that it replaces are read, and must be what the plan rests on
    4. it is logged; what cannot be logged is not done, and neither RAM nor the store has it
    5. it is written, and the tenure compared again before anybody hears of it

Blocking; one change of a user at a time. RAM follows only after all that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from actors.memory.audit import AuditEntry, AuditLog
from actors.milvus.tenure import DeposedError, Tenure
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import StoreError
from personaagent.memory.changes import Change, commit
from personaagent.memory.deletion import delete_interactions
from personaagent.memory.forgetting import admit, finish_erasure, forget_user
from personaagent.memory.limits import KB, MB
from personaagent.memory.one_user import OneUser
from personaagent.memory.persona_chain import PersonaChain
from personaagent.memory.store import Row, Tombstone, row_key
from personaagent.settings import LimitsSettings
from personaagent.types import ForgetReceipt, user_key

__all__ = ["StaleError", "Writer"]

logger = logging.getLogger(__name__)

Held = Callable[[Row], Row | None]  # what RAM has of the interaction that a row is about to replace


class StaleError(StoreError):
    """The store has another row than RAM: load the user again, and plan again."""


class Writer:
    """Writes changes of one shard's users.

    Raises (every method):
        DeposedError: another process has taken over the shard.
        StoreError: the store or the audit log cannot be written.
        UnavailableError: the Milvus server is away.
    """

    def __init__(
        self, store: UpkeepStore, tenure: Tenure, audit: AuditLog, limits: LimitsSettings | None = None
    ) -> None:
        self._store = store
        self._tenure = tenure
        self._audit = audit
        self.limits = limits or LimitsSettings()  # of what is planned

    def admit(self, user: str, incarnation: int | None) -> None:
        """Check that a write of this shard, and of work that began under this incarnation, may pass. Raises ForgottenError."""
        self._tenure.check()
        key = user_key(user)
        if incarnation is not None or self._store.is_unfinished(key):
            admit(self._store.tombstone(key), incarnation)

    def admitted(self, users: Sequence[str], incarnation: int | None) -> list[str]:
        """Those of these users who may be written: not forgotten since, see `admit`, nor in the midst of it.

        A forgetting that broke off is finished first. Where that fails the user is left out, and the others are not held up.
        """
        self._tenure.check()
        keys = {user_key(user): user for user in users}
        begun = {key for key in keys if self._store.is_unfinished(key) and not self._finished(key)}
        stones = self._store.tombstones(list(keys)) if incarnation is not None else {}
        refused = {key for key, stone in stones.items() if incarnation is not None and incarnation < stone.incarnation}
        return [user for key, user in keys.items() if key not in begun | refused]

    def write(self, changes: Sequence[Change], action: str, by: str, held: Mapping[str, Held]) -> None:
        """Make changes durable that were planned after `admit`.

        Args:
            changes: of one user each.
            action: what the audit log calls them.
            by: who made them.
            held: of users whose changes were planned from RAM, what RAM has of a row.

        Raises:
            StaleError: RAM is out of date. Nothing was written.
            ConflictError: a persona or profile was replaced meanwhile.
        """
        self._compare([row for c in changes if c.user in held for row in c.rows], held)
        entries = [entry for c in changes if (entry := _entry(action, by, c)) is not None]
        self._audit.write_all(entries)
        try:
            commit(self._store, changes)
            if self._store.is_shared:
                self._tenure.check()
        except BaseException:
            self._withdraw(entries)
            raise

    def shorten(self, user: str, chain: PersonaChain) -> None:
        """Take the texts of a user's oldest persona versions away if all together are larger than limits allow."""
        most = self.limits
        for persona in chain.excess(round(most.persona_chain_mb * MB), round(most.persona_kb * KB)):
            self._tenure.check()
            self._audit.write("drop persona texts", user_key(user), "limits", {"persona": persona.number})
            self._store.amend_persona(user, persona.without_texts())
            chain.drop(persona)

    def delete(self, memory: OneUser, ids: Sequence[str], by: str, incarnation: int | None) -> int:
        """Delete interactions of a user, their lessons, and what rests on them alone; how many of `ids` there were.

        RAM is out of date afterwards, whatever came of it. A call that broke off is finished by the next one, or by a scrub.

        Raises:
            ForgottenError: the user was forgotten since the incarnation.
            StoreError: some of it is left, in the store or in its files.
        """
        user, key = memory.user, user_key(memory.user)
        self.admit(user, incarnation)
        there = self._store.get([row_key(user, i) for i in ids])
        lost = {digest for _, digest in there} | {row_key(user, i)[1] for i in memory.lessons(ids)}
        if not lost:
            if key in self._store.intended():  # an earlier try did not get what it deleted out of the files
                self._store.scrub([key])
            return 0
        entries = [AuditEntry("delete", key, by, {"interactions": len(lost)})]
        self._audit.write_all(entries, sync=True)
        try:
            self._store.intend([key])
            delete_interactions(self._store, user, lost)
            if self._store.is_shared:
                self._tenure.check()
            self._store.scrub([key])
        except BaseException:
            self._withdraw(entries)
            raise
        return len(there)

    def forget(self, user: str, by: str, audit_id: str) -> ForgetReceipt:
        """Remove every trace of a user; see `forget_user`. Raises NotFoundError."""
        self._tenure.check()
        return forget_user(self._store, user, audit_id, self._tenure.next_incarnation, self._telling(by))

    def finish_forgetting(self, key: str) -> None:
        """Finish what was begun for the user with this key, if it was. Raises StoreError if something is left."""
        self._tenure.check()
        tombstone = self._store.tombstone(key)
        if tombstone is None or tombstone.done:  # its writing failed, or its end was written and nobody heard of it
            return
        finish_erasure(self._store, key, self._tenure.next_incarnation, self._telling("recovery"), answered=False)

    def recover(self) -> None:
        """Finish all that a process before this one did not. What cannot be finished now stays noted; others are served.

        A version before this one noted nothing. What it left in the files is found by looking, once.
        """
        for key in self._store.unfinished():
            self._finished(key)
        try:
            anew = not self._store.looked_through
            if left := self._store.intended() | self._store.outdated(gone=not anew):
                self._store.intend(left)
                self._store.scrub(left)
            if anew:  # from here on whatever is deleted is noted before
                self._store.note_looked_through()
        except StoreError as e:
            logger.warning("deleted rows are still in the store's files: %s", e.message)

    # Inside

    def _finished(self, key: str) -> bool:
        """Finish the forgetting of one of many users, whom it must not hold up; whether that went well."""
        try:
            self.finish_forgetting(key)
        except DeposedError:
            raise
        except StoreError as e:
            logger.warning("the forgetting of user %s is not finished: %s", key, e.message)
            return False
        return True

    def _compare(self, rows: Sequence[Row], held: Mapping[str, Held]) -> None:
        stored = self._store.get([row.key for row in rows]) if rows else {}
        for row in rows:
            there, known = stored.get(row.key), held[row.user](row)
            if (there is None) != (known is None) or (
                there is not None
                and known is not None
                and (there.payload, there.truth_arrived) != (known.payload, known.truth_arrived)
            ):
                raise StaleError("what this shard holds of the user is out of date; try again")

    def _withdraw(self, entries: Sequence[AuditEntry]) -> None:
        """Log that logged changes failed, or that nobody knows whether they did."""
        failed = [AuditEntry("failed", e.user_key, e.by, {"what": e.action}) for e in entries]
        try:
            self._audit.write_all(failed)
        except StoreError as e:
            logger.warning("a change was logged, but not that it failed: %s", e.message)

    def _telling(self, by: str) -> Callable[[str, str, Tombstone], None]:
        def tell(action: str, key: str, tombstone: Tombstone) -> None:
            details: dict[str, int | str] = {"audit_id": tombstone.audit_id}
            if action == "forget":
                counts = {name: getattr(tombstone, name) for name in ("interactions", "personas", "facts")}
                details.update(counts)
            else:
                details["remaining"] = 0
            self._audit.write(action, key, by, details, sync=True)

        return tell


def _entry(action: str, by: str, change: Change) -> AuditEntry | None:
    details: dict[str, int | str] = {}
    if change.rows:
        details.update(added=change.added.added, updated=change.added.updated)
    if change.personas:
        details.update(persona=change.personas[-1].number)
    if change.profile is not None:
        details.update(profile=change.profile.version)
    if change.seen is not None:
        details.update(seen=change.seen)
    return AuditEntry(action, user_key(change.user), by, details) if details else None
