"""`personaagent bench memory`: recall, appends, activation, import and restart through the real shard actors.

In the same run the same rows and questions go to plain Milvus Lite, as one would naively write it, and to mem0 where it is
installed. Embeddings are made up from the text (`MadeUpVectors`), so that memory is timed and not a model; only
`import_embedded_per_s` uses the real embedder.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actors.memory.client import ShardedMemory
from actors.memory.startup import start_memory
from personaagent.protocols import Embedder, Matrix
from personaagent.settings import Settings
from personaagent.types import Decision, Interaction, RecallQuery

__all__ = ["MadeUpVectors", "episodes", "percentiles", "run"]

DIM = 384
START = datetime(2026, 1, 1, tzinfo=UTC)
SUBJECTS = ("tea", "train", "novel", "dinner", "gift", "route", "film", "song", "walk", "mail", "shirt", "paint")
SHADES = ("plain", "bright", "quiet", "long")
SIZES = ("small", "medium", "large")
Progress = Callable[[str, int, int], None]


class MadeUpVectors:
    """Stands where the embedder stands, at no cost: unit vectors drawn from the text's digest. Load, not meaning."""

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """One row per text."""
        return np.stack([self.one(t) for t in texts]) if texts else np.zeros((0, DIM), np.float32)

    @staticmethod
    def one(text: str) -> Matrix:
        """The vector of one text, (DIM,)."""
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        row = np.random.Generator(np.random.SFC64(seed)).standard_normal(DIM, dtype=np.float32)
        return np.asarray(row / np.linalg.norm(row), dtype=np.float32)


def episodes(user: str, count: int, first: int = 0) -> list[Interaction]:
    """Interactions of one user; `first` numbers them on."""
    made = []
    for n in range(first, first + count):
        subject = SUBJECTS[n % len(SUBJECTS)]
        made.append(
            Interaction(
                id=f"{user}-{n}",
                user=user,
                time=START + timedelta(minutes=n),
                query=f"Which {subject} should {user} take on day {n // 7}, number {n}?",  # no two alike: none is cached
                truth=f"the {SHADES[n % 4]} {subject}",
                metadata={"source": "bench"},
            )
        )
    return made


def choices(user: str, count: int, first: int = 0) -> list[Interaction]:
    """Closed choices of one user: four different offers of three attributes each."""
    made = []
    for n in range(first, first + count):
        subject = SUBJECTS[n % len(SUBJECTS)]
        options = tuple(
            f"{SHADES[(n + k) % 4]} {subject}, {SIZES[(n // 4 + k) % 3]}, number {4 * n + k}" for k in range(4)
        )
        made.append(
            Interaction(
                id=f"{user}-{n}",
                user=user,
                time=START + timedelta(minutes=n),
                query=f"Which {subject} should {user} take on day {n // 7}, number {n}?",
                choices=options,
                truth=options[n % 4],
                metadata={"source": "bench"},
            )
        )
    return made


def _asked(user: str, n: int) -> RecallQuery:
    new = choices(user, 1, first=1_000_000 + n)[0]
    return RecallQuery(text=new.query, k=3, choices=new.choices, decisions=(Decision(),), with_truth=True)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50": round(statistics.median(ordered) * 1e3, 3),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3, 3),
    }


async def _timed(calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[float]:
    took = []
    for call in calls:
        started = time.perf_counter()
        await call()
        took.append(time.perf_counter() - started)
    return took


async def run(
    settings: Settings,
    *,
    sizes: Sequence[int] = (100, 1_000, 10_000),
    shard_episodes: int = 100_000,
    calls: int = 200,
    peers: bool = True,
    embedder: Embedder | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure; Ray must be running. Keys as in the documentation of `personaagent bench`.

    Args:
        settings: of memory; the store goes to a temporary folder.
        sizes: episodes per user at which recall and append are timed.
        shard_episodes: in the one shard whose activation and restart are timed, in users of 100; as many are imported
            into a store of `settings.memory.shards` shards first.
        calls: timed calls per number.
        peers: also run plain Milvus Lite and, if installed, mem0.
        embedder: the real one, for `import_embedded_per_s`; None leaves that out.
        progress: called with a stage's name and how far it is.
    """
    told = progress or (lambda stage, done, total: None)
    with tempfile.TemporaryDirectory(prefix="personaagent-bench-") as folder:
        many = settings.memory.shards
        told(f"bulk import into {many} shards", 0, shard_episodes)
        memory = await start_memory(_store(settings, Path(folder) / "many", many), MadeUpVectors())
        try:
            import_per_s = await _bulk(memory, shard_episodes, partial(told, f"bulk import into {many} shards"))
        finally:
            await memory.shutdown()
        home = _store(settings, Path(folder) / "one", 1)
        memory = await start_memory(home, MadeUpVectors())
        try:
            result = await _ours(memory, sizes, shard_episodes, calls, told)
            result |= {"import_per_s": import_per_s, "import_shards": many}
            result["bytes_per_episode"]["disk"] = round(_size(home.store_dir) / result.pop("episodes"), 1)
            if embedder is not None:
                told("import with embedding", 0, 1)
                result["import_embedded_per_s"] = await _import(memory, embedder, 2_000)
        finally:
            await memory.shutdown()
        if peers:
            told("plain Milvus Lite", 0, 1)
            largest = max(sizes)
            plain = await asyncio.to_thread(_plain_milvus, Path(folder) / "plain.db", largest, min(calls, 20))
            result["milvus_lite_recall_ms"] = plain
            ours = result["recall_ms"][str(largest)]["p50"]
            result["speedup_vs_milvus_lite"] = round(plain["unflushed"]["p50"] / ours, 1)
            result["speedup_vs_milvus_lite_flushed"] = round(plain["flushed"]["p50"] / ours, 1)
            told("mem0", 0, 1)
            peer = await _mem0(folder, max(s for s in sizes if s <= 1_000), min(calls, 50))
            result["mem0_recall_ms"] = peer
            same = result["recall_ms"][str(max(s for s in sizes if s <= 1_000))]["p50"]
            result["speedup_vs_mem0"] = None if peer is None else round(peer["p50"] / same, 1)
    return result


async def _ours(
    memory: ShardedMemory, sizes: Sequence[int], shard_episodes: int, calls: int, told: Progress
) -> dict[str, Any]:
    recall: dict[str, dict[str, float]] = {}
    append: dict[str, dict[str, float]] = {}
    for size in sizes:
        told(f"recall and append at {size} episodes", 0, 1)
        user = f"size-{size}"
        await memory.append_many(episodes(user, size))
        questions = [f"Which {SUBJECTS[n % len(SUBJECTS)]} today, question {n}?" for n in range(calls)]
        await memory.recall(user, RecallQuery(text="warm up"))
        took = await _timed([partial(memory.recall, user, RecallQuery(text=q)) for q in questions])
        recall[str(size)] = percentiles(took)
        new = episodes(user, calls, first=size)
        append[str(size)] = percentiles(await _timed([partial(memory.append, user, [i]) for i in new]))
    chosen: dict[str, dict[str, float]] = {}
    learned: dict[str, dict[str, float]] = {}
    for size in sizes:
        told(f"choices at {size} episodes", 0, 1)
        user = f"choices-{size}"
        await memory.append_many(choices(user, size))
        await memory.recall(user, _asked(user, calls))
        chosen[str(size)] = percentiles(
            await _timed([partial(memory.recall, user, _asked(user, n)) for n in range(calls)])
        )
        took = []
        for n, answered in enumerate(choices(user, calls // 4, first=size)):
            await memory.append(user, [answered])
            took += await _timed([partial(memory.recall, user, _asked(user, n))])
        learned[str(size)] = percentiles(took)
    users = _users(shard_episodes)
    one_shard_per_s = await _bulk(memory, shard_episodes, partial(told, "bulk import into one shard"))
    told("restart", 0, 1)
    stats = (await memory.stats())[0]
    restart_s = await memory.restart_shard(0)
    told("cold activation", 0, 1)
    step = max(1, len(users) // min(calls, len(users)))
    cold = [partial(memory.recall, u, RecallQuery(text="anything cold")) for u in users[::step]]
    activation = await _timed(cold)
    warm = (await memory.stats())[0]
    active = warm["active_users"] * 100
    return {
        "recall_ms": recall,
        "recall_choice_ms": chosen,  # with evidence for four options
        "recall_choice_after_append_ms": learned,  # the first one that knows a new answer
        "append_ms": append,
        "activation_ms": percentiles(activation),
        "import_per_s_one_shard": one_shard_per_s,
        "import_embedded_per_s": None,
        "restart_s": round(restart_s, 2),
        "bytes_per_episode": {"ram": round(warm["ram_bytes"] / max(1, active)), "disk": 0.0},
        "episodes": stats["episodes"],
    }


def _store(settings: Settings, home: Path, shards: int) -> Settings:
    """An empty Lite store of its own."""
    changed = {"shards": shards, "tenant": f"bench-{shards}", "uri": None, "max_ram_mb": 2_048}
    return settings.model_copy(update={"home": home, "memory": settings.memory.model_copy(update=changed)})


def _users(count: int) -> list[str]:
    """Users of 100 episodes each, for so many episodes."""
    return [f"user-{n}" for n in range(count // 100)]


async def _bulk(memory: ShardedMemory, count: int, told: Callable[[int, int], None]) -> int:
    """Import episodes of many users; interactions per second, without the time to make them up."""
    users, seconds = _users(count), 0.0
    for at in range(0, len(users), 50):
        chunk = [i for user in users[at : at + 50] for i in episodes(user, 100)]
        started = time.perf_counter()
        await memory.append_many(chunk)
        seconds += time.perf_counter() - started
        told(at * 100 + len(chunk), count)
    return round(count / seconds)


async def _import(memory: ShardedMemory, embedder: Embedder, count: int) -> int:
    """Interactions per second with the real embedder in front of the store."""
    real = memory.with_embedder(embedder)
    interactions = [i for n in range(count // 100) for i in episodes(f"embedded-{n}", 100)]
    started = time.perf_counter()
    for at in range(0, count, 500):
        await real.append_many(interactions[at : at + 500])
    return round(count / (time.perf_counter() - started))


def _plain_milvus(path: Path, size: int, calls: int) -> dict[str, dict[str, float]]:
    """One collection, one row per episode, `search` with a filter on the user: before and after a flush."""
    from pymilvus import MilvusClient

    client = MilvusClient(uri=str(path))
    try:
        client.create_collection("episodes", dimension=DIM, metric_type="COSINE", auto_id=False)
        n = 0
        for user in ("someone", "else"):
            for at in range(0, size, 1_000):
                chunk = episodes(user, min(1_000, size - at), first=at)
                client.insert(
                    "episodes",
                    [
                        {
                            "id": (n := n + 1),
                            "vector": MadeUpVectors.one(i.query).tolist(),
                            "user_id": user,
                            "text": i.query,
                        }
                        for i in chunk
                    ],
                )

        def ask(q: str) -> float:
            started = time.perf_counter()
            client.search(
                "episodes",
                data=[MadeUpVectors.one(q).tolist()],
                filter='user_id == "someone"',
                limit=4,
                output_fields=["text"],
            )
            return time.perf_counter() - started

        unflushed = percentiles([ask(f"question {k}") for k in range(calls)])
        client.flush("episodes")
        return {"unflushed": unflushed, "flushed": percentiles([ask(f"question {k}") for k in range(calls)])}
    finally:
        client.close()


async def _mem0(folder: str, size: int, calls: int) -> dict[str, float] | None:
    """Recall of mem0 (`infer=False`, Milvus Lite, the same vectors) in a process of its own; None if not installed.

    Its dependencies may differ from ours, so PERSONAAGENT_BENCH_PATH may name a folder with it.
    """
    environment = {**os.environ, "MEM0_TELEMETRY": "False", "MEM0_DIR": str(folder)}
    if extra := os.environ.get("PERSONAAGENT_BENCH_PATH"):
        environment["PYTHONPATH"] = os.pathsep.join([extra, environment.get("PYTHONPATH", "")])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "serve.bench.mem0_peer",
        str(folder),
        str(size),
        str(calls),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    out, err = await process.communicate()
    if process.returncode == 3:
        return None
    if process.returncode != 0:
        raise RuntimeError(f"the mem0 benchmark failed: {err.decode(errors='replace').strip().splitlines()[-1:]}")
    p50, p99 = out.decode().split()[-2:]
    return {"p50": float(p50), "p99": float(p99)}


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
