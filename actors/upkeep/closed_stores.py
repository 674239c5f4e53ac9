"""Stores that no service uses, opened in this process without Ray: for checks, moves and expiry.

Milvus Lite locks its folders, so a store in use is refused. A Milvus server has no such lock: stop the services on it first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from actors.milvus.leftovers import BEFORE_RESHARD
from actors.milvus.open import ShardConfig, collection_of, open_store
from actors.milvus.upkeep_store import UpkeepStore, server_description
from personaagent.errors import StoreError
from personaagent.settings import MemorySettings, Settings

__all__ = ["Tell", "description", "in_shards", "open_stores", "silent", "tenant_folder"]

Tell = Callable[[str, int, int], None]  # what is being done, how much of it is done, and of how much


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def tenant_folder(settings: Settings) -> Path:
    """Where the Lite stores of a tenant are."""
    return settings.store_dir / settings.memory.tenant


def description(settings: Settings, folder: Path | None = None) -> dict[str, Any]:
    """What the store says of itself: embedder, dim, shards and so on.

    Raises:
        StoreError: there is no store, or it cannot be read.
    """
    memory = settings.memory
    if memory.uri is not None:
        token = memory.token.get_secret_value() if memory.token else ""
        return server_description(memory.uri, collection_of(memory), token)
    path = (folder or tenant_folder(settings)) / "store.json"
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict) or not {"embedder", "dim", "shards"} <= content.keys():
            raise ValueError("fields are missing")
    except FileNotFoundError as e:
        if list(path.parent.parent.glob(f"{path.parent.name}{BEFORE_RESHARD}*")):
            raise StoreError(f"a reshard of {path.parent} was interrupted; run `personaagent reshard` again") from e
        raise StoreError(f"there is no store in {path.parent}; check --home and memory.tenant") from e
    except (OSError, ValueError) as e:
        raise StoreError(f"{path} cannot be read; restore it from a backup") from e
    return content


def in_shards(memory: MemorySettings, shards: int) -> MemorySettings:
    """The settings with another number of shards."""
    return memory.model_copy(update={"shards": shards})


@contextmanager
def open_stores(
    settings: Settings,
    memory: MemorySettings | None = None,
    folder: Path | None = None,
    stored: dict[str, Any] | None = None,
) -> Iterator[list[UpkeepStore]]:
    """The stores of all shards, with the embedder they were made with; one store for a server, which all shards share.

    Args:
        settings: where the store is.
        memory: instead of `settings.memory`.
        folder: of Lite stores that are not where they usually are.
        stored: description to open them with; by default what they say of themselves.

    Raises:
        StoreError: there is no store, it is in use, or it is not what the settings say.
        UnavailableError: the Milvus server does not answer.
    """
    memory = memory or settings.memory
    stored = stored or description(settings.model_copy(update={"memory": memory}), folder)
    memory = in_shards(memory, int(stored["shards"]))
    with ExitStack() as stack:
        stores = []
        for shard in range(memory.shards if memory.uri is None else 1):
            config = ShardConfig(
                memory=memory,
                store_dir=settings.store_dir,
                audit_dir=settings.home / "audit",
                embedder=str(stored["embedder"]),
                dim=int(stored["dim"]),
                shard=shard,
            )
            store = open_store(config, folder)
            stack.callback(store.close)
            stores.append(store)
        yield stores
