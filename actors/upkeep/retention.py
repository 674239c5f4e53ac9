"""Retention in a store that no service uses: what is older than `memory.retention_days` is deleted now."""

from __future__ import annotations

from actors.memory.audit import AuditLog
from actors.memory.expiry import cutoff, expire_user
from actors.upkeep.closed_stores import Tell, open_stores, silent
from personaagent.errors import InvalidInput
from personaagent.settings import Settings
from personaagent.types import user_key

__all__ = ["expire"]


def expire(settings: Settings, days: float | None = None, tell: Tell = silent) -> dict[str, int | str]:
    """Delete what is older than `days` (default: `memory.retention_days`) from a store that no service uses.

    Returns:
        `users` concerned, `interactions` deleted, and a `note` on what remains on the disk until when.

    Raises:
        InvalidInput: no number of days is given.
        StoreError: there is no store, or it is in use.
    """
    days = settings.memory.retention_days if days is None else days
    if days is None:
        raise InvalidInput("nothing expires: set memory.retention_days, or say --days")
    audit = AuditLog(settings.home / "audit", f"memory-{settings.memory.tenant}-upkeep")
    users = interactions = 0
    note = ""
    with open_stores(settings) as stores:
        if settings.memory.uri is not None:  # one store, but it lists only its own shard's users
            stores = [store.alone() for store in stores]
        for store in stores:
            expired = store.expired(cutoff(days))
            keys = {user_key(user) for user in expired} | store.intended()
            store.intend(keys)
            for done, (user, digests) in enumerate(expired.items(), start=1):
                expire_user(store, user, digests, audit, "operator")
                users += 1
                interactions += len(digests)
                tell("expiring", done, len(expired))
            if keys:
                note = store.scrub(keys)
    return {"users": users, "interactions": interactions, "note": note}
