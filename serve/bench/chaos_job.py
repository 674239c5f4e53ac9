"""The population job of `bench chaos`: `personaagent align --all` beside the running server, run after run, seen from outside."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actors.jobs.run_folder import read_results
from personaagent.errors import PersonaAgentError
from serve.bench.chaos_faults import ALIGNMENT
from serve.bench.chaos_history import Status
from serve.bench.chaos_record import ChaosAnswer, History
from serve.runtime import ray_cluster as cluster

__all__ = ["ChaosPopulation"]

POLL_S = 0.25
AGAIN_S = 2.0
ROOT = Path(__file__).resolve().parents[2]


class ChaosPopulation:
    """Aligns everybody, again and again, in processes of its own."""

    def __init__(self, home: Path, mark: str, history: History, settings: Mapping[str, Any]) -> None:
        """Args:
        home: of the running server.
        mark: that processes of the system carry; this one's belong to it.
        history: where finished users are noted, as successes of the alignment actors.
        settings: of alignment.
        """
        self._home = home
        self._mark = mark
        self._history = history
        self._settings = settings
        self._runs = 0
        self._planned: dict[str, float] = {}  # by run: when its users were chosen, at the latest
        self.outcomes: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()  # exit codes

    async def work(self, over: Callable[[], bool]) -> None:
        """One run after the other until it is over; the last one is waited for."""
        while not over():
            await self.run(f"chaos-{self._runs}", ["--all"])
            await asyncio.sleep(AGAIN_S)

    async def run(self, name: str, users: list[str]) -> None:
        """One run to its end; `users` are arguments of `align`. Ends the process when cancelled."""
        self._runs += 1
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "serve.cli", "--home", str(self._home), "align", *users, "--run-id", name, "--json"),
            *(word for key, value in self._settings.items() for word in ("--set", f"alignment.{key}={value}")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, cluster.MARK: self._mark},
        )
        assert process.stdout is not None
        told = asyncio.create_task(process.stdout.read())
        try:
            await self._watch(name, process)
            self._count(process.returncode or 0, await told)
        finally:
            told.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _watch(self, name: str, process: asyncio.subprocess.Process) -> None:
        """Note each part of the results as it comes: the actors are at work."""
        parts, looked = 0, self._history.clock()
        ended = asyncio.create_task(process.wait())
        while not ended.done():
            await asyncio.wait({ended}, timeout=POLL_S)
            before, now = looked, self._history.clock()
            if name not in self._planned and (self._home / "runs" / name / "users.parquet").is_file():
                self._planned[name] = self._history.clock()
            there = len(list((self._home / "runs" / name).glob("part-*.parquet")))
            if there > parts:
                self._history.note("align", "", before, ChaosAnswer(Status.OK, 200), needs={ALIGNMENT})
            parts, looked = there, now

    def _count(self, code: int, told: bytes) -> None:
        self.codes[str(code)] += 1
        try:
            results = json.loads(told)["results"]
        except (ValueError, KeyError):  # it ended with an error, which the exit code says
            return
        self.outcomes.update(r["outcome"] if r["outcome"] != "failed" else f"failed, {r['reason']}" for r in results)

    def look(self) -> None:
        """Note whose results are stored, of which run."""
        for name, planned in self._planned.items():
            looked = self._history.clock()
            try:
                results = read_results(self._home, name)
            except PersonaAgentError:  # all of it was erased
                continue
            for result in results:
                self._history.note("results", result.user, looked, ChaosAnswer(Status.OK, 200), run=planned)
