"""What a store says of itself, so that it is not opened by what would misread it; and which shard holds a user."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from personaagent.errors import StoreError

__all__ = ["SCHEMA", "StoreIdentity", "shard_of"]

SCHEMA = 1  # version of what is written; a store of a newer one is refused


@dataclass(frozen=True)
class StoreIdentity:
    """What a store must agree with to be opened."""

    embedder: str
    dim: int
    shards: int
    tenant: str
    shard: int
    schema: int = SCHEMA
    encrypted: bool = False  # whether texts are; stores of before this field are not

    def description(self, shared: bool) -> dict[str, Any]:
        """What the store says of itself; in one that all shards share (a server's) no shard is named."""
        return {**asdict(self), "shard": None if shared else self.shard}

    def check(self, stored: dict[str, Any]) -> None:
        """Compare with what the store says of itself.

        Raises:
            StoreError: they differ; the message says what to do.
        """
        if stored.get("schema") != self.schema:
            raise StoreError(f"this store is of version {stored.get('schema')}, not {self.schema}; update personaagent")
        if (stored.get("embedder"), stored.get("dim")) != (self.embedder, self.dim):
            raise StoreError(
                f"this store was made with embedder {stored.get('embedder')!r} ({stored.get('dim')} numbers), the settings"
                f" say {self.embedder!r} ({self.dim}); set embedder.model back or use a new home"
            )
        if bool(stored.get("encrypted")) != self.encrypted:
            raise StoreError(
                "this store is encrypted; set memory.encryption_key"
                if stored.get("encrypted")
                else "this store is not encrypted, but memory.encryption_key is set; unset it, or export the users and"
                " import them into a new home"
            )
        if stored.get("shards") != self.shards:
            raise StoreError(
                f"this store has {stored.get('shards')} shards, the settings say {self.shards}; set memory.shards to"
                f" {stored.get('shards')} or run `personaagent reshard`"
            )
        if stored.get("tenant") != self.tenant or stored.get("shard") not in (None, self.shard):
            raise StoreError(
                f"this is shard {stored.get('shard')} of tenant {stored.get('tenant')!r}, not {self.shard} of"
                f" {self.tenant!r}; put the folders back where they belong"
            )


def shard_of(key: str, shards: int) -> int:
    """Which of `shards` shards holds the user with this key."""
    return int(key[:12], 16) % shards
