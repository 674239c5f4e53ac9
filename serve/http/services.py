"""What stands behind the endpoints. Whatever fulfils these protocols can: none of it is HTTP's or Ray's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from personaagent.agent.agent import Agent
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.settings import Settings
from personaagent.tools.tool import SourceStatus, ToolSpec
from serve.http.admission import CHATS

__all__ = ["Online", "Services"]


class Online(Protocol):
    """Online alignment, as the endpoints see it."""

    def notify(self, user: str) -> None:
        """A truth of this user became known. Returns at once."""
        ...

    async def status(self) -> dict[str, Any]:
        """How it is doing; `healthy` among it. Raises UnavailableError if it does not answer."""
        ...


@dataclass(frozen=True)
class Services:
    """What the endpoints call. The checks raise if a part does not answer; the model's makes it generate nothing."""

    settings: Settings
    model: str
    agent: Agent
    memory: Memory
    llm: LLM
    embedder: Embedder
    teacher: LLM | None
    check_llm: Callable[[], Awaitable[object]]
    check_memory: Callable[[], Awaitable[object]]
    online: Online | None = None
    chats: int = CHATS  # that may be under way, unless the settings say

    async def specs(self) -> Sequence[ToolSpec]:
        """The tools that the agent has now."""
        return () if self.agent.toolbox is None else await self.agent.toolbox.specs()

    def tool_servers(self) -> list[SourceStatus]:
        """How it stands with the servers that the agent's tools come from, as last seen."""
        return [] if self.agent.toolbox is None else self.agent.toolbox.status()

    async def close(self) -> None:
        """End what belongs to this replica alone: connections to MCP servers, and their programs."""
        if self.agent.toolbox is not None:
            await self.agent.toolbox.close()

    def notify(self, user: str) -> None:
        """Tell online alignment, if there is one, that a truth of this user became known, or that they were forgotten."""
        if self.online is not None:
            self.online.notify(user)
