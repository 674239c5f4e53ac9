"""The parts of the application as a replica of it uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.memory.client import ShardedMemory
from actors.memory.startup import start_memory
from personaagent.models.files import model_name
from personaagent.models.openai_client import OpenAILLM, connected_llm
from personaagent.settings import Settings
from serve.clients.model_client import HandleLLM
from serve.embedder import HandleEmbedder

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["connect"]


async def connect(
    settings: Settings,
    embedder: DeploymentHandle[Any],
    llm: DeploymentHandle[Any] | None,
    context_length: int,
    by: str,
) -> tuple[HandleLLM | OpenAILLM, HandleEmbedder, ShardedMemory]:
    """Model, embedder and memory over the application's handles.

    Args:
        settings: the tree.
        embedder: handle of the embedder.
        llm: handle of the engine; None if the settings name another server.
        context_length: of the engine, in tokens.
        by: who the audit log says made the changes.
    """
    embed = HandleEmbedder(embedder, settings.embedder.max_batch)
    memory = await start_memory(settings, embed, by=by)
    if llm is None:
        return connected_llm(settings), embed, memory
    timeout_s = settings.llm.timeout_s
    return HandleLLM(llm, model_name(settings), context_length=context_length, timeout_s=timeout_s), embed, memory
