"""A memory that several processes share, and a slow model, for tests on a real Ray."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from actors.jobs.aligner_actor import AlignerParts
from personaagent.memory.local import LocalMemory
from personaagent.settings import AgentSettings, AlignmentSettings
from personaagent.types import ChatRequest, ChatResult
from tests.support.alignment_doubles import BLIND, SecretLLM, drink
from tests.support.doubles import HashEmbedder


class MemoryHost:
    """All users' memories in one actor."""

    def __init__(self) -> None:
        self._memory = LocalMemory(HashEmbedder())

    async def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return await getattr(self._memory, name)(*args, **kwargs)

    async def fill(self, users: Sequence[str], count: int) -> None:
        for user in users:
            await self._memory.append(user, [drink(user, i) for i in range(count)])

    async def versions(self) -> dict[str, list[str | None]]:
        """The run of each aligned persona version, by user."""
        return {
            s.user: [p.run for p in await self._memory.personas(s.user) if p.origin == "aligned"]
            for s in await self._memory.users()
        }


class RemoteMemory:
    """`protocols.Memory` over a `MemoryHost`."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._host.call.remote(name, args, kwargs)

        return call


class LateFor(RemoteMemory):
    """Keeps one user's new persona waiting until a file is there, for a minute at most."""

    def __init__(self, host: Any, user: str, file: Path) -> None:
        super().__init__(host)
        self._user = user
        self._file = file

    async def commit_persona(self, user: str, *args: Any) -> Any:
        for _ in range(600):
            if user != self._user or self._file.exists():
                break
            await asyncio.sleep(0.1)
        return await self._host.call.remote("commit_persona", (user, *args), {})


class SlowLLM(SecretLLM):
    """Takes a while, and leaves a file named after its process in `folder`."""

    def __init__(self, folder: Path, pause_s: float) -> None:
        super().__init__()
        self._folder = folder
        self._pause_s = pause_s

    async def chat(self, request: ChatRequest) -> ChatResult:
        (self._folder / str(os.getpid())).touch()
        await asyncio.sleep(self._pause_s)
        return await super().chat(request)


def host(name: str) -> Any:
    """The memory host of this name, started if need be."""
    return ray.remote(MemoryHost).options(name=name, get_if_exists=True, max_concurrency=1000, num_cpus=0).remote()


def parts(memory: Any, folder: Path, pause_s: float = 0.0, **settings: Any) -> AlignerParts:
    return AlignerParts(
        llm=SlowLLM(folder, pause_s),
        embedder=HashEmbedder(),
        memory=RemoteMemory(memory),
        agent=AgentSettings(decision=BLIND, tools=False),
        alignment=AlignmentSettings.model_validate({"batch": 1, "held_out": 3, "retry_s": 0, **settings}),
    )
