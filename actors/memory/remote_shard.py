"""A memory shard as its callers have it: the methods of `MemoryShard`, carried out in the shard's process.

A shard whose process died is started anew by Ray and recovers from its store; calls wait for it and are repeated, which is
safe because every one of them may be carried out twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import ray
from ray.exceptions import ActorDiedError, ActorUnschedulableError, GetTimeoutError, RayActorError, RayTaskError

from personaagent import deadline
from personaagent.errors import DeadlineExceeded, PersonaAgentError, UnavailableError

if TYPE_CHECKING:
    from actors.memory.shard import MemoryShard

__all__ = ["remote_shard"]

logger = logging.getLogger(__name__)

RESTART_S = 60.0  # wait so long for a shard that is being restarted
GONE_S = 5.0  # and so long for one that Ray says is dead


def remote_shard(handle: Any, number: int) -> MemoryShard:
    """The shard behind the handle of a Ray actor, to be called as if it were here. Arguments go by position.

    Only its public methods can be called. They raise what the shard raises, and:
        UnavailableError: the shard does not come back, or its node is gone.
        DeadlineExceeded: the request that this call is part of has taken too long.
    """
    return cast("MemoryShard", _Remote(handle, number))


class _Remote:
    """Sends each call by the name of its method. Nobody but `remote_shard` makes one, which says what it can be asked."""

    def __init__(self, handle: Any, number: int) -> None:
        self._handle = handle
        self._number = number

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):  # pickle looks for some before there is a handle
            raise AttributeError(method)
        return partial(self._ask, method)

    async def _ask(self, method: str, *args: Any) -> Any:
        """Call the shard, waiting for it if it is being restarted. Every method may be carried out twice."""
        started = time.monotonic()
        while True:
            try:
                return await self._answer(getattr(self._handle, method), args)
            except RayTaskError as e:
                cause = e.cause
                if isinstance(cause, PersonaAgentError):
                    raise cause from None
                raise
            except ActorUnschedulableError as e:
                gone = f"the node with the files of memory shard {self._number} is gone; bring it back"
                raise UnavailableError(gone) from e
            except (RayActorError, GetTimeoutError) as e:
                patience = GONE_S if isinstance(e, ActorDiedError) else RESTART_S
                if time.monotonic() - started > patience:
                    raise UnavailableError(f"memory shard {self._number} is not there; restart the service") from e
                async with deadline.bounded():
                    await asyncio.sleep(0.1)

    async def _answer(self, method: Any, args: tuple[Any, ...]) -> Any:
        """One call, which is cancelled in the shard if nobody waits for it any more. A shard brings writes to their end.

        A call that is part of no request has no bound: what it waits for may be a store that recovers.
        """
        deadline.check()
        called = method.remote(*args)
        try:
            async with deadline.bounded():
                return await called
        except (asyncio.CancelledError, DeadlineExceeded):
            if isinstance(called, ray.ObjectRef):
                ray.cancel(called)
            elif hasattr(called, "cancel"):  # a future, where a shard is no actor
                called.cancel()
            logger.debug("a call of memory shard %d was given up", self._number)
            raise
