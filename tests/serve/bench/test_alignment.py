"""What alignment costs is measured as it is aligned: with likelihoods, with simulated answers, and by stage."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Sequence
from typing import Any

import pytest

from alignment.evaluation import peers
from alignment.memory_views import MemoryView
from alignment.rewording import judged_on
from alignment.splits import window
from alignment.stages import OTHER
from personaagent.agent.agent import Agent
from personaagent.memory.local import LocalMemory
from personaagent.settings import AlignmentSettings, Settings
from personaagent.types import (
    AlignmentResult,
    ChatRequest,
    ChatResult,
    Kind,
    Likelihood,
    LikelihoodRequest,
    Message,
    Outcome,
    Usage,
)
from serve.bench import alignment as system_bench
from serve.bench.alignment_load import Measured, align_all, fill, probe, report
from serve.bench.workload import ScriptedEmbedder, ScriptedEngine, made_up_length, made_up_user

SMALL = AlignmentSettings(held_out=4, candidates=1, retry_s=0, profile=False)
SETTINGS = Settings(alignment=SMALL)


class Crowded(ScriptedEngine):
    """Counts how many calls are in flight together."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    async def chat(self, request: ChatRequest) -> ChatResult:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return await super().chat(request)

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        self.now += len(requests)
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= len(requests)
        return await super().likelihoods(requests)


async def filled(users: int) -> tuple[LocalMemory, list[str]]:
    embedder = ScriptedEmbedder(16)
    memory = LocalMemory(embedder)
    return memory, await fill(memory, SMALL, users)


def measured(users: int = 4, seconds: float = 2.0, cached: int = 250) -> Measured:
    usage = Usage(calls=10, prompt_tokens=1000, completion_tokens=200, cached_tokens=cached)
    results = [AlignmentResult(user="a", outcome=Outcome.REJECTED)] * users
    stages, calls, between = {"gate": usage}, {"gate": 0.75 * seconds}, {"memory": 0.25 * seconds}
    return Measured(users, seconds, usage, results, [], stages, calls, between)


@pytest.mark.slow
async def test_the_same_users_can_be_aligned_batched_and_one_call_at_a_time() -> None:
    memory, names = await filled(3)
    batched, sequential = Crowded(), Crowded()
    one = await align_all(batched, memory, ScriptedEmbedder(16), SETTINGS, names)
    two = await align_all(sequential, memory, ScriptedEmbedder(16), SETTINGS, names, sequential=True)
    assert batched.most > 1
    assert sequential.most == 1
    assert one.usage == two.usage  # the same work
    assert [r.user for r in one.results] == names
    assert {r.outcome for r in one.results} <= {Outcome.ACCEPTED, Outcome.REJECTED}
    assert len(one.requests) == one.usage.calls
    assert sorted(map(repr, one.requests)) == sorted(map(repr, two.requests))
    assert await memory.personas(names[0]) == ()


@pytest.mark.slow
async def test_words_are_judged_by_likelihoods_or_by_simulated_answers() -> None:
    settings = Settings(alignment=SMALL.model_copy(update={"held_out": 6}))  # four free texts: two select, two judge
    memory = LocalMemory(ScriptedEmbedder(16))
    names = await fill(memory, settings.alignment, 3)
    told = await align_all(ScriptedEngine(), memory, ScriptedEmbedder(16), settings, names)
    simulated = await align_all(ScriptedEngine(), memory, ScriptedEmbedder(16), settings, names, simulated=True)
    assert told.likelihoods
    assert not simulated.likelihoods
    assert {type(r) for r in told.requests} == {ChatRequest, LikelihoodRequest}
    assert {type(r) for r in simulated.requests} == {ChatRequest}
    assert any(r.text_items for r in told.results)
    assert {"first replays", "selecting words", "judging words"} <= set(told.stages)
    assert not {"edits", "selecting words", "judging words"} & set(simulated.stages)
    for run in (told, simulated):
        assert OTHER not in run.stages
        assert sum(run.stages.values(), Usage()) == run.usage
        assert sum(run.calls_s.values()) + sum(run.between_s.values()) == pytest.approx(run.seconds, rel=0.05)


async def test_a_probe_chats_until_the_work_beside_it_is_done() -> None:
    memory, names = await filled(2)
    agent = Agent(ScriptedEngine(), MemoryView(memory), SETTINGS.agent)
    assert len(await probe(agent, names, 5)) == 5
    work = asyncio.create_task(asyncio.sleep(0.05))
    assert len(await probe(agent, names, 0, until=work)) >= 1
    assert work.done()
    assert len(await memory.latest(names[0], 100)) == made_up_length(SMALL)  # a probe is not remembered


@pytest.mark.cluster
async def test_scripted_users_go_through_the_real_job() -> None:
    from serve.bench.scripted_job import scripted

    cell = await scripted(24, SMALL)
    assert set(cell) == {"ms_per_user", "start_s", "rss_mb", "failed"}
    assert cell["ms_per_user"] > 0
    assert cell["rss_mb"] > 1
    assert cell["failed"] == 0


def test_the_report_has_the_keys_of_the_bench() -> None:
    result = report(measured(), measured(1, 2.0), 1200.0, [10.0, 20.0], [30.0])
    assert json.loads(json.dumps(result)) == result
    assert result["users_per_min"] == {"batched": 120.0, "sequential": 30.0}
    assert result["speedup"] == 4.0
    assert result["tokens_per_s"] == {"batched": 600.0, "offline": 1200.0}
    assert result["engine_share"] == 0.5
    assert result["cache_hit_rate"] == 0.25
    assert result["chat_p95_ms"] == {"idle": 19.5, "aligning": 30.0}
    assert result["chat_p95_ratio"] == 1.54
    assert (result["seconds_per_user"], result["calls_per_user"], result["tokens_per_user"]) == (0.5, 2.5, 300)
    assert result["prefilled_per_user"] == 188
    assert result["stages"] == {
        "gate": {
            "seconds": 0.375,
            "calls": 2.5,
            "tokens": 300,
            "prefilled": 188,
            "written": 50,
            "sequential_seconds": 1.5,
        }
    }
    assert result["between_calls"] == {"share": 0.25, "seconds": {"memory": 0.125}}
    assert result["simulated"] is None
    unknown = report(measured(), measured(), None, [1.0], [1.0])
    assert unknown["engine_share"] is None
    assert unknown["tokens_per_s"]["offline"] is None
    beside = report(measured(), measured(), None, [1.0], [1.0], measured(4, 8.0))["simulated"]
    assert beside["users_per_min"] == {"batched": 30.0}
    assert (beside["seconds_per_user"], beside["calls_per_user"], beside["cache_hit_rate"]) == (2.0, 2.5, 0.25)
    assert beside.keys() - result.keys() == set()


async def test_the_bench_measures_the_system_then_scripted_users(monkeypatch: pytest.MonkeyPatch) -> None:
    async def measure(settings: Settings, users: int, **more: Any) -> dict[str, Any]:
        return {"users": users, **more}

    async def few(users: int, settings: AlignmentSettings) -> dict[str, float]:
        return {"ms_per_user": 1.234, "rss_mb": 50.0, "failed": 0.0}

    monkeypatch.setattr(system_bench, "measure", measure)
    monkeypatch.setattr(system_bench, "scripted", few)
    said: list[str] = []
    result = await system_bench.run(
        SETTINGS, 5, scripted_users=(10, 20), peers=False, progress=lambda what, done, total: said.append(what)
    )
    assert result["users"] == 5
    assert result["peers"] is False
    assert result["scripted_ms_per_user"] == {"10": 1.23, "20": 1.23}
    assert result["scripted_rss_mb"] == {"10": 50.0, "20": 50.0}
    assert said == ["scripted users", "scripted users"]


@pytest.mark.slow
async def test_the_system_is_measured_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class System:
        """The parts of a running system, scripted."""

        def __init__(self, settings: Settings) -> None:
            self.settings = settings
            self.embedder = ScriptedEmbedder(16)
            self.llm = Crowded()
            self.memory = LocalMemory(self.embedder)
            self.closed = False
            started.append(self)

        @classmethod
        async def start(cls, settings: Settings) -> System:
            return cls(settings)

        async def close(self) -> None:
            self.closed = True

    async def replay(model: str, engine: Any, environment: Any, requests: Any) -> dict[str, float]:
        assert started[0].closed  # the bare engine has the machine to itself
        replayed.extend(requests)
        return {"tokens_per_s": 1e6, "seconds": 1.0}

    async def model(settings: Settings) -> str:
        return "model"

    started: list[System] = []
    replayed: list[ChatRequest | LikelihoodRequest] = []
    monkeypatch.setattr(system_bench, "System", System)
    monkeypatch.setattr(system_bench, "replay", replay)
    monkeypatch.setattr(system_bench, "prepare_llm", model)
    monkeypatch.setattr(system_bench, "_engine_of", lambda settings, model: ({}, {}))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    result = await system_bench.measure(SETTINGS, 2, peers=False, progress=lambda what, done, total: None)
    assert started[0].settings.home != SETTINGS.home  # nobody's data is touched
    assert len(replayed) == pytest.approx(result["calls_per_user"] * 2, abs=0.5)
    assert {type(r) for r in replayed} == {ChatRequest, LikelihoodRequest}
    assert result["words_judged_by"] == "likelihoods"
    assert result["simulated"]["calls_per_user"] > 0
    assert result["users"] == 2
    assert result["sequential_users"] == 1
    assert result["engine_share"] > 0
    assert result["offline_error"] is None
    assert result["failed"] == 0
    assert result["chats"]["aligning"] >= 1


def test_made_up_users_are_always_the_same_and_differ() -> None:
    assert made_up_user(3, 9) == made_up_user(3, 9)
    assert made_up_user(3, 9) != made_up_user(4, 9)
    history = made_up_user(7, 40)
    assert len({i.id for i in history}) == 40
    closed = [i for i in history if i.choices]
    assert len(closed) == 30
    assert all(i.truth in (i.choices or ()) for i in closed)
    assert all(i.truth for i in history)
    assert [i.time for i in history] == sorted(i.time for i in history)


@pytest.mark.parametrize("settings", [AlignmentSettings(), SMALL, AlignmentSettings(batch=1, held_out=1)])
def test_made_up_users_give_every_part_of_alignment_something_to_do(settings: AlignmentSettings) -> None:
    history = made_up_user(5, made_up_length(settings))
    assert sum(i.kind is Kind.CHOICE for i in history) >= window(settings.batch, settings.held_out)
    assert len(judged_on(history)) >= 2
    assert {i.kind for i in judged_on(history)} == {Kind.TEXT}


async def test_the_scripted_engine_is_deterministic() -> None:
    request = ChatRequest(messages=(Message(role="user", content="hi"),), choices=("a", "b"), top_logprobs=5)
    assert await ScriptedEngine().chat(request) == await ScriptedEngine().chat(request)
    other = request.model_copy(update={"messages": (Message(role="user", content="ho"),)})
    assert (await ScriptedEngine().chat(request)).first_logprobs != (await ScriptedEngine().chat(other)).first_logprobs


async def test_peers_that_are_not_installed_are_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = await peers.run_peers(ScriptedEngine(), [made_up_user(1, 6)], ["likes tea"])
    assert found == {"textgrad": None, "gepa": None}


@pytest.mark.parametrize("name", peers.PEERS)
async def test_peers_share_our_model(name: str) -> None:
    pytest.importorskip(name, reason="the bench extra is not installed")
    found = (await peers.run_peers(ScriptedEngine(), [made_up_user(1, 12)], ["likes tea"]))[name]
    assert found is not None
    assert found["calls_per_user"] > 3
