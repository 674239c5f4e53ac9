"""Milvus servers for tests: `milvus-lite server`, and a real standalone server from the package `milvus`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["LiteServer", "StandaloneServer", "free_port", "standalone_reason"]

START_S = 100.0  # a real server is up in about 10 s, on a machine that does other work later
# The real server's defaults make every strongly consistent read wait for up to 200 ms, and every load for seconds.
QUICK = {"proxy.timeTickInterval": 20, "queryCoord.checkInterval": 100, "queryCoord.distPullInterval": 50}
# Its parts listen on ports of their own, counting up from these wherever one is taken.
PORTS = (
    "etcd-port",
    "root-coord-port",
    "proxy-internal-port",
    "query-coord-port",
    "query-node-port",
    "index-node-port",
    "data-coord-port",
    "data-node-port",
)
# The etcd inside it always listens on 2379 and 2380, unless a file says otherwise: of two servers the second would not start.
ETCD = """\
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peers}
initial-advertise-peer-urls: http://127.0.0.1:{peers}
initial-cluster: default=http://127.0.0.1:{peers}
"""


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def standalone_reason() -> str | None:
    """Why there is no real server on this machine, or None if there is one."""
    if not sys.platform.startswith("linux"):
        return "the package `milvus` has a server for Linux only"
    if importlib.util.find_spec("milvus") is None:
        return "the package `milvus` is not installed (`make setup` does, or pip install --no-deps milvus==2.3.5)"
    return None


class LiteServer:
    """`milvus-lite server` on loopback: the Milvus protocol in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Start and wait until it listens."""
        command = [sys.executable, "-m", "milvus_lite", "server", "--host", "127.0.0.1"]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port), "--data-dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("the Milvus server did not start")

    def stop(self) -> None:
        """Kill it without warning."""
        self._process.kill()
        self._process.wait()


class StandaloneServer:
    """A real Milvus server with all its parts in one process, started through the wrapper of the package `milvus`.

    The wrapper leaves its child behind when it is killed. So both get a process group of their own, and that is ended.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        try:
            self.start()
        except (TimeoutError, RuntimeError):  # on a busy machine its parts may miss each other for good
            shutil.rmtree(folder)
            self.start()

    def start(self) -> None:
        """Start and wait until it is healthy. Raises TimeoutError or RuntimeError, with nothing left running."""
        options = [f"--{name}={free_port()}" for name in PORTS]
        for key, value in QUICK.items():
            options += ["--extra-config", f"{key}={value}"]
        self._folder.mkdir(parents=True, exist_ok=True)
        own = self._folder / "etcd.yaml"
        own.write_text(ETCD.format(client=free_port(), peers=free_port()), "utf-8")
        said = self._folder / "wrapper.log"
        with said.open("w") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "import milvus; milvus.main()",
                    "--data",
                    str(self._folder),
                    f"--proxy-port={self.port}",
                    *options,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "ETCD_CONFIG_PATH": str(own)},
            )
        deadline = time.monotonic() + START_S
        while "Process:" not in said.read_text("utf-8"):
            if self._process.poll() is not None or "stopped" in said.read_text("utf-8"):
                self.stop()
                raise RuntimeError(f"the Milvus server did not start: {said.read_text('utf-8')[-500:]}")
            if time.monotonic() > deadline:
                self.stop()
                raise TimeoutError(f"the Milvus server was not up after {START_S:.0f} s")
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill it without warning, and its wrapper."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # both ended by themselves
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        for _ in range(100):  # the child is not ours to wait for; until it is gone its port is taken
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) != 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("the Milvus server did not end")
