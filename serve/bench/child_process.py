"""Runs one of our modules in a process of its own, with a job as JSON in and a result as JSON out, and sees that it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from personaagent.errors import UnavailableError

__all__ = ["isolated", "serve_job"]

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 20.0  # for a process told to end to end what it started


async def isolated(module: str, job: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The result of a module whose `__main__` calls `serve_job`.

    Args:
        module: its dotted name.
        job: what it is to do; must be JSON-able.
        environment: more variables for it.

    Raises:
        UnavailableError: the process failed; with its last words.
    """
    with tempfile.TemporaryDirectory(prefix="personaagent-job-", ignore_cleanup_errors=True) as folder:
        task, result = Path(folder) / "job.json", Path(folder) / "result.json"
        task.write_text(json.dumps(job), encoding="utf-8")
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, str(task), str(result)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **(environment or {}), "PYTHONPATH": path},
            start_new_session=True,  # Ray and vLLM start processes of their own, which must go with it
        )
        try:
            _, error = await process.communicate()
        finally:
            if process.returncode is None:
                await _end(process)
        if process.returncode or not result.is_file():
            lines = error.decode("utf-8", "replace").strip().splitlines()
            raise UnavailableError(f"{module} failed: {lines[-1][:300] if lines else 'no reason given'}")
        found: dict[str, Any] = json.loads(result.read_text("utf-8"))
        return found


def serve_job(work: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """What such a module's `__main__` calls: read the job, do the work, write the result."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `finally` blocks run
    task, result = Path(sys.argv[1]), Path(sys.argv[2])
    result.write_text(json.dumps(work(json.loads(task.read_text("utf-8")))), encoding="utf-8")


async def _end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _PATIENCE_S)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
