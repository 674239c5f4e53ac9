"""`ShardedMemory` over one memory shard in this process: the product's client, without Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from actors.memory.client import ShardedMemory
from actors.memory.shard import MemoryShard
from tests.support.doubles import HashEmbedder

__all__ = ["DirectMemory", "Handle"]


class Handle:
    """The handle of an actor, for a shard in this process."""

    def __init__(self, shard: MemoryShard) -> None:
        self._shard = shard

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=getattr(self._shard, method))


class DirectMemory(ShardedMemory):
    """One shard's users."""

    def __init__(self, shard: MemoryShard, dim: int = 16) -> None:
        super().__init__(HashEmbedder(dim), [Handle(shard)], [shard.config], "test")
        self.shard = shard
