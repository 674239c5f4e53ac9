"""Ray and Serve as a local machine, or a running cluster, gives them to us. All calls here block."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import signal
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import ray
from ray import serve
from ray._private import auto_init_hook, ray_constants
from ray._raylet import Config  # type: ignore[attr-defined]  # it has no stub
from ray.exceptions import RayError
from ray.serve._private.router import SingletonThreadRouter
from ray.serve.context import _get_global_client, _set_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from personaagent.errors import InvalidInput, LLMError, UnavailableError
from personaagent.settings import Settings
from serve.app import build_app
from serve.http.edge import CALLBACK as PROXY_MIDDLEWARES
from serve.http.edge import VARIABLE as PROXY_CALLBACK
from serve.http.sites import check_exposure, is_local
from serve.names import APP

__all__ = [
    "LISTENING_PORTS",
    "MARK",
    "auth_mode",
    "check_milvus",
    "check_port",
    "deploy",
    "end",
    "free_port",
    "init_ray",
    "join_ray",
    "marked",
    "needed_cpus",
    "serving",
    "set_environment",
    "starting",
    "stop",
    "undeploy",
]

log = logging.getLogger(__name__)

NAMESPACE = "personaagent"
MARK = "PERSONAAGENT_SYSTEM"  # environment variable
HANDLES_END_S = 5.0  # for what is under way through handles to be cancelled
# Above the ports of Ray's workers, below those that Linux, macOS and Windows give to outgoing connections.
LISTENING_PORTS = range(20_000, 32_768)
_ROOT = str(Path(__file__).resolve().parents[2])


def check_port(host: str, port: int) -> None:
    """Raise InvalidInput if nobody can listen there. Serve itself would share the port with whoever has it."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise InvalidInput(
            f"cannot listen on {host}:{port} ({reason}); choose another with --port or serve.port"
        ) from e


def free_port(host: str) -> int:
    """A port that is free now, and that no outgoing connection of this machine will be given meanwhile.

    The one an operating system offers is from the range it also draws outgoing connections from. Until Serve listens, half
    a minute later, Ray's processes make hundreds of those.

    Raises:
        UnavailableError: none was found.
    """
    family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
    for port in random.sample(LISTENING_PORTS, 100):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise UnavailableError(f"no free port found on {host}; name one with --port or serve.port")


def check_milvus(uri: str, timeout_s: float = 3.0) -> None:
    """Raise InvalidInput if no server listens at a Milvus URI."""
    parts = urlsplit(uri if "://" in uri else f"http://{uri}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 19530)
    except ValueError as e:
        raise InvalidInput(f"memory.uri: {uri} has no valid port") from e
    if not parts.hostname:
        raise InvalidInput(f"memory.uri: {uri} names no host; it looks like http://host:19530")
    try:
        socket.create_connection((parts.hostname, port), timeout_s).close()
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise InvalidInput(f"Milvus at {parts.hostname}:{port} cannot be reached ({reason}); see memory.uri") from e


def needed_cpus(settings: Settings) -> int:
    """Logical CPUs that the application may ask for, with two left for jobs."""
    llm, serving = settings.llm, settings.serve
    engines = 0 if llm.base_url else max(llm.min_replicas, llm.max_replicas) * (1 + llm.tensor_parallel)
    routers = max(serving.router_replicas, serving.max_router_replicas)
    return engines + math.ceil((routers + settings.embedder.num_replicas) / 2) + 2


def set_environment(verbose: bool) -> None:
    """What Ray, Serve and vLLM read from the environment, here and in every process that Ray starts."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
        "RAY_prestart_worker_first_driver": "0",  # it would start a Python process per CPU that nobody uses
        PROXY_CALLBACK: PROXY_MIDDLEWARES,
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # ten times a second costs 7 % of a core that the model needs
        "VLLM_LOGGING_LEVEL": "INFO" if verbose else "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # Every process of the cluster inherits this environment, so all of them find our packages.
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    if _ROOT not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([_ROOT, *paths])
    _quiet(verbose)


def init_ray(mark: str, verbose: bool, cpus: int = 4) -> str:
    """Start a Ray of our own on this machine, quietly; its address. All its processes carry `mark`, for `stop`.

    `cpus` are logical, and may be more than there are: our processes mostly wait.
    """
    set_environment(verbose)
    _on_loopback()
    os.environ[MARK] = mark
    umask = os.umask(0o077)  # what Ray's processes write is theirs alone; they inherit this
    try:
        context = ray.init(
            address="local",
            num_cpus=max(cpus, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            namespace=NAMESPACE,
        )
    finally:
        os.umask(umask)
        del os.environ[MARK]  # what this process starts besides is no part of it
    return str(context.address_info["gcs_address"])


def _on_loopback() -> None:
    """Make Ray use the loopback address for this machine, so that all its ports are closed to the network.

    That is what Ray does by itself on macOS and Windows, and then it also finds a Ray there; on Linux it takes an address that
    others reach. It has an environment variable for the choice, which is read when Ray is imported, so this process needs
    the constant as well. Written for Ray 2.60; a test looks at the ports.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def auth_mode() -> str:
    """How the Ray of this process authenticates; Ray decides it when it starts and keeps it in the environment."""
    return os.environ.get("RAY_AUTH_MODE", "disabled")


def join_ray(address: str, verbose: bool, local_auth: str | None = None) -> None:
    """Connect to a Ray that runs already.

    Args:
        address: of its GCS, or `auto`.
        verbose: show its logs here.
        local_auth: the `auth_mode` of one that `init_ray` started on this machine; None for any other cluster.

    Raises:
        UnavailableError: nobody answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _quiet(verbose)
    if is_local(address.rpartition(":")[0].strip("[]")):
        _on_loopback()
    if local_auth is not None:
        # A Ray that `ray.init` starts asks for the user's token; joining it by address does not offer it by itself.
        os.environ["RAY_AUTH_MODE"] = local_auth
        Config.initialize("")  # Ray read its configuration when it was imported
    try:
        ray.init(
            address=address,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            namespace=NAMESPACE,
        )
    except (ConnectionError, RuntimeError, RayError, OSError) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UnavailableError(f"the Ray cluster at {address} cannot be joined: {reason}") from e


def deploy(settings: Settings, http: bool, port: int, verbose: bool) -> None:
    """Start Serve and hand it the application; returns before the replicas are up.

    Raises:
        InvalidInput: it would be open to a network without a key.
    """
    if http:
        check_exposure(settings.serve)
    serve.start(
        proxy_location="HeadOnly" if http else "Disabled",
        http_options={"host": settings.serve.host, "port": port},
        logging_config=LoggingConfig(log_level="INFO" if verbose else "WARNING", enable_access_log=verbose),
    )
    _quiet(verbose)
    app = build_app(settings)
    serve.run_many(
        [serve.RunTarget(app, name=APP, route_prefix="/")],
        wait_for_ingress_deployment_creation=True,
        wait_for_applications_running=False,
    )


def starting() -> bool:
    """Whether the application is not up yet.

    Raises:
        LLMError: a part of it cannot start; the message is the reason it gave.
        UnavailableError: Serve does not answer.
    """
    try:
        app = serve.status().applications.get(APP)
    except (RayError, RayServeException) as e:
        raise UnavailableError("Ray Serve does not answer") from e
    if app is None:
        return True
    if app.status == "RUNNING":
        return False
    for name, deployment in app.deployments.items():
        if "Traceback" in deployment.message or deployment.status == "DEPLOY_FAILED":
            raise LLMError(f"{name} cannot start: {_last_line(deployment.message)}")
    if app.status == "DEPLOY_FAILED":
        raise LLMError(f"the application cannot start: {_last_line(app.message)}")
    return True


def serving() -> bool:
    """Whether the application is on the cluster."""
    try:
        return APP in serve.status().applications
    except RayServeException:  # there is no Serve
        return False


def undeploy() -> None:
    """Take the application away; its engine ends in order."""
    try:
        serve.delete(APP)  # serve.shutdown() leaves complaints on the terminal
    except (RayError, RayServeException, TimeoutError) as e:
        log.debug("Serve did not shut down in order: %s", type(e).__name__)


def stop(mark: str | None, patience_s: float) -> None:
    """Leave Ray, and end what is ours.

    Args:
        mark: given to `init_ray`, to end that Ray with everything in it; None for a cluster of others.
        patience_s: how long its processes may take to end by themselves; 0 for a start that is broken off.
    """
    if ray.is_initialized():
        auto_init_hook.enable_auto_connect = False  # a late call would start another Ray, which nobody ends
        _forget_serve()
        ray.shutdown()
    if mark is not None:
        end(mark, patience_s)


def _forget_serve() -> None:
    """End the thread behind Serve handles: a call it makes to a Ray that was left ends this process on the spot."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        client.shutdown_cached_handles()
        _set_global_client(None)
    loop, SingletonThreadRouter._asyncio_loop = SingletonThreadRouter._asyncio_loop, None
    if loop is not None:
        asyncio.run_coroutine_threadsafe(_wind_up(), loop)
        deadline = time.monotonic() + HANDLES_END_S
        while loop.is_running() and time.monotonic() < deadline:
            time.sleep(0.01)
        if loop.is_running():
            log.debug("calls through Serve handles did not end")
        else:
            loop.close()  # a handle that is used now says so


async def _wind_up() -> None:
    """Cancel the other tasks of this event loop, and end it with them."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    asyncio.get_running_loop().stop()


def end(mark: str, patience_s: float) -> None:
    """Wait until the processes with this mark are gone; those that stay for longer than `patience_s` are killed.

    Ray ends its own, but vLLM's engine outlives its parent for a moment, and some outlive a raylet that was killed.
    """
    deadline = time.monotonic() + patience_s
    while left := marked(mark):
        if time.monotonic() >= deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(0.05)


def marked(mark: str) -> list[int]:
    """The processes that carry a mark, given to `init_ray`."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes():  # empty for those that ended and were not waited for
                found.append(int(entry.name))
        except OSError:  # another user's, or gone
            continue
    return found


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    # Below the traceback Serve adds a line of its own.
    errors = [line for line in lines if ": " in line and line.split(":")[0].replace(".", "").isidentifier()]
    return (errors or lines or ["no reason given"])[-1][:500]


def _quiet(verbose: bool) -> None:
    if not verbose:
        for name in ("ray", "ray._private.worker", "ray.serve", "ray.data", "vllm"):
            logging.getLogger(name).setLevel(logging.ERROR)
