from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from alignment.evaluation.baselines import BASELINES, METHODS, MODEL_FREE, baseline
from alignment.evaluation.benchmark import Benchmark
from alignment.evaluation.choice_baselines import CHOICE_BASELINES, choice_baseline
from alignment.evaluation.methods import Answer, softmax
from alignment.evaluation.rules import evidence
from alignment.evaluation.synthetic import synthetic
from personaagent.memory.local import LocalMemory
from personaagent.settings import AgentSettings
from personaagent.types import Interaction, Kind
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM

START = datetime(2024, 1, 1, tzinfo=UTC)
DRINKS = ("green tea", "espresso", "orange juice")
GRADES = ("1", "2", "3", "4", "5")
EMBEDDER = HashEmbedder(64)


def said(n: int, query: str, truth: str, choices: tuple[str, ...] | None = DRINKS) -> Interaction:
    time = START + timedelta(hours=n)
    return Interaction(id=f"i{n}", user="ann", time=time, query=query, truth=truth, choices=choices)


def asked(query: str, choices: tuple[str, ...] | None = DRINKS) -> Interaction:
    return said(99, query, "", choices)


async def answer(name: str, item: Interaction, past: Sequence[Interaction] = ()) -> Answer:
    memory = LocalMemory(EMBEDDER)
    if past:
        await memory.append("ann", past)
    return await choice_baseline(name, memory, EMBEDDER).answer(item)


async def test_the_last_answer_on_offer() -> None:
    past = [said(0, "a", "espresso"), said(1, "b", "green tea"), said(2, "c", "Milk", ("Milk", "rum"))]
    assert (await answer("last", asked("x"), past)).text == "green tea"
    assert (await answer("last", asked("x", ("water", "ESPRESSO")), past)).text == "ESPRESSO"
    assert (await answer("last", asked("x", ("water", "wine")), past)).text == "water"
    rated = [said(0, "a", "2", GRADES), said(1, "b", "5", GRADES), said(2, "c", "espresso")]
    assert await answer("last", asked("x", GRADES), rated) == Answer(text="5", expected=5.0)


async def test_the_most_frequent_answer_and_the_mean_rating() -> None:
    past = [said(n, "a", t) for n, t in enumerate(("espresso", "green tea", "espresso", "green tea", "espresso"))]
    found = await answer("frequent", asked("x"), past)
    assert found.text == "espresso"
    assert found.probabilities == pytest.approx((3 / 8, 4 / 8, 1 / 8))
    rated = await answer("frequent", asked("x", GRADES), [said(n, "a", t, GRADES) for n, t in enumerate("2244")])
    assert (rated.text, rated.expected) == ("3", 3.0)
    assert rated.probabilities == pytest.approx((1 / 9, 3 / 9, 1 / 9, 3 / 9, 1 / 9))


async def test_attributes_are_counted_against_what_was_on_offer() -> None:
    past = [
        said(0, "Which?", "red, small", ("red, small", "blue, small")),
        said(1, "Which?", "red, large", ("red, large", "blue, large")),
        said(2, "Which?", "a red one with wheels", ("a red one with wheels", "a green one with wheels")),
    ]
    # Nothing was ever on offer that tells small from large; red was taken whenever there was something else.
    found = await answer("counting", asked("Which?", ("blue, small", "red, large", "green, large")), past)
    assert found.text == "red, large"
    assert found.probabilities is not None
    assert found.probabilities[1] > 0.6
    even = await answer("counting", asked("Which?", ("blue, small", "blue, large")), past)
    assert even.probabilities == pytest.approx((0.5, 0.5))


async def test_an_attribute_that_was_always_there_is_not_preferred_for_being_taken() -> None:
    crowded = (*(f"plain {n}" for n in range(9)), "odd 9")
    past = [said(n, "Which?", f"plain {n}", crowded) for n in range(9)] + [said(9, "Which?", "odd 9", crowded)]
    found = await answer("counting", asked("Which?", ("plain x", "odd x")), past)
    assert found.probabilities is not None
    assert abs(found.probabilities[0] - 0.5) < 0.1  # plain was taken in 9 of 10, as it would be by chance


async def test_ratings_of_what_shares_attributes() -> None:
    past = [
        said(n, f"How would you rate a {colour} sofa, from 1 to 5?", grade, GRADES)
        for n, (colour, grade) in enumerate((("red", "5"), ("blue", "1")) * 4)
    ]
    found = [
        await answer("counting", asked(f"How would you rate a {c} sofa, from 1 to 5?", GRADES), past)
        for c in ("red", "blue", "green")
    ]
    assert found[0].expected is not None
    assert found[1].expected is not None
    assert found[0].expected > 4 > 2 > found[1].expected
    assert found[2].expected == 3.0


async def test_the_most_similar_requests_decide() -> None:
    past = [
        said(0, "something for the morning", "espresso"),
        *(said(n, f"late night number {n}", "green tea") for n in range(1, 6)),
    ]
    found = await answer("knn", asked("something for the morning please"), past)
    assert found.text == "espresso"
    assert found.probabilities is not None
    assert sum(found.probabilities) == pytest.approx(1.0)
    rated = [said(n, f"a {w} film", g, GRADES) for n, (w, g) in enumerate((("slow", "1"), ("loud", "5")) * 3)]
    judged = await answer("knn", asked("a slow film", GRADES), rated)
    assert judged.expected is not None
    assert judged.expected < 2
    assert judged.text == "1"


@pytest.mark.parametrize("name", CHOICE_BASELINES)
async def test_who_is_unknown_gets_an_answer(name: str) -> None:
    assert (await answer(name, asked("x"))).text == "green tea"
    assert (await answer(name, asked("x", GRADES))).text == "3"
    assert (await answer(name, asked("x", None))).text == ""


@pytest.mark.parametrize("name", CHOICE_BASELINES)
async def test_other_kinds_of_truths_do_no_harm(name: str) -> None:
    past = [
        said(0, "Write a line.", "Dear Sam", None),
        said(1, "a film", "five stars", GRADES),
        said(2, "a drink", "whatever else"),
    ]
    assert (await answer(name, asked("a drink"), past)).text in DRINKS
    assert (await answer(name, asked("a film", GRADES), past)).text in GRADES
    assert (await answer(name, asked("Write a line.", None), past)).text == "Dear Sam"


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICE_BASELINES)
async def test_probabilities_are_of_the_options(name: str) -> None:
    made = synthetic("bundles", users=1), synthetic("ratings", users=1)
    for benchmark in made:
        memory = LocalMemory(EMBEDDER)
        await memory.append_many(benchmark.phases[0].learn)
        method = choice_baseline(name, memory, EMBEDDER)
        for item in benchmark.phases[0].test:
            found = await method.answer(item)
            assert found.text in (item.choices or ())
            assert (found.expected is not None) == (item.kind is Kind.RATING)
            if found.probabilities is not None:
                assert len(found.probabilities) == len(item.choices or ())
                assert sum(found.probabilities) == pytest.approx(1.0)
                if item.kind is Kind.CHOICE:
                    assert found.text == (item.choices or ())[int(np.argmax(found.probabilities))]


async def regret(name: str, benchmark: Benchmark) -> float:
    memory = LocalMemory(EMBEDDER)
    await memory.append_many(benchmark.phases[0].learn)
    method = choice_baseline(name, memory, EMBEDDER)
    found = []
    for item in benchmark.phases[0].test:
        given = await method.answer(item)
        found.append(benchmark.scored(item, given.text, given.expected, None, given.probabilities).regret or 0.0)
    return float(np.mean(found))


@pytest.mark.slow
async def test_each_world_is_for_somebody() -> None:
    bundles, constant = synthetic("bundles", users=6), synthetic("constant", users=6)
    assert await regret("counting", bundles) < 0.5 * await regret("last", bundles)
    assert await regret("frequent", constant) == 0.0


def test_the_rules_choose_as_they_did() -> None:
    """Numbers of the rules as they were when they were frozen."""
    past = [said(n, f"q{n}", t) for n, t in enumerate(("espresso", "green tea", "orange juice", "green tea"))]
    vectors = EMBEDDER.encode([i.truth or "" for i in past])
    similarity = np.asarray([0.9, 0.2, 0.5, 0.85], dtype=np.float32)
    scores = evidence(past, similarity, vectors, DRINKS, EMBEDDER.encode(DRINKS))
    assert scores == pytest.approx((0.25241, 0.30013, -0.20330), abs=1e-4)
    rated = [said(n, f"q{n}", t, GRADES) for n, t in enumerate(("1", "4", "no idea", "5"))]
    nothing = np.zeros((4, 0), dtype=np.float32)
    assert evidence(rated, similarity, nothing, GRADES, nothing) == pytest.approx((0.0, -0.25, -0.5, -0.75, -1.0))


def test_the_names_are_registered() -> None:
    assert MODEL_FREE == ("evidence", "last", "frequent", "counting", "knn", "rules")
    assert set(MODEL_FREE) < set(BASELINES) < set(METHODS)
    for name in MODEL_FREE:
        assert baseline(name, FakeLLM(), LocalMemory(EMBEDDER), AgentSettings(), EMBEDDER)
    for name in ("knn", "rules"):
        with pytest.raises(ValueError, match="embedder"):
            choice_baseline(name, LocalMemory(EMBEDDER))
    with pytest.raises(ValueError, match="there are last"):
        choice_baseline("magic", LocalMemory(EMBEDDER))


def test_a_softmax_of_large_scores_is_finite() -> None:
    assert softmax((1000.0, 1000.0)) == (0.5, 0.5)
    assert softmax((0.0, -1e9)) == (1.0, 0.0)
