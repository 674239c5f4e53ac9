"""The running application's parts, for any process that is connected to its cluster."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from personaagent.errors import UnavailableError
from personaagent.models.files import model_name
from personaagent.settings import Settings
from personaagent.tools.tool import ToolSpec
from serve.clients.model_client import HandleLLM
from serve.embedder import HandleEmbedder
from serve.names import APP, EMBEDDER, LLM, ROUTER

__all__ = ["embedder", "llm", "settings", "tools"]


def llm(settings: Settings, context_length: int) -> HandleLLM:
    """The engine."""
    handle = serve.get_deployment_handle(LLM, APP)
    return HandleLLM(handle, model_name(settings), context_length=context_length, timeout_s=settings.llm.timeout_s)


def embedder(settings: Settings) -> HandleEmbedder:
    """The embedder."""
    return HandleEmbedder(serve.get_deployment_handle(EMBEDDER, APP), settings.embedder.max_batch)


async def settings(timeout_s: float) -> Settings:
    """The settings that the application was built from.

    Raises:
        UnavailableError: it does not answer.
    """
    tree: Settings = await _asked("settings_in_force", timeout_s)
    return tree


async def tools(timeout_s: float) -> tuple[ToolSpec, ...]:
    """The tools that the application's agent has now, as they describe themselves. Raises as `settings`."""
    specs: tuple[ToolSpec, ...] = await _asked("tools_in_force", timeout_s)
    return specs


async def _asked(method: str, timeout_s: float) -> Any:
    """What one of the routers answers."""
    try:
        async with asyncio.timeout(timeout_s):
            return await getattr(serve.get_deployment_handle(ROUTER, APP), method).remote()
    except (TimeoutError, KeyError, RayError, RayServeException) as e:  # KeyError: its parts are not all there yet
        raise UnavailableError("the running application does not answer") from e
