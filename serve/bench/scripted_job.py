"""The population job over made-up users and a scripted engine: what our own machinery costs. A process of its own."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from personaagent.settings import AgentSettings, AlignmentSettings
from serve.bench.child_process import isolated, serve_job
from serve.bench.workload import MadeUpMemory, ScriptedEmbedder, ScriptedEngine, made_up_length, made_up_name

__all__ = ["scripted"]

DIMENSIONS = 64  # of made-up vectors
PATIENCE_S = 15.0  # for Ray's processes to end in order


async def scripted(users: int, settings: AlignmentSettings) -> dict[str, float]:
    """Align that many made-up users with the real job (Ray Data, a pool of actors), in a Ray of its own.

    Returns:
        `ms_per_user` from the first finished batch to the last, so without the start of Ray and its actors; `start_s`,
        that start; `rss_mb`, the highest resident memory of the job's driver; `failed`, users.

    Raises:
        UnavailableError: the job failed.
    """
    return await isolated("serve.bench.scripted_job", {"users": users, "settings": settings.model_dump(mode="json")})


def _work(job: dict[str, Any]) -> dict[str, float]:
    from actors.jobs.aligner_actor import AlignerParts
    from actors.jobs.population import RunProgress, run_population
    from serve.runtime import ray_cluster as cluster

    settings = AlignmentSettings.model_validate(job["settings"])
    embedder = ScriptedEmbedder(DIMENSIONS)
    memory = MadeUpMemory(made_up_length(settings), embedder)
    parts = AlignerParts(ScriptedEngine(), embedder, memory, AgentSettings(), settings)
    names = [made_up_name(n) for n in range(job["users"])]
    marks: list[tuple[int, float]] = []

    def note(progress: RunProgress) -> None:
        marks.append((progress.done, time.perf_counter()))

    mark = uuid.uuid4().hex
    started = time.perf_counter()
    try:
        cluster.init_ray(mark, False)
        with tempfile.TemporaryDirectory(prefix="personaagent-scripted-") as home:
            results = run_population(parts, names, "scripted", Path(home), note)
    finally:
        cluster.stop(mark, PATIENCE_S)
    first, last = next(m for m in marks if m[0]), marks[-1]
    # One batch gives no rate; then the start is in it.
    done, seconds = (last[0] - first[0], last[1] - first[1]) if last[0] > first[0] else (last[0], last[1] - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "ms_per_user": 1000 * seconds / done,
        "start_s": first[1] - started,
        "rss_mb": peak / (1 << 20 if sys.platform == "darwin" else 1 << 10),
        "failed": float(sum(r.outcome.value == "failed" for r in results)),
    }


if __name__ == "__main__":
    serve_job(_work)
