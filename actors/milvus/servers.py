"""How Milvus servers differ: which versions work, what they can do, and what their errors say.

Written with Milvus 2.3.0 and 2.3.5 and with `milvus-lite server` 3.2.2 at hand.
"""

from __future__ import annotations

import logging
import re

from personaagent.errors import StoreError

__all__ = ["OLDEST", "PARTITIONED", "dotted", "is_away", "is_unloaded", "line_of", "version_of"]

logger = logging.getLogger(__name__)

OLDEST = (2, 3, 0)  # of servers; before it there is neither `upsert` nor `count(*)`
# Before it an upsert takes the wrong field for the partition key, and the row is never found under its own
# (milvus-io/milvus#30772); some versions then also kept the row that was replaced (#31548).
PARTITIONED = (2, 4, 0)


def version_of(text: str) -> tuple[int, ...] | None:
    """The version a server tells; one that is too old is refused. None if it tells none (builds for tests, a cloud)."""
    found = re.match(r"(?:v|milvus_lite-)?(\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        logger.warning("the Milvus server tells no version that could be checked: %.40s", text)
        return None
    version = tuple(map(int, found.groups()))
    if version < OLDEST:
        raise StoreError(
            f"the Milvus server is of version {text[:40]}; the oldest that works is {dotted(OLDEST)}, update the server"
        )
    return version


def dotted(version: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def is_unloaded(text: str) -> bool:
    """Whether a collection has to be loaded before it can be read."""
    return "released" in text or "not loaded" in text


def is_away(text: str) -> bool:
    """Whether a server is not there, or not yet: the same call may work later."""
    signs = (
        "unavailable",
        "deadline_exceeded",
        "fail connecting",
        "failed to connect",
        "retry",
        "closed channel",
        "timeout",
        # Of servers that are just starting, or whose parts are:
        "deadline exceeded",
        "not ready",
        "not healthy",
        "initializing",
        "recovering",
        "not fully loaded",
        "no available shard",
        "shard leader",
        "channel not available",
        "node offline",
        "node not match",
    )
    return any(sign in text.casefold() for sign in signs)


def line_of(error: BaseException) -> str:
    """What an error says, in one line."""
    text = getattr(error, "message", None) or str(error)
    return " ".join(str(text).split())[:300] or type(error).__name__
