"""Importing any module of the house starts nothing, opens nothing, and leaves Python's logging alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from tests.test_layout import FLOORS, ROOT, modules

# They must import vLLM, which sets up logging for everybody.
OF_VLLM = tuple(f"serve.engine.{name}" for name in ("cpu", "deployment", "likelihood", "scheduler", "server"))
HEAVY = ("ray", "torch", "vllm", "transformers", "pymilvus", "milvus_lite")
# Rooms that know nothing of what is heavy, and the one who pays when they do: a command that only prints its help.
LIGHT = ("personaagent", "alignment", "cluster", "serve.cli")

# Runs in a process of its own. What other people's libraries read while they are imported is theirs, so an opened file counts
# if the nearest code that is not Python's own is ours; connections and processes count whoever makes them.
LOOK = """
import importlib, json, logging, sys, sysconfig, threading

root, names = sys.argv[1], json.loads(sys.argv[2])
heavy = set(json.loads(sys.argv[3]))
library = sysconfig.get_paths()["stdlib"]
module, seen = "", []

def ours(frame):
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(("<", library)) or "site-packages" in file:
            return file.startswith(root) and "site-packages" not in file
        frame = frame.f_back
    return False

def look(event, args):
    if event in ("socket.connect", "subprocess.Popen", "os.fork", "os.posix_spawn"):
        seen.append(f"{module}: {event} {args[-1]!r}")
    elif event == "socket.bind" and ours(sys._getframe(1)):  # urllib3 tries whether this machine has IPv6
        seen.append(f"{module}: {event} {args[-1]!r}")
    elif event == "open" and isinstance(args[0], str) and not args[0].endswith((".py", ".pyc", ".so")):
        if ours(sys._getframe(1)):
            seen.append(f"{module}: opens {args[0]}")

def state():
    logger = logging.getLogger()
    return {
        "threads": [t.name for t in threading.enumerate()],
        "handlers of the root logger": list(logger.handlers),
        "its level": logger.level,
    }

sys.addaudithook(look)
loaded = {}
for module in names:
    before = state()
    importlib.import_module(module)
    seen += [f"{module}: {what} was {old}, is {new}" for (what, old), new in zip(before.items(), state().values()) if old != new]
    loaded[module] = sorted(heavy & set(sys.modules))
print(json.dumps({"seen": seen, "loaded": loaded, "threads": [t.name for t in threading.enumerate()]}))
"""


@cache
def looked(light: bool) -> Any:
    """What happens when modules are imported one after the other: those of light rooms, or all."""
    names = [m for m in sorted(modules()) if m not in OF_VLLM and not m.endswith("__main__")]
    names = [m for m in names if not light or any(m == room or m.startswith(f"{room}.") for room in LIGHT)]
    arguments = [str(ROOT), json.dumps(names), json.dumps(HEAVY)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PERSONAAGENT_")}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("light", [True, False], ids=["light rooms", "all"])
def test_importing_starts_nothing_opens_nothing_and_leaves_logging_alone(light: bool) -> None:
    assert looked(light)["seen"] == []
    assert looked(light)["threads"] == ["MainThread"]


@pytest.mark.slow
def test_light_rooms_load_nothing_heavy() -> None:
    loaded = looked(True)["loaded"]
    assert {room.split(".")[0] for room in loaded} == {*FLOORS[:2], "cluster", "serve"}
    assert {module: heavy for module, heavy in loaded.items() if heavy} == {}


@pytest.mark.slow
def test_no_module_but_those_of_the_engine_loads_a_model_library() -> None:
    last = list(looked(False)["loaded"].values())[-1]
    assert set(last) <= {"ray", "pymilvus", "milvus_lite"}


def test_every_package_carries_the_mark_of_types() -> None:
    import tomllib

    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    for package in (*FLOORS, "cluster"):
        assert (ROOT / package / "py.typed").is_file(), package
        assert "py.typed" in tool["setuptools"]["package-data"][package]
        assert package in tool["mypy"]["packages"]


def test_the_build_knows_every_package() -> None:
    import tomllib

    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    there = {m for m, file in modules().items() if file.name == "__init__.py"}
    assert set(tool["setuptools"]["packages"]) == there
