"""Acting: whether a tool is needed, which one and with which arguments, one call after the other.

Each of these is a closed choice, made as other choices are: from the model's scores, from what lessons say of this user
(`personaagent.tools.lessons`), and for the tool also from how well its description fits the request. What is left of the
arguments the model writes under the tool's JSON Schema, so a call always has the form that its tool asks for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from personaagent import prompts
from personaagent.agent.action_choice import ActionChoice, model_scores
from personaagent.agent.prompt import query_of
from personaagent.agent.turns import Turn
from personaagent.agent.view import PromptView
from personaagent.errors import ContextLengthExceeded, LLMError
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.strict_json import JsonFault, loads
from personaagent.tools.arguments import enumerated
from personaagent.tools.asking import described, which_tool, which_value
from personaagent.tools.lessons import TOOL, option
from personaagent.tools.tool import ToolContext, ToolSpec
from personaagent.tools.toolbox import Observation, OpenToolbox, Toolbox
from personaagent.types import ACTION, ANSWER, ChatRequest, Message, RecallQuery, ToolCall, Usage

__all__ = ["Acting", "Chosen"]

log = logging.getLogger(__name__)

LONGEST = 200  # characters of a text that the model writes as an argument, where the schema has no bound
ARGUMENT_TOKENS = 96  # of the answer, for each argument that the model writes

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
    priority: int = 0
    usage: Usage = field(default_factory=Usage)

    @classmethod
    async def begun(
        cls,
        toolbox: Toolbox,
        llm: LLM,
        memory: Memory,
        turn: Turn,
        view: PromptView,
        context: ToolContext,
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
            priority=turn.priority,
        )

    async def choose(self, trail: Sequence[Message], called: Sequence[ToolCall]) -> Chosen:
        """Which tool to call next, or to answer.

        A tool that was called already is no option any more unless it takes arguments: the same call tells nothing new.

        Raises:
            ContextLengthExceeded: the conversation does not fit.
        """
        started = time.perf_counter()
        gone = {c.name for c in called if not c.arguments}
        specs = [s for s in self.box.specs if s.name not in gone]
        options = (ANSWER, *(s.name for s in specs))
        if not specs:
            return Chosen(ANSWER, {ANSWER: 1.0}, 0.0)
        # Lessons and likeness tell of the first tool of a request.
        known = None if called else await self._taught(TOOL, options)
        embedder = None if called else self.embedder
        choice = await ActionChoice.of_tool(options, specs, self.query, embedder)
        p = await self._with_model(choice, known, trail, which_tool(options, specs))
        return Chosen(
            options[int(np.argmax(p))],
            dict(zip(options, map(float, p), strict=True)),
            time.perf_counter() - started,
        )

    async def call(self, chosen: Chosen, trail: Sequence[Message], most: int) -> list[Observation]:
        """Write the arguments of the chosen tool and call it, `most` times if the model asks for it several times at once.

        What goes wrong is an observation.

        Raises:
            ContextLengthExceeded: the conversation does not fit.
            DeadlineExceeded: the time of the request is over.
        """
        spec = self.box.spec(chosen.tool)
        assert spec is not None  # it was chosen among these
        written, fault = await self.arguments(spec, trail)
        calls = [ToolCall(name=spec.name, arguments=arguments) for arguments in written[:most]]
        if fault:
            found = [Observation(call=ToolCall(name=spec.name), text=f"error: {fault}", error=True)]
        else:
            found = await self.box.call_all(calls, self.context)
        made = {"chosen": chosen.probabilities, "decided_s": chosen.seconds}
        return [observation.model_copy(update=made) for observation in found]

    async def arguments(self, spec: ToolSpec, trail: Sequence[Message]) -> tuple[list[dict[str, Any]], str]:
        """The arguments of one call, or of several, and what is wrong with them, if anything."""
        given: dict[str, Any] = {}
        for name, values in enumerated(spec.parameters).items():
            options = tuple(map(option, values))
            known = await self._taught(f"{spec.name}.{name}", options)
            choice = ActionChoice.of_value(options, name, spec)
            if choice.left_out(known):
                continue
            p = await self._with_model(choice, known, trail, which_value(spec.name, name, options, spec))
            given[name] = values[int(np.argmax(p))]
        left = _left(spec, given)
        if not left.get("properties"):
            return [given], ""
        written, fault = await self._written(spec, left, trail)
        return [{**one, **given} for one in written], fault

    async def _written(
        self, spec: ToolSpec, schema: Mapping[str, Any], trail: Sequence[Message]
    ) -> tuple[list[dict[str, Any]], str]:
        """What the model writes under a schema."""
        names = ", ".join(described(spec, name) for name in schema["properties"])
        ask = prompts.WRITE_ARGUMENTS.format(tool=spec.name, arguments=names)
        extra: dict[str, Any] = {"structured_outputs": {"json": dict(schema)}}
        if self.native:
            function = {"name": spec.name, "description": spec.description, "parameters": dict(schema)}
            extra = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
        limit = 32 + ARGUMENT_TOKENS * len(schema["properties"])
        request = ChatRequest(
            messages=(*self.view.prompt(self.messages), *trail, Message(role="user", content=ask)),
            max_tokens=min(limit, self.llm.context_length),
            priority=self.priority,
            extra=extra,
        )
        try:
            result = await self.llm.chat(request)
        except ContextLengthExceeded:
            raise
        except LLMError as e:  # this model does not write such arguments; the answer need not fail for it
            log.warning("the arguments of tool %s could not be written: %s", spec.name, e.message)
            return [], "the model refused to write the arguments"
        self.usage = self.usage + result.usage
        calls = result.message.get("tool_calls") or []
        texts = [str(c.get("function", {}).get("arguments", "")) for c in calls] or [result.text]
        try:
            return [dict(loads(text)) for text in texts], ""
        except (JsonFault, TypeError, ValueError) as e:
            return [], f"the arguments are no JSON object: {e}"

    async def _taught(self, lesson: str, options: tuple[str, ...]) -> Float | None:
        """log p of each option as far as lessons tell; None if they tell nothing."""
        decision = self.view.persona.decision
        if not decision.evidence:
            return None
        query = RecallQuery(
            text=self.query,
            k=1,
            choices=options,
            decisions=(decision,),
            metadata={ACTION: lesson},
            lessons=True,
            with_truth=True,
            before=self.context.before,
        )
        recall = await self.memory.recall(self.context.user, query)
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


def _left(spec: ToolSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the arguments that are not chosen from a list, with texts that end."""
    properties: Mapping[str, Any] = spec.parameters.get("properties") or {}  # type: ignore[assignment]
    listed = enumerated(spec.parameters)
    free = {
        name: {"maxLength": LONGEST, **node} if isinstance(node, dict) and node.get("type") == "string" else node
        for name, node in properties.items()
        if name not in listed
    }
    required = [name for name in spec.parameters.get("required") or () if name in free]  # type: ignore[union-attr]
    rest = {k: v for k, v in spec.parameters.items() if k in ("$defs", "definitions")}
    return {"type": "object", "properties": free, "required": required, "additionalProperties": False, **rest}
