"""Forgetting a user for good: what is done in which order, so that it can break off anywhere and be taken up again.

    1. the caller logs what is about to be deleted
    2. a tombstone says so in the store, durably; from here on nothing of the user is read or written
    3. everything but the tombstone is deleted, and the store looks what is left, in its files too
    4. the tombstone says that it is done, and the receipt is given

Whoever finds a tombstone that is not done begins again at 3. Work that began before 4 has a lower number than the tombstone's
incarnation and is refused for good, also after the same user has come back: at 4 the number is taken anew, since work may have
begun after a try that broke off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from personaagent.errors import ForgottenError, NotFoundError, StoreError
from personaagent.memory.store import Store, Tombstone
from personaagent.types import ForgetReceipt, user_key, utc_now

__all__ = ["admit", "finish_erasure", "forget_user"]

Tell = Callable[[str, str, Tombstone], None]  # "forget" before anything is deleted, "forgotten" after; key, tombstone


def forget_user(store: Store, user: str, audit_id: str, incarnation: Callable[[], int], tell: Tell) -> ForgetReceipt:
    """Remove every trace of a user. The caller is the user's only writer.

    Args:
        store: of the user.
        user: whom to forget.
        audit_id: names this call; the same one again gives the same receipt.
        incarnation: gives the number that all work begun from now on has at least, and none begun before.
        tell: writes the audit log; what cannot be logged is not done.

    Raises:
        NotFoundError: nothing is stored of this user, and no forgetting is unfinished.
        StoreError: something is left; the next call goes on.
    """
    key = user_key(user)
    earlier = store.tombstone(key)
    if earlier is not None and not earlier.done:
        return finish_erasure(store, key, incarnation, tell)
    held = store.held(user)
    if earlier is not None and (earlier.audit_id == audit_id or not (earlier.answered or held)):
        if not held:  # the answer was lost: look again, and say so
            return finish_erasure(store, key, incarnation, tell)
        return _receipt(key, earlier, "an earlier try of this call forgot the user, who has come back since")
    if not held:
        raise NotFoundError("this user is unknown")
    tombstone = Tombstone(
        incarnation=incarnation(),
        audit_id=audit_id,
        interactions=held.interactions,
        personas=held.personas,
        facts=held.facts,
    )
    tell("forget", key, tombstone)
    store.bury(key, tombstone)
    return finish_erasure(store, key, incarnation, tell)


def finish_erasure(
    store: Store, key: str, incarnation: Callable[[], int], tell: Tell, answered: bool = True
) -> ForgetReceipt:
    """Finish what a tombstone says was begun; see `forget_user`. `answered`: somebody is waiting for the receipt.

    Raises:
        NotFoundError: nothing was begun.
        StoreError: something is left.
    """
    tombstone = store.tombstone(key)
    if tombstone is None:
        raise NotFoundError("this user is unknown")
    erased = store.erase(key)
    if erased.remaining:
        raise StoreError(f"the store still holds {erased.remaining} entries of this user; forget the user again")
    if not tombstone.done:
        tell("forgotten", key, tombstone)
    store.bury(key, replace(tombstone, incarnation=incarnation(), done=True, answered=answered or tombstone.answered))
    return _receipt(key, tombstone, erased.note)


def admit(tombstone: Tombstone | None, incarnation: int | None) -> None:
    """Let a write pass, or refuse it.

    Args:
        tombstone: of the user.
        incarnation: where forgetting stood when the work began that the write is part of; None: the write is all of it.

    Raises:
        ForgottenError: the user was forgotten since.
        StoreError: the user is being forgotten, and that did not come to its end yet.
    """
    if tombstone is None:
        return
    if incarnation is not None and incarnation < tombstone.incarnation:
        raise ForgottenError("the user was forgotten meanwhile; nothing of this was stored")
    if not tombstone.done:
        raise StoreError("this user is being forgotten, which broke off; forget the user again to finish it")


def _receipt(key: str, tombstone: Tombstone, note: str) -> ForgetReceipt:
    return ForgetReceipt(
        user_key=key,
        time=utc_now(),
        interactions=tombstone.interactions,
        personas=tombstone.personas,
        facts=tombstone.facts,
        remaining=0,
        audit_id=tombstone.audit_id,
        note=note,
    )
