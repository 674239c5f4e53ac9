"""Online alignment as a deployment of its own: one replica that aligns whoever is due, started anew if it stalls."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from actors.jobs.aligner_actor import AlignerParts, AlignmentActor
from actors.jobs.online import OnlineAligner, OnlineStatus
from personaagent.errors import UnavailableError
from personaagent.settings import Settings
from personaagent.tools.configured import calls_natively
from personaagent.tools.described import ToolDescriptions
from personaagent.tools.tool import ToolSpec
from personaagent.types import AlignmentResult
from serve.clients import running
from serve.clients.parts import connect
from serve.loopback import stay_local

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["HandleOnline", "InformedActor", "OnlineAlignment", "online_deployment"]

STATUS_TIMEOUT_S = 5.0
TOOLS_TIMEOUT_S = 30.0  # at the start the routers are not there yet, and wait for MCP servers

log = logging.getLogger(__name__)


class InformedActor:
    """An alignment actor that learns before each batch which tools the agent has.

    This process has none of its own: it would start the programs of MCP servers once more, and read the folders of documents.
    What they say of themselves is asked of the routers, which have them.
    """

    def __init__(self, actor: AlignmentActor, ask: Callable[[], Awaitable[Sequence[ToolSpec]]]) -> None:
        """`ask`: tells what the tools are now; it may raise UnavailableError."""
        self._actor = actor
        self._ask = ask
        self._knows = False

    async def stream(self, users: Sequence[str], run: str | None = None) -> AsyncIterator[AlignmentResult]:
        """See `AlignmentActor`.

        Raises:
            UnavailableError: nobody has ever said which tools there are. Who has asked before goes on with what is known.
        """
        try:
            self._actor.know(await self._ask())
            self._knows = True
        except UnavailableError as e:
            if not self._knows:
                raise
            log.warning("lessons are replayed with the tools as they were: %s", e.message)
        async with aclosing(self._actor.stream(users, run)) as results:  # type: ignore[type-var]
            async for result in results:
                yield result


class OnlineAlignment:
    """The replica. It keeps no state that matters: who is due is read from the store."""

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self,
        settings: Settings,
        embedder: DeploymentHandle[Any],
        llm: DeploymentHandle[Any] | None,
        context_length: int,
    ) -> None:
        """Args: as of `connect`."""
        stay_local()
        model, embed, memory = await connect(settings, embedder, llm, context_length, by="online")
        tools = None
        if settings.agent.tools:  # they are asked for before each batch; what is fixed is said now
            tools = ToolDescriptions(model_weight=settings.tools.model_weight, native=calls_natively(settings))
        parts = AlignerParts(model, embed, memory, settings.agent, settings.alignment, tools=tools)
        actor = AlignmentActor(parts)
        informed = None if tools is None else InformedActor(actor, partial(running.tools, TOOLS_TIMEOUT_S))
        self._aligner = OnlineAligner(memory, informed or actor, settings.alignment)
        self._task = asyncio.create_task(self._aligner.run())

    async def notify(self, user: str) -> None:
        """A truth of this user became known; see `OnlineAligner.notify`."""
        await self._aligner.notify(user)

    async def status(self) -> dict[str, Any]:
        """How it is doing, as JSON; `pid` is the replica's."""
        status: OnlineStatus = await self._aligner.status()
        last = status.last_success
        return {**asdict(status), "last_success": last.isoformat() if last else None, "pid": os.getpid()}

    async def check_health(self) -> None:
        """Called by Serve, which replaces the replica when this raises: work waits and nothing gets done."""
        await self._aligner.check_health()


class HandleOnline:
    """The deployment, as the HTTP API sees it."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    def notify(self, user: str) -> None:
        """Tell it of a new truth and go on. If the message is lost, its next look at the store finds the user."""
        self._handle.notify.remote(user)

    async def status(self) -> dict[str, Any]:
        """How it is doing. Raises UnavailableError if it does not answer."""
        response = self._handle.status.remote()
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                status: dict[str, Any] = await response
                return status
        except (TimeoutError, RayError, RayServeException) as e:
            raise UnavailableError("online alignment does not answer") from e
        finally:
            response.cancel()  # without effect on one that has answered


def online_deployment(settings: Settings, name: str, embedder: Any, llm: Any, context_length: int) -> Any | None:
    """Online alignment as a Serve application node; None if `alignment.online_every` is 0."""
    if settings.alignment.online_every == 0:
        return None
    options: dict[str, Any] = {
        "name": name,
        "num_replicas": 1,  # two would align the same users twice, and lose the race for the persona's version
        "max_ongoing_requests": 1000,
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
        "ray_actor_options": {"num_cpus": settings.alignment.actor_cpus},
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    return serve.deployment(OnlineAlignment, **options).bind(settings, embedder, llm, context_length)
