"""Retention: interactions older than `memory.retention_days` are deleted, with what points to them.

What was learnt from them stays as long as later interactions support it, too: facts, and claims of personas in prompts. What a
person wrote or pinned stays, and so do personas written as prose. `forget` removes these. An exemplar is a copy of an
interaction and goes with it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from actors.memory.audit import AuditLog
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.memory.deletion import delete_interactions
from personaagent.memory.store import microseconds
from personaagent.types import user_key, utc_now

__all__ = ["cutoff", "expire_user"]


def cutoff(days: float) -> int:
    """Interactions before this moment (microseconds since 1970) are older than so many days."""
    try:
        return microseconds(utc_now() - timedelta(days=days))
    except OverflowError:  # longer than the calendar is
        return microseconds(datetime.min.replace(tzinfo=UTC))


def expire_user(store: UpkeepStore, user: str, digests: Collection[bytes], audit: AuditLog, by: str) -> None:
    """Delete interactions of one user, and what points to them, see `delete_interactions`.

    The bytes stay in the files until `UpkeepStore.scrub`, which the caller has announced with `UpkeepStore.intend`.

    Args:
        store: of the user's shard.
        user: whose interactions.
        digests: which ones, see `row_key`.
        audit: is told first.
        by: who the audit log says did it.
    """
    audit.write("expire", user_key(user), by, {"interactions": len(digests)}, sync=True)
    delete_interactions(store, user, digests, silent=True)
