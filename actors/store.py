"""Which store a shard uses, from the settings."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from actors.identity import StoreIdentity
from actors.milvus_store import MilvusStore
from personaagent.errors import StoreError
from personaagent.settings import MemorySettings

__all__ = ["ShardConfig", "open_store"]


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


def open_store(config: ShardConfig) -> MilvusStore:
    """Open the store of one shard, creating it if it is not there.

    Raises:
        StoreError: it is damaged, in use, or not what the settings say.
        UnavailableError: the Milvus server does not answer.
    """
    memory = config.memory
    if memory.uri is not None:
        token = memory.token.get_secret_value() if memory.token else ""
        # Collection names take no "-"; no two tenants may come to the same name.
        tenant = memory.tenant.replace("_", "__").replace("-", "_d")
        return MilvusStore(memory.uri, config.identity, collection=f"{memory.collection}_{tenant}", token=token)
    folder = config.store_dir / memory.tenant
    _check_folder(folder, config.identity)
    return MilvusStore(folder / f"memory-{config.shard:02d}.db", config.identity, collection=memory.collection)


def _check_folder(folder: Path, identity: StoreIdentity) -> None:
    """Compare with the folder's own description, before any shard opens or creates a file in it."""
    path = folder / "store.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            draft = folder / f".{uuid.uuid4().hex}"
            draft.write_text(json.dumps(identity.description(shared=True)), "utf-8")
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
