"""Acting: whether a tool is needed, which one and with which arguments, one call after the other.

Each of these is a closed choice, made as other choices are: from the model's scores, from what lessons say of this user
(`personaagent.tools.lessons`), and for the tool also from how well its description fits the request. What is left of the
arguments the model writes under the tool's JSON Schema, so a call always has the form that its tool asks for.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from personaagent.agent.action_choice import ActionChoice, model_scores
from personaagent.agent.call_arguments import SHOTS, ArgumentWriter, free_schema, unfit
from personaagent.agent.prompt import query_of
from personaagent.agent.turns import Turn
from personaagent.agent.view import PromptView
from personaagent.aio import together
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.tools.arguments import enumerated, option
from personaagent.tools.asking import which_tool, which_value
from personaagent.tools.client_tools import ClientTools
from personaagent.tools.lessons import TOOL
from personaagent.tools.tool import ToolContext, ToolSpec
from personaagent.tools.toolbox import Observation, OpenToolbox, Toolbox
from personaagent.types import ACTION, ANSWER, Interaction, Message, RecallQuery, ToolCall, Usage

__all__ = ["Acting", "Chosen"]

LISTS = 16  # arguments of a tool that are chosen from lists; a model writes the others, held to theirs

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What to do next: `tool` is a tool's name, or `ANSWER`."""

    tool: str
    probabilities: dict[str, float]
    seconds: float


@dataclass
class Acting:
    """The actions of one turn.

    Args:
        llm: the model.
        memory: tells what was right earlier.
        embedder: of requests and descriptions; None: the likeness is left out.
        box: the tools.
        context: for whom.
        query: the request.
        messages: the conversation.
        view: what of the user stands in the prompt.
        weight: of the model's scores.
        native: whether arguments are asked for as a tool call in the form of the model's own template.
        copying: whether arguments are held to the user's own words.
        client: tools that the application calls itself.
        taught: whether there may be lessons of this user; if not, memory is not asked for them.
        priority: of the model's calls.
        usage: what all of it cost.
    """

    llm: LLM
    memory: Memory
    embedder: Embedder | None
    box: OpenToolbox
    context: ToolContext
    query: str
    messages: tuple[Message, ...]
    view: PromptView
    weight: float
    native: bool
    copying: bool = False
    client: ClientTools | None = None
    taught: bool = True
    priority: int = 0
    usage: Usage = field(default_factory=Usage)
    # On the tool that was right at requests like this one, nearest first.
    _lessons: tuple[Interaction, ...] = field(default=(), init=False)

    @classmethod
    async def begun(
        cls,
        toolbox: Toolbox,
        llm: LLM,
        memory: Memory,
        turn: Turn,
        view: PromptView,
        context: ToolContext,
        client: ClientTools | None = None,
        taught: bool = True,
    ) -> Acting:
        """With the tools that there are now, and the model's weight as settings or persona say."""
        weight = toolbox.model_weight
        if weight is None:
            weight = view.persona.decision.model_weight
        return cls(
            llm=llm,
            memory=memory,
            embedder=toolbox.embedder,
            box=await toolbox.open(),
            context=context,
            query=query_of(turn.messages),
            messages=turn.messages,
            view=view,
            weight=weight,
            native=toolbox.native,
            copying=toolbox.copying,
            client=client,
            taught=taught,
            priority=turn.priority,
        )

    async def choose(self, trail: Sequence[Message], called: Sequence[ToolCall]) -> Chosen:
        """Which tool to call next, or to answer.

        A tool that was called already is no option any more unless it takes arguments: the same call tells nothing new. (The
        application's may: it knows what it polls.) Where the application demands one of its tools, only those are options.

        Raises:
            ContextLengthExceeded: the conversation does not fit.
        """
        started = time.perf_counter()
        specs = self._offered({c.name for c in called if not c.arguments})
        options = (*(() if self.demanded else (ANSWER,)), *(s.name for s in specs))
        if len(options) == 1:
            return Chosen(options[0], {options[0]: 1.0}, 0.0)
        known: Float | None = None
        if called:  # lessons and likeness tell of the first tool of a request
            choice = await ActionChoice.of_tool(options, specs, self.query, None)
        else:
            asked: list[Coroutine[Any, Any, Any]] = [
                self._taught(TOOL, options, SHOTS + len(options)),
                ActionChoice.of_tool(options, specs, self.query, self.embedder),
            ]
            known, choice = await together(asked)
        p = await self._with_model(choice, known, trail, which_tool(options, specs))
        return Chosen(
            options[int(np.argmax(p))],
            dict(zip(options, map(float, p), strict=True)),
            time.perf_counter() - started,
        )

    @property
    def demanded(self) -> bool:
        """Whether the application wants one of its tools called, whatever the request."""
        return self.client is not None and (self.client.required or self.client.must is not None)

    def _offered(self, gone: Collection[str]) -> list[ToolSpec]:
        """What can be called now: our own tools, then the application's; of two of one name, the application's."""
        theirs = () if self.client is None else self.client.specs
        if self.demanded and self.client is not None:
            return [s for s in theirs if self.client.must in (None, s.name)]
        taken = {s.name for s in theirs}
        return [*(s for s in self.box.specs if s.name not in gone and s.name not in taken), *theirs]

    async def call(
        self, chosen: Chosen, trail: Sequence[Message], most: int, earlier: Sequence[Observation] = ()
    ) -> list[Observation]:
        """Write the arguments of the chosen tool and call it, `most` times if the model asks for it several times at once.

        A call that was made already is not made again, unless it failed: nothing new would come of it, or the same thing would
        be changed twice. Empty if the model wants nothing else. What goes wrong is an observation. A tool of the application is
        not called, but asked for.

        Raises:
            ContextLengthExceeded: the conversation does not fit.
            DeadlineExceeded: the time of the request is over.
        """
        theirs = self.client.spec(chosen.tool) if self.client is not None else None
        spec = theirs or self.box.spec(chosen.tool)
        assert spec is not None  # it was chosen among these
        started = time.perf_counter()
        written, fault = await self.arguments(spec, trail)
        wrote = time.perf_counter() - started
        if theirs is not None and self.client is not None:
            most = most if self.client.parallel else 1
            fault = fault or unfit(spec, written[:most])
        calls = [ToolCall(name=spec.name, arguments=arguments) for arguments in written[:most]]
        if fault:
            found = [Observation(call=ToolCall(name=spec.name), text=f"error: {fault}", error=True)]
        elif theirs is not None:
            found = [Observation(call=call, text="", client=True) for call in calls]
        else:
            known = [o.call for o in earlier if not o.error]
            new = [c for n, c in enumerate(calls) if c not in known and c not in calls[:n]]
            found = await self.box.call_all(new, self.context)
        made = {"chosen": chosen.probabilities, "decided_s": chosen.seconds, "written_s": wrote}
        return [observation.model_copy(update=made) for observation in found]

    async def arguments(self, spec: ToolSpec, trail: Sequence[Message]) -> tuple[list[dict[str, Any]], str]:
        """The arguments of one call, or of several, and what is wrong with them, if anything."""
        given: dict[str, Any] = {}
        lists = _chosen(spec)
        for name, values in lists.items():
            options = tuple(map(option, values))
            known = await self._taught(f"{spec.name}.{name}", options)
            choice = ActionChoice.of_value(options, name, spec)
            if choice.left_out(known):
                continue  # a model that calls in its own way writes it with the others, if it is wanted
            p = await self._with_model(choice, known, trail, which_value(spec.name, name, options, spec))
            given[name] = values[int(np.argmax(p))]
        left = free_schema(spec, given, () if self.native else lists, self.native)
        if left is None:
            return [given], ""
        writer = ArgumentWriter(
            self.llm, self.view, self.query, self.messages, self.native, self.copying, self.priority
        )
        written = await writer.write(spec, left, trail, self._lessons)
        self.usage = self.usage + written.usage
        return [{**one, **given} for one in written.calls], written.fault

    async def _taught(self, lesson: str, options: tuple[str, ...], k: int = 1) -> Float | None:
        """log p of each option as far as lessons tell; None if they tell nothing."""
        decision = self.view.persona.decision
        if not decision.evidence or not self.taught:
            return None
        query = RecallQuery(
            text=self.query,
            k=k,
            choices=options,
            decisions=(decision,),
            metadata={ACTION: lesson},
            lessons=True,
            with_truth=True,
            before=self.context.before,
        )
        recall = await self.memory.recall(self.context.user, query)
        if lesson == TOOL:
            self._lessons = tuple(episode.interaction for episode in recall.episodes)
        return np.asarray(recall.evidence[0], dtype=np.float64) if recall.episodes else None

    async def _with_model(self, choice: ActionChoice, known: Float | None, trail: Sequence[Message], ask: str) -> Float:
        """p of each option, with the model's scores where they can make a difference."""
        lm = None
        if not choice.clear(known, self.weight):
            messages = (*self.view.prompt(self.messages), *trail, Message(role="user", content=ask))
            scored = await model_scores(self.llm, messages, choice, self.priority)
            if scored is not None:
                self.usage = self.usage + scored.usage
                lm = scored.logprobs
        return choice.probabilities(lm, known, self.weight)


def _chosen(spec: ToolSpec) -> dict[str, tuple[Any, ...]]:
    """The arguments that are chosen from a list, each with a call of the model. Of very many, those that have to be there."""
    lists = enumerated(spec.parameters)
    required: Any = spec.parameters.get("required") or ()
    first = sorted(lists, key=lambda name: name not in required)[:LISTS]
    return {name: values for name, values in lists.items() if name in first}
