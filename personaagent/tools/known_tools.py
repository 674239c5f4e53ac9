"""Which tools the settings give, as far as that can be told without starting or asking anything."""

from __future__ import annotations

from personaagent.base import Frozen
from personaagent.errors import InvalidInput
from personaagent.nearest import likely
from personaagent.settings import Settings
from personaagent.tool_settings import McpServerSettings
from personaagent.tools.documents import search_spec
from personaagent.tools.mcp_listing import offered_name
from personaagent.tools.memory_tools import memory_specs
from personaagent.tools.tool import ToolSpec
from personaagent.types import ANSWER, Action

__all__ = ["KnownTools", "known_tools"]


class KnownTools(Frozen):
    """Tools by what is known of them.

    `specs` are those whose arguments are known; `names` are all that are known. `whole`: there are no others.
    """

    specs: tuple[ToolSpec, ...] = ()
    names: tuple[str, ...] = ()
    whole: bool = True

    def among(self, action: Action) -> Action:
        """The action with the tools that there were, if it does not say: all that are known, and the one it names.

        Raises:
            InvalidInput: there is no such tool, or there are none at all.
        """
        if action.among:
            return action
        if self.whole and action.tool not in (ANSWER, *self.names):
            there = likely(action.tool, (ANSWER, *self.names))
            raise InvalidInput(
                f"action.tool: there is no tool {action.tool!r}{there}; name the tools that there were in action.among, if they "
                "were others"
            )
        named = () if action.tool == ANSWER else (action.tool,)
        return action.model_copy(update={"among": tuple(dict.fromkeys((*self.names, *named)))})


def known_tools(settings: Settings) -> KnownTools:
    """Those of the settings. An MCP server says only when it is asked which tools it has, unless `allow` names them."""
    if not settings.agent.tools:
        return KnownTools()
    tools = settings.tools
    specs = (
        *memory_specs(tools.memory),
        *(search_spec(documents) for documents in tools.documents),
        *(ToolSpec(name=t.name, description=t.description, parameters=t.parameters) for t in tools.http),
    )
    named = [spec.name for spec in specs] + [name for server in tools.mcp for name in _allowed(server)]
    whole = all(server.allow is not None for server in tools.mcp)
    return KnownTools(specs=specs, names=tuple(dict.fromkeys(named)), whole=whole)


def _allowed(server: McpServerSettings) -> list[str]:
    return [offered_name(server, name) for name in server.allow or server.rename]
