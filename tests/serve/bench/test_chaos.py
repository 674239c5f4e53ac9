"""`bench chaos`: its clients and its faults without a cluster, and a short run of it on a real Ray with a scripted engine."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from personaagent.errors import InvalidInput, UnavailableError
from personaagent.settings import load_settings
from serve.bench import chaos, chaos_faults, chaos_import
from serve.bench.chaos import chaos_settings, run_chaos
from serve.bench.chaos_faults import Processes
from serve.bench.chaos_history import Broken, Fault, Operation, Status, check
from serve.bench.chaos_import import Importer
from serve.bench.chaos_load import Client
from serve.bench.chaos_record import History
from serve.bench.chaos_report import result, said
from serve.runtime import ray_cluster as cluster
from serve.runtime.system import System
from tests.support.api_world import EchoLLM, World


class Calls:
    """A client of a correct API in this process, and what it noted."""

    def __init__(self, llm: EchoLLM | None = None, http: httpx.AsyncClient | None = None) -> None:
        self.world = World(llm=llm)
        self.history = History(1, 2)
        self.people = [self.history.person(name) for name in ("ann", "b/ob", "cat")]
        self.ann = self.people[0]
        self.client = Client(http or self.world.http, self.history, self.people, "echo", "seed")

    @property
    def last(self) -> Operation:
        return self.history.operations[-1]


@pytest.mark.slow
async def test_clients_of_a_correct_system_see_no_promise_broken() -> None:
    calls = Calls()
    others = [Client(calls.world.http, calls.history, calls.people, "echo", f"other {n}") for n in range(3)]
    await asyncio.gather(
        *(client.work(lambda: len(calls.history.operations) >= 300, 0.0) for client in (calls.client, *others))
    )
    for person in calls.people:
        await calls.client.export(person)
    assert check(calls.history.operations) == []
    kinds = {o.kind for o in calls.history.operations if o.status is Status.OK}
    assert kinds == {"chat", "stream", "feedback", "import", "export", "recall", "versions", "persona", "forget"}
    assert {o.status for o in calls.history.operations} <= {Status.OK, Status.FAIL}
    assert any(o.whole and o.saw for o in calls.history.operations)


@pytest.mark.slow
@pytest.mark.parametrize("act", ["chat", "stream", "bring", "set_persona"])
async def test_a_write_is_seen_once_by_its_user_until_forgotten(act: str) -> None:
    calls = Calls()
    await getattr(calls.client, act)(calls.ann)
    written = calls.last
    assert written.status is Status.OK
    assert written.makes
    look = await calls.client.export(calls.ann)
    assert written.wrote <= look.saw
    assert not look.doubled
    await calls.client.forget(calls.ann)
    assert calls.last.status is Status.OK
    gone = await calls.client.export(calls.ann)
    assert (gone.status, gone.whole, gone.exists, gone.saw) == (Status.OK, True, False, frozenset())
    await calls.client.forget(calls.ann)
    assert (calls.last.status, calls.last.exists) == (Status.OK, False)


async def test_feedback_on_what_is_forgotten_is_refused() -> None:
    calls = Calls()
    await calls.client.chat(calls.ann)
    await calls.client.feedback(calls.ann)
    assert calls.last.status is Status.OK
    await calls.client.forget(calls.ann)
    await calls.client.feedback(calls.ann)
    assert (calls.last.kind, calls.last.status) == ("feedback", Status.FAIL)


async def test_an_answer_that_broke_off_may_be_remembered_or_not() -> None:
    llm = EchoLLM()
    llm.break_after = 2
    calls = Calls(llm)
    await calls.client.stream(calls.ann)
    assert calls.last.status is Status.UNKNOWN
    assert calls.last.started is not None
    llm.break_after, llm.error = None, UnavailableError("away")
    await calls.client.chat(calls.ann)
    assert calls.last.status is Status.UNKNOWN
    assert calls.last.started is None


async def test_an_import_that_a_forgetting_overtakes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    importer = Importer(calls.world.memory, calls.history, calls.people, "seed")
    monkeypatch.setattr(chaos_import, "READ_S", 0.0)
    await importer.bring([calls.ann])
    assert calls.last.status is Status.OK
    incarnations = await calls.world.memory.incarnations()

    async def begun_before() -> tuple[int, ...]:
        return incarnations

    await calls.client.forget(calls.ann)
    monkeypatch.setattr(calls.world.memory, "incarnations", begun_before)
    await importer.bring([calls.ann])
    assert (calls.last.status, calls.last.started is None) == (Status.FAIL, False)
    await importer.bring(calls.people)  # of these one was refused, and it is not said which
    assert calls.last.status is Status.UNKNOWN
    for person in calls.people:
        await calls.client.export(person)
    assert check(calls.history.operations) == []


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (httpx.Response(200, text='{"type": "user"}'), Status.OK),
        (httpx.Response(404, json={"error": {"code": "not_found"}}), Status.OK),  # the user is unknown
        (httpx.Response(404, text="Path '/' not found."), Status.UNKNOWN),  # the proxy's, which has no router yet
        (httpx.Response(409, json={"error": {"code": "forgotten"}}), Status.FAIL),
        (httpx.Response(503, json={"error": {"code": "unavailable"}}), Status.UNKNOWN),
        (httpx.Response(500, text="oops"), Status.UNKNOWN),
        (httpx.ConnectError("refused"), Status.FAIL),
        (httpx.ReadError("reset"), Status.UNKNOWN),
        (httpx.ReadTimeout("late"), Status.UNKNOWN),
    ],
)
async def test_what_an_answer_says(answer: httpx.Response | Exception, status: Status) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://test") as http:
        calls = Calls(http=http)
        look = await calls.client.export(calls.ann)
        assert look.status is status
        assert look.whole == (status is Status.OK)
        assert calls.history.answers.total() == 1


@pytest.fixture
def sleeper() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts processes that carry a mark and look like a memory shard."""
    started: list[subprocess.Popen[bytes]] = []

    def start(mark: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["ray::MemoryShard", "60"], executable="/bin/sleep", env={**os.environ, cluster.MARK: mark}
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def state(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
class TestProcesses:
    def test_only_processes_of_this_system_are_killed(self, sleeper: Callable[[str], subprocess.Popen[bytes]]) -> None:
        mine, other = sleeper("mark-1"), sleeper("mark-2")
        processes = Processes("mark-1", random.Random(0))
        assert processes.of("shard") == [mine.pid]
        assert processes.of("router") == []
        assert processes.any_of("engine") is None
        assert not processes.kill(other.pid)
        assert processes.kill(mine.pid)
        assert mine.wait() == -signal.SIGKILL
        assert not processes.kill(mine.pid)
        assert other.poll() is None

    def test_a_paused_process_goes_on_whatever_happens(self, sleeper: Callable[[str], subprocess.Popen[bytes]]) -> None:
        mine = sleeper("mark-1")
        processes = Processes("mark-1", random.Random(0))

        def interrupted() -> None:
            with processes.paused(mine.pid) as stands:
                assert stands
                os.waitid(os.P_PID, mine.pid, os.WSTOPPED | os.WNOWAIT)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert state(mine) != "T"
        with processes.paused(mine.pid) as stands:
            assert stands
            processes.kill(mine.pid)  # a paused process can be killed
        mine.wait()
        with processes.paused(mine.pid) as stands:
            assert not stands


def test_the_system_under_test_is_its_own(tmp_path: Path) -> None:
    theirs = load_settings(home=tmp_path / "theirs", memory={"uri": "http://milvus:19530", "shards": 1})
    own = chaos_settings(theirs, tmp_path / "own")
    assert (own.home, own.memory.uri, own.memory.shards) == (tmp_path / "own", None, 2)
    with pytest.raises(InvalidInput, match=r"serve\.ray_address"):
        chaos_settings(load_settings(serve={"ray_address": "ray://prod:10001"}), tmp_path)


def test_where_processes_cannot_be_signalled_safely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos_faults.sys, "platform", "darwin")
    with pytest.raises(InvalidInput, match="Linux"):
        chaos_settings(load_settings(), tmp_path)


def test_the_result_names_the_calls_that_show_what_is_broken() -> None:
    written = Operation(1, "import", "ann", 10.0, 11.0, Status.OK, wrote=frozenset({"zqa"}), makes=True)
    forgotten = Operation(2, "forget", "ann", 12.0, 13.0, Status.OK, forgets=True)
    seen = Operation(3, "recall", "ann", 14.0, 15.0, Status.OK, saw=frozenset({"zqa"}), needs=frozenset({"router"}))
    operations = [written, forgotten, seen]
    found = check(operations)
    faults = [Fault("router", "router", 12.5), Fault("engine", "engine", 12.5)]
    told = result(operations, faults, found, True)
    assert (told["verdict"], told["resurrected"], told["lost"], told["acknowledged"]) == ("broken", 1, 0, 1)
    assert told["kills"] == {"engine": 1, "router": 1}
    assert told["recovery_s"] == {"router": {"p50": 2.5, "p99": 2.5}}
    assert told["never_recovered"] == {"engine": 1}
    (shown,) = told["violations"]
    assert (shown["look"]["operation"], shown["forget"]["operation"], shown["look"]["began_s"]) == (3, 2, 4.0)
    assert said(found[0], operations) == (
        "resurrected: seen by recall 3 (ok, 4.0 to 5.0 s); written by import 1 (ok, 0.0 to 1.0 s); "
        "forgotten by forget 2 (ok, 2.0 to 3.0 s)"
    )


@pytest.mark.parametrize(
    ("faults", "settled", "verdict"),
    [
        ([], True, "kept"),
        ([], False, "broken"),
        ([Fault("router", "router", 0.0)], True, "kept"),
        ([Fault("router", "router", 5.0)], True, "broken"),  # nothing has succeeded since
    ],
)
def test_the_verdict(faults: list[Fault], settled: bool, verdict: str) -> None:
    operations = [Operation(1, "probe", "ann", 1.0, 2.0, Status.OK, needs=frozenset({"router"}))]
    assert result(operations, faults, [], settled)["verdict"] == verdict


@pytest.mark.cluster
@pytest.mark.timeout(600)
async def test_a_short_run_keeps_every_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLLM_VLLM_ENGINE_CLS", "tests.support.scripted_engine.ScriptedEngine")
    monkeypatch.setattr(chaos, "FAULT_S", 4.0)
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    settings = load_settings(llm={"model": str(tmp_path / "scripted")})
    system = await System.start(chaos_settings(settings, tmp_path / "home"), http=True)
    mark = json.loads((tmp_path / "home" / "run" / "lock").read_text())["mark"]
    try:
        told = await run_chaos(system, 0.3, 1, lambda stage, done, total: None)
    finally:
        await system.close()
    assert cluster.marked(mark) == []
    print(json.dumps(told, indent=1))  # shown where it fails
    assert json.loads(json.dumps(told)) == told
    assert told["violations"] == []
    assert {what.value: told[what.value] for what in Broken} == dict.fromkeys(Broken, 0)
    assert told["verdict"] == "kept"
    assert told["acknowledged"] > 20
    assert told["kills"]["shard"] >= 2  # those of the last look among them
    assert sum(told["kills"].values()) >= 4
    assert told["recovery_s"].keys() == told["kills"].keys()
    assert all(times["p50"] <= times["p99"] for times in told["recovery_s"].values())
