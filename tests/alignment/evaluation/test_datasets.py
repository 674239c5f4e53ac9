from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from alignment.evaluation.baselines import MODEL_FREE
from alignment.evaluation.datasets import load_benchmark
from alignment.evaluation.film_choices import film_choices
from alignment.evaluation.run import EvaluationOptions, plan_evaluation, run_evaluation
from alignment.evaluation.synthetic import WORLDS, synthetic
from personaagent.errors import InvalidInput
from personaagent.readers import read
from personaagent.settings import Settings
from personaagent.types import Kind
from serve.cli.evaluating import Dataset
from tests.support.doubles import HashEmbedder
from tests.support.eval_doubles import CopyingLLM, movielens_folder


def test_made_up_worlds_need_no_path() -> None:
    assert load_benchmark("synthetic-habits", None, 3) == synthetic("habits", 3)
    assert load_benchmark("synthetic-few", None) == synthetic("few")
    with pytest.raises(InvalidInput, match="at least 1"):
        load_benchmark("synthetic-few", None, 0)
    with pytest.raises(InvalidInput, match="synthetic-bundles"):
        load_benchmark("synthetic-flat", None)


def test_the_sample_is_learned_and_its_newest_quarter_tested() -> None:
    (phase,) = load_benchmark("sample", None).phases
    assert (len(phase.learn), len(phase.test)) == (180, 60)
    (few,) = load_benchmark("sample", None, users=2).phases
    assert len(few.test) == 10
    for user in {i.user for i in phase.test}:
        assert max(i.time for i in phase.learn_of(user)) < min(i.time for i in phase.test_of(user))


@pytest.mark.parametrize("name", ["pahf", "movielens", "movielens-choices", "lamp", "history"])
def test_other_data_needs_a_path(name: str) -> None:
    with pytest.raises(InvalidInput, match="--data"):
        load_benchmark(name, None)


def films(folder: Path, grades: list[float], titles: list[str] | None = None) -> Path:
    """One user's ratings, the first two at the same time."""
    titles = titles or [f"Film {n}" for n in range(len(grades))]
    movies = [f"{n + 1},{title} (1999),Comedy|Drama" for n, title in enumerate(titles)]
    rows = [f"1,{n + 1},{grade},{1_000_000 + max(n, 1)}" for n, grade in enumerate(grades)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]))
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows]))
    return folder


def test_of_four_films_in_a_row_the_best_one_was_taken(tmp_path: Path) -> None:
    found = film_choices(read("movielens", films(tmp_path, [3, 3, 5, 5, 1, 2, 4, 4.5, 3, 3])))
    # Of the first three windows no film is the only best one, and after Film 6 too few are left.
    (first,) = found
    assert first.truth == "Film 3 (1999, comedy, drama)"
    assert set(first.choices or ()) == {f"Film {n} (1999, comedy, drama)" for n in (3, 4, 5, 6)}
    assert first.kind is Kind.CHOICE
    utilities = first.metadata["utilities"]
    assert isinstance(utilities, list)
    assert dict(zip(first.choices or (), utilities, strict=True))[first.truth or ""] == 5.0


def test_films_of_one_name_are_not_offered_together(tmp_path: Path) -> None:
    assert film_choices(read("movielens", films(tmp_path, [3, 4, 5, 1], ["Emma", "Heat", "Emma", "Ran"]))) == []


def test_choices_of_films_are_learned_before_they_are_tested(tmp_path: Path) -> None:
    folder = films(tmp_path, [float(1 + n % 4) for n in range(40)])
    benchmark = load_benchmark("movielens-choices", folder)
    (phase,) = benchmark.phases
    assert (len(phase.learn), len(phase.test)) == (8, 2)
    times = [i.time for i in (*phase.learn_of("movielens-1"), *phase.test_of("movielens-1"))]
    assert all(a < b for a, b in pairwise(times))
    assert load_benchmark("movielens-choices", folder) == benchmark
    with pytest.raises(InvalidInput, match="nothing to learn"):  # alternating grades have no single best one
        load_benchmark("movielens-choices", movielens_folder(tmp_path))


def test_the_command_line_knows_every_data_set() -> None:
    made_up = {f"synthetic-{world}" for world in WORLDS}
    assert {d.value for d in Dataset} == {
        *("pahf", "movielens", "movielens-choices", "lamp", "history", "sample", "retrieval"),
        *("actions", "actions-develop"),
        *made_up,
    }


@pytest.mark.slow
async def test_methods_without_a_model_are_evaluated_on_a_made_up_world() -> None:
    llm = CopyingLLM()
    options = EvaluationOptions(dataset="synthetic-change", methods=tuple(MODEL_FREE), users=3)
    result = await run_evaluation(plan_evaluation(options, None, Settings()), llm, HashEmbedder(64))
    assert json.loads(json.dumps(result)) == result
    assert llm.requests == []
    assert list(result["results"]) == ["learned", "shifted"]
    for scores in result["results"]["shifted"].values():
        assert scores["n"] == 36
        assert 0 <= scores["regret"]["value"] <= 1
    assert "log_score" in result["results"]["learned"]["counting"]
