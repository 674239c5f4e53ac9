"""The users that are in RAM: bounded by bytes and by idle time, least recently used leave first.

Leaving loses nothing: whatever is in RAM is in the store already. No user may take more than a share of the RAM, so that one
cannot drive out all others: who needs more is searched in the store, see `actors.memory.large_user`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from personaagent.memory.one_user import OneUser
from personaagent.memory.user_memory import UserMemory
from personaagent.settings import MemorySettings

__all__ = ["ActiveUsers"]

OUTGROWN = 1_000  # users of whom that is remembered


@dataclass
class _Active:
    memory: OneUser
    used: float  # seconds, monotonic
    ram: int  # bytes


class ActiveUsers:
    """Users in RAM. Not thread-safe: it belongs to one event loop."""

    def __init__(self, settings: MemorySettings) -> None:
        self._settings = settings
        self._users: OrderedDict[str, _Active] = OrderedDict()  # least recently used first
        self._ram = 0
        self._outgrown: OrderedDict[str, int] = OrderedDict()  # episodes of users who needed more than their share
        self._activations = self._passivations = 0

    def get(self, user: str) -> OneUser | None:
        """The user's memory if it is in RAM."""
        active = self._users.get(user)
        if active is None:
            return None
        active.used = time.monotonic()
        self._users.move_to_end(user)
        return active.memory

    def put(self, user: str, memory: OneUser) -> None:
        """Take in a user that was loaded."""
        self._activations += 1
        self._users[user] = _Active(memory, time.monotonic(), 0)
        self.changed(user)

    def changed(self, user: str) -> None:
        """Note that a user may have grown, and make room."""
        active = self._users.get(user)
        if active is None:
            return
        if isinstance(active.memory, UserMemory) and self.outgrows(active.memory):
            self.outgrown(user, len(active.memory))
            self.drop(user)  # the next call finds a large user
            return
        ram = active.memory.ram_bytes
        self._ram += ram - active.ram
        active.ram = ram
        active.used = time.monotonic()
        self._users.move_to_end(user)
        while self._ram > self._settings.max_ram_mb * 2**20 and len(self._users) > 1:
            self.drop(next(iter(self._users)))

    def outgrows(self, memory: UserMemory) -> bool:
        """Whether a user needs more RAM than one user may have."""
        most = self._settings.max_active_episodes
        return len(memory) > most or memory.ram_bytes > self._settings.user_ram_bytes

    def outgrown(self, user: str, episodes: int) -> None:
        """Remember that so many episodes of a user were too much, so that not so many are loaded for nothing again."""
        self._outgrown[user] = episodes
        self._outgrown.move_to_end(user)
        while len(self._outgrown) > OUTGROWN:
            self._outgrown.popitem(last=False)

    def is_large(self, user: str, episodes: int) -> bool:
        """Whether it is known without loading them that so many episodes of a user are too much."""
        return episodes > self._settings.max_active_episodes or episodes >= self._outgrown.get(user, episodes + 1)

    def drop(self, user: str) -> None:
        """Drop a user from RAM; harmless if it is not there."""
        active = self._users.pop(user, None)
        if active is not None:
            self._ram -= active.ram
            self._passivations += 1

    def drop_idle(self) -> None:
        """Drop the users that nobody called for `idle_s`."""
        now = time.monotonic()
        while self._users:
            user, active = next(iter(self._users.items()))
            if now - active.used < self._settings.idle_s:
                return  # the rest was used later
            self.drop(user)

    def clear(self) -> int:
        """Drop all users; returns how many there were."""
        users = list(self._users)
        for user in users:
            self.drop(user)
        return len(users)

    def stats(self) -> dict[str, int]:
        """Numbers for health checks and dashboards."""
        return {
            "active_users": len(self._users),
            "active_episodes": sum(len(a.memory) for a in self._users.values()),
            "ram_bytes": self._ram,
            "activations": self._activations,
            "passivations": self._passivations,
        }
