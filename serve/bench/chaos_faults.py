"""Kills and pauses processes of one system of this machine, and sees that none stays paused.

Processes are found by the mark that all of a system's carry (see `cluster`) and by the titles that Ray and vLLM give them, as of
Ray 2.60 and vLLM 0.29. They are signalled through descriptors, so that a number that was given anew is never hit. Linux only.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from personaagent.errors import InvalidInput
from serve.names import APP, LLM, ROUTER
from serve.runtime import ray_cluster as cluster

__all__ = ["ALIGNMENT", "KINDS", "Processes", "check_platform"]

ALIGNMENT = "alignment"
SHARD = "ray::MemoryShard"
TITLES: Mapping[str, tuple[str, ...]] = {
    "shard": (SHARD,),
    "router": (f"ray::ServeReplica:{APP}:{ROUTER}",),
    "engine": (f"ray::ServeReplica:{APP}:{LLM}", "VLLM::EngineCore"),  # the replica, and the engine that it started
    ALIGNMENT: ("ray::MapWorker", "ray::_MapWorker", "ray::MapBatches"),  # Ray Data's actors
}
KINDS = tuple(TITLES)


def check_platform() -> None:
    """Raises InvalidInput where processes cannot be found and signalled safely."""
    if not (sys.platform == "linux" and hasattr(os, "pidfd_open")):
        raise InvalidInput("this bench finds its processes in /proc: it needs Linux 5.3 or newer")


class Processes:
    """The processes of the system with this mark."""

    def __init__(self, mark: str, rng: random.Random) -> None:
        self._mark = mark
        self._rng = rng

    def of(self, kind: str) -> list[int]:
        """Processes of a kind, by number."""
        found = []
        for pid in cluster.marked(self._mark):
            with suppress(OSError):  # it is gone
                title = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
                if title.startswith(TITLES[kind]):
                    found.append(pid)
        return sorted(found)

    def any_of(self, kind: str) -> int | None:
        """One process of a kind; None if there is none at the moment."""
        found = self.of(kind)
        return self._rng.choice(found) if found else None

    def kill(self, pid: int) -> bool:
        """Kill a process without warning; False if it is gone, or is not ours."""
        with self._opened(pid) as descriptor:
            return descriptor is not None and _send(descriptor, signal.SIGKILL)

    @contextmanager
    def paused(self, pid: int) -> Iterator[bool]:
        """A process stands still inside; False if it is gone, or is not ours. It goes on whatever happens."""
        with self._opened(pid) as descriptor:
            if descriptor is None or not _send(descriptor, signal.SIGSTOP):
                yield False
                return
            try:
                yield True
            finally:
                _send(descriptor, signal.SIGCONT)

    @contextmanager
    def _opened(self, pid: int) -> Iterator[int | None]:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # The descriptor holds on to the process; only now is it certain whose that is.
            yield descriptor if pid in cluster.marked(self._mark) else None
        finally:
            os.close(descriptor)


def _send(descriptor: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    return True
