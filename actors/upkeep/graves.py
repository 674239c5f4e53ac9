"""Tombstones of users while a whole store is moved: forgetting that broke off is finished first, and only its end is carried.

A tombstone that is not done would erase the user again where the moved store is opened, though the user may have come back
to the old one meanwhile, or may live on a server that was in use already.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from actors.memory.audit import AuditLog
from actors.milvus.store_identity import shard_of
from actors.milvus.tenure import FORGOTTEN_BITS
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import StoreError
from personaagent.memory.forgetting import finish_erasure
from personaagent.memory.store import Tombstone

__all__ = ["carry_graves", "settle"]


def settle(stores: Sequence[UpkeepStore], audit: AuditLog) -> None:
    """Finish all forgetting that broke off in stores that no service uses.

    Raises:
        StoreError: something is left of a user.
    """

    def tell(action: str, key: str, tombstone: Tombstone) -> None:
        audit.write(action, key, "operator", {"audit_id": tombstone.audit_id, "remaining": 0}, sync=True)

    for store in stores:
        begun = [key for key, tombstone in store.buried() if not tombstone.done]
        epoch = store.epoch() + 1  # whatever is still under way began in an earlier one
        if begun:
            store.go_on_above(epoch)
        incarnation = partial(int, epoch << FORGOTTEN_BITS)
        for key in begun:
            try:
                finish_erasure(store, key, incarnation, tell, answered=False)
            except StoreError as e:
                raise StoreError(
                    f"forgetting the user with key {key} could not be finished, so nothing is moved: {e}"
                ) from e


def carry_graves(sources: Sequence[UpkeepStore], targets: Sequence[UpkeepStore]) -> None:
    """Bring the tombstones of settled stores, and numbers that go on above them: what is under way stays refused after it."""
    epoch = max((source.epoch() for source in sources), default=0)
    for target in targets:
        target.go_on_above(epoch)
    for source in sources:
        for key, tombstone in source.buried():
            target = targets[shard_of(key, len(targets))]
            present = target.tombstone(key)
            if present is None or present.incarnation < tombstone.incarnation:
                target.bury(key, tombstone)
