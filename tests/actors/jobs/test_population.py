from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.jobs import population
from actors.jobs.aligner_actor import AlignerParts, AlignmentActor, aligned_earlier
from actors.jobs.population import (
    RunProgress,
    batch_size,
    estimate,
    learn_commons,
    read_users,
    run_population,
    select_users,
)
from actors.jobs.run_folder import SCHEMA, RunFolder, erase_user, from_table, read_results, to_table
from actors.memory.startup import start_memory
from alignment.plan import calls_of
from personaagent.errors import ConflictError, InvalidInput, NotFoundError, StoreError
from personaagent.settings import AgentSettings, AlignmentSettings, MemorySettings, Settings, TeacherSettings
from personaagent.types import AlignmentResult, Outcome, UserSummary
from tests.support import population_doubles as doubles
from tests.support.alignment_doubles import BLIND, START, World, drink, note
from tests.support.doubles import HashEmbedder


def result(user: str, outcome: Outcome = Outcome.ACCEPTED, **fields: Any) -> AlignmentResult:
    return AlignmentResult(user=user, outcome=outcome, **fields)


def summary(user: str, truths: int = 10, new: int = 10, days: int = 0) -> UserSummary:
    return UserSummary(
        user=user,
        interactions=truths,
        truths=truths,
        persona=1,
        last_time=START + timedelta(days=days),
        truths_since_alignment=new,
    )


def results_of_any_kind() -> st.SearchStrategy[AlignmentResult]:
    return st.builds(
        result,
        st.text(min_size=1, max_size=20),
        st.sampled_from(Outcome),
        reason=st.text(max_size=20),
        score_before=st.none() | st.floats(0, 1),
        persona_after=st.none() | st.integers(1, 9),
        words_judged_by=st.sampled_from([None, "likelihood", "simulated answers"]),
        text_gain=st.none() | st.floats(-1, 1),
        text_error=st.none() | st.floats(0, 1),
        text_items=st.integers(0, 99),
        refused=st.dictionaries(st.text(max_size=9), st.integers(1, 9), max_size=3),
        calls=st.integers(0, 10**6),
        cached_tokens=st.integers(0, 10**6),
    )


class TestRuns:
    @pytest.mark.slow
    @given(st.lists(results_of_any_kind()))
    @settings(deadline=None)
    def test_results_survive_the_table(self, results: list[AlignmentResult]) -> None:
        assert from_table(to_table(results)) == results

    def test_no_field_of_a_result_is_left_out_of_the_table(self) -> None:
        assert set(SCHEMA.names) == set(AlignmentResult.model_fields)

    def test_results_of_a_version_with_fewer_columns_are_read(self, tmp_path: Path) -> None:
        with RunFolder(tmp_path, "r") as folder:
            folder.write([result("ann", calls=3)])
            (part,) = (tmp_path / "runs" / "r").glob("part-*")
            pq.write_table(pq.read_table(part).drop_columns(["refused", "text_items", "cached_tokens"]), part)
            assert folder.results() == {"ann": result("ann", calls=3)}

    def test_the_last_result_of_a_user_counts(self, tmp_path: Path) -> None:
        with RunFolder(tmp_path, "r") as folder:
            assert folder.plan(["b", "a", "b"]) == ["b", "a"]
            assert folder.plan(["a", "c"]) == ["b", "a", "c"]
            folder.write([result("a", Outcome.FAILED), result("b")])
            folder.write([result("a")])
            folder.spend(12.5)
        assert {r.user: r.outcome for r in read_results(tmp_path, "r")} == {"a": "accepted", "b": "accepted"}
        assert RunFolder(tmp_path, "r").seconds == 12.5

    def test_a_run_belongs_to_one_process(self, tmp_path: Path) -> None:
        with RunFolder(tmp_path, "r"), pytest.raises(ConflictError, match="under way"), RunFolder(tmp_path, "r"):
            pass
        with RunFolder(tmp_path, "r"):
            pass

    @pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 101, "a b"])
    def test_a_run_id_is_a_plain_name(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InvalidInput):
            RunFolder(tmp_path, name)

    def test_forgetting_a_user_reaches_old_runs(self, tmp_path: Path) -> None:
        for run in ("one", "two"):
            with RunFolder(tmp_path, run) as folder:
                folder.plan(["ann", "bob"])
                folder.write([result("ann"), result("bob")])
        assert erase_user(tmp_path, "ann") == 4
        assert erase_user(tmp_path, "ann") == 0
        assert [r.user for r in read_results(tmp_path, "two")] == ["bob"]
        assert not [f for f in tmp_path.rglob("*.parquet") if b"ann" in f.read_bytes()]

    def test_forgetting_reaches_a_run_under_way(self, tmp_path: Path) -> None:
        with RunFolder(tmp_path, "r") as folder:
            folder.plan(["ann", "bob"])
            folder.write([result("ann")])
            assert erase_user(tmp_path, "ann") == 2
            folder.write([result("ann"), result("bob")])
        assert [r.user for r in read_results(tmp_path, "r")] == ["bob"]
        with RunFolder(tmp_path, "r") as folder:  # a new user of that name
            folder.write([result("ann")])
        assert len(read_results(tmp_path, "r")) == 2

    def test_unknown_runs_and_folders(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            read_results(tmp_path, "r")
        (tmp_path / "runs").write_text("a file")
        with pytest.raises(StoreError), RunFolder(tmp_path, "r"):
            pass


class TestSelection:
    def test_by_time_and_by_new_truths(self) -> None:
        users = [summary("c", new=0), summary("a", days=2), summary("b", new=3)]
        assert select_users(users) == ["a", "b", "c"]
        assert select_users(users, min_new=3) == ["a", "b"]
        assert select_users(users, since=START + timedelta(days=1)) == ["a"]
        assert select_users(users, only=["b", "x", "b"]) == ["b", "x"]

    def test_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "users.txt").write_text("ann\n\nbob the second\n", encoding="utf-8")
        assert read_users(tmp_path / "users.txt") == ["ann", "bob the second"]
        with pytest.raises(InvalidInput, match="cannot read users"):
            read_users(tmp_path / "missing.txt")


class TestEstimate:
    @pytest.mark.slow
    @pytest.mark.parametrize("truths", [0, 1, 2, 3, 6, 27])
    @pytest.mark.parametrize(
        "changed", [{}, {"iterations": 3}, {"profile": True}, {"paper": True}, {"batch": 1, "held_out": 1}]
    )
    async def test_no_alignment_takes_more_calls(self, truths: int, changed: dict[str, Any]) -> None:
        world = World(**changed)
        if truths:
            kinds = (
                drink("ann", i, truth=("mint tea", "water")[i % 5 == 0]) if i % 2 else note("ann", i)
                for i in range(truths)
            )
            await world.add(list(kinds))
        taken = (await world.aligner().align(["ann"]))[0].calls
        assert taken <= calls_of(truths, world.settings)
        assert calls_of(truths, world.settings) <= 5 * max(taken, 3)

    def test_tokens_and_time_come_from_the_last_run(self, tmp_path: Path) -> None:
        paper, users = AlignmentSettings(paper=True, profile=False), [summary("a"), summary("b", truths=1)]
        first = estimate(users, ["a", "b", "unknown"], paper, tmp_path)
        assert (first.users, first.calls, first.tokens, first.seconds) == (3, 7 + 3, None, None)
        with RunFolder(tmp_path, "r") as folder:
            folder.write([result("z", calls=20, prompt_tokens=1900, completion_tokens=100)])
            folder.spend(5.0)
        then = estimate(users, ["a", "b"], paper, tmp_path)
        assert (then.tokens, then.seconds) == (1000, 2.5)


class TestCommons:
    async def test_it_is_learned_once_per_run(self, tmp_path: Path) -> None:
        world = World()
        users = [f"user {n}" for n in range(6)]
        for user in users:
            await world.add([drink(user, i) for i in range(7)])
        parts = AlignerParts(world.llm, world.embedder, world.memory, world.agent.settings, world.settings)
        off = replace(parts, alignment=parts.alignment.model_copy(update={"population": False}))
        assert await learn_commons(off, users, "run-0", tmp_path) is None
        assert await world.memory.population() is None
        for number in (1, 2):
            learned = await learn_commons(parts, users, f"run-{number}", tmp_path)
            assert learned is not None
            assert (learned.number, learned.users) == (number, 6)
            assert await learn_commons(parts, users, f"run-{number}", tmp_path) is None
        assert await world.memory.population() == learned
        assert await learn_commons(parts, users[:2], "run-3", tmp_path) is None
        assert await learn_commons(parts, users, "run-3", tmp_path) is None
        with RunFolder(tmp_path, "run-4"), pytest.raises(ConflictError):
            await learn_commons(parts, users, "run-4", tmp_path)


class TestActor:
    @pytest.mark.slow
    async def test_users_aligned_earlier_in_the_run_are_not_aligned_again(self) -> None:
        world = World()
        await world.add([drink("ann", i) for i in range(27)])
        await world.add([drink("bob", i) for i in range(27)])
        parts = AlignerParts(world.llm, world.embedder, world.memory, world.agent.settings, world.settings)
        first = await AlignmentActor(parts).align(["ann"], "run-7")
        calls = len(world.llm.order)
        again = await AlignmentActor(parts).align(["ann"], "run-7")
        assert len(world.llm.order) == calls
        assert again[0].outcome is Outcome.ACCEPTED
        assert again[0].score_after == first[0].score_after
        assert await aligned_earlier(world.memory, "bob", "run-7") is None
        both = await AlignmentActor(parts).align(["ann", "bob"], "run-7")
        assert {r.user for r in both} == {"ann", "bob"}
        assert len(await world.memory.personas("ann")) == 2

    def test_a_teacher_needs_a_model(self) -> None:
        world = World()
        alignment = AlignmentSettings(teacher=TeacherSettings(base_url="http://127.0.0.1:1/v1"))
        with pytest.raises(InvalidInput, match="teacher"):
            AlignerParts(world.llm, world.embedder, world.memory, AgentSettings(decision=BLIND), alignment).aligner()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    context = ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="test-population", object_store_memory=10**8
    )
    yield context.address_info["address"]
    ray.shutdown()


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.cluster
class TestCluster:
    USERS = tuple(f"user {i}" for i in range(24))

    def filled(self, name: str) -> Any:
        memory = doubles.host(name)
        ray.get(memory.fill.remote(self.USERS, 7))
        return memory

    def check(self, memory: Any, results: list[AlignmentResult], run: str) -> None:
        assert [r.user for r in results] == list(self.USERS)
        assert {r.outcome for r in results} == {Outcome.ACCEPTED}
        assert ray.get(memory.versions.remote()) == {u: [run] for u in self.USERS}

    def test_a_killed_actor_costs_nothing_but_time(self, cluster: str, tmp_path: Path) -> None:
        memory, seen = self.filled("one"), list[RunProgress]()
        pids = tmp_path / "pids"
        pids.mkdir()

        def kill_once(progress: RunProgress) -> None:
            seen.append(progress)
            if len(seen) == 2:
                for pid in pids.iterdir():
                    os.kill(int(pid.name), signal.SIGKILL)

        parts = doubles.parts(memory, pids, pause_s=0.02, users_per_batch=4)
        results = run_population(parts, self.USERS, "run-1", tmp_path, kill_once)
        self.check(memory, results, "run-1")
        assert [p.done for p in seen] == sorted(p.done for p in seen)
        assert (seen[-1].done, seen[-1].total, seen[-1].accepted_share) == (24, 24, 1.0)
        assert len(list(pids.iterdir())) >= 2
        assert {r.user for r in read_results(tmp_path, "run-1")} == set(self.USERS)

    def test_a_killed_job_goes_on_where_it_stopped(self, cluster: str, tmp_path: Path) -> None:
        memory = self.filled("two")
        job = subprocess.Popen(
            [sys.executable, "-c", _JOB, cluster, str(tmp_path)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        folder = tmp_path / "runs" / "run-2"
        wait_for(lambda: job.poll() is not None or len(list(folder.glob("part-*"))) >= 2)
        assert job.poll() is None, "the job ended before it could be killed"
        with pytest.raises(ConflictError):
            run_population(doubles.parts(memory, tmp_path), self.USERS, "run-2", tmp_path)
        job.kill()
        job.wait()
        before = {r.user: r for r in read_results(tmp_path, "run-2")}
        assert 0 < len(before) < len(self.USERS)
        results = run_population(doubles.parts(memory, tmp_path), self.USERS, "run-2", tmp_path)
        self.check(memory, results, "run-2")
        assert all(r == before[r.user] for r in results if r.user in before)

    def test_results_come_while_others_of_their_batch_are_aligned(self, cluster: str, tmp_path: Path) -> None:
        memory, go, done = self.filled("three"), tmp_path / "go", list[int]()
        pids = tmp_path / "pids"
        pids.mkdir()

        def let_the_last_go(progress: RunProgress) -> None:
            done.append(progress.done)
            if progress.done == len(self.USERS) - 1:
                assert len(read_results(tmp_path, "run-3")) == progress.done
                go.touch()

        parts = replace(doubles.parts(memory, pids), memory=doubles.LateFor(memory, self.USERS[7], go))
        results = run_population(parts, self.USERS, "run-3", tmp_path, let_the_last_go)
        self.check(memory, results, "run-3")
        assert go.exists()
        assert done == sorted(done)

    async def test_over_the_real_memory_shards(self, cluster: str, tmp_path: Path) -> None:
        store = Settings(home=tmp_path, memory=MemorySettings(shards=2, tenant="population"))
        memory = await start_memory(store, HashEmbedder())
        for user in self.USERS[:6]:
            await memory.append(user, [drink(user, i) for i in range(7)])
        pids = tmp_path / "pids"
        pids.mkdir()
        parts = replace(doubles.parts(None, pids, retry_s=60), memory=memory)
        results = await asyncio.to_thread(run_population, parts, self.USERS[:6], "run-5", tmp_path)
        assert {(r.outcome, r.reason) for r in results} == {(Outcome.ACCEPTED, "better on 3 held-out interactions")}
        for user in self.USERS[:6]:
            assert [p.run for p in await memory.personas(user)] == [None, "run-5"]
        for number in range(2):
            ray.kill(ray.get_actor(f"memory-population-{number:02d}", namespace="personaagent"))


_JOB = """
import sys
from pathlib import Path
import ray
from actors.jobs.population import run_population
from tests.support import population_doubles as doubles
from tests.actors.jobs.test_population import TestCluster
ray.init(address=sys.argv[1], namespace="test-population", log_to_driver=False)
home = Path(sys.argv[2])
(home / "pids").mkdir()
parts = doubles.parts(doubles.host("two"), home / "pids", pause_s=0.1, users_per_batch=2, in_flight=16)
run_population(parts, TestCluster.USERS, "run-2", home)
"""


@pytest.mark.parametrize(
    ("users", "actors", "size"),
    [(12, 1, 12), (1, 1, 1), (100, 1, 32), (64, 8, 8), (3, 8, 1), (100_000, 4, 32)],
)
def test_users_of_a_run_are_aligned_together_as_far_as_actors_are_not_idle(users: int, actors: int, size: int) -> None:
    assert batch_size(users, actors, 32) == size


def test_a_user_of_whom_nothing_is_heard_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the run would ask for them again and again."""

    class Silent:
        def __init__(self, parts: AlignerParts) -> None:
            pass

        async def stream(self, users: Sequence[str], run: str) -> AsyncIterator[AlignmentResult]:
            yield result(users[0])

    monkeypatch.setattr(population, "AlignmentActor", Silent)
    batch = pa.table({"user": ["ann", "bob"]})
    actor = population._Align(doubles.parts(None, Path()), "r")
    found = [r for table in actor(batch) for r in from_table(table)]
    assert {r.user: r.outcome for r in found} == {"ann": Outcome.ACCEPTED, "bob": Outcome.FAILED}
