"""One turn in several requests: the model calls the application's tools, the application sends the results with the same
messages again, and so on until the answer. All of it is one interaction, with the last answer.

Clients send no id along. So an interaction whose answer called tools notes in its metadata (`rounds`) what was asked, which
calls were made and how many results were known; the request that brings the results is found by these.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from personaagent.types import Interaction, Message, interaction_id, last_of_user

__all__ = ["RECENT", "Rounds", "later_round"]

KEY = "rounds"  # in an interaction's metadata
RECENT = 32  # latest interactions among which the turn is looked for that results belong to
MAX_CALLS = 64  # ids kept
MAX_ID = 64  # characters of such an id; of a longer one a digest is kept


class Rounds:
    """Where a request stands in its turn."""

    def __init__(self, user: str, messages: Sequence[Message]) -> None:
        last = last_of_user(messages)
        behind = messages[last + 1 :]
        self._user, self._question = user, messages[: last + 1]
        self.results = sum(1 for m in behind if m.role == "tool")
        self.calls = tuple(
            call for m in behind if m.role == "assistant" for call in _ids((m.model_extra or {}).get("tool_calls"))
        )

    @cached_property
    def asked(self) -> str:
        """What was asked, by a digest. Few turns need it, and conversations are long."""
        said = [json.dumps(m.model_dump(mode="json"), sort_keys=True) for m in self._question]
        return interaction_id("rounds", self._user, said)

    @property
    def goes_on(self) -> bool:
        """Whether the request brings results of tools that an earlier answer called."""
        return self.results > 0

    def began(self, latest: Iterable[Interaction]) -> str | None:
        """The id of the interaction that this request goes on with; None if it is not among the latest ones.

        Args:
            latest: of the user, oldest first.
        """
        found = None
        for interaction in latest:
            noted = _noted(interaction.metadata)
            if noted is None or noted["asked"] != self.asked:
                continue
            if not self.calls or not noted["calls"] or set(self.calls) & set(noted["calls"]):
                found = interaction.id
        return found

    def note(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """What to keep beside the interaction, given the answer; nothing of a turn without tools."""
        made = _ids(message.get("tool_calls"))
        if not made and not self.goes_on:
            return {}
        return {KEY: {"asked": self.asked, "calls": [*self.calls, *made][-MAX_CALLS:], "results": self.results}}


def later_round(stored: Interaction, other: Interaction) -> dict[str, object]:
    """What of a stored interaction another request of the same turn replaces: its answer, never its truth."""
    old, new = _noted(stored.metadata), _noted(other.metadata)
    if old is None or new is None or old["asked"] != new["asked"] or new["results"] < old["results"]:
        return {}
    if other.response is None or (other.response == stored.response and old == new):
        return {}
    kept = {
        name: other.metadata[name] for name in (KEY, "calls") if name in other.metadata
    }  # of `personaagent.tools.toolbox`
    return {"response": other.response, "metadata": {**stored.metadata, **kept}}


def _ids(calls: Any) -> list[str]:
    """Ids of tool calls as an assistant's message lists them."""
    if not isinstance(calls, list):
        return []
    ids = (c["id"] for c in calls if isinstance(c, dict) and isinstance(c.get("id"), str))
    return [name if len(name) <= MAX_ID else interaction_id("call", name) for name in ids]


def _noted(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The note, if it is one: metadata may be anybody's."""
    noted = metadata.get(KEY)
    if not isinstance(noted, dict) or not isinstance(noted.get("asked"), str):
        return None
    if type(noted.get("results")) is not int or not isinstance(noted.get("calls"), list):
        return None
    return {**noted, "calls": [c for c in noted["calls"] if isinstance(c, str)]}
