"""Alignment judges lessons by the choices that turns make: by their weights, and with the tools' descriptions."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from alignment.budget import Budget, Caller
from alignment.candidates import WEIGHTS, Arm, Grid
from alignment.likelihoods import Likelihoods
from alignment.rollouts import Rollouts
from alignment.scorer import EmbeddingScorer
from alignment.slots import Slots
from personaagent.agent.agent import Agent
from personaagent.memory.local import LocalMemory
from personaagent.settings import AgentSettings
from personaagent.tools.described import DescribedTools, ToolDescriptions
from personaagent.tools.lessons import teach
from personaagent.types import (
    Action,
    ChatRequest,
    Decision,
    Interaction,
    Kind,
    Likelihood,
    LikelihoodRequest,
    Origin,
    PersonaDraft,
)
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM
from tests.support.taught import SPECS, request

WORDS = ("rain", "town", "train", "note", "sun", "how", "wind")
WEIGHED = [(None, False), (0.5, False), (None, True)]


class Biased(FakeLLM):
    """A model whose scores follow from the request and the options."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = self.scores
        self.asked: list[LikelihoodRequest] = []

    def scores(self, asked: ChatRequest) -> dict[str, float]:
        rng = random.Random(f"{asked.choices} {asked.messages[-2].text}")
        return {option: -rng.random() * 8 for option in asked.choices or ()}

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        self.asked += requests
        return tuple(Likelihood(logprob=-2.0, tokens=1) for _ in requests)


def caller() -> Caller:
    return Caller(Slots(4), Budget())


async def world(weight: float | None, native: bool) -> tuple[Agent, list[Interaction]]:
    """An agent that knows tools by their descriptions, and lessons of a user."""
    embedder, rng = HashEmbedder(), random.Random(3)
    memory = LocalMemory(embedder)
    for n in range(8):
        await memory.append("ada", [request(n, " ".join(rng.sample(WORDS, 3)))])
        arguments = {"units": rng.choice(("metric", "imperial")), "days": rng.choice((1, 3, 7)), "alerts": n % 3 == 0}
        tool = rng.choice(("weather", "weather", "trains"))
        await teach(memory, "ada", f"r{n}", Action(tool=tool, arguments=arguments if tool == "weather" else {}), SPECS)
    told = ToolDescriptions(specs=SPECS, model_weight=weight, native=native)
    agent = Agent(Biased(), memory, AgentSettings(), None, DescribedTools(told).toolbox(embedder))
    return agent, list(await memory.latest("ada", 99, lessons=True))


@pytest.mark.parametrize("evidence", [True, False])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(("weight", "native"), WEIGHED)
async def test_every_decision_of_the_grid_acts_as_the_agent_does(
    weight: float | None, native: bool, full: bool, evidence: bool
) -> None:
    agent, lessons = await world(weight, native)
    persona = PersonaDraft(text="Likes tea.", origin=Origin.MANUAL, decision=Decision(episodes=2, evidence=evidence))
    grid, arm = Grid(persona.decision, [Kind.CHOICE], persona), Arm.of(persona)
    rollouts = Rollouts(agent, EmbeddingScorer(HashEmbedder()), caller(), grid, lessons if full else ())
    await rollouts.run([arm], lessons)
    decisions = [grid.decision(n, arm) for n in range(grid.size)]
    answers = []
    for lesson in lessons:
        without = rollouts._without.get(lesson.id, ())
        replay = await agent.replay(lesson, persona, decisions, without=without)
        assert tuple(c.answer for c in replay.choices) == rollouts._done[arm, lesson.id].answers
        answers += [c.answer for c in replay.choices]
        scores = rollouts._done[arm, lesson.id]
        right = [c.probabilities.get(lesson.truth or "", 0.0) for c in replay.choices]
        if lesson.kind is Kind.CHOICE:
            assert scores.soft == pytest.approx(right, abs=1e-6)
            assert scores.hard.tolist() == [float(c.answer == lesson.truth) for c in replay.choices]
    assert len(set(answers)) > 3


@pytest.mark.parametrize(("weight", "native"), WEIGHED)
async def test_what_the_settings_fix_no_decision_changes(weight: float | None, native: bool) -> None:
    agent, lessons = await world(weight, native)
    persona = PersonaDraft(text="Likes tea.", origin=Origin.MANUAL)
    grid, arm = Grid(persona.decision, [Kind.CHOICE], persona), Arm.of(persona)
    rollouts = Rollouts(agent, EmbeddingScorer(HashEmbedder()), caller(), grid, lessons)
    await rollouts.run([arm], lessons)
    table = rollouts.scores(arm, lessons)
    assert len(grid.weights) >= len(WEIGHTS)
    differs = False
    for reading in grid.readings:
        columns = table.columns(np.flatnonzero(grid.columns([reading], grid.weights)))
        for scores in (columns.hard, columns.soft, columns.kept):
            differs = differs or bool((scores != scores[:, :1]).any())
    assert differs == (weight is None and not native)


@pytest.mark.parametrize(("weight", "native"), WEIGHED)
async def test_likelihoods_of_lessons_count_as_much_as_the_model_does(weight: float | None, native: bool) -> None:
    agent, lessons = await world(weight, native)
    llm = agent.llm
    assert isinstance(llm, Biased)
    found = {}
    for own in (0.25, 2.0):
        draft = PersonaDraft(text="Likes tea.", origin=Origin.MANUAL, decision=Decision(model_weight=own))
        measure = Likelihoods(agent, llm, caller(), "ada", lessons)
        found[own] = (await measure.of([(draft, lesson) for lesson in lessons])).tolist()
        expected = own if weight is None and not native else (1.0 if native else weight)
        assert found[own] == [-2.0 * (expected or 0.0)] * len(lessons)
    assert any("weather: the weather" in r.messages[-1].text for r in llm.asked)


async def test_likelihoods_of_choices_count_as_the_persona_says() -> None:
    agent, _ = await world(0.5, False)
    llm = agent.llm
    assert isinstance(llm, Biased)
    choice = request(50, "which", choices=("a", "b"), truth="a")
    for decision, expected in ((Decision(model_weight=0.25), 0.25), (Decision(model_weight=0.25, evidence=False), 1.0)):
        draft = PersonaDraft(text="Likes tea.", origin=Origin.MANUAL, decision=decision)
        measure = Likelihoods(agent, llm, caller(), "ada")
        assert (await measure.of([(draft, choice)], recall=False)).tolist() == [-2.0 * expected]
