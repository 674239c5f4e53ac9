"""Who may write a shard's users: whoever opened the shard last, and nobody else.

Opening a shard takes the next epoch and writes it to the store. Every write compares what is stored with what was taken; a
process that was paused or cut off while another one took over is refused, and drops what it holds in RAM. Reads of RAM
compare again once a lease is over. So whoever takes over a server's shard that was not given up waits for as long: after
that the former owner serves nothing any more.

The lock on a Milvus Lite folder keeps other processes out, so there the comparison is one of two numbers in RAM, done at every
call.

Milvus has no write that depends on another row, so what was compared may be old when a write is sent. Therefore every single
call that changes a server looks at the clock first (`guard`), and compares again if that was longer ago than half the lease.
Whoever takes over has waited a whole lease before it serves. So a process that was paused between two of its calls never
writes any more; a call that was sent already has half a lease to arrive. What is left is a pause inside the client of Milvus,
after the look at the clock and before the bytes leave: such a call can write once more. It is never acknowledged.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from personaagent.errors import StoreError

__all__ = ["DeposedError", "OwnedStore", "Owner", "Tenure"]

FORGOTTEN_BITS = 32  # of an incarnation: how many users were forgotten in the epoch that stands above them

Clock = Callable[[], float]  # seconds, monotonic, that go on while this process is paused


class DeposedError(StoreError):
    """Another process has taken over the shard; this one must not touch it any more."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a shard: the owner of the highest epoch, by a name that no two have."""

    epoch: int
    name: str
    released: bool = False  # given up, so that nobody has to wait


class OwnedStore(Protocol):
    """A store that says who owns a shard of it."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes can have it open, so that reading the owner costs a call."""
        ...

    def owner(self) -> Owner | None:
        """Who owns this shard, as stored; None if nobody ever did."""
        ...

    def own(self, owner: Owner) -> None:
        """Write who owns this shard; durable when it returns."""
        ...


class Tenure:
    """One process's ownership of one shard, from `take` on. Safe to use from several threads.

    Raises (every method but `release`):
        DeposedError: another process has taken over.
        StoreError, UnavailableError: the store cannot say.
    """

    def __init__(self, store: OwnedStore, lease_s: float, clock: Clock = time.monotonic) -> None:
        self.store = store
        self._lease_s = lease_s
        self._clock = clock
        self._owner: Owner | None = None
        self._compared = 0.0
        self._forgotten = 0
        self._deposed = False

    def take(self) -> float:
        """Become the owner; says for how many seconds nothing may be served yet, because a former owner may do so."""
        former = self.store.owner()
        self._owner = Owner((former.epoch if former else 0) + 1, uuid.uuid4().hex)
        self.store.own(self._owner)
        self.check()
        return self._lease_s if self.store.is_shared and former is not None and not former.released else 0.0

    def check(self) -> None:
        """Compare with the store. Call it before a write, and again before the write is acknowledged."""
        asked = self._clock()  # before the store is asked: what it says may be old by the time it is heard
        if self._deposed or self._owner is None or self.store.owner() != self._owner:
            self._deposed = True
            raise DeposedError(
                "another process has taken over this memory shard; end this service, or restart it to take the shard back"
            )
        self._compared = asked

    def guard(self) -> None:
        """Called before every single call that changes a server: what was compared must not be too old by now."""
        while self._clock() - self._compared > self._lease_s / 2:
            self.check()

    @property
    def lapsed(self) -> bool:
        """Whether RAM may not be served before the next `check`."""
        return self._deposed or not self.store.is_shared or self._clock() - self._compared > self._lease_s

    @property
    def aging(self) -> bool:
        """Whether a third of the lease is over, so that it is time for the next `check`."""
        return not self._deposed and self.store.is_shared and self._clock() - self._compared > self._lease_s / 3

    @property
    def incarnation(self) -> int:
        """Where forgetting stands in this shard: it grows with every user forgotten and with every epoch."""
        assert self._owner is not None
        return (self._owner.epoch << FORGOTTEN_BITS) + self._forgotten

    def next_incarnation(self) -> int:
        """The number of a user who is forgotten now: higher than that of any work under way."""
        self._forgotten += 1
        return self.incarnation

    def release(self) -> None:
        """Give the shard up, so that the next owner need not wait. Without effect on one that was taken over."""
        if self._owner is not None and not self._deposed and self.store.owner() == self._owner:
            self.store.own(replace(self._owner, released=True))
        self._deposed = True
