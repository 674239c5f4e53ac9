"""Free text: tools are called within bounds, then the answer is written, as it comes where it is streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

from personaagent import prompts
from personaagent.agent.acting import Acting
from personaagent.agent.contrast import Samples, SampleSetting, best_of
from personaagent.agent.copying import Said
from personaagent.agent.turns import Turn
from personaagent.agent.view import PromptView, without_persona
from personaagent.base import readable
from personaagent.errors import ContextLengthExceeded, LLMError
from personaagent.protocols import LLM
from personaagent.settings import AgentSettings
from personaagent.tools.client_tools import FIELDS, asking_for
from personaagent.tools.toolbox import Observation
from personaagent.tools.untrusted import cleaned
from personaagent.types import ANSWER, ChatRequest, ChatResult, Message, Usage

__all__ = ["FreeAnswer", "FreeText", "sources"]

SHORTEST = 200  # characters of a call or a result below which it is not cut further


class FreeAnswer(NamedTuple):
    """What model and tool calls came to."""

    result: ChatResult  # with the usage of all calls
    steps: int  # answers and rounds of tool calls
    samples: Samples
    trace: tuple[Observation, ...] = ()  # with calls that are left to the application last


class FreeText:
    """One answer in the making.

    Args:
        llm: the model.
        settings: of the agent.
        turn: the request.
        view: what of the user is shown; it shrinks until it fits.
        acting: calls tools; None: there are none.
        calls: of tools, at most.
        streaming: whether to give pieces of text.
        samples: how many answers to choose from. What is said after a tool call is not chosen.
        habits: texts of the user that tell a copy from a habit.
        trace: calls that were made already, to be shown.
        known: calls whose results stand in the conversation.
    """

    def __init__(
        self,
        llm: LLM,
        settings: AgentSettings,
        turn: Turn,
        view: PromptView,
        acting: Acting | None = None,
        calls: int = 0,
        streaming: bool = False,
        samples: Samples = Samples(),  # noqa: B008  # immutable
        habits: Mapping[str, Said] | None = None,
        trace: Sequence[Observation] = (),
        known: Sequence[Observation] = (),
    ) -> None:
        self._llm, self._settings = llm, settings
        self._turn, self._view = turn, view
        self._acting, self._calls = acting, calls
        self._samples, self._habits = samples, habits or {}
        self._asks_pieces = streaming
        self._extra = turn.extra if acting is None else {k: v for k, v in turn.extra.items() if k not in FIELDS}
        # Where the model itself calls the application's tools, calls come back structured, which only a whole response shows.
        self._streams = streaming and "tools" not in self._extra
        self._limit = min(turn.max_tokens or settings.max_tokens, llm.context_length)  # tokens of an answer
        self._found: list[Observation] = []  # by tools, as far as it is shown
        self._room: int | None = None  # characters of each call and of each result; None: all of them are shown
        self._acted = False  # nothing more is looked up
        self._trace: list[Observation] = list(known)
        self._note(trace)
        self._calls += len(self._trace)

    async def pieces(self) -> AsyncIterator[str | FreeAnswer]:
        """Pieces of text if asked for, then the whole. Raises as the model does."""
        steps = 1 + await self._act()
        usage = Usage() if self._acting is None else self._acting.usage
        if asked := [o for o in self._trace if o.client and not o.recorded]:
            message = asking_for(asked)
            left = ChatResult(text="", finish_reason="tool_calls", usage=usage, message=message)
            yield FreeAnswer(left, steps - 1, self._samples, tuple(self._trace))
            return
        if self._acting is not None and self._acting.demanded:
            raise LLMError("the model wrote no arguments that fit the tool that this request demands")
        while True:
            result, chosen = ChatResult(text=""), self._samples
            try:
                async with aclosing(self._call()) as called:  # type: ignore[type-var]
                    async for piece in called:
                        if isinstance(piece, str):
                            yield piece
                        else:
                            result, chosen = piece
                break
            except ContextLengthExceeded:
                if not self._shrink():
                    raise
        if self._asks_pieces and not self._streams and result.text:
            yield result.text
        whole = result.model_copy(update={"usage": usage + result.usage})
        yield FreeAnswer(whole, steps, chosen, tuple(self._trace))

    async def _act(self) -> int:
        """Call tools as long as they are needed; how many rounds that were."""
        rounds = 0
        while self._acting is not None and len(self._trace) < self._calls:
            try:
                chosen = await self._acting.choose(self._trail, [o.call for o in self._trace])
                if chosen.tool == ANSWER:
                    break
                found = await self._acting.call(chosen, self._trail, self._calls - len(self._trace), self._trace)
                if not found:
                    break
            except ContextLengthExceeded:
                if not (self._view.shrink() or self._cut()):
                    if self._acting.demanded:
                        raise
                    break  # tools do not fit beside the conversation; the answer may
                continue
            rounds += 1
            self._note(found)
            if any(observation.client for observation in found):
                return rounds
        self._acted = True
        if self._found:
            self._samples = Samples()
        return rounds

    def _note(self, found: Sequence[Observation]) -> None:
        """Put calls and what came of them before the answer."""
        self._trace += found
        self._found += (o for o in found if o.recorded or not o.client)  # nothing came yet of the others

    @property
    def _trail(self) -> tuple[Message, ...]:
        """What tools found, as it is shown: every call with what came of it."""
        trail: list[Message] = []
        for observation in self._found:
            shown = observation.model_copy(update={"text": observation.text[: self._room]}).shown
            trail += [
                Message(role="assistant", content=prompts.TOOL_CALLED.format(call=_written(observation)[: self._room])),
                Message(role="user", content=shown),
            ]
        if trail and self._acted:
            trail[-1] = Message(role="user", content=f"{trail[-1].text}\n{prompts.ANSWER_NOW}")
        return tuple(trail)

    def _cut(self) -> bool:
        """Show half of what tools found; False if that is little already."""
        longest = max((len(text) for o in self._found for text in (o.text, _written(o))), default=0)
        shown = longest if self._room is None else min(longest, self._room)
        if shown > SHORTEST:
            self._room = max(SHORTEST, shown // 2)
        elif len(self._found) > 1:
            self._found = self._found[len(self._found) // 2 :]
        else:
            return False
        return True

    async def _call(self) -> AsyncIterator[str | tuple[ChatResult, Samples]]:
        """One call of the model, or several to choose from: pieces of text where they are streamed, then the result."""
        request = self._request()
        if self._streams:
            async with aclosing(self._whole_characters(request)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece if isinstance(piece, str) else (piece, self._samples)
        elif self._samples.count > 1 and not self._trail:
            texts, allowed = sources(self._turn, self._view, self._habits)
            against = SampleSetting(without_persona(self._turn.messages), texts, allowed)
            yield await best_of(self._llm, request, self._samples.count, against)
        else:
            yield await self._llm.chat(request), self._samples

    def _request(self) -> ChatRequest:
        turn = self._turn
        penalty = self._settings.frequency_penalty
        return ChatRequest(
            messages=(*self._view.prompt(turn.messages), *self._trail),
            max_tokens=self._limit,
            temperature=turn.temperature,
            top_p=turn.top_p,
            seed=turn.seed,
            stop=turn.stop,
            priority=turn.priority,
            extra={"frequency_penalty": penalty, **self._extra} if penalty else self._extra,
        )

    def _shrink(self) -> bool:
        """Ask for less, or show less; False if nothing is left that could give way."""
        # What a client allows at most is not what the answer needs: that gives way before anything of the user does.
        if self._limit > self._settings.max_tokens:
            self._limit = max(self._settings.max_tokens, self._limit // 2)
            return True
        return self._view.shrink() or self._cut()

    async def _whole_characters(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """Stream an answer in valid Unicode: half a character waits for its other half."""
        kept = ""
        async with aclosing(self._llm.stream(request)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if isinstance(piece, ChatResult):
                    if kept:
                        yield readable(kept)
                    yield piece
                    return
                text, kept = kept + piece, ""
                if text and "\ud800" <= text[-1] <= "\udbff":
                    text, kept = text[:-1], text[-1]
                if text:
                    yield readable(text)


def _written(observation: Observation) -> str:
    """A call in words. Its arguments may come from what another tool answered."""
    call = observation.call
    return cleaned(f"{call.name} {json.dumps(call.arguments, ensure_ascii=False)}")


def sources(turn: Turn, view: PromptView, habits: Mapping[str, Said]) -> tuple[list[Said], list[str]]:
    """What an answer may copy from, and what it may repeat: the conversation and what the persona says."""
    return list({**habits, **view.said}.values()), [*(m.text for m in turn.messages), view.persona.text]
