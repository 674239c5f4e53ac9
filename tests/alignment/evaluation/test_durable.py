"""Evaluations that are cut short, and models that fail for a while."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from alignment.evaluation.journal import Journal, JournalEntry, Place
from alignment.evaluation.metrics import Scored
from alignment.evaluation.records import Answered, Records
from alignment.evaluation.run import (
    EvaluationOptions,
    Plan,
    answers_there,
    needs_model,
    plan_evaluation,
    run_evaluation,
)
from personaagent import prompts
from personaagent.errors import InvalidInput, LLMError, UnavailableError
from personaagent.settings import Settings, load_settings
from personaagent.types import ChatRequest, Kind
from tests.support.doubles import HashEmbedder
from tests.support.eval_doubles import CopyingLLM, history_file, pahf_folder

# No waiting for a model that is down; it does not change the evaluation's name.
SETTINGS = Settings().model_copy(update={"alignment": Settings().alignment.model_copy(update={"retry_s": 0.0})})
ROOT = Path(__file__).resolve().parents[3]
ALL = ("none", "pag", "persona", "personaagent")
Fail = Callable[[ChatRequest], None]


class Killed(Exception):
    """Stands for the end of the process."""


class Dying(Journal):
    """A journal after whose so-manieth answer the process ends, in the middle of the next line."""

    def __init__(self, folder: Path, plan: Plan, after: int) -> None:
        super().__init__(folder, plan.key, plan.about)
        self._folder_of = folder
        self._left = after

    def write(self, place: Place, value: Mapping[str, Any]) -> JournalEntry:
        if self._left <= 0:  # nothing is written after the end
            raise Killed
        entry = super().write(place, value)
        self._left -= place[0] == "answer"
        if self._left == 0:
            with (self._folder_of / "journal.jsonl").open("ab") as file:
                file.write(b'{"what": "answer", "at": ["learned", "no')
            raise Killed
        return entry


def planned(dataset: str, path: Path, methods: tuple[str, ...], **more: Any) -> Plan:
    return plan_evaluation(EvaluationOptions(dataset=dataset, methods=methods, **more), path, SETTINGS)


async def evaluated(plan: Plan, folder: Path, llm: CopyingLLM, journal: Journal | None = None, **more: Any) -> Any:
    with journal or Journal(folder, plan.key, plan.about) as opened:
        return await run_evaluation(plan, llm, HashEmbedder(64), opened, **more)


def timeless(result: Any) -> Any:
    """A result without what differs from run to run: times, and requests that were sent again."""
    if isinstance(result, dict):
        return {k: timeless(v) for k, v in result.items() if k not in ("seconds", "requests_sent")}
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.mark.slow
@pytest.mark.parametrize("every", [7, 40, 101])
async def test_cut_short_again_and_again_it_ends_as_if_never(tmp_path: Path, folder: Path, every: int) -> None:
    plan = planned("pahf", pahf_folder(tmp_path), ALL, ablate=("persona", "memory"))
    whole = await run_evaluation(plan, CopyingLLM(), HashEmbedder(64))
    runs = 0
    while True:
        runs += 1
        try:
            result = await evaluated(plan, folder, CopyingLLM(), Dying(folder, plan, every))
        except Killed:
            with Journal(folder, plan.key, plan.about) as journal:
                assert answers_there(plan, journal) == runs * every  # none is lost, none is given twice
            continue
        break
    assert runs == -(-plan.answers // every) or (plan.answers % every == 0 and runs == plan.answers // every + 1)
    assert timeless(result) == timeless(whole)
    assert json.loads(json.dumps(result)) == result


@pytest.mark.slow
async def test_a_cut_anywhere_while_it_learns_ends_well(tmp_path: Path, folder: Path) -> None:
    """The cohorts of alignment differ then, so results may; but everything is asked, and nothing twice in the paper's loop,
    which has no cohorts and so gives the same result."""
    plan = planned("pahf", pahf_folder(tmp_path), ("persona", "personaagent"), paper=True, cold_start=False)
    llm = CopyingLLM()
    whole = await run_evaluation(plan, llm, HashEmbedder(64))
    for after in range(1, len(llm.requests), 17):
        counted = iter(range(10**9))

        def kill(_: ChatRequest, counted: Any = counted, after: int = after) -> None:
            if next(counted) >= after:
                raise Killed

        # An error nobody foresaw makes an alignment FAILED, which is done again at the next start.
        with suppress(Killed):
            await evaluated(plan, folder / str(after), CopyingLLM(kill))
        result = await evaluated(plan, folder / str(after), CopyingLLM())
        assert timeless(result) == timeless(whole), after


@pytest.mark.slow
async def test_an_evaluation_that_is_done_asks_nothing_again(tmp_path: Path, folder: Path) -> None:
    plan = planned("history", history_file(tmp_path), ALL)
    first = await evaluated(plan, folder, CopyingLLM())
    with Journal(folder, plan.key, plan.about) as journal:
        assert journal.finished is not None
        assert journal.finished.result == first
    again = CopyingLLM()
    second = await evaluated(plan, folder, again)
    assert again.requests == []
    assert timeless(second) == timeless(first)
    assert second["requests_sent"] == first["requests_sent"]  # of all runs together


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [UnavailableError("did not answer in time"), LLMError("no"), InvalidInput("too long")]
)
async def test_a_call_that_fails_is_one_missing_answer(tmp_path: Path, folder: Path, error: Exception) -> None:
    plan = planned("history", history_file(tmp_path), ("none", "rag"))
    whole = await run_evaluation(plan, CopyingLLM(), HashEmbedder(64))

    def fail(request: ChatRequest) -> None:
        if re.search(r"user [12], request 1[67]", request.messages[-1].text) and len(request.messages) > 2:
            raise error

    flaky = CopyingLLM(fail)
    result = await evaluated(plan, folder, flaky)
    assert result["missing"] == {"rag": 4}
    assert result["failed"] == {}
    assert result["results"]["newest"]["rag"]["failed"] == 4
    assert result["results"]["newest"]["rag"]["n"] == 16
    assert result["results"]["newest"]["none"] == whole["results"]["newest"]["none"]
    with Journal(folder, plan.key, plan.about) as journal:
        assert journal.finished is None
        failures = [entry.value["failure"] for _, entry in journal.all("answer")]
    assert Counter(failures) == {None: 28, error.code: 4}  # type: ignore[attr-defined]
    mended = CopyingLLM()
    result = await evaluated(plan, folder, mended)
    assert len(mended.requests) == 4  # only what was missing
    assert timeless(result) == timeless(whole)


@pytest.mark.slow
async def test_a_missing_answer_does_not_stop_a_run_that_asks_for_it_alone(tmp_path: Path, folder: Path) -> None:
    plan = planned("history", history_file(tmp_path), ("rag",))

    def fail(request: ChatRequest) -> None:
        if "user 1, request 16" in request.messages[-1].text:
            raise UnavailableError("did not answer in time")

    for _ in range(2):
        result = await evaluated(plan, folder, CopyingLLM(fail))
        assert result["missing"] == {"rag": 1}


@pytest.mark.slow
async def test_a_model_that_goes_down_stops_the_run_and_keeps_the_answers(tmp_path: Path, folder: Path) -> None:
    path = history_file(tmp_path, users=20, interactions=20)
    plan = planned("history", path, ("none", "rag"))
    whole = await run_evaluation(plan, CopyingLLM(), HashEmbedder(64))
    llm = CopyingLLM(lambda _: down() if len(llm.requests) > 100 else None)

    def down() -> None:
        raise UnavailableError("the model's server cannot be reached")

    with pytest.raises(UnavailableError, match=r"cannot be reached; .*(20 calls in a row|of the first).* goes on"):
        await evaluated(plan, folder, llm)
    assert len(llm.requests) < 100 + 20 + SETTINGS.alignment.in_flight  # not all that were left
    with Journal(folder, plan.key, plan.about) as journal:
        assert answers_there(plan, journal) == 100
    mended = CopyingLLM()
    result = await evaluated(plan, folder, mended)
    assert timeless(result) == timeless(whole)
    assert result["requests_sent"] == len(llm.requests) + len(mended.requests)
    assert len(mended.requests) == len(plan.benchmark.phases[0].test) * 2 - 100


@pytest.mark.slow
@pytest.mark.parametrize("methods", [("persona",), ("personaagent",), ("none",)])
async def test_a_model_that_is_down_from_the_start(tmp_path: Path, folder: Path, methods: tuple[str, ...]) -> None:
    def fail(_: ChatRequest) -> None:
        raise UnavailableError("down")

    plan = planned("history", history_file(tmp_path, users=30), methods, cold_start=False)
    llm = CopyingLLM(fail)
    with pytest.raises(UnavailableError, match="down"):
        await evaluated(plan, folder, llm)
    assert len(llm.requests) <= 2 * SETTINGS.alignment.in_flight
    mended = await evaluated(plan, folder, CopyingLLM())
    assert mended["missing"] == mended["failed"] == {}


async def test_when_nothing_at_all_was_answered_there_is_no_result(tmp_path: Path, folder: Path) -> None:
    def fail(_: ChatRequest) -> None:
        raise LLMError("the model's server refused our credentials")

    plan = planned("history", history_file(tmp_path, users=2), ("none",))
    with pytest.raises(LLMError, match="credentials"):
        await evaluated(plan, folder, CopyingLLM(fail))


@pytest.mark.slow
async def test_a_profile_that_failed_is_built_again_with_what_rests_on_it(tmp_path: Path, folder: Path) -> None:
    path = pahf_folder(tmp_path)
    plan = planned("pahf", path, ("none", "pag", "persona", "personaagent"), paper=True)
    whole = await run_evaluation(plan, CopyingLLM(), HashEmbedder(64))
    failed = 0

    def fail(request: ChatRequest) -> None:
        nonlocal failed
        if request.messages[0].text == prompts.PROFILE_SYSTEM and not failed:
            failed += 1
            raise UnavailableError("did not answer in time")

    first = CopyingLLM(fail)
    result = await evaluated(plan, folder, first)
    assert result["failed"] == {"profiles": 1}
    assert result["missing"] == {}
    with Journal(folder, plan.key, plan.about) as journal:
        records = Records(plan, journal)
        (user,) = [u for u in plan.benchmark.users if records.profile("learned", u) is None]
        for phase in ("learned", "shifted"):
            for asked in plan.asked_in(phase):
                there = {i.user for n, i in enumerate(asked.items) if records.answer(asked, n) is not None}
                # Of a control, whose users are answered as their neighbours, one is gone too; `none` reads no profile.
                assert len(there) == (3 if asked.name == "none" else 2), asked.label
                if not asked.name.startswith(("none", "wrong")):
                    assert user not in there
    result = await evaluated(plan, folder, CopyingLLM())
    assert timeless(result) == timeless(whole)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [None, 1, 5])
async def test_an_alignment_that_failed_is_done_again_with_what_rests_on_it(
    tmp_path: Path, folder: Path, cut: int | None
) -> None:
    plan = planned("pahf", pahf_folder(tmp_path), ("persona", "personaagent"), paper=True, cold_start=False)
    whole = await run_evaluation(plan, CopyingLLM(), HashEmbedder(64))
    assert whole["alignment"]["personaagent"]["learned"]["accepted_share"] > 0
    failed = 0

    def fail(request: ChatRequest) -> None:
        nonlocal failed
        if any(m.text == prompts.ALIGN_SYSTEM for m in request.messages) and not failed:
            failed += 1
            raise UnavailableError("did not answer in time")

    result = await evaluated(plan, folder, CopyingLLM(fail))
    assert result["failed"] == {"alignments": 1}
    assert result["alignment"]["personaagent"]["learned"]["outcomes"]["failed"] == 1
    if cut is not None:  # what rested on the failure is not taken for good after the alignment has been mended
        with pytest.raises(Killed):
            await evaluated(plan, folder, CopyingLLM(), Dying(folder, plan, cut))
    result = await evaluated(plan, folder, CopyingLLM())
    assert timeless(result) == timeless(whole)


@pytest.mark.slow
async def test_a_process_that_is_killed_loses_no_answer(tmp_path: Path, folder: Path) -> None:
    history_file(tmp_path)
    code = f"""
import asyncio, os, signal
from pathlib import Path
from tests.alignment.evaluation.test_durable import *
plan = planned("history", Path({str(tmp_path)!r}) / "history.jsonl", ("none", "rag"))
llm = CopyingLLM(lambda _: os.kill(os.getpid(), signal.SIGKILL) if len(llm.requests) > 21 else None)
asyncio.run(evaluated(plan, Path({str(folder)!r}), llm))
"""
    killed = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    plan = planned("history", tmp_path / "history.jsonl", ("none", "rag"))
    llm = CopyingLLM()
    result = await evaluated(plan, folder, llm)
    assert len(llm.requests) == 32 - 21
    assert timeless(result) == timeless(await run_evaluation(plan, CopyingLLM(), HashEmbedder(64)))


@pytest.mark.slow
async def test_progress_never_goes_back_and_counts_what_was_there(tmp_path: Path, folder: Path) -> None:
    plan = planned("history", history_file(tmp_path), ALL, cold_start=False)
    told: list[tuple[str, int, int, int]] = []

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        match = re.match(r"([\d,]+) of ([\d,]+) answers", note)
        assert match is not None, note
        assert match[2] == f"{plan.answers:,}"
        told.append((stage, done, total, int(match[1].replace(",", ""))))

    with pytest.raises(Killed):
        await evaluated(plan, folder, CopyingLLM(), Dying(folder, plan, 21), progress=tell)
    before = len(told)
    await evaluated(plan, folder, CopyingLLM(), progress=tell)
    for run, first in ((told[:before], 0), (told[before:], 21)):
        assert run[0][3] == first
        assert all(a[3] <= b[3] for a, b in pairwise(run))
        assert all(done <= total for _, done, total, _ in run)
        stages = [stage for n, (stage, *_) in enumerate(run) if n == 0 or run[n - 1][0] != stage]
        assert len(stages) == len(set(stages))  # a stage that was left does not come again
        for name in stages:
            steps = [done for stage, done, *_ in run if stage == name]
            assert steps == sorted(steps)
    resumed = told[before:]
    assert resumed[-1][3] == plan.answers
    assert [t[:3] for t in resumed if t[0] == "newest: none"] == [("newest: none", 16, 16)]
    assert [t[1] for t in resumed if t[0] == "newest: pag"] == list(range(5, 17))
    assert ("newest: align personaagent", 4, 4) in {t[:3] for t in resumed}


@pytest.mark.slow
async def test_a_long_step_is_told_of_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.evaluation.run.TELL_S", 0.01)
    plan = planned("history", history_file(tmp_path), ("none",))
    told: list[str] = []
    heard = asyncio.Event()

    class Slow(CopyingLLM):
        async def chat(self, request: ChatRequest) -> Any:
            result = await super().chat(request)
            await heard.wait()
            return result

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        told.append(f"{stage} {done}/{total} {note}")
        if told[-1] == "newest: none 0/16 0 of 16 answers, 16 model calls":
            heard.set()

    await run_evaluation(plan, Slow(), HashEmbedder(64), progress=tell)
    assert told[-1] == "newest: none 16/16 16 of 16 answers, 16 model calls"


def test_what_needs_a_model() -> None:
    assert not needs_model(("evidence",))
    assert needs_model(("evidence", "none"))
    assert needs_model(("evidence",), ("memory",))


@pytest.mark.slow
async def test_without_a_model_nothing_is_asked_of_one(tmp_path: Path) -> None:
    plan = planned("history", history_file(tmp_path), ("evidence",))
    llm = CopyingLLM()
    result = await run_evaluation(plan, llm, HashEmbedder(64))
    assert llm.requests == []
    assert result["model"] is None
    assert result["cold_start"] == {}
    control = result["control"]["newest"]  # what memory alone says of another user
    assert list(control) == ["wrong_user"]
    assert control["wrong_user"]["accuracy"]["value"] < result["results"]["newest"]["evidence"]["accuracy"]["value"]
    assert plan.answers == 32


def test_the_name_is_of_everything_that_determines_the_result(tmp_path: Path) -> None:
    path = history_file(tmp_path)

    def key(settings: Settings = SETTINGS, **more: Any) -> str:
        options = {"dataset": "history", "methods": ("none",), **more}
        return plan_evaluation(EvaluationOptions(**options), path, settings).key

    first = key()
    assert re.fullmatch(r"history-[0-9a-f]{16}", first)
    others = [
        key(seed=1),
        key(noise=0.5),
        key(paper=True),
        key(users=2),
        key(methods=("none", "rag")),
        key(ablate=("memory",)),
        key(cold_start=False),
        key(controls=False),
        key(load_settings(llm={"model": "a", "base_url": "http://b"})),
        key(load_settings(agent={"recall_tokens": 7})),
        key(load_settings(memory={"bm25_weight": 0.7})),
        key(load_settings(alignment={"batch": 4})),
        key(load_settings(alignment={"teacher": {"model": "t"}})),
        key(load_settings(llm={"engine_kwargs": {"quantization": "fp8"}})),
    ]
    assert len({first, *others}) == len(others) + 1
    same = load_settings(
        home=tmp_path / "elsewhere",
        llm={"timeout_s": 7, "api_key": "hunter2"},
        memory={"token": "hunter2", "shards": 7},
        alignment={"in_flight": 3, "seed": 9, "retry_s": 1},
    )
    assert key(same) == first == key(users=4)  # there are no more than four
    path.write_text(path.read_text().replace("paint", "colour"))
    assert key() != first


def test_secrets_are_not_written_down(tmp_path: Path) -> None:
    secret = {"api_key": "hunter2", "base_url": "http://user:hunter2@host", "model": "m"}
    settings = load_settings(
        llm={**secret, "engine_kwargs": {"hf_token": "hunter2"}},
        memory={"token": "hunter2", "encryption_key": "hunter2", "uri": "http://hunter2"},
        alignment={"teacher": secret},
    )
    options = EvaluationOptions(dataset="history", methods=("personaagent",))
    plan = plan_evaluation(options, history_file(tmp_path), settings)
    assert "hunter2" not in json.dumps(plan.about)


def test_scores_outlive_new_and_lost_fields(tmp_path: Path) -> None:
    plan = planned("history", history_file(tmp_path), ("none",))
    scored = Scored("u", "i", Kind.CHOICE, "a", "b", ("a", "b"), 0.5)
    value = json.loads(json.dumps({"scored": asdict(scored), "failure": None, "later": 1}))
    value["scored"]["certainty"] = 0.5
    del value["scored"]["error"], value["scored"]["failed"]
    journal = Journal()
    journal.write(("answer", "newest", "none", 3), value)
    journal.write(("answer", "newest", "none", 4), {"scored": {"user": "u"}})
    records = Records(plan, journal)
    assert records.answer(plan.asked[0], 3) == Answered(scored)
    assert records.answer(plan.asked[0], 4) is None
    assert records.damaged == 1
