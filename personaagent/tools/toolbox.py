"""The tools of one deployment, called within bounds: whatever a tool does, the turn gets a short observation and goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence

from pydantic import Field, JsonValue, ValidationError

from personaagent import deadline
from personaagent.base import Frozen, readable, repaired
from personaagent.errors import DeadlineExceeded, PersonaAgentError, UnavailableError
from personaagent.nearest import likely
from personaagent.persona.persona import clip, tokens
from personaagent.protocols import Embedder
from personaagent.tool_settings import ToolSettings
from personaagent.tools.arguments import check_arguments
from personaagent.tools.call_log import CallLog
from personaagent.tools.schema_nodes import depth
from personaagent.tools.tool import Effect, Sees, SourceStatus, Tool, ToolContext, ToolOutput, ToolSource, ToolSpec
from personaagent.tools.untrusted import as_data
from personaagent.types import ANSWER, ToolCall

__all__ = ["CALLS", "Observation", "OpenToolbox", "Toolbox", "recorded", "remembered"]

log = logging.getLogger(__name__)

CALLS = "calls"  # metadata of an interaction: the calls made for it, for its replays
RECORDED = 1_000  # characters of a result that are kept, and of arguments
SHORT = 200  # characters of a text in longer arguments
RECORDED_LEVELS = 32  # objects and lists inside each other in them
RECORDED_IN_ALL = 24_000  # bytes of all that is kept of an interaction's calls
LEAST = 16  # tokens below which a result says nothing


class Observation(Frozen):
    """What came of a call, as the model reads it and as the turn's trace tells it."""

    call: ToolCall
    text: str  # within the budget of tokens
    error: bool = False
    seconds: float = 0.0
    tokens: int = 0  # of what is shown
    bytes: int = 0  # of what the tool answered, before it was cut
    recorded: bool = False  # taken from an earlier turn instead of called
    client: bool = False  # the application's own tool; without a result until the application brings it
    chosen: dict[str, float] = Field(default_factory=dict)  # the probability of each tool, and of answering at once
    decided_s: float = 0.0  # that choosing took
    written_s: float = 0.0  # that the arguments took

    @property
    def shown(self) -> str:
        """For the model: marked as data."""
        return as_data(self.call.name, self.text)


def recorded(trace: Sequence[Observation]) -> list[JsonValue]:
    """What an interaction remembers of its calls: the latest ones, and of long arguments their beginning.

    Applications write whole files as arguments, and call a hundred times before the user says another word. An interaction that
    grew with that could be stored no longer, and the answer would be lost with it.
    """
    kept: list[JsonValue] = []
    room = RECORDED_IN_ALL
    for o in reversed(trace):
        arguments = _short(o.call.arguments)
        entry: dict[str, JsonValue] = {"name": o.call.name, "arguments": arguments}
        entry |= {"result": readable(o.text[:RECORDED]), "error": o.error}
        entry |= {"client": True} if o.client else {}
        room -= len(json.dumps(entry, ensure_ascii=False).encode("utf-8"))
        if room < 0:
            break
        kept.append(entry)
    return kept[::-1]


def _short(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Arguments as far as they are kept; none that are deep, or where their texts are not what makes them large."""
    if depth(arguments, RECORDED_LEVELS) > RECORDED_LEVELS:
        return {}  # what is exported could not be read back
    if len(json.dumps(arguments)) <= RECORDED:
        return arguments
    short = {name: _cut(value) for name, value in repaired(arguments).items()}
    return short if len(json.dumps(short)) <= 2 * RECORDED else {}


def _cut(value: JsonValue) -> JsonValue:
    return f"{value[:SHORT]}..." if isinstance(value, str) and len(value) > SHORT else value


def remembered(calls: object) -> list[Observation]:
    """What `recorded` kept, for replays: nothing is called again. What is not of that form is left out."""
    found = []
    for entry in calls if isinstance(calls, list) else ():
        try:
            call = ToolCall.model_validate({"name": entry["name"], "arguments": entry["arguments"]})
            text = str(entry["result"])
        except (TypeError, KeyError, ValidationError):
            continue
        found.append(
            Observation(
                call=call,
                text=text,
                error=bool(entry.get("error")),
                tokens=tokens(text),
                recorded=True,
                client=bool(entry.get("client")),
            )
        )
    return found


class Toolbox:
    """Tools by name. Built-in ones come first; of two tools of the same name the later one is left out, with a warning."""

    def __init__(
        self,
        settings: ToolSettings,
        tools: Sequence[Tool] = (),
        sources: Sequence[ToolSource] = (),
        native: bool = False,
        embedder: Embedder | None = None,
        copying: bool = False,
        audit: CallLog | None = None,
    ) -> None:
        """Args:
        settings: bounds.
        tools: that are always there.
        sources: of more, which come and go.
        native: whether the model's template has a form of its own for calls, see `ToolSettings.calling`.
        copying: whether arguments are held to the user's own words, see there too.
        embedder: tells which tool fits a request; None: lessons and the model alone tell.
        audit: is told of every call; None: no such log is kept.
        """
        self.settings = settings
        self.native = native
        self.copying = copying
        self.embedder = embedder
        self.audit = audit
        self._tools = tuple(tools)
        self._sources = tuple(sources)
        self._twice: set[str] = set()  # names that were warned of

    @property
    def model_weight(self) -> float | None:
        """How much the model's scores count in choosing tools, where settings say it; None: as the persona says."""
        if self.settings.model_weight is not None:
            return self.settings.model_weight
        return 1.0 if self.native else None

    async def open(self) -> OpenToolbox:
        """The tools that there are now; they stay the same for a turn, whatever their servers change meanwhile."""
        found = list(self._tools)
        for listed in await asyncio.gather(*(source.tools() for source in self._sources)):
            found += listed
        by_name: dict[str, Tool] = {}
        for tool in found:
            name = tool.spec.name
            if (by_name.setdefault(name, tool) is not tool or name == ANSWER) and name not in self._twice:
                self._twice.add(name)  # once, and not with every turn
                log.warning("two tools are named %s; the second one is left out", name)
        by_name.pop(ANSWER, None)
        return OpenToolbox(self.settings, by_name, self.audit)

    async def specs(self) -> tuple[ToolSpec, ...]:
        """What the tools that there are now say of themselves."""
        return (await self.open()).specs

    def status(self) -> list[SourceStatus]:
        """How it stands with the servers that tools come from, as last seen."""
        return [status for source in self._sources if (status := source.status()) is not None]

    async def close(self) -> None:
        """Close all sources."""
        await asyncio.gather(*(source.close() for source in self._sources))
        if self.audit is not None:
            await self.audit.close()


class OpenToolbox:
    """The tools of one turn, with what is left of the turn's time and tokens."""

    def __init__(self, settings: ToolSettings, tools: Mapping[str, Tool], audit: CallLog | None = None) -> None:
        self.settings = settings
        self._tools = tools
        self._audit = audit
        self._until = time.monotonic() + settings.turn_timeout_s
        self._tokens = settings.turn_tokens

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """In the order in which they are offered."""
        return tuple(tool.spec for tool in self._tools.values())

    def spec(self, name: str) -> ToolSpec | None:
        """The tool of this name."""
        return None if name not in self._tools else self._tools[name].spec

    async def call(self, call: ToolCall, context: ToolContext) -> Observation:
        """Call a tool. What goes wrong is an observation, but for the end of the request's own time.

        Raises:
            DeadlineExceeded: the time of the request is over.
        """
        started = time.perf_counter()
        tool = self._tools.get(call.name)
        if tool is None:
            return self._seen(
                call, ToolOutput(text=f"there is no tool {call.name!r}{likely(call.name, self._tools)}", error=True)
            )
        try:
            check_arguments(tool.spec.parameters, call.arguments)
            output = await self._audited(tool, call, context)
        except DeadlineExceeded:
            raise
        except PersonaAgentError as e:
            output = ToolOutput(text=e.message, error=True)
        except Exception as e:  # a tool is other people's code: whatever it raises is its failure and not the turn's
            log.warning("tool %s failed: %s", call.name, type(e).__name__)
            log.debug("tool %s failed", call.name, exc_info=True)
            output = ToolOutput(text=f"the tool failed ({type(e).__name__})", error=True)
        return self._seen(call, output, time.perf_counter() - started, tool.spec.tokens)

    async def call_all(self, calls: Sequence[ToolCall], context: ToolContext) -> list[Observation]:
        """Calls side by side, in their order; one after the other if any of them changes something."""
        changes = any((spec := self.spec(c.name)) is not None and spec.effect is Effect.CHANGES for c in calls)
        if changes:
            return [await self.call(c, context) for c in calls]
        return list(await asyncio.gather(*(self.call(c, context) for c in calls)))

    async def _audited(self, tool: Tool, call: ToolCall, context: ToolContext) -> ToolOutput:
        """Make a call that is logged before. That it failed is logged too, also where nobody waits for it any more."""
        left = self._until - time.monotonic()
        if left <= 0 or self._tokens < LEAST:
            raise UnavailableError("there is nothing left of this turn's time and room for tools; answer without")
        if self._audit is not None:
            await self._audit.calling(context.user, call.name)
        failed = True
        try:
            async with deadline.bounded(min(tool.spec.timeout_s or self.settings.timeout_s, left)):
                output = await tool.call(call.arguments, _seen_by(tool.spec, context))
            failed = output.error
        finally:
            if failed and self._audit is not None:
                self._audit.failed(context.user, call.name)
        return output

    def _seen(self, call: ToolCall, output: ToolOutput, seconds: float = 0.0, budget: int | None = None) -> Observation:
        size = len(output.text.encode("utf-8", "replace"))
        room = max(LEAST, min(budget or self.settings.tokens, self._tokens))
        text = clip(output.text, room) or "(nothing)"
        if output.error:
            text = f"error: {text}"
        shown = tokens(text)
        self._tokens -= shown
        return Observation(call=call, text=text, error=output.error, seconds=seconds, tokens=shown, bytes=size)


def _seen_by(spec: ToolSpec, context: ToolContext) -> ToolContext:
    """What of a context reaches a tool, as its spec declares."""
    return context if spec.sees is Sees.MEMORY else context.model_copy(update={"said": ()})
