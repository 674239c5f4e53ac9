"""The methods that an evaluation compares: the same agent with less of what PersonaAgent gives it.

Every method that has a model answers closed choices by the model's option scores under its own prompt, with the same
model, tools, number of episodes and token limits; only `persona` and `personaagent` read memory as evidence too. Those of
`MODEL_FREE` read memory alone. None of them remembers what it is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from alignment.evaluation.choice_baselines import CHOICE_BASELINES, choice_baseline
from alignment.evaluation.methods import Answer, Method
from alignment.memory_views import MemoryView
from personaagent import prompts
from personaagent.agent.agent import Agent, Turn
from personaagent.agent.decision import decide, score_options
from personaagent.agent.prompt import question
from personaagent.models.wrapper import ChatOnly
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.settings import AgentSettings
from personaagent.tool_settings import ToolSettings
from personaagent.tools.memory_tools import memory_tools
from personaagent.tools.toolbox import Toolbox
from personaagent.types import ChatRequest, ChatResult, Interaction, Message, Origin, PersonaDraft, RecallQuery

__all__ = [
    "ABLATIONS",
    "BASELINES",
    "METHODS",
    "MODEL_FREE",
    "Answer",
    "Answering",
    "EvidenceAlone",
    "Method",
    "ReAct",
    "agent_settings",
    "baseline",
    "method_of",
]

ALIKE = 16  # most similar requests among which there may be the same one more than once
ROUNDING = 1e-5  # of cosines: how far apart an embedder puts the same text at different times
THOUGHT = 64  # tokens of one ReAct step on a closed choice, where the answer itself needs no words
PRIORITY = 10  # as replays: an evaluation beside a live server must not delay chat
MODEL_FREE = ("evidence", *CHOICE_BASELINES)  # need no language model
BASELINES = (*MODEL_FREE, "none", "icl", "rag", "pag", "react", "persona")
METHODS = (*BASELINES, "personaagent")
ABLATIONS = ("alignment", "persona", "memory", "actions")  # methods `without_<part>`


class Answering:
    """The agent as it serves users, over the memory (or view of it) it was given."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def answer(self, item: Interaction) -> Answer:
        """See `Method`."""
        reply = await self._agent.respond(_turn(item, item.query, item.choices))
        scores = tuple((reply.scores or {}).values())
        return Answer(text=reply.text, expected=reply.expected, probabilities=scores or None)


class EvidenceAlone:
    """Memory's evidence without any language model. Free text gets the truth of the most similar request, the newest of equals.

    Similar in meaning, not by the fused ranking of recall: that one also counts the words of past truths, and so takes an
    older answer for a newer one, or a request with the same common words for the same request.
    """

    def __init__(self, memory: Memory, settings: AgentSettings) -> None:
        self._memory = memory
        self._decision = settings.decision

    async def answer(self, item: Interaction) -> Answer:
        """See `Method`."""
        if not item.choices:
            return Answer(text=await self._said(item))
        asked = RecallQuery(text=item.query, k=0, choices=item.choices, decisions=(self._decision,), with_truth=True)
        found = await self._memory.recall(item.user, asked)
        made = decide(item.choices, None, found.evidence[0], 0.0)
        return Answer(text=made.answer, expected=made.expected, probabilities=tuple(made.probabilities.values()))

    async def _said(self, item: Interaction) -> str:
        """What the user said the last time that they were asked what is most like the request; nothing if they never were."""
        asked = RecallQuery(text=item.query, k=ALIKE, with_truth=True, ranking="dense")
        episodes = (await self._memory.recall(item.user, asked)).episodes
        nearest = [e for e in episodes if e.similarity >= episodes[0].similarity - ROUNDING]
        return min(nearest, key=lambda e: e.age).interaction.truth or "" if nearest else ""


class ReAct:
    """Reason and act (Yao et al., 2023): the agent's loop with its tools, no persona, nothing recalled beforehand.

    A closed choice is made by option scores after the loop's whole trail: its tool calls, their results, its answer.
    """

    def __init__(self, llm: LLM, memory: Memory, settings: AgentSettings) -> None:
        self._llm = llm
        self._memory = memory
        self._settings = settings

    async def answer(self, item: Interaction) -> Answer:
        """See `Method`."""
        seen = _LastRequest(self._llm)
        agent = acting_agent(seen, self._memory, self._settings, weight=1.0)
        turn = _turn(item, question(item.query, item.choices), None)
        if not item.choices:
            return Answer(text=(await agent.respond(turn)).text)
        reply = await agent.respond(turn.model_copy(update={"max_tokens": THOUGHT}))
        trail = (
            *seen.messages,
            Message(role="assistant", content=reply.text),
            Message(role="user", content=prompts.CHOOSE.format(choices=", ".join(item.choices))),
        )
        scored = await score_options(self._llm, trail, item.choices, PRIORITY)
        made = decide(item.choices, scored.logprobs, None, 0.0)
        return Answer(text=made.answer, expected=made.expected, probabilities=tuple(made.probabilities.values()))


class _LastRequest(ChatOnly):
    """A model that keeps the messages of its last request: the agent's trail."""

    def __init__(self, llm: LLM) -> None:
        super().__init__(llm)
        self.messages: tuple[Message, ...] = ()

    async def chat(self, request: ChatRequest) -> ChatResult:
        self.messages = request.messages
        return await super().chat(request)

    def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        self.messages = request.messages
        return super().stream(request)


def method_of(
    name: str,
    llm: LLM,
    memory: Memory,
    aligned: Mapping[str, MemoryView],
    settings: AgentSettings,
    embedder: Embedder | None = None,
) -> Method:
    """Any method: a baseline, `personaagent`, or PersonaAgent without one of its parts.

    `without_alignment` is `persona`; `without_persona` keeps what alignment fitted, but not the text; `without_memory` and
    `without_actions` were aligned without that part too.

    Args:
        name: of `METHODS`, or `without_<part>` of `ABLATIONS`.
        llm: the model.
        memory: what was learned.
        aligned: views with aligned personas, by the method they were aligned for.
        settings: of the agent.
        embedder: of methods that compare texts themselves.
    """
    settings = agent_settings(name, settings)
    if name in BASELINES or name == "without_alignment":
        return baseline("persona" if name == "without_alignment" else name, llm, memory, settings, embedder)
    if name == "without_persona":
        view = MemoryView(memory, profile=False, personas_of=aligned["personaagent"], text=prompts.NO_PERSONA)
        return Answering(acting_agent(llm, view, settings, embedder))
    return Answering(acting_agent(llm, aligned[name], settings, embedder))


def acting_agent(
    llm: LLM, memory: Memory, settings: AgentSettings, embedder: Embedder | None = None, weight: float | None = None
) -> Agent:
    """An agent with the memory tools that only read, where settings offer tools. `weight`: of the model in choosing them."""
    bounds = ToolSettings(model_weight=weight, memory=("search_episodes", "read_profile", "last_wanted"))
    tools = memory_tools(memory, bounds.memory, bounds.tokens)
    return Agent(llm, memory, settings, toolbox=Toolbox(bounds, tools, embedder=embedder))


def agent_settings(name: str, settings: AgentSettings) -> AgentSettings:
    """The settings with which a method answers and is aligned."""
    if name == "without_actions":
        return settings.model_copy(update={"tools": False})
    return settings


def _without_evidence(settings: AgentSettings) -> AgentSettings:
    """The same settings, with answers that come from the model alone."""
    decision = settings.decision.model_copy(update={"evidence": False})
    return settings.model_copy(update={"decision": decision})


def baseline(name: str, llm: LLM, memory: Memory, settings: AgentSettings, embedder: Embedder | None = None) -> Method:
    """A method that learns nothing beyond memory and profile.

    - `none`: neither memory nor persona.
    - `icl`: the latest interactions as exchanges in the prompt, whatever is asked.
    - `rag`: retrieved interactions as exchanges.
    - `pag`: the profile as system prompt, and retrieved interactions (Richardson et al., 2023).
    - `react`: the action loop with tools over memory.
    - `persona`: PersonaAgent with the persona it starts with, not aligned.
    - `evidence`: memory's evidence alone, for reference.
    - `last`, `frequent`, `counting`, `knn`, `rules`: see `choice_baseline`; the last two need the embedder.

    Raises:
        ValueError: unknown name, or no embedder where one is needed.
    """
    if name in CHOICE_BASELINES:
        return choice_baseline(name, memory, embedder)
    blind = _without_evidence(settings)
    neutral = PersonaDraft(text=prompts.NO_PERSONA, origin=Origin.INITIAL, decision=blind.decision)
    empty = neutral.model_copy(update={"decision": blind.decision.model_copy(update={"episodes": 0})})
    match name:
        case "evidence":
            return EvidenceAlone(memory, settings)
        case "none":
            return Answering(Agent(llm, MemoryView(memory, episodes="none", profile=False, fixed=empty), blind))
        case "icl":
            return Answering(Agent(llm, MemoryView(memory, episodes="latest", profile=False, fixed=neutral), blind))
        case "rag":
            return Answering(Agent(llm, MemoryView(memory, profile=False, fixed=neutral), blind))
        case "pag":
            return Answering(Agent(llm, MemoryView(memory), blind))
        case "react":
            return ReAct(llm, MemoryView(memory, fixed=empty), blind)
        case "persona":
            return Answering(acting_agent(llm, MemoryView(memory), settings, embedder))
    raise ValueError(f"no method {name!r}; there are {', '.join(BASELINES)}")


def _turn(item: Interaction, text: str, choices: tuple[str, ...] | None) -> Turn:
    return Turn(
        user=item.user,
        messages=(Message(role="user", content=text),),
        choices=choices,
        priority=PRIORITY,
        remember=False,
    )
