"""The stateless deployment that answers HTTP: any number of replicas over one model, one embedder and the memory shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from ray import serve

from personaagent.agent import Agent
from personaagent.llm import teacher_llm
from personaagent.models import model_name
from personaagent.settings import Settings

from .api import Services, create_api
from .online import HandleOnline
from .parts import connect

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["AgentRouter", "router_deployment"]


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
    ) -> None:
        """Args:
        settings: the tree.
        embedder: handle of the embedder.
        llm: handle of the engine; None if the settings name another server.
        context_length: of the engine, in tokens.
        online: handle of online alignment; None if it is off.
        """
        model, embed, memory = await connect(settings, embedder, llm, context_length, by="api")
        self._settings = settings
        self._services = Services(
            settings=settings,
            model=model_name(settings),
            agent=Agent(model, memory, settings.agent, embed),
            memory=memory,
            llm=model,
            embedder=embed,
            teacher=teacher_llm(settings.alignment.teacher, settings.llm.timeout_s),
            check_llm=model.check,
            check_memory=memory.stats,  # asks every shard
            online=None if online is None else HandleOnline(online),
        )

    async def settings_in_force(self) -> Settings:
        """The tree that the application was built from, for processes that join it."""
        return self._settings

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the replica is there."""
        return create_api(self._services)


def router_deployment(
    settings: Settings, name: str, embedder: Any, llm: Any, context_length: int, online: Any = None
) -> Any:
    """The router as a Serve application node, over the nodes of the embedder and (unless None) engine and online alignment."""
    config = settings.serve
    options: dict[str, Any] = {
        "name": name,
        "max_ongoing_requests": 512,
        "autoscaling_config": {
            "min_replicas": config.router_replicas,
            "max_replicas": max(config.router_replicas, config.max_router_replicas),
            "target_ongoing_requests": 128,
        },
        "ray_actor_options": {"num_cpus": 0.5},
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    return serve.deployment(AgentRouter, **options).bind(settings, embedder, llm, context_length, online)
