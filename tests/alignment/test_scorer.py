from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.budget import Budget, Caller
from alignment.candidates import Arm, Grid
from alignment.rollouts import Rollouts, reworded
from alignment.scorer import EmbeddingScorer, JudgeScorer, Remembered, closed_scores
from alignment.slots import Slots
from personaagent.agent.agent import Replay
from personaagent.agent.decision import decide
from personaagent.types import ChatRequest, ChatResult, Decision, Interaction, Kind, Usage
from tests.support.alignment_doubles import START, SecretLLM, World, drink, note
from tests.support.doubles import HashEmbedder

ARM = Arm("a persona", 2, "exchanges")


def caller() -> Caller:
    return Caller(Slots(4), Budget())


def rating(truth: str) -> Interaction:
    return Interaction(id="r", user="u", time=START, query="rate", truth=truth, choices=("1", "2", "3", "4", "5"))


def remembered(interaction: Interaction, grid: Grid, seed: int) -> tuple[tuple[float, ...], Remembered]:
    """A model's option scores, and evidence."""
    rng = np.random.default_rng(seed)
    m = len(interaction.choices or ())

    def logs() -> tuple[float, ...]:
        return tuple(np.log(rng.dirichlet(np.ones(m))).tolist())

    def rows() -> tuple[tuple[float, ...], ...]:
        return tuple(logs() for _ in grid.readings)

    return logs(), Remembered(rows(), rows())


@given(
    seed=st.integers(0, 10_000),
    rated=st.booleans(),
    weight=st.sampled_from([0.0, 0.3, 40.0]),
    evidence=st.booleans(),
    asked=st.booleans(),
)
def test_the_whole_grid_answers_as_decide_does(
    seed: int, rated: bool, weight: float, evidence: bool, asked: bool
) -> None:
    interaction = rating("4") if rated else drink("u", 0)
    grid = Grid(Decision(model_weight=weight, evidence=evidence), [interaction.kind])
    lm, memory = remembered(interaction, grid, seed)
    model = lm if asked else None
    scores = closed_scores(interaction, model, memory, grid)
    assert len(scores.hard) == len(scores.soft) == len(scores.kept) == len(scores.answers) == grid.size
    choices = interaction.choices or ()
    for index in range(grid.size):
        decision = grid.decision(index, ARM)
        row = memory.replay[grid.readings.index((decision.change, decision.prior_scale))] if evidence else None
        choice = decide(choices, model, row, decision.model_weight)
        assert scores.answers[index] == choice.answer
        right = {c: 1 - abs(float(c) - 4) / 4 if rated else float(c == interaction.truth) for c in choices}
        assert scores.hard[index] == pytest.approx(right[choice.answer])
        assert scores.soft[index] == pytest.approx(sum(p * right[c] for c, p in choice.probabilities.items()), abs=1e-6)
        assert scores.silent[index] == (evidence and decide(choices, None, row, 0.0).answer == choice.answer)
    assert ((scores.soft >= -1e-6) & (scores.soft <= 1 + 1e-6)).all()


def test_columns_are_the_decisions_of_some_readings_and_weights() -> None:
    grid = Grid(Decision(), [Kind.CHOICE])
    chosen = grid.columns({grid.readings[2]}, grid.weights[:2])
    assert [grid.index(grid.readings[2], w) for w in grid.weights[:2]] == np.flatnonzero(chosen).tolist()
    assert grid.columns(grid.readings, grid.weights).all()


async def test_rollouts_answer_as_the_agent_does() -> None:
    world = World(decision=Decision(episodes=2))
    history = [drink("ann", i, truth=("mint tea", "water")[i % 2]) for i in range(12)]
    history += [rating(str(1 + i % 5)).model_copy(update={"id": f"r{i}", "user": "ann"}) for i in range(6)]
    await world.add(history)
    persona = await world.agent.ensure_persona("ann")
    grid, arm = Grid(persona.decision, [Kind.CHOICE, Kind.RATING]), Arm.of(persona)
    rollouts = Rollouts(world.agent, EmbeddingScorer(world.embedder), caller(), grid)
    await rollouts.run([arm], history)
    for case in rollouts.cases(arm, 0, history):
        assert case.answer == (await world.agent.replay(case.interaction, persona)).text


async def test_with_a_history_requests_are_replayed_as_if_they_were_new() -> None:
    """Memory holds what came before and after, but nothing that asked the same in the same words."""
    world = World(decision=Decision(episodes=0, model_weight=0.0))
    subjects = ("a cup of breakfast tea", "a book for the train", "A  book for the TRAIN", "a cup of evening tea")
    history = [
        drink("ann", i, truth=("water", "mint tea", "mint tea", "apple juice")[i]).model_copy(update={"query": query})
        for i, query in enumerate(subjects)
    ]
    await world.add(history)
    persona = await world.agent.ensure_persona("ann")
    grid, arm = Grid(persona.decision), Arm.of(persona)
    before = Rollouts(world.agent, EmbeddingScorer(world.embedder), caller(), grid)
    new = Rollouts(world.agent, EmbeddingScorer(world.embedder), caller(), grid, history)
    for rollouts in (before, new):
        await rollouts.run([arm], history)
    answers = [case.answer for case in new.cases(arm, 0, history)]
    assert answers[0] == "apple juice"  # what was wanted later
    assert answers[3] == "water"
    assert "mint tea" not in answers  # a repetition would give it away
    assert before.cases(arm, 0, history)[2].answer == "mint tea"
    scores = new.scores(arm, history)
    assert scores.hard.shape == (4, 1)
    assert scores.hard.sum() == 0.0
    assert scores.kept[3, 0] > scores.soft[3, 0]  # asked again, memory knows


@given(st.text(max_size=200))
def test_a_rewording_has_no_other_words_and_never_none(text: str) -> None:
    again = reworded(text)
    words = text.split()
    assert len(again.split()) == len(words) - len(words) // 3
    assert set(again.split()) <= set(words)
    assert bool(again) == bool(text)


def test_the_personas_own_decision_comes_first_and_only_once() -> None:
    own = Decision(model_weight=7.0, change=2.0, prior_scale=5.0)
    grid = Grid(own, [Kind.CHOICE, Kind.RATING])
    assert grid.decision(0, Arm("x", own.episodes, own.form)) == own
    everything = [grid.decision(i, ARM) for i in range(grid.size)]
    assert len(set(map(repr, everything))) == grid.size
    assert Grid(own).size == 1


@pytest.mark.parametrize(
    "interaction", [drink("u", 0, truth="lemonade"), rating("five"), rating(""), rating("nan"), rating("inf")]
)
def test_a_truth_outside_the_choices_scores_zero(interaction: Interaction) -> None:
    grid = Grid(Decision(), [interaction.kind])
    scores = closed_scores(interaction, *remembered(interaction, grid, 1), grid)
    assert scores.hard.max() == scores.soft.max() == scores.kept.max() == 0


def test_an_answer_in_other_case_is_the_same_answer() -> None:
    interaction = drink("u", 0, truth=" Mint TEA")
    grid = Grid(Decision())
    assert closed_scores(interaction, (-9.0, -9.0, 0.0, -9.0), Remembered(((0.0,) * 4,)), grid).hard[0] == 1.0


async def test_free_text_is_scored_by_similarity_and_nothing_by_zero() -> None:
    scorer, grid = EmbeddingScorer(HashEmbedder()), Grid(Decision())
    wanted = note("u", 0)

    async def value(text: str) -> float:
        scores = await scorer.score(wanted, Replay(interaction=wanted, text=text), Remembered(), grid, caller())
        return float(scores.hard[0])

    assert await value(wanted.truth or "") == pytest.approx(1.0, abs=1e-5)
    assert await value("  ") == 0.0
    assert 0.0 <= await value("something else entirely") < 0.9


class Judge(SecretLLM):
    def result(self, request: ChatRequest) -> ChatResult:
        self.answers.append(request)
        return ChatResult(text="4", usage=Usage(calls=1, prompt_tokens=5, completion_tokens=1))


async def test_the_judge_is_asked_once_for_the_same_answer() -> None:
    judge, c = Judge(), caller()
    scorer, grid, wanted = JudgeScorer(HashEmbedder(), judge, keep=2), Grid(Decision()), note("u", 0)
    for _ in range(3):
        scores = await scorer.score(wanted, Replay(interaction=wanted, text="green notes"), Remembered(), grid, c)
        assert scores.hard[0] == 0.75
    assert len(judge.answers) == 1
    assert c.budget.calls == 1
