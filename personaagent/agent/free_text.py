"""Free text: model calls and tool calls within bounds, until there is an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import NamedTuple

from personaagent import prompts
from personaagent.agent.contrast import Samples, SampleSetting, best_of
from personaagent.agent.copying import Said
from personaagent.agent.tools import MARK, MemoryTools, parse_tool_call, strip_tool_calls
from personaagent.agent.turns import Turn
from personaagent.agent.view import PromptView, without_persona
from personaagent.base import readable
from personaagent.errors import ContextLengthExceeded
from personaagent.protocols import LLM
from personaagent.settings import AgentSettings
from personaagent.types import ChatRequest, ChatResult, Message, Usage

__all__ = ["FreeAnswer", "FreeText", "sources"]

SHORTEST = 200  # characters of a tool's result below which it is not cut further


class FreeAnswer(NamedTuple):
    """What model and tool calls came to."""

    result: ChatResult  # with the usage of all calls
    steps: int
    samples: Samples


class FreeText:
    """One answer in the making.

    Args:
        llm: the model.
        settings: of the agent.
        turn: the request.
        view: what of the user is shown; it shrinks until it fits.
        tools: of the memory.
        streaming: whether to give pieces of text.
        samples: how many answers to choose from. What is said after a tool call is not chosen.
        habits: texts of the user that tell a copy from a habit.
    """

    def __init__(
        self,
        llm: LLM,
        settings: AgentSettings,
        turn: Turn,
        view: PromptView,
        tools: MemoryTools,
        streaming: bool = False,
        samples: Samples = Samples(),  # noqa: B008  # immutable
        habits: Mapping[str, Said] | None = None,
    ) -> None:
        self._llm, self._settings = llm, settings
        self._turn, self._view, self._tools = turn, view, tools
        self._samples, self._habits = samples, habits or {}
        self._offered = settings.tools and settings.max_steps > 1
        self._asks_pieces = streaming
        # The application's own tools come back as structured calls, which only a whole response shows.
        self._streams = streaming and "tools" not in turn.extra
        self._limit = min(turn.max_tokens or settings.max_tokens, llm.context_length)  # tokens of an answer
        self._trail: list[Message] = []  # tool calls and what they found

    async def pieces(self) -> AsyncIterator[str | FreeAnswer]:
        """Pieces of text if asked for, then the whole. Raises as the model does."""
        usage = Usage()
        step = 1
        while True:
            final = step == self._settings.max_steps
            result, chosen = ChatResult(text=""), self._samples
            try:
                async with aclosing(self._call(final)) as called:  # type: ignore[type-var]
                    async for piece in called:
                        if isinstance(piece, str):
                            yield piece
                        else:
                            result, chosen = piece
            except ContextLengthExceeded:
                if not self._shrink():
                    raise
                continue
            usage = usage + result.usage
            call = parse_tool_call(result.text)
            if call is None or final or not self._offered:
                text = strip_tool_calls(result.text) if call else result.text
                message = {**result.message, "content": text} if call else result.message
                if self._asks_pieces and not self._streams and text:
                    yield text
                yield FreeAnswer(
                    result.model_copy(update={"text": text, "usage": usage, "message": message}), step, chosen
                )
                return
            self._samples = Samples()
            found = await self._tools.run(call)
            self._trail += [
                Message(role="assistant", content=result.text.strip()),
                Message(role="user", content=prompts.TOOL_RESULT.format(name=call.name or "tool", result=found)),
            ]
            step += 1

    async def _call(self, final: bool) -> AsyncIterator[str | tuple[ChatResult, Samples]]:
        """One call of the model, or several to choose from: pieces of text where they are streamed, then the result."""
        request = self._request(final)
        if self._streams:
            async with aclosing(self._unless_tool_call(request)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece if isinstance(piece, str) else (piece, self._samples)
        elif self._samples.count > 1 and not self._trail:
            texts, allowed = sources(self._turn, self._view, self._habits)
            against = SampleSetting(without_persona(self._turn.messages, self._offered), texts, allowed)
            yield await best_of(self._llm, request, self._samples.count, against)
        else:
            yield await self._llm.chat(request), self._samples

    def _request(self, final: bool) -> ChatRequest:
        turn, tail = self._turn, self._trail
        prompt = self._view.prompt(turn.messages, tools=self._offered)
        if final and tail:
            tail = [*tail[:-1], Message(role="user", content=f"{tail[-1].text}\n{prompts.ANSWER_NOW}")]
        penalty = self._settings.frequency_penalty
        return ChatRequest(
            messages=(*prompt, *tail),
            max_tokens=self._limit,
            temperature=turn.temperature,
            top_p=turn.top_p,
            seed=turn.seed,
            stop=turn.stop,
            priority=turn.priority,
            extra={"frequency_penalty": penalty, **turn.extra} if penalty else turn.extra,
        )

    def _shrink(self) -> bool:
        """Ask for less, or show less; False if nothing is left that could give way."""
        # What a client allows at most is not what the answer needs: that gives way before anything of the user does.
        if self._limit > self._settings.max_tokens:
            self._limit = max(self._settings.max_tokens, self._limit // 2)
            return True
        return self._view.shrink() or _cut(self._trail)

    async def _unless_tool_call(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """Stream an answer, holding back as long as it may still turn out to be a tool call."""
        text, sent = "", 0
        async with aclosing(self._llm.stream(request)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if isinstance(piece, ChatResult):
                    if MARK not in text and sent < len(text):
                        yield readable(text[sent:])
                    yield piece
                    return
                text += piece
                at = text.find(MARK)
                safe = at if at >= 0 else _safe_length(text)
                if safe > sent:
                    yield readable(text[sent:safe])
                    sent = safe


def _cut(trail: list[Message]) -> bool:
    """Cut what tools found to half; False if that is little already."""
    shorter = [m for m in trail if m.role == "user" and len(m.text) > SHORTEST]
    for message in shorter:
        at = trail.index(message)
        trail[at] = Message(role="user", content=message.text[: len(message.text) // 2])
    return bool(shorter)


def sources(turn: Turn, view: PromptView, habits: Mapping[str, Said]) -> tuple[list[Said], list[str]]:
    """What an answer may copy from, and what it may repeat: the conversation and what the persona says."""
    return list({**habits, **view.said}.values()), [*(m.text for m in turn.messages), view.persona.text]


def _safe_length(text: str) -> int:
    """How much of `text` can be neither the beginning of a tool call nor half a character."""
    if text and "\ud800" <= text[-1] <= "\udbff":  # the other half may be the next piece
        return len(text) - 1
    for size in range(min(len(MARK), len(text)), 0, -1):
        if MARK.startswith(text[-size:]):
            return len(text) - size
    return len(text)
