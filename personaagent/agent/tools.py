"""The agent's built-in tools over the user's own memory, and the plain-text protocol by which any model can call them."""

from __future__ import annotations

import re
from typing import Any

from personaagent.errors import InvalidInput
from personaagent.persona.persona import clip, tokens
from personaagent.protocols import Memory
from personaagent.strict_json import JsonFault, loads
from personaagent.types import Frozen, Interaction, RecallQuery

__all__ = ["MARK", "MemoryTools", "ToolCall", "parse_tool_call", "strip_tool_calls"]

MARK = "<tool_call>"
MAX_NAME = 64  # characters of a tool's name
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|$)", re.DOTALL)


class ToolCall(Frozen):
    """A call as the model wrote it. `error` says what was wrong with it, for the model to read."""

    name: str
    arguments: dict[str, Any]
    error: str | None = None


def parse_tool_call(text: str) -> ToolCall | None:
    """The first tool call in a model's answer; None for a plain answer."""
    if MARK not in text:
        return None
    match = _CALL.search(text)
    if match is None:
        return ToolCall(name="", arguments={}, error="the tool call is not a JSON object")
    try:
        call = loads(match.group(1))
    except JsonFault as e:
        return ToolCall(name="", arguments={}, error=f"the tool call {e}")
    arguments = call.get("arguments", {})
    if not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
        return ToolCall(name="", arguments={}, error='a tool call needs "name" and an object "arguments"')
    if len(call["name"]) > MAX_NAME or not call["name"].isprintable():  # it is said again with the result
        return ToolCall(name="", arguments={}, error="there is no such tool; use search_episodes or read_profile")
    return ToolCall(name=call["name"], arguments=arguments)


def strip_tool_calls(text: str) -> str:
    """What an answer says before its first tool call (a streamed answer has been sent up to there)."""
    return text.split(MARK, 1)[0].strip()


class MemoryTools:
    """`search_episodes` and `read_profile` of one user. It can reach no other user: the model cannot name one."""

    def __init__(self, memory: Memory, user: str, before: str | None = None, budget: int = 600) -> None:
        """`before`: id of the interaction being replayed; later episodes stay out of sight. `budget`: tokens of one result."""
        self._budget = budget
        self._memory = memory
        self._user = user
        self._before = before

    async def run(self, call: ToolCall) -> str:
        """The tool's result as text. A call that cannot be carried out is told to the model, not raised."""
        if call.error:
            return f"error: {call.error}"
        try:
            if call.name == "search_episodes":
                return await self._search(call.arguments)
            if call.name == "read_profile":
                return await self._profile()
        except InvalidInput as e:
            return f"error: {e.message}"
        return f"error: there is no tool {call.name!r}; use search_episodes or read_profile"

    async def _search(self, arguments: dict[str, Any]) -> str:
        query, k = arguments.get("query"), arguments.get("k", 3)
        if not isinstance(query, str) or not query.strip():
            raise InvalidInput('search_episodes needs a text "query"')
        if not isinstance(k, int) or not 1 <= k <= 10:
            raise InvalidInput('"k" must be a whole number from 1 to 10')
        found = await self._memory.recall(self._user, RecallQuery(text=query, k=k, before=self._before))
        if not found.episodes:
            return "nothing found"
        share = max(2, self._budget // len(found.episodes))
        return "; ".join(_exchange(e.interaction, share) for e in found.episodes)

    async def _profile(self) -> str:
        # A replay must not see facts that rest on what came later, and facts do not record what they knew when.
        if self._before is not None:
            return "nothing known yet"
        facts = (await self._memory.profile(self._user)).current
        return clip("; ".join(f.text for f in facts), self._budget) or "nothing known yet"


def _unconfirmed(interaction: Interaction) -> str:
    """What is told of an interaction whose truth nobody knows."""
    return "an answer that the user refused" if interaction.refused else interaction.response or "no answer yet"


def _exchange(past: Interaction, budget: int) -> str:
    """A past request and its outcome within so many tokens; of a long request the beginning, and the outcome before it."""
    outcome = clip(past.truth or _unconfirmed(past), budget - budget // 4)
    return f"{clip(past.query, budget - tokens(outcome))} -> {outcome}"
