"""The real application on a real local Ray, with a scripted engine under the real LLMServer."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from personaagent.errors import ContextLengthExceeded, InvalidInput, LLMError, RequestRefused, UnavailableError
from personaagent.protocols import likely
from personaagent.settings import Settings, load_settings
from personaagent.types import ChatRequest, ChatResult, Likelihood, LikelihoodRequest, Message
from serve.calls import EngineStats
from serve.runtime import ray_cluster as cluster
from serve.runtime.system import System
from tests.support.api_world import USERS, assert_error, segment
from tests.support.scripted_words import END, script, unigram

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).resolve().parents[2]
ENGINE = {"RAYLLM_VLLM_ENGINE_CLS": "tests.support.scripted_engine.ScriptedEngine"}
SLOTS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "scripted").mkdir()
    (folder / "scripted" / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    return folder


def tree(folder: Path, home: str = "home", **serve: Any) -> Settings:
    llm = {"model": str(folder / "scripted"), "max_num_seqs": 4, "max_model_len": 1024, "timeout_s": 120}
    return load_settings(home=folder / home, llm=llm, serve={"port": 0, **serve})


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Path]:
    """The engine's environment; the path is of the file that holds batch calls while it exists."""
    hold = folder / "hold"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENGINE, "SCRIPTED_HOLD": str(hold)}.items():
            patch.setenv(name, value)
        yield hold


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(folder: Path, engine: Path) -> AsyncIterator[System]:
    running = await System.start(tree(folder), http=True)
    yield running
    await running.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    assert system.url is not None
    headers = {"X-PersonaAgent": "1"}
    async with httpx.AsyncClient(base_url=system.url, timeout=60, headers=headers) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(system: System) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{system.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def listening(pid: int) -> Iterator[tuple[IPv6Address | IPv4Address, str]]:
    """Where a process accepts TCP connections, and its name."""
    process = Path("/proc") / str(pid)
    try:
        sockets = {os.readlink(fd) for fd in (process / "fd").iterdir()}
        name = (process / "comm").read_text().strip()
        tables = [(process / "net" / table).read_text().splitlines()[1:] for table in ("tcp", "tcp6")]
    except OSError:  # it ended meanwhile
        return
    for line in itertools.chain(*tables):
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            words = fields[1].split(":")[0]
            raw = b"".join(bytes.fromhex(words[n : n + 8])[::-1] for n in range(0, len(words), 8))
            found = ip_address(raw)
            yield getattr(found, "ipv4_mapped", None) or found, name


def say(text: str, **more: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **more)


async def test_unmodified_openai_client(client: Any) -> None:
    odd = [{"role": "user", "content": "a\u2028b \u0085c\u2029d"}]  # where some readers of streams end a line
    broken = await client.chat.completions.create(model="scripted", user="anna", messages=odd, stream=True)
    assert "".join([c.choices[0].delta.content or "" async for c in broken]) == f"echo: {odd[0]['content']}"
    ask = {"model": "scripted", "user": "anna", "messages": [{"role": "user", "content": "hello there"}]}
    answer = await client.chat.completions.create(**ask)
    assert answer.choices[0].message.content == "echo: hello there"
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    stream = await client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "echo: hello there"
    assert chunks[-1].usage is not None
    choice = {"structured_outputs": {"choice": ["tea", "coffee"]}}
    chosen = await client.chat.completions.create(
        model="scripted", user="anna", messages=[{"role": "user", "content": "coffee?"}], extra_body=choice
    )
    assert chosen.choices[0].message.content == "coffee"
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    called = await client.chat.completions.create(**ask, tools=[tool], tool_choice="required")
    assert called.choices[0].finish_reason == "tool_calls"
    (call,) = called.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", "{}")
    stream = await client.chat.completions.create(**ask, tools=[tool], tool_choice="required", stream=True)
    parts = [p for c in [c async for c in stream] for p in c.choices[0].delta.tool_calls or []]
    assert [p.function.name for p in parts] == ["weather"]
    assert [m.id async for m in client.models.list()] == ["scripted"]


async def test_errors_reach_the_openai_client(client: Any) -> None:
    def ask(text: str, **more: Any) -> Any:
        body: dict[str, Any] = {"model": "scripted", "user": "anna", **more}
        return client.chat.completions.create(**body, messages=[{"role": "user", "content": text}])

    with pytest.raises(openai.BadRequestError) as long:
        await ask("word " * 2000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as long_stream:
        await ask("word " * 2000, stream=True)
    assert long_stream.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="the script refuses"):
        await ask("refuse this")
    with pytest.raises(openai.NotFoundError):
        await ask("hi", model="gpt-9")
    with pytest.raises(openai.UnprocessableEntityError):
        await ask("hi", user="x" * 300)
    with pytest.raises(openai.APIStatusError) as broken:
        await ask("explode now")
    assert broken.value.status_code == 502


@pytest.mark.parametrize("user", USERS)
async def test_odd_user_ids_through_the_real_proxy(http: httpx.AsyncClient, user: str) -> None:
    path = f"/v1/users/{segment(user)}"
    await http.delete(path)  # the tests above spoke as one of them
    added = await http.post(f"{path}/interactions", json={"id": "i", "query": f"of {user}", "truth": "t"})
    assert added.json()["added"] == 1
    found = (await http.get(f"{path}/memory", params={"query": "of"})).json()["episodes"]
    assert [(e["interaction"]["user"], e["interaction"]["query"]) for e in found] == [(user, f"of {user}")]
    assert (await http.delete(path)).json()["remaining"] == 0
    assert_error(await http.get(f"{path}/memory"), 404, "not_found")


async def test_ids_that_cannot_be_are_refused_by_the_real_proxy(http: httpx.AsyncClient) -> None:
    assert_error(await http.get(f"/v1/users/{'x' * 300}/persona"), 422, "invalid_input")
    assert_error(await http.get("/v1/users/%ED%A0%80/persona"), 422, "invalid_input")
    assert_error(await http.get("/nothing"), 404, "not_found")
    assert (await http.get("/readyz")).json()["status"] == "ready"


async def test_a_dead_engine_is_not_taken_for_a_refused_request(system: System) -> None:
    with pytest.raises(UnavailableError, match="being restarted"):
        await system.llm.chat(say("dead now"))


async def test_handle_translates_options_and_errors(system: System) -> None:
    scored = await system.llm.chat(say("tea", choices=("coffee", "tea"), top_logprobs=4, max_tokens=1))
    assert scored.text == "tea"
    assert max(scored.first_logprobs, key=lambda t: t[1])[0] == "tea"
    assert scored.usage.calls == 1
    assert scored.usage.cached_tokens > 0
    *pieces, whole = [piece async for piece in system.llm.stream(say("one two three"))]
    assert isinstance(whole, ChatResult)
    assert "".join(str(p) for p in pieces) == whole.text == "echo: one two three"
    assert whole.usage.completion_tokens == 4
    with pytest.raises(ContextLengthExceeded):
        await system.llm.chat(say("word " * 2000))
    with pytest.raises(ContextLengthExceeded):
        await anext(aiter(system.llm.stream(say("word " * 2000))))
    with pytest.raises(RequestRefused):
        await system.llm.chat(say("hi", extra={"top_k": "many"}))
    assert system.llm.context_length == 1024


def tell(text: str, answer: str, persona: str = "", priority: int = 0) -> LikelihoodRequest:
    messages = [Message(role="user", content=text)]
    if persona:
        messages.insert(0, Message(role="system", content=persona))
    return LikelihoodRequest(messages=tuple(messages), answer=answer, priority=priority)


def by_hand(request: LikelihoodRequest) -> float:
    before = (script([m.model_dump() for m in request.messages]) + "assistant:").split()
    words = [*before, *request.answer.split(), END]
    return sum(unigram(words[:n], words[n]) for n in range(len(before), len(words)))


async def likelihoods(system: System, requests: list[LikelihoodRequest]) -> tuple[Likelihood, ...]:
    llm = likely(system.llm)
    assert llm is not None
    return await llm.likelihoods(requests)


async def test_likelihoods_of_many_answers_keep_their_order(system: System) -> None:
    personas = ("", "likes mint tea and " * 12, "likes coffee and " * 12)
    requests = [tell(f"drink {i % 7}", f"mint tea {i}", personas[i % 3], i % 2) for i in range(150)]
    found = await likelihoods(system, requests)
    assert [f.logprob for f in found] == pytest.approx([by_hand(r) for r in requests])
    assert [f.tokens for f in found] == [4] * 150
    assert {f.usage.calls for f in found} == {1}
    assert found[1].logprob > found[2].logprob
    assert found[148].usage.cached_tokens > 0
    assert await likelihoods(system, []) == ()


async def test_an_answer_that_is_in_the_prefix_cache_is_read_without_it(system: System) -> None:
    request = tell("again", "a long answer of many words and so on " * 5, "somebody " * 40)
    first, second = [(await likelihoods(system, [request]))[0] for _ in range(2)]
    assert first.logprob == second.logprob == pytest.approx(by_hand(request))
    assert second.usage.cached_tokens == 0
    other = request.model_copy(update={"answer": "no"})
    (kept,) = await likelihoods(system, [other])
    assert kept.usage.cached_tokens > 0


async def test_likelihoods_fail_as_chats_do(system: System) -> None:
    with pytest.raises(ContextLengthExceeded):
        await likelihoods(system, [tell("hi", "fine"), tell("hi", "word " * 2000)])
    with pytest.raises(ContextLengthExceeded):
        await likelihoods(system, [tell("word " * 2000, "fine")])
    with pytest.raises(InvalidInput, match="empty answer"):
        await likelihoods(system, [tell("hi", "fine"), tell("hi", "")])
    with pytest.raises(UnavailableError, match="being restarted"):
        await likelihoods(system, [tell("hi", "fine"), tell("dead now", "fine")])
    with pytest.raises(LLMError):
        await likelihoods(system, [tell("explode now", "fine")])
    (longest,) = await likelihoods(system, [tell("hi", "word " * (1024 - 6))])  # user: hi <end> assistant: ... <end>
    assert longest.usage.prompt_tokens == 1023
    with pytest.raises(ContextLengthExceeded):
        await likelihoods(system, [tell("hi", "word " * (1024 - 5))])


async def test_embeddings_keep_their_order_over_many_calls(system: System) -> None:
    texts = [f"text number {i % 700}" for i in range(1000)]
    whole = await system.embedder.embed(texts)
    assert whole.shape == (1000, 384)
    one = await system.embedder.embed([texts[699]])
    assert abs(float(whole[699] @ one[0]) - 1) < 1e-3
    assert (await system.embedder.embed([])).shape == (0, 384)


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Batch calls wait in the engine meanwhile."""
    file.touch()
    try:
        yield
    finally:
        file.unlink()


async def until(system: System, reached: Callable[[EngineStats], bool]) -> None:
    while not reached(await system.llm.stats()):  # type: ignore[attr-defined]  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_chat_passes_while_batch_work_fills_its_slots(system: System, engine: Path) -> None:
    with held(engine):
        batch = [asyncio.create_task(system.llm.chat(say(f"batch {i}", priority=10))) for i in range(4 * SLOTS)]
        await until(system, lambda s: s.batch_running == SLOTS and s.batch_waiting == 3 * SLOTS)
        assert (await system.llm.chat(say("me first"))).text == "echo: me first"
        assert not any(task.done() for task in batch)
    answers = await asyncio.gather(*batch)
    assert [a.text for a in answers] == [f"echo: batch {i}" for i in range(4 * SLOTS)]
    stats = await system.llm.stats()  # type: ignore[attr-defined]
    assert stats.batch_peak == SLOTS
    assert (stats.batch_running, stats.batch_waiting, stats.chat_running) == (0, 0, 0)


async def test_chat_passes_while_likelihoods_fill_the_slots(system: System, engine: Path) -> None:
    requests = [tell(f"question {i}", "yes", priority=10) for i in range(40)]
    with held(engine):
        work = asyncio.create_task(likelihoods(system, requests))
        await until(system, lambda s: s.batch_running == SLOTS)
        assert (await system.llm.chat(say("me first"))).text == "echo: me first"
        assert not work.done()
    assert [f.logprob for f in await work] == pytest.approx([by_hand(r) for r in requests])
    with held(engine):
        work = asyncio.create_task(likelihoods(system, requests))
        await until(system, lambda s: s.batch_running == SLOTS)
        work.cancel()
        await until(system, lambda s: s.batch_running == 0 and s.batch_waiting == 0)
    stats = await system.llm.stats()  # type: ignore[attr-defined]
    assert stats.batch_peak == SLOTS


async def test_a_cancelled_batch_call_gives_its_slot_back(system: System, engine: Path) -> None:
    with held(engine):
        calls = [asyncio.create_task(system.llm.chat(say("held", priority=10))) for _ in range(2 * SLOTS)]
        await until(system, lambda s: s.batch_running == SLOTS)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(system, lambda s: s.batch_running == 0 and s.batch_waiting == 0)
    assert (await system.llm.chat(say("next", priority=10))).text == "echo: next"


async def test_more_chats_than_the_server_takes_are_refused_and_service_goes_on(
    system: System, http: httpx.AsyncClient
) -> None:
    """The scripted engine answers "slow" after a while, so that the chats before it fill the router."""
    limit = (await http.get("/readyz")).json()["load"]["chats"]["limit"]

    def chat(text: str) -> Any:
        body = {"model": "scripted", "user": "rush", "messages": [{"role": "user", "content": text}]}
        return http.post("/v1/chat/completions", json=body)

    inside = [asyncio.create_task(chat(f"slow {n}")) for n in range(limit)]
    while (await http.get("/readyz")).json()["load"]["chats"]["now"] < limit:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    refused = await chat("one too many")
    assert_error(refused, 429, "rate_limit_exceeded")
    assert int(refused.headers["Retry-After"]) >= 1
    assert (await http.get("/v1/models")).status_code == 200
    for task in inside:
        task.cancel()
    await until(system, lambda s: s.chat_running == 0)
    # Router and proxy learn a moment later than the engine that those clients have gone.
    while (again := await chat("hello again")).status_code == 429:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    assert again.json()["choices"][0]["message"]["content"] == "echo: hello again"


async def test_a_client_that_goes_is_noticed_whatever_its_header_says(system: System, http: httpx.AsyncClient) -> None:
    body = {"model": "scripted", "user": "rush", "messages": [{"role": "user", "content": "slow"}]}
    headers = {"x-request-disconnect-disabled": "?1"}
    chat = asyncio.create_task(http.post("/v1/chat/completions", json=body, headers=headers))
    await until(system, lambda s: s.chat_running == 1)
    chat.cancel()
    await until(system, lambda s: s.chat_running == 0)


async def test_nothing_that_it_starts_listens_to_the_network(system: System) -> None:
    assert system._mark is not None
    open_to_all = {
        (int(pid), address, name)
        for pid in cluster.marked(system._mark)
        for address, name in listening(pid)
        if not address.is_loopback
    }
    assert open_to_all == set()
    assert any(list(listening(pid)) for pid in cluster.marked(system._mark))


async def test_another_process_joins_and_leaves_the_server_running(
    system: System, folder: Path, http: httpx.AsyncClient
) -> None:
    code = """
import asyncio, sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from personaagent.agent.agent import Turn
from personaagent.settings import load_settings
from personaagent.types import Message
from serve.runtime.system import System

async def main():
    system = await System.start(load_settings(home=Path(sys.argv[1]), memory={"shards": 7}), llm=sys.argv[2] == "llm")
    reply = await system.agent.respond(Turn(user="joined", messages=(Message(role="user", content="hi"),)))
    print(reply.text, system.url, system.settings.memory.shards)
    await system.close()

asyncio.run(main())
"""
    # What Ray puts into our environment must not be what lets the others in.
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY")}
    for mode in ("llm", "memory only"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(folder / "home"), mode, cwd=ROOT, env=env, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        # The shards are the server's: another number would look for users where they are not.
        assert out.decode().split() == ["echo:", "hi", str(system.url), "2"]
    assert (await http.get("/v1/users/joined")).json()["interactions"] == 2


async def test_a_home_has_one_server(system: System, folder: Path) -> None:
    with pytest.raises(InvalidInput, match="runs on"):
        await System.start(tree(folder), http=True)
    assert (await system.llm.chat(say("still here"))).text == "echo: still here"


async def test_a_call_outlives_the_engine_process(system: System, http: httpx.AsyncClient) -> None:
    pid = (await system.llm.stats()).pid  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGKILL)
    assert (await system.llm.chat(say("after the crash"))).text == "echo: after the crash"
    assert (await system.llm.stats()).pid != pid  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("stage", "number"), [("starting Ray", signal.SIGINT), ("loading", signal.SIGTERM), ("loading", signal.SIGINT)]
)
async def test_a_start_that_is_broken_off_leaves_no_process(folder: Path, stage: str, number: int) -> None:
    mark = uuid.uuid4().hex
    code = """
import asyncio, signal, sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from personaagent.settings import load_settings
from serve.runtime.system import System

async def main():
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    settings = load_settings(home=Path(sys.argv[1]), llm={"model": sys.argv[2]}, serve={"port": 0})
    system = await System.start(settings, http=True, on_stage=lambda stage: print(stage, flush=True))
    await system.close()

asyncio.run(main())
"""
    words = folder / f"stderr-{mark}"
    with words.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            str(folder / f"home-{mark}"),
            str(folder / "scripted"),
            cwd=ROOT,
            env={**os.environ, **ENGINE, "PERSONAAGENT_TEST_MARK": mark},
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if line.decode().startswith(stage):
            break
    await asyncio.sleep(1.0)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does it
    else:
        process.send_signal(number)
    await process.communicate()
    left = marked(mark)
    assert process.returncode not in (0, None)
    assert left == [], f"exit code {process.returncode}: {words.read_text(errors='replace')[-2000:]}"


async def test_a_call_that_comes_after_the_end_starts_no_other_ray(folder: Path) -> None:
    """As threads behind a handle make it, when a start is broken off."""
    mark = uuid.uuid4().hex
    code = """
import asyncio, sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
import ray
from ray.exceptions import RaySystemError
from personaagent.settings import load_settings
from serve.runtime.system import System

async def main():
    system = await System.start(load_settings(home=Path(sys.argv[1])), llm=False)
    await system.close()
    try:
        ray.get_actor("late")
    except RaySystemError:
        print("refused")

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        str(folder / f"home-{mark}"),
        cwd=ROOT,
        env={**os.environ, "PERSONAAGENT_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    said, _ = await process.communicate()
    assert said.decode().split() == ["refused"]
    assert marked(mark) == []


def marked(mark: str) -> list[str]:
    """Command lines of living processes that inherited a mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100])
        except OSError:
            continue
    return found
