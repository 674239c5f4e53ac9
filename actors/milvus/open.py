"""Which store a shard uses, from the settings."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from actors.milvus.leftovers import BEFORE_RESHARD, drop_replaced
from actors.milvus.store_identity import StoreIdentity
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import StoreError
from personaagent.memory.privacy import Cipher
from personaagent.private_files import opener, private_folder
from personaagent.settings import MemorySettings

__all__ = ["ShardConfig", "collection_of", "open_store"]


@dataclass(frozen=True)
class ShardConfig:
    """What a memory shard is told when it is created.

    `embedder` and `dim` name the vectors; a store made with others is refused.
    """

    memory: MemorySettings
    store_dir: Path
    audit_dir: Path
    embedder: str
    dim: int
    shard: int

    @property
    def identity(self) -> StoreIdentity:
        """What the store must be."""
        return StoreIdentity(
            embedder=self.embedder,
            dim=self.dim,
            shards=self.memory.shards,
            tenant=self.memory.tenant,
            shard=self.shard,
            encrypted=self.memory.encryption_key is not None,
        )

    @property
    def place(self) -> tuple[object, ...]:
        """Which store this is; shards of equal place serve the same memories."""
        where = (self.memory.uri, self.memory.collection) if self.memory.uri else (str(self.store_dir),)
        return (*where, self.identity)

    @property
    def actor_name(self) -> str:
        """Name of the shard's actor."""
        return f"memory-{self.memory.tenant}-{self.shard:02d}"


def collection_of(memory: MemorySettings) -> str:
    """Prefix of the names of a tenant's collections; a Lite folder has one tenant, a server may have several."""
    if memory.uri is None:
        return memory.collection
    # Collection names take no "-"; no two tenants may come to the same name.
    return f"{memory.collection}_{memory.tenant.replace('_', '__').replace('-', '_d')}"


def open_store(config: ShardConfig, folder: Path | None = None) -> UpkeepStore:
    """Open the store of one shard, creating it if it is not there.

    Args:
        config: which store.
        folder: of the tenant's Lite stores, if it is not where it usually is.

    Raises:
        StoreError: it is damaged, in use, or not what the settings say.
        InvalidInput: memory.encryption_key cannot be used.
        UnavailableError: the Milvus server does not answer.
    """
    memory = config.memory
    cipher = Cipher(memory.encryption_key) if memory.encryption_key is not None else None
    name = collection_of(memory)
    if memory.uri is not None:
        token = memory.token.get_secret_value() if memory.token else ""
        return UpkeepStore(memory.uri, config.identity, collection=name, token=token, cipher=cipher)
    if folder is None:
        folder = config.store_dir / memory.tenant
        _refuse_half_swapped(folder)
    _check_folder(folder, config.identity)
    store = UpkeepStore(folder / f"memory-{config.shard:02d}.db", config.identity, collection=name, cipher=cipher)
    try:
        drop_replaced(folder)  # only now: the lock on the files says that no reshard is under way
    except BaseException:
        store.close()
        raise
    return store


def _refuse_half_swapped(folder: Path) -> None:
    """Refuse to begin an empty store where a reshard was killed between moving the old one away and the new one in."""
    if not folder.exists() and (old := sorted(folder.parent.glob(f"{folder.name}{BEFORE_RESHARD}*"))):
        shards = old[-1].name.removeprefix(f"{folder.name}{BEFORE_RESHARD}")
        raise StoreError(f"a reshard of {folder} was interrupted; run `personaagent reshard {shards}` to finish it")


def _check_folder(folder: Path, identity: StoreIdentity) -> None:
    """Compare with the folder's own description, before any shard opens or creates a file in it."""
    path = folder / "store.json"
    try:
        private_folder(folder)
        if not path.exists():
            draft = folder / f".{uuid.uuid4().hex}"
            with open(draft, "w", encoding="utf-8", opener=opener) as file:
                file.write(json.dumps(identity.description(shared=True)))
            try:
                os.link(draft, path)  # unlike a rename it lets the first of several shards win
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        identity.check(json.loads(path.read_text("utf-8")))
    except OSError as e:
        raise StoreError(f"{folder} cannot be used: {e.strerror}; choose another home") from e
    except ValueError as e:
        raise StoreError(f"{path} cannot be read; restore it from a backup") from e
