from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.evaluation.datasets import load_benchmark, spoil
from alignment.evaluation.metering import CachedEmbedder, SharedLLM, counted
from alignment.evaluation.metrics import Scored, gain, summary
from alignment.evaluation.report import markdown, write_eval_report
from alignment.evaluation.run import ABLATIONS, METHODS, EvaluationOptions, plan_evaluation, run_evaluation
from alignment.evaluation.watch import Progress
from personaagent import prompts
from personaagent.aio import together
from personaagent.errors import InvalidInput, LLMError, UnavailableError
from personaagent.settings import Settings
from personaagent.types import ChatRequest, Kind, Message
from tests.support.doubles import HashEmbedder
from tests.support.eval_doubles import (
    SUBJECTS,
    CopyingLLM,
    history_file,
    lamp_file,
    movielens_folder,
    pahf_folder,
    taste,
)

SETTINGS = Settings()


async def evaluate(
    dataset: str,
    path: Path | None,
    methods: tuple[str, ...],
    llm: CopyingLLM,
    progress: Progress | None = None,
    **more: Any,
) -> dict[str, Any]:
    options = EvaluationOptions(dataset=dataset, methods=methods, **{"cold_start": False, "controls": False, **more})
    plan = plan_evaluation(options, path, SETTINGS)
    return await run_evaluation(plan, llm, HashEmbedder(64), progress=progress)


def value(result: dict[str, Any], phase: str, method: str, name: str = "accuracy") -> float:
    return float(result["results"][phase][method][name]["value"])


@pytest.mark.slow
async def test_every_method_is_scored_and_the_result_is_json(tmp_path: Path) -> None:
    result = await evaluate(
        "history",
        history_file(tmp_path),
        METHODS,
        CopyingLLM(),
        ablate=ABLATIONS,
        controls=True,
        cold_start=True,
    )
    assert json.loads(json.dumps(result)) == result
    expected = {*METHODS, *(f"without_{part}" for part in ABLATIONS)}
    assert set(result["results"]["newest"]) == expected == set(result["cost"])
    for scores in result["results"]["newest"].values():
        assert scores["n"] == 16
        assert scores["failed"] == 0
        assert scores["accuracy"]["low"] <= scores["accuracy"]["value"] <= scores["accuracy"]["high"]
        assert 0 <= scores["macro_f1"]["value"] <= 1
    assert {"dataset", "users", "methods", "model", "floors", "segments", "alignment", "control"} <= set(result)
    assert result["floors"]["newest"]["chance"]["accuracy"]["value"] == 0.25
    assert list(result["cold_start"]) == ["0", "1", "3", "10"]
    assert set(result["cold_start"]["3"]) == {"persona", "personaagent"}
    ours = result["alignment"]["personaagent"]["newest"]
    assert ours["users"] == 4
    assert 0 <= ours["accepted_share"] <= 1
    assert sum(ours["outcomes"].values()) == 4
    assert result["differences"]["newest"]["none"]["value"] > 0
    assert set(result["segments"]["newest"]) == {"history_length", "predictability", "segment"}
    assert result["segments"]["newest"]["segment"]["even"]["users"] == 2
    assert result["segments"]["newest"]["segment"]["even"]["gain"]["metric"] == "accuracy"


@pytest.mark.slow
async def test_memory_helps_and_another_users_does_not(tmp_path: Path) -> None:
    methods = ("none", "rag", "persona", "personaagent")
    result = await evaluate("history", history_file(tmp_path), methods, CopyingLLM(), controls=True)
    assert value(result, "newest", "none") <= 0.5
    assert value(result, "newest", "rag") > value(result, "newest", "none")
    assert value(result, "newest", "personaagent") == 1.0
    # Neighbours in number want different things, so reading the next user's memory is always wrong.
    assert result["control"]["newest"]["wrong_user"]["accuracy"]["value"] == 0.0


@pytest.mark.slow
async def test_no_test_item_is_seen_before_or_after_it_is_asked(tmp_path: Path) -> None:
    llm = CopyingLLM()
    path = history_file(tmp_path)
    await evaluate("history", path, ("icl", "rag", "pag", "persona", "personaagent"), llm, controls=True)
    tests = [item.query for item in load_benchmark("history", path).phases[0].test]
    assert tests
    for request in llm.requests:
        before = "\n".join(m.text for m in request.messages[:-1])
        assert not any(query in before for query in tests)
        if any(m.text == prompts.ALIGN_SYSTEM for m in request.messages):
            assert not any(query in request.messages[-1].text for query in tests)


@pytest.mark.slow
async def test_memory_keeps_what_it_learned_before_a_shift(tmp_path: Path) -> None:
    llm = CopyingLLM()
    result = await evaluate("pahf", pahf_folder(tmp_path), ("evidence", "icl", "personaagent"), llm)
    assert list(result["results"]) == ["learned", "shifted"]
    assert value(result, "learned", "evidence") == 1.0
    assert value(result, "shifted", "evidence") == 1.0  # what was said later wins
    assert result["segments"]["learned"]["history_length"]["4"]["users"] == 3
    assert result["segments"]["shifted"]["history_length"]["8"]["users"] == 3


@pytest.mark.slow
async def test_ratings_are_scored_by_their_error(tmp_path: Path) -> None:
    result = await evaluate("movielens", movielens_folder(tmp_path), ("evidence", "none", "personaagent"), CopyingLLM())
    scores = result["results"]["newest"]["evidence"]
    assert set(scores) == {"mae", "rmse", "log_score", "calibration", "ece", "n", "users", "failed"}
    assert scores["mae"]["value"] <= scores["rmse"]["value"]
    assert scores["mae"]["value"] < value(result, "newest", "none", "mae")
    floors = result["floors"]["newest"]
    assert floors["user_mean"]["mae"]["value"] > scores["mae"]["value"]
    assert set(floors) == {"global_mean", "user_mean"}


async def test_lamp_reads_its_own_files(tmp_path: Path) -> None:
    result = await evaluate("lamp", lamp_file(tmp_path), ("evidence", "rag"), CopyingLLM())
    assert result["users"] == 2
    assert value(result, "test", "evidence", "mae") == 0.0


@pytest.mark.slow
async def test_a_prompt_that_fails_is_a_wrong_answer_and_the_others_go_on(tmp_path: Path) -> None:
    def fail(request: ChatRequest) -> None:
        if "user 1" in request.messages[-1].text:
            raise LLMError("no")

    result = await evaluate("history", history_file(tmp_path), ("rag",), CopyingLLM(fail))
    scores = result["results"]["newest"]["rag"]
    assert scores["failed"] == 4
    assert scores["accuracy"]["value"] == pytest.approx(0.75, abs=0.25)


async def test_an_engine_that_is_down_ends_the_evaluation(tmp_path: Path) -> None:
    def fail(request: ChatRequest) -> None:
        raise UnavailableError("down")

    with pytest.raises(UnavailableError):
        await evaluate("history", history_file(tmp_path), ("none",), CopyingLLM(fail))


@pytest.mark.slow
async def test_equal_prompts_are_sent_once_and_counted_for_everyone(tmp_path: Path) -> None:
    path = history_file(tmp_path)
    alone, both = CopyingLLM(), CopyingLLM()
    one = await evaluate("history", path, ("rag",), alone)
    two = await evaluate("history", path, ("rag", "persona"), both, ablate=("alignment",))
    assert one["requests_sent"] == len(alone.requests)
    for name in ("calls", "prompt_tokens", "completion_tokens"):
        assert two["cost"]["rag"][name] == one["cost"]["rag"][name]
    same = [two["cost"][name]["per_user"]["answer"]["calls"] for name in ("persona", "without_alignment", "rag")]
    assert same == [4.0, 4.0, 4.0]
    # `persona` and `without_alignment` ask the same, so the engine saw those prompts once.
    profiles = two["cost"]["persona"]["per_user"]["profile"]["calls"] * 4
    assert len(both.requests) == 16 + 16 + profiles


@pytest.mark.slow
async def test_paper_mode_and_progress(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    result = await evaluate(
        "history",
        history_file(tmp_path),
        ("personaagent",),
        CopyingLLM(),
        paper=True,
        progress=lambda what, done, total, note="": seen.append((what, done, total)),
    )
    assert result["paper"] is True
    assert ("newest: personaagent", 16, 16) in seen
    assert ("newest: align personaagent", 4, 4) in seen
    # n rollouts, n losses and one update per user.
    assert result["cost"]["personaagent"]["per_user"]["align"]["calls"] == 7.0


@pytest.mark.slow
async def test_spoilt_truths_are_every_other_users_and_never_a_tests(tmp_path: Path) -> None:
    clean = load_benchmark("history", history_file(tmp_path))
    dirty, whose = spoil(clean, 1.0, seed=1)
    assert whose == {"user-1", "user-3"}
    assert dirty.phases[0].test == clean.phases[0].test
    for before, after in zip(clean.phases[0].learn, dirty.phases[0].learn, strict=True):
        assert (before.truth != after.truth) == (before.user in whose)
    result = await evaluate("history", history_file(tmp_path), ("evidence", "personaagent"), CopyingLLM(), noise=1.0)
    groups = result["segments"]["newest"]["noise"]
    assert groups["clean"]["aligned"]["accuracy"]["value"] == 1.0
    assert groups["spoilt"]["aligned"]["accuracy"]["value"] < 1.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "imagenet"}, "data set"),
        ({"methods": ("magic",)}, "method"),
        ({"methods": ()}, "method"),
        ({"ablate": ("gravity",)}, "ablation"),
        ({"users": 0}, "at least 1"),
        ({"path": None}, "--data"),
    ],
)
async def test_what_cannot_be_evaluated_is_said(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"dataset": "history", "path": history_file(tmp_path), "methods": ("none",), **change}
    with pytest.raises(InvalidInput, match=said):
        await evaluate(given.pop("dataset"), given.pop("path"), given.pop("methods"), CopyingLLM(), **given)


def scored(user: str, item: int, answer: str, truth: str = "a", **more: Any) -> Scored:
    return Scored(user, f"{item}", Kind.CHOICE, answer, truth, score=float(answer == truth), **more)


def test_macro_f1_averages_over_a_fixed_list_of_labels() -> None:
    items = [scored("u", n, a, t, choices=("a", "b", "c")) for n, (a, t) in enumerate(zip("aabb", "aaab", strict=True))]
    # a: 2 hits of 2 answered and 3 wanted, b: 1 of 2 and 1, c never comes.
    assert summary(items)["macro_f1"]["value"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)


def test_a_gain_is_paired_by_item_and_positive_where_better() -> None:
    better = [scored("u", 0, "a"), scored("v", 1, "a")]
    worse = [scored("v", 1, "a"), scored("u", 0, "b")]
    assert gain(better, worse)["value"] == 0.5
    ratings = [Scored("u", "0", Kind.RATING, "4", "4", error=0.0)], [Scored("u", "0", Kind.RATING, "2", "4", error=2.0)]
    assert gain(*ratings) == {"metric": "mae", "value": 2.0, "low": 2.0, "high": 2.0}


async def test_shared_calls_are_charged_to_every_meter_with_their_share_of_time() -> None:
    clock = iter(float(n) for n in range(100))
    llm = CopyingLLM()
    shared = SharedLLM(llm, now=lambda: next(clock))
    one, two = shared.meter(), shared.meter()
    request = ChatRequest(messages=(Message(role="user", content="hello"),))
    await one.chat(request)
    await two.chat(request.model_copy(update={"priority": 5}))
    await two.chat(request.model_copy(update={"temperature": 1.0}))
    await two.chat(request.model_copy(update={"temperature": 1.0}))
    assert shared.sent == len(llm.requests) == 3  # a sampled answer is drawn anew every time
    assert (one.usage.calls, two.usage.calls) == (1, 3)
    assert (one.seconds, two.seconds) == (1.0, 3.0)


async def test_the_cost_of_one_item_among_many_in_flight_is_known() -> None:
    meter = SharedLLM(CopyingLLM()).meter()

    async def ask(text: str, times: int) -> None:
        request = ChatRequest(messages=(Message(role="user", content=text),))
        await together(meter.chat(request) for _ in range(times))

    async def item(text: str, times: int) -> int:
        with counted() as spent:
            await ask(text, times)
        await ask(text, 1)  # afterwards, so not its cost
        return spent.usage.calls

    assert await together(item(f"item {n}", n) for n in range(4)) == [0, 1, 2, 3]
    assert meter.usage.calls == 6 + 4


async def test_a_failed_call_is_not_kept() -> None:
    failing = True

    def fail(request: ChatRequest) -> None:
        if failing:
            raise LLMError("once")

    shared = SharedLLM(CopyingLLM(fail))
    meter = shared.meter()
    request = ChatRequest(messages=(Message(role="user", content="hello"),))
    with pytest.raises(LLMError):
        await meter.chat(request)
    failing = False
    assert (await meter.chat(request)).text == "nothing"
    assert meter.usage.calls == 1


async def test_texts_are_embedded_once() -> None:
    inner = HashEmbedder()
    cached = CachedEmbedder(inner, batch=2)
    await cached.warm(["a", "b", "c"])
    rows = await cached.embed(["c", "a", "d", "a"])
    assert rows.shape == (4, 16)
    assert inner.texts == 4
    assert (rows[1] == rows[3]).all()


def test_tastes_differ_between_neighbours() -> None:
    assert all(taste(0, s) != taste(1, s) for s in SUBJECTS)


@pytest.mark.slow
async def test_a_result_becomes_markdown_html_and_a_plot(tmp_path: Path) -> None:
    methods = ("none", "persona", "personaagent")
    result = await evaluate(
        "history", history_file(tmp_path), methods, CopyingLLM(), controls=True, cold_start=True, ablate=("memory",)
    )
    html, text, plot = write_eval_report(result, tmp_path / "eval.html")
    written = text.read_text("utf-8")
    for heading in ("Scores, phase newest", "User segments, phase newest", "Cold start", "Alignment", "Cost"):
        assert f"## {heading}" in written
    for row in ("| personaagent |", "| without_memory |", "| floor: chance |", "| control: wrong_user |"):
        assert row in written
    assert written == markdown(result)
    assert "<svg" in plot.read_text("utf-8")
    assert "personaagent" in html.read_text("utf-8")


async def test_a_report_of_ratings_and_of_the_least_that_can_be_run(tmp_path: Path) -> None:
    result = await evaluate("movielens", movielens_folder(tmp_path), ("none",), CopyingLLM(), users=1)
    assert result["control"] == {}
    assert result["differences"] == {}
    assert result["alignment"] == {}
    assert "MAE (lower is better)" in markdown(result)
