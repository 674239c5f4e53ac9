"""A memory shard's settings, and the interactions and batches that its tests give it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from actors.memory.wire import Batch
from actors.milvus.open import ShardConfig
from personaagent.memory.changes import embed_interactions
from personaagent.settings import MemorySettings
from personaagent.types import Interaction
from tests.support.doubles import HashEmbedder

__all__ = ["EMBEDDER", "NONE", "START", "batch", "config", "interaction"]

START = datetime(2024, 5, 1, tzinfo=UTC)
EMBEDDER = HashEmbedder(16)
NONE = np.zeros((0, 16), dtype=np.float32)


def interaction(id: str, user: str = "ann", query: str = "", minute: int = 0, **fields: object) -> Interaction:
    """One of a user's, so many minutes after `START`."""
    time = START + timedelta(minutes=minute)
    return Interaction(id=id, user=user, time=time, query=query or f"query {id}", **fields)  # type: ignore[arg-type]


async def batch(*interactions: Interaction) -> Batch:
    """Interactions as a shard takes them, with their vectors."""
    return Batch.of(await embed_interactions(EMBEDDER, interactions))


def config(folder: Path, **settings: object) -> ShardConfig:
    """Of the only shard of a store below `folder`."""
    return ShardConfig(
        memory=MemorySettings(**{"shards": 1, **settings}),  # type: ignore[arg-type]
        store_dir=folder / "store",
        audit_dir=folder / "audit",
        embedder="test",
        dim=16,
        shard=0,
    )
