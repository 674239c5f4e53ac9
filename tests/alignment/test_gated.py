"""Lessons on tools change what a persona says of tools, where they say that it helps, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pytest

from alignment.aligner import Aligner
from alignment.textual import Case
from personaagent import prompts
from personaagent.agent.agent import Agent
from personaagent.claims import ClaimKind
from personaagent.memory.local import LocalMemory
from personaagent.settings import AgentSettings, AlignmentSettings
from personaagent.tools.lessons import teach
from personaagent.types import (
    ACTION,
    Action,
    AlignmentResult,
    ChatRequest,
    ChatResult,
    Decision,
    Interaction,
    Likelihood,
    LikelihoodRequest,
    Outcome,
    PersonaDraft,
    Usage,
)
from tests.support.alignment_doubles import SecretLLM
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM
from tests.support.taught import SPECS, request, taught

UNITS = {"ann": "metric", "ben": "imperial", "cem": "metric", "dora": "imperial", "eve": "metric"}
DAYS = 12


class Obedient(FakeLLM):
    """A model to which an answer is the likelier if the notes about the user name it; `deaf` to notes on tools, if it is so."""

    def __init__(self, deaf: bool = False) -> None:
        super().__init__()
        self.deaf = deaf
        self.asked: list[LikelihoodRequest] = []
        self.chosen: list[ChatRequest] = []

    def result(self, request: ChatRequest) -> ChatResult:
        self.chosen.append(request)
        return super().result(request)

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        self.asked += requests
        return tuple(self._one(r) for r in requests)

    def _one(self, request: LikelihoodRequest) -> Likelihood:
        notes = set(re.findall(r"\w+", request.messages[0].text.casefold()))
        words = re.findall(r"\w+", request.answer.casefold()) or ["?"]
        deaf = self.deaf and request.messages[-1].text.startswith(("Before you answer", "For weather"))
        logprob = sum(-0.5 if w in notes and not deaf else -3.0 for w in words)
        return Likelihood(logprob=logprob, tokens=len(words), usage=Usage(calls=1, prompt_tokens=50))


async def world(llm: FakeLLM, texts: int = 3, evidence: bool = True) -> tuple[LocalMemory, Aligner]:
    """Users with a first persona, who are then taught how they want the weather."""
    memory, embedder = LocalMemory(HashEmbedder()), HashEmbedder()
    agent = Agent(llm, memory, AgentSettings(tools=False, decision=Decision(episodes=0, evidence=evidence)))
    for user in UNITS:
        await memory.append(user, [request(n, f"rain on day {n}", user) for n in range(DAYS)])
        await memory.append(user, [request(100 + n, f"Write {n}", user, truth=f"Well, {n}!") for n in range(texts)])
        await agent.ensure_persona(user)
    settings = AlignmentSettings.model_validate({"retry_s": 0, "profile": False})
    return memory, Aligner(agent, memory, embedder, settings)


async def align(memory: LocalMemory, aligner: Aligner, units: Mapping[str, str]) -> dict[str, AlignmentResult]:
    for user, wanted in units.items():
        action = Action(tool="weather", arguments={"units": wanted})
        for n in range(DAYS):
            await teach(memory, user, f"r{n}", action, SPECS)
    return {r.user: r for r in await aligner.align(list(UNITS))}


async def rules(memory: LocalMemory, user: str) -> dict[str, str]:
    persona = await memory.persona(user)
    assert persona is not None
    return {c.text: persona.text for c in persona.claims if c.kind is ClaimKind.RULE}


async def test_lessons_become_rules_of_the_persona_and_the_gate_measures_them() -> None:
    memory, aligner = await world(Obedient())
    assert await rules(memory, "ann") == {}
    results = await align(memory, aligner, UNITS)
    for user, units in UNITS.items():
        assert results[user].outcome is Outcome.ACCEPTED, results[user].reason
        said = await rules(memory, user)
        assert f"asks weather for “{units}” units" in said
        assert all(f"asks weather for {units} units" in text for text in said.values())
    persona = await memory.persona("ann")
    assert persona is not None
    measured = [c for c in persona.claims if c.kind is ClaimKind.RULE]
    assert all(c.gain is not None and c.gain > 0 for c in measured)
    assert all(s.startswith("lesson:") for c in measured for s in c.sources)
    assert (await memory.users())[0].truths_since_alignment == 0


async def test_a_corrected_truth_corrects_the_rule() -> None:
    memory, aligner = await world(Obedient())
    await align(memory, aligner, UNITS)
    turned = {user: "imperial" if units == "metric" else "metric" for user, units in UNITS.items()}
    await align(memory, aligner, turned)
    assert [t for t in await rules(memory, "ann") if "units" in t] == ["asks weather for “imperial” units"]


async def test_rules_that_help_nothing_are_refused() -> None:
    memory, aligner = await world(Obedient(deaf=True))
    results = await align(memory, aligner, UNITS)
    assert all("rules on tools: " in r.reason for r in results.values())
    assert await rules(memory, "ann") == {}


async def test_who_has_lessons_only_is_aligned_too() -> None:
    memory, aligner = await world(Obedient(), texts=0)
    results = await align(memory, aligner, UNITS)
    assert {r.outcome for r in results.values()} == {Outcome.ACCEPTED}


async def test_other_words_are_judged_as_if_there_were_no_lessons() -> None:
    asked = []
    for teaches in (False, True):
        llm = Obedient()
        memory, aligner = await world(llm, texts=8)
        await align(memory, aligner, UNITS if teaches else {})
        asked.append([r for r in llm.asked if not r.messages[-1].text.startswith(("Before you answer", "For weather"))])
        asked[-1] = [r for r in asked[-1] if "weather" not in r.messages[0].text and len(r.messages) == 2]
    first = {(r.messages[-1].text, r.answer) for r in asked[0]}
    assert first == {(r.messages[-1].text, r.answer) for r in asked[1]}


@pytest.mark.parametrize(
    ("of", "asks"),
    [
        ("tool", prompts.CHOOSE_TOOL.format(tools="trains\nflights\nweather\nnotes")),
        (
            "weather.units",
            prompts.CHOOSE_ARGUMENT.format(tool="weather", argument="units", options="metric, imperial"),
        ),
    ],
)
async def test_a_replay_asks_what_a_turn_asks(of: str, asks: str) -> None:
    llm = Obedient()
    memory, aligner = await world(llm)
    await memory.append("ann", [request(50, "what did I wear", "ann", truth="a hat")])
    await teach(memory, "ann", "r1", Action(tool="weather", arguments={"units": "metric"}), SPECS)
    lesson = next(i for i in await memory.latest("ann", 9, lessons=True) if i.metadata[ACTION] == of)
    persona = await memory.persona("ann")
    assert persona is not None
    draft = PersonaDraft.model_validate({n: getattr(persona, n) for n in PersonaDraft.model_fields})
    replay = await aligner._agent.replay(lesson, draft)
    assert replay.text in (lesson.choices or ())
    *_, query, ask = llm.chosen[-1].messages
    assert (query.text, ask.text) == ("rain on day 1", asks)
    assert llm.chosen[-1].choices == lesson.choices


def case(lesson: Interaction, answer: str) -> Case:
    return Case(lesson, answer, 0.0)


def test_losses_speak_of_tools() -> None:
    tool, units = taught(0, "will it rain", "weather", units="metric")
    spoken = case(tool, "answer")
    assert spoken.wanted == "call the tool weather"
    assert spoken.answered == "answer at once, without a tool"
    assert spoken.asked.startswith("will it rain\nThe assistant could begin in one of these ways: answer at once")
    assert case(units, "imperial").answered == "call weather with units = imperial"
    assert case(tool, "").answered == ""


async def test_a_model_without_likelihoods_rewrites_from_lessons_too() -> None:
    llm = SecretLLM()
    memory, aligner = await world(llm, texts=0, evidence=False)
    await align(memory, aligner, {"ann": "metric"})
    assert any("What the person really wanted: call the tool weather" in r.messages[-1].text for r in llm.losses)
