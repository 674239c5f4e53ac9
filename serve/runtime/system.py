"""A running system: on this machine, started and ended here; or one that runs already, joined."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from personaagent.agent.agent import Agent
from personaagent.errors import InvalidInput, PersonaAgentError, UnavailableError
from personaagent.models.embedding import LocalEmbedder
from personaagent.models.files import check_models, context_length, prepare_llm, resolve_embedder
from personaagent.models.openai_client import connected_llm
from personaagent.protocols import LLM, Embedder
from personaagent.settings import Settings
from personaagent.types import ChatRequest, ChatResult
from serve.http.sites import check_exposure
from serve.runtime.home_lock import HomeLock
from serve.toolkit import start_tools

if TYPE_CHECKING:
    from actors.memory.client import ShardedMemory

__all__ = ["System"]

log = logging.getLogger(__name__)
T = TypeVar("T")

JOIN_TIMEOUT_S = 300.0  # a server that is starting may have a model to convert and to load
CONNECT_TIMEOUT_S = 60.0
PATIENCE_S = 15.0  # for processes that end in order


class System:
    """Memory, model, embedder and agent, ready to use. Make one with `start` and end it with `close`.

    `settings` are those in force: of a joined server, its own for memory, models and agent. `url` is the HTTP server's
    address, without a path; None if there is none.
    """

    settings: Settings
    memory: ShardedMemory
    llm: LLM
    embedder: Embedder
    agent: Agent
    url: str | None = None

    def __init__(self, settings: Settings, verbose: bool, tell: Callable[[str], None]) -> None:
        """Use `start` instead."""
        self.settings = settings
        self._verbose = verbose
        self._tell = tell
        self._lock = HomeLock(settings.home)
        self._ray = False  # whether there is something of Ray to end
        self._mark: str | None = None  # of Ray's processes, if we start it
        self._deployed = False  # the application, by us
        self._closed = False
        # Ray's and Serve's calls block. One thread keeps them in order, so that closing waits for a start under way.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="system")

    @classmethod
    async def start(
        cls,
        settings: Settings,
        *,
        llm: bool = True,
        http: bool = False,
        verbose: bool = False,
        on_stage: Callable[[str], None] | None = None,
    ) -> System:
        """Start what is needed, or join what runs.

        Joins the cluster of `serve.ray_address` or RAY_ADDRESS, or a server that runs on the same home; otherwise starts
        a local Ray. Whatever goes wrong, and when cancelled, nothing is left behind.

        Args:
            settings: the tree.
            llm: with the model. Without, only memory and an embedder, which is quick.
            http: serve HTTP. Nobody else may be running on this home.
            verbose: show the logs of Ray, Serve and vLLM.
            on_stage: told what is being done, in a few words.

        Raises:
            InvalidInput: settings that cannot work; found before the engine starts.
            StoreError: the home or its store cannot be used.
            LLMError: the model cannot be started.
            UnavailableError: the cluster or server to join does not answer.
        """
        system = cls(settings, verbose, on_stage or (lambda stage: None))
        llm = llm or http
        try:
            address = settings.serve.ray_address or os.environ.get("RAY_ADDRESS")
            if address:
                await system._on_cluster(address, llm, http)
            elif await system._own_home(http):
                await system._locally(llm, http)
            else:
                await system._join(llm, http)
        except BaseException:
            await uninterrupted(system._close(0.0))
            raise
        return system

    async def close(self) -> None:
        """End what was started, and only that. Safe to call twice."""
        if not self._closed:
            await self._close(PATIENCE_S)

    async def _close(self, patience_s: float) -> None:
        """`patience_s` is 0 to break off a start: nothing has been stored yet that would have to be put in order."""
        self._closed = True
        if (tools := getattr(self, "tools", None)) is not None:
            await tools.close()
        try:
            if self._ray:
                from serve.runtime import ray_cluster as cluster

                if self._deployed and (patience_s or self._mark is None):
                    await self._run(cluster.undeploy)
                if self._mark is not None and patience_s:
                    await self._end_memory()
                await self._run(cluster.stop, self._mark, patience_s)
        finally:
            self._lock.release()
            self._thread.shutdown(wait=False)

    async def _end_memory(self) -> None:
        """Flushed stores open faster; nothing is lost without."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.memory.shutdown()
        except (TimeoutError, PersonaAgentError) as e:
            log.debug("the memory shards did not end in order: %s", type(e).__name__)

    # ------------------------------------------------------------------ ways to start

    async def _own_home(self, http: bool) -> bool:
        mark = uuid.uuid4().hex
        if not await asyncio.to_thread(self._lock.acquire, http, mark):
            return False
        self._mark = mark
        return True

    async def _locally(self, llm: bool, http: bool) -> None:
        settings = self.settings
        port = await self._check(llm, http)
        self._tell("starting Ray")
        from serve.app import load_engine
        from serve.runtime import ray_cluster as cluster

        if self._lock.left_behind:  # the last owner was killed, and not all of its processes noticed
            await self._run(cluster.end, self._lock.left_behind, 0.0)
        assert self._mark is not None  # the home is ours
        self._ray = True
        ray = self._run(cluster.init_ray, self._mark, self._verbose, cluster.needed_cpus(settings))
        if llm and settings.llm.base_url is None:
            cluster.set_environment(self._verbose)
            address, _ = await asyncio.gather(ray, asyncio.to_thread(load_engine))
            self._tell("preparing the model")
            await prepare_llm(settings)
        else:
            address = await ray
        await self._bring_up(llm, http, port)
        if http:
            await self._until_answering()
            note = {"pid": os.getpid(), "address": address, "auth": cluster.auth_mode(), "url": self.url}
            await asyncio.to_thread(self._lock.publish, note)

    async def _join(self, llm: bool, http: bool) -> None:
        home = self.settings.home
        note = None
        for waited in range(int(JOIN_TIMEOUT_S * 5)):
            note = await asyncio.to_thread(self._lock.read)
            owner = await asyncio.to_thread(self._lock.owner)
            if http:
                raise InvalidInput(f"a server runs on {home} already (pid {owner.get('pid')}); use another --home")
            if note is not None or owner.get("serving") is False:
                break
            if waited == 0:
                self._tell(f"waiting for the server that is starting (pid {owner.get('pid')})")
            await asyncio.sleep(0.2)
            if await self._own_home(False):  # it gave up; we take its place
                await self._locally(llm, False)
                return
        if note is None:
            raise UnavailableError(
                f"{home} is in use by another command (pid {owner.get('pid')}); wait for it to end, or let both join a "
                "running `personaagent serve`"
            )
        from serve.runtime import ray_cluster as cluster

        self._tell("joining the running server")
        self._ray = True
        await self._run(cluster.join_ray, note["address"], self._verbose, note["auth"])
        await self._use_server(llm)
        self.url = note["url"]

    async def _on_cluster(self, address: str, llm: bool, http: bool) -> None:
        from serve.runtime import ray_cluster as cluster

        self._tell(f"joining the cluster at {address}")
        self._ray = True
        await self._run(cluster.join_ray, address, self._verbose)
        if await self._run(cluster.serving):
            if http:
                raise InvalidInput(f"the cluster at {address} serves the application already; join it without serving")
            await self._use_server(llm)
            return
        if http:
            check_exposure(self.settings.serve)
        if llm:
            await self._check(llm, http=False)  # the port is one of the cluster's nodes
        await self._bring_up(llm, http, self.settings.serve.port)

    # ------------------------------------------------------------------ steps

    async def _check(self, llm: bool, http: bool) -> int:
        """Find what cannot work before anything is started; the port to serve on."""
        from serve.runtime import ray_cluster as cluster

        settings = self.settings
        host, port = settings.serve.host, settings.serve.port
        if http:
            check_exposure(settings.serve)
        if http and port:
            await asyncio.to_thread(cluster.check_port, host, port)
        elif http:
            port = await asyncio.to_thread(cluster.free_port, host)
        if settings.memory.uri:
            await asyncio.to_thread(cluster.check_milvus, settings.memory.uri)
        if llm:
            await asyncio.to_thread(check_models, settings)
            if settings.llm.base_url:
                remote = connected_llm(settings)
                try:
                    await remote.check()
                finally:
                    await remote.close()
        return port

    async def _bring_up(self, llm: bool, http: bool, port: int) -> None:
        """Deploy the application on the Ray we are in and take its parts; without a model, memory and an embedder alone."""
        if llm:
            await self._deploy(http, port)
            await self._use_handles()
            self._tell("loading the model and the embedder")
            await asyncio.gather(self._connect_memory(), self._until_running())
        else:
            config = self.settings.embedder
            self.embedder = LocalEmbedder(
                resolve_embedder(self.settings), max_batch=config.max_batch, cache_texts=config.cache_texts
            )
            self.llm = connected_llm(self.settings) if self.settings.llm.base_url else NoLLM()
            await self._connect_memory()
        await self._assemble(llm)
        if http:
            host = self.settings.serve.host
            self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def _deploy(self, http: bool, port: int) -> None:
        from serve.runtime import ray_cluster as cluster

        self._deployed = True
        await self._run(cluster.deploy, self.settings, http, port, self._verbose)

    async def _use_handles(self) -> None:
        from serve.clients import running as handles

        self.embedder = await self._run(handles.embedder, self.settings)
        self.llm = (
            connected_llm(self.settings)
            if self.settings.llm.base_url
            else await self._run(handles.llm, self.settings, context_length(self.settings))
        )

    async def _use_server(self, llm: bool) -> None:
        """Take the parts of a running application; what decides where data goes comes from it, not from our settings."""
        from serve.clients import running as handles

        theirs = await handles.settings(CONNECT_TIMEOUT_S)
        for name in ("llm", "embedder", "memory"):
            if getattr(self.settings, name) != getattr(theirs, name):
                log.info("the running server's %s settings are in force", name)
        own = self.settings
        self.settings = theirs.model_copy(update={"alignment": own.alignment, "serve": own.serve, "home": own.home})
        await self._use_handles()
        await self._connect_memory()
        await self._assemble(llm)

    async def _connect_memory(self) -> None:
        from actors.memory.startup import start_memory

        self.memory = await start_memory(self.settings, self.embedder)

    async def _assemble(self, llm: bool) -> None:
        """Who needs no model asks no agent either. Who does may still answer no turn: routers have connections of their own."""
        self.tools = await start_tools(self.settings, self.memory, self.embedder, connect=False) if llm else None
        self.agent = Agent(self.llm, self.memory, self.settings.agent, self.embedder, self.tools)

    async def _until_running(self) -> None:
        from serve.runtime import ray_cluster as cluster

        while await self._run(cluster.starting):  # noqa: ASYNC110
            await asyncio.sleep(0.2)  # Serve has no event for it

    async def _until_answering(self) -> None:
        """The proxy learns of the router a moment after the router is there."""
        import httpx

        async with httpx.AsyncClient(timeout=5.0) as client:
            for _ in range(150):
                try:
                    if (await client.get(f"{self.url}/healthz")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.2)
        raise UnavailableError(f"the HTTP server at {self.url} does not answer")

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class NoLLM:
    """Stands where the model would be in a system that was started without one."""

    context_length = 0

    async def chat(self, request: ChatRequest) -> ChatResult:
        """Raises UnavailableError."""
        raise UnavailableError("this was started without a model")

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """Raises UnavailableError."""
        yield await self.chat(request)


async def uninterrupted(work: Awaitable[None]) -> None:
    """Await something to its end, also when cancelled meanwhile; the cancellation is the caller's to go on with."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.wait({task})  # does not pass a cancellation on
        except asyncio.CancelledError:
            continue
    if (error := task.exception()) is not None:
        log.warning("closing failed: %s", type(error).__name__)
