"""Ray and Serve as a local machine, or a running cluster, gives them to us. All calls here block."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from personaagent.errors import InvalidInput, LLMError, UnavailableError
from personaagent.settings import Settings

from .app import APP, build_app

__all__ = [
    "check_milvus",
    "check_port",
    "deploy",
    "free_port",
    "init_ray",
    "join_ray",
    "serving",
    "starting",
    "stop",
]

log = logging.getLogger(__name__)

NAMESPACE = "personaagent"
_ROOT = str(Path(__file__).resolve().parent.parent)
_LOCAL = "127.0.0.1"


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
    """A port that is free now."""
    family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


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


def init_ray(roots: dict[int, int], verbose: bool) -> str:
    """Start a Ray of our own on this machine, quietly; its address. Its processes are noted in `roots`, for `stop`."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
        "RAY_prestart_worker_first_driver": "0",  # it would start a Python process per CPU that nobody uses
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
    before = _below(os.getpid())
    try:
        context = ray.init(
            address="local",
            num_cpus=max(4, os.cpu_count() or 1),  # logical: our actors mostly wait
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            namespace=NAMESPACE,
            _node_ip_address=_LOCAL,
        )
    finally:
        roots |= {pid: start for pid, start in _below(os.getpid()).items() if pid not in before}
    return str(context.address_info["gcs_address"])


def join_ray(address: str, verbose: bool, local: bool) -> None:
    """Connect to a Ray that runs already.

    Args:
        address: of its GCS, or `auto`.
        verbose: show its logs here.
        local: it was started by `init_ray` on this machine.

    Raises:
        UnavailableError: nobody answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _quiet(verbose)
    more: dict[str, Any] = {"_node_ip_address": _LOCAL} if local else {}
    try:
        ray.init(
            address=address,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            namespace=NAMESPACE,
            **more,
        )
    except (ConnectionError, RuntimeError, RayError, OSError) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UnavailableError(f"the Ray cluster at {address} cannot be joined: {reason}") from e


def deploy(settings: Settings, http: bool, port: int, verbose: bool) -> None:
    """Start Serve and hand it the application; returns before the replicas are up."""
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


def stop(roots: dict[int, int] | None, deployed: bool) -> None:
    """Leave Ray, and end what is ours.

    Args:
        roots: what `init_ray` noted, to end that Ray with everything in it; None for a cluster of others.
        deployed: the application there is ours.
    """
    if ray.is_initialized():
        try:
            if deployed:
                serve.delete(APP)  # ends the engine in order; serve.shutdown() leaves complaints on the terminal
        except (RayError, RayServeException, TimeoutError) as e:
            log.debug("Serve did not shut down in order: %s", type(e).__name__)
    processes = {pid: start for root in roots or {} for pid, start in _below(root).items()} | (roots or {})
    ray.shutdown()
    _await_end(processes)


def _below(ancestor: int) -> dict[int, int]:
    """Descendants of a process: their ids, and start times, which tell them from later processes of the same id."""
    parents: dict[int, int] = {}
    started: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if (stat := _stat(int(entry.name))) is not None:
            parents[int(entry.name)], started[int(entry.name)] = stat
    found: dict[int, int] = {}
    fresh = {ancestor}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh} - found.keys()
        found |= {pid: started[pid] for pid in fresh}
    return found


def _await_end(processes: dict[int, int], patience_s: float = 10.0) -> None:
    """Wait until these processes are gone, and kill those that stay. vLLM's outlive their parents for a moment."""
    deadline = time.monotonic() + patience_s
    while left := [pid for pid, start in processes.items() if (s := _stat(pid)) is not None and s[1] == start]:
        if time.monotonic() > deadline:
            for pid in left:
                log.warning("process %d did not end by itself", pid)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            return
        time.sleep(0.05)


def _stat(pid: int) -> tuple[int, int] | None:
    """Parent and start time of a living process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] == "Z" else (int(fields[1]), int(fields[19]))


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    # Below the traceback Serve adds a line of its own.
    errors = [line for line in lines if ": " in line and line.split(":")[0].replace(".", "").isidentifier()]
    return (errors or lines or ["no reason given"])[-1][:500]


def _quiet(verbose: bool) -> None:
    if not verbose:
        for name in ("ray", "ray.serve", "ray.data", "vllm"):
            logging.getLogger(name).setLevel(logging.ERROR)
