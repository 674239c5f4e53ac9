"""The stateless deployment that answers HTTP: any number of replicas over one model, one embedder and the memory shards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from ray import serve

from personaagent.agent.agent import Agent
from personaagent.models.files import model_name
from personaagent.models.openai_client import teacher_llm
from personaagent.settings import Settings
from personaagent.tools.tool import ToolSpec
from serve.accelerator import on_gpu
from serve.clients.parts import connect
from serve.http.admission import CHATS
from serve.http.api import create_api
from serve.http.services import Services
from serve.loopback import stay_local
from serve.online_alignment import HandleOnline
from serve.toolkit import start_tools

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["AgentRouter", "chats_of", "router_deployment"]

SPARE = 64  # requests beyond our own bounds that a replica takes, to refuse them or to answer probes
QUEUED = 1024  # requests that may wait in front of the replicas, per proxy
TARGET = 128  # requests under way in a replica that autoscaling aims at
FEW_CHATS = 8


@serve.ingress()
class AgentRouter:
    """One replica of the HTTP API."""

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self,
        settings: Settings,
        embedder: DeploymentHandle[Any],
        llm: DeploymentHandle[Any] | None,
        context_length: int,
        online: DeploymentHandle[Any] | None = None,
        chats: int = CHATS,
    ) -> None:
        """Args:
        settings: the tree.
        embedder: handle of the embedder.
        llm: handle of the engine; None if the settings name another server.
        context_length: of the engine, in tokens.
        online: handle of online alignment; None if it is off.
        chats: that this replica has under way at most.
        """
        stay_local()
        model, embed, memory = await connect(settings, embedder, llm, context_length, by="api")
        self._settings = settings
        self._tools = await start_tools(settings, memory, embed)
        self._services = Services(
            settings=settings,
            model=model_name(settings),
            agent=Agent(model, memory, settings.agent, embed, self._tools),
            memory=memory,
            llm=model,
            embedder=embed,
            teacher=teacher_llm(settings.alignment.teacher, settings.llm.timeout_s),
            check_llm=model.check,
            check_memory=memory.stats,  # asks every shard
            online=None if online is None else HandleOnline(online),
            chats=chats,
        )

    async def settings_in_force(self) -> Settings:
        """The tree that the application was built from, for processes that join it."""
        return self._settings

    async def tools_in_force(self) -> tuple[ToolSpec, ...]:
        """The tools that the agent has now, for processes that replay its choices and have none."""
        return tuple(await self._services.specs())

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the replica is there."""
        return create_api(self._services)


def router_deployment(
    settings: Settings, name: str, embedder: Any, llm: Any, context_length: int, online: Any = None
) -> Any:
    """The router as a Serve application node, over the nodes of the embedder and (unless None) engine and online alignment."""
    config = settings.serve
    chats = chats_of(settings, llm is not None and on_gpu(settings))
    options: dict[str, Any] = {
        "name": name,
        # Our own bounds refuse first, and say so as OpenAI does; Serve's are for what not even that can keep up with.
        "max_ongoing_requests": chats + config.max_concurrent_requests + SPARE,
        "max_queued_requests": QUEUED,
        "autoscaling_config": {
            "min_replicas": config.router_replicas,
            "max_replicas": max(config.router_replicas, config.max_router_replicas),
            "target_ongoing_requests": min(TARGET, max(1, 3 * config.max_concurrent_chats // 4))
            if config.max_concurrent_chats
            else TARGET,
        },
        "ray_actor_options": {"num_cpus": 0.5},
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    return serve.deployment(AgentRouter, **options).bind(settings, embedder, llm, context_length, online, chats)


def chats_of(settings: Settings, gpu: bool) -> int:
    """How many chats a replica has under way at most: so many that all replicas together keep the engine busy.

    A CPU gains little from more sequences, but every one of them makes the others slower. What another server takes nobody
    here knows.
    """
    if settings.serve.max_concurrent_chats is not None:
        return settings.serve.max_concurrent_chats
    if settings.llm.base_url is not None:
        return CHATS
    decoded = settings.llm.max_num_seqs * max(settings.llm.min_replicas, settings.llm.max_replicas)
    wanted = decoded if gpu else decoded / 4
    return max(FEW_CHATS, math.ceil(wanted / settings.serve.router_replicas))
