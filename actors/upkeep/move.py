"""Moving a whole store: to another number of shards, or from Milvus Lite to a Milvus server.

Both copy user by user, compare what arrived with what was sent, and may be interrupted at any point: the same command
goes on where it was. The source is only read, but that forgetting which broke off is finished in it first; it stays as it was
until the copy is complete.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.memory.audit import AuditLog
from actors.milvus.leftovers import BEFORE_RESHARD, RESHARD, drop, leftovers, mark
from actors.milvus.store_identity import shard_of
from actors.milvus.upkeep_store import UpkeepStore
from actors.upkeep.closed_stores import Tell, description, open_stores, silent, tenant_folder
from actors.upkeep.graves import carry_graves, settle
from personaagent.errors import InvalidInput, StoreError
from personaagent.memory.store import Row, StoredUser
from personaagent.settings import Settings
from personaagent.types import user_key
from personaagent.whole_file import sync_folder

__all__ = ["Moved", "checksum", "migrate", "reshard"]

TOKEN = "moved"  # names the attempt that writes a version; equal in every run, so that repeating is harmless


@dataclass
class Moved:
    """What was moved, all of it verified by checksum."""

    users: int = 0
    interactions: int = 0
    personas: int = 0
    facts: int = 0
    copied: int = 0  # users written by this run; the others were there already
    shards: int = 0
    note: str = ""

    def add(self, stored: StoredUser, copied: bool) -> None:
        """Count a user."""
        self.users += 1
        self.interactions += len(stored.rows)
        self.personas += len(stored.personas)
        self.facts += len(stored.profile.facts) if stored.profile else 0
        self.copied += copied


def checksum(stored: StoredUser) -> str:
    """Digest of everything stored of a user, vectors included; the same wherever it is stored."""
    digest = hashlib.blake2b(digest_size=16)
    for row in sorted(stored.rows, key=lambda r: r.key[1]):
        _feed(digest, _row_parts(row))
    for persona in stored.personas:
        _feed(digest, [persona.model_dump_json().encode("utf-8", "surrogatepass")])
    if stored.profile is not None:
        _feed(digest, [stored.profile.model_dump_json().encode("utf-8", "surrogatepass")])
    if stored.seen is not None:
        _feed(digest, [b"seen", stored.seen.to_bytes(8, "big")])
    return digest.hexdigest()


def reshard(settings: Settings, shards: int, keep: bool = False, tell: Tell = silent) -> Moved:
    """Move all users of a store that no service uses to another number of shards.

    With Milvus Lite a new store grows beside the old one, is verified, and takes its place by renaming folders. On a
    server all shards share one store, and only the number in it changes.

    Args:
        settings: where the store is; `memory.shards` is not looked at.
        shards: the new number.
        keep: leave the old store beside the new one, as <tenant>.before-reshard-<shards>.
        tell: is told how far it is.

    Raises:
        InvalidInput: no such number of shards is possible.
        StoreError: there is no store, it is in use, the disk is full, or the copy is not equal.
    """
    limit = 4096
    if not 1 <= shards <= limit:
        raise InvalidInput(f"a store has 1 to {limit} shards, not {shards}")
    if settings.memory.uri is not None:
        return _restamp(settings, shards)
    folder = tenant_folder(settings)
    _finish_swap(folder)
    old = description(settings)
    new = {**old, "shards": shards}
    beside, backup = _beside(folder, RESHARD, shards), _beside(folder, BEFORE_RESHARD, shards)
    if old["shards"] == shards:
        with open_stores(settings):  # refuses if it is in use
            _clean(folder, keep)
        return Moved(shards=shards, note=f"the store has {shards} shards already")
    if backup.exists():
        raise StoreError(f"{backup} was kept by an earlier reshard; move it away first")
    moved = Moved(shards=shards)
    with open_stores(settings) as sources:
        settle(sources, _audit(settings))  # a copy that holds who was forgotten goes with them
    with (
        open_stores(settings) as sources,
        open_stores(settings, folder=beside, stored=new) as targets,
    ):
        settle(targets, _audit(settings))
        _refill(sources, targets, moved, tell)
    _swap(folder, beside, backup, keep)
    if keep:
        moved.note = f"the old store is kept in {backup}; users you forget from now on are still in it"
    return moved


def _refill(sources: Sequence[UpkeepStore], targets: Sequence[UpkeepStore], moved: Moved, tell: Tell) -> None:
    """Bring all users to the shards that are theirs now, and see that all is there. May go on where it was broken off."""
    names = [[s.user for s in source.users()] for source in sources]
    total = sum(map(len, names))
    known = {user_key(user) for users in names for user in users}
    for target in targets:  # who was forgotten after an interrupted run, be it that only their name had been copied
        for key in sorted(target.directory().keys() - known):
            target.erase(key)
    for source, users in zip(sources, names, strict=True):
        for user in users:
            target = targets[shard_of(user_key(user), len(targets))]
            stored = source.load(user)
            moved.add(stored, _copy(stored, user, target, replace=True))
            tell("moving users", moved.users, total)
    _carry(sources, targets)
    carry_graves(sources, targets)
    _verify(sources, targets, moved)
    for target in targets:
        target.flush()


def _swap(folder: Path, beside: Path, backup: Path, keep: bool) -> None:
    """Put the store that grew beside the old one in its place. Broken off, `_finish_swap` goes on with it."""
    mark(folder, keep)
    sync_folder(folder)
    sync_folder(beside.parent)
    os.rename(folder, backup)
    os.rename(beside, folder)
    sync_folder(folder.parent)
    _clean(folder, keep)


def migrate(settings: Settings, to_uri: str, tell: Tell = silent) -> Moved:
    """Copy a Lite store that no service uses to a Milvus server, and verify it. The Lite store stays as it is.

    Args:
        settings: of the Lite store; `memory.token` and `memory.collection` are used for the server too.
        to_uri: the server.
        tell: is told how far it is.

    Raises:
        InvalidInput: the settings name a server already.
        StoreError: there is no store, it is in use, or the server holds something else of a user.
        UnavailableError: the server does not answer.
    """
    if settings.memory.uri is not None:
        raise InvalidInput("migrate copies a Milvus Lite store, but memory.uri names a server; unset it")
    if "://" not in to_uri:
        raise InvalidInput(f"--to takes the URI of a Milvus server, as in http://milvus:19530, not {to_uri!r}")
    stored = description(settings)
    there = settings.memory.model_copy(update={"uri": to_uri})
    moved = Moved(shards=int(stored["shards"]))
    with open_stores(settings) as sources, open_stores(settings, there, stored=stored) as (target,):
        settle([*sources, target], _audit(settings))
        names = [[s.user for s in source.users()] for source in sources]
        _refuse_forgotten(sources, {user_key(user) for users in names for user in users}, target)
        total = sum(map(len, names))
        for source, users in zip(sources, names, strict=True):
            for user in users:
                content = source.load(user)
                moved.add(content, _copy(content, user, target, replace=False))
                tell("copying users", moved.users, total)
        _carry(sources, [target])
        carry_graves(sources, [target])
    moved.note = (
        f"set memory.uri to {to_uri}; the Lite store in {tenant_folder(settings)} is as it was, delete it when you like"
    )
    return moved


# Inside


def _copy(stored: StoredUser, user: str, target: UpkeepStore, replace: bool) -> bool:
    """Bring a user to `target`, unless it is there; `replace` what differs there. Whether anything was written."""
    wanted = checksum(stored)
    present = target.load(user)
    if checksum(present) == wanted:
        return False
    if not _is_part(present, stored):
        if not replace:
            raise StoreError(
                f"the server holds something else of the user with key {user_key(user)}; it was in use already. Migrate to"
                " another memory.collection"
            )
        target.erase(user_key(user))
        present = StoredUser()
    there = {row.id for row in present.rows}
    target.put([row for row in stored.rows if row.id not in there])
    for persona in stored.personas[len(present.personas) :]:
        target.put_persona(user, persona, TOKEN)
    if stored.profile is not None and present.profile is None:
        target.put_profile(user, stored.profile, 0, TOKEN)
    if stored.seen is not None:
        target.put_seen(user, stored.seen)
    if checksum(target.load(user)) != wanted:
        raise StoreError(
            f"the copy of the user with key {user_key(user)} is not equal; nothing was switched over, try again"
        )
    return True


def _carry(sources: Sequence[UpkeepStore], targets: Sequence[UpkeepStore]) -> None:
    """Bring what users have in common, of which every shard has a copy; the newest one counts."""
    newest = max((p for s in sources if (p := s.population()) is not None), key=lambda p: p.number, default=None)
    if newest is None:
        return
    for target in targets:
        present = target.population()
        if present is None or present.number < newest.number:
            target.put_population(newest)


def _refuse_forgotten(sources: Sequence[UpkeepStore], known: set[str], target: UpkeepStore) -> None:
    """Refuse to go on where an interrupted run has copied users who were forgotten since, or who lived there before."""
    gone = {key for source in sources for key, _ in source.buried()} - known
    if not gone:
        return
    there = gone & target.directory().keys()
    if strange := sorted(there - target.tombstones(sorted(there)).keys()):
        raise StoreError(
            f"the server holds something of {len(strange)} users whom the Lite store has forgotten, as the one with key"
            f" {strange[0]}; if an interrupted migrate has left it, drop the collection there, or else migrate to another"
            " memory.collection"
        )


def _is_part(present: StoredUser, stored: StoredUser) -> bool:
    """Whether what is there can be completed: each piece of it is equal to the source's."""
    rows = {row.id: row for row in stored.rows}
    return (
        all(row.id in rows and _row_parts(row) == _row_parts(rows[row.id]) for row in present.rows)
        and present.personas == stored.personas[: len(present.personas)]
        and present.profile in (None, stored.profile)
        and present.seen in (None, stored.seen)
    )


def _verify(sources: Sequence[UpkeepStore], targets: Sequence[UpkeepStore], moved: Moved) -> None:
    before, after = (sum(store.episodes for store in stores) for stores in (sources, targets))
    users = sum(1 for target in targets for _ in target.users())
    if before != after or moved.interactions != after or users != moved.users:
        raise StoreError(
            f"{moved.users} users with {before} interactions became {users} with {after}; nothing was switched over. Run"
            " `personaagent doctor`"
        )


def _row_parts(row: Row) -> list[bytes]:
    numbers = np.array([row.time, row.arrived, row.truth_arrived], dtype="<i8").tobytes()
    truth = b"" if row.truth_vector is None else row.truth_vector.astype("<f4").tobytes()
    options = b"" if row.option_vectors is None else row.option_vectors.tobytes()
    return [row.id.encode(), numbers, row.payload, row.query_vector.astype("<f4").tobytes(), truth, options]


def _feed(digest: Any, parts: Iterable[bytes]) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)


def _restamp(settings: Settings, shards: int) -> Moved:
    with open_stores(settings) as (store,):
        store.restamp_shards(shards)
    return Moved(shards=shards, note="all shards of a server share one store; only its number of shards was changed")


def _audit(settings: Settings) -> AuditLog:
    return AuditLog(settings.home / "audit", f"memory-{settings.memory.tenant}-upkeep")


def _beside(folder: Path, mark: str, shards: int) -> Path:
    return folder.parent / f"{folder.name}{mark}{shards}"


def _finish_swap(folder: Path) -> None:
    """Where a run was killed between the two renames the new store is complete: put it in its place."""
    if folder.exists():
        return
    for backup in sorted(folder.parent.glob(f"{folder.name}{BEFORE_RESHARD}*")):
        ready = _beside(folder, RESHARD, int(backup.name.removeprefix(f"{folder.name}{BEFORE_RESHARD}")))
        if ready.exists():
            os.rename(ready, folder)
            sync_folder(folder.parent)
            return


def _clean(folder: Path, keep: bool) -> None:
    for path in leftovers(folder):
        if not (keep and BEFORE_RESHARD in path.name):
            drop(path)
