"""The rules of the house: who may import whom, and that no two modules share a name. See docs/architecture.md."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the ground up; `cluster` stands beside the house and needs to know how it is set up.
FLOORS = ("personaagent", "alignment", "actors", "serve")
CLUSTER_NEEDS = {"personaagent.settings", "personaagent.errors", "personaagent.nearest"}
# What is private to others, and where alone it may be touched.
PRIVATE = {
    "vllm": ("serve.engine.", "serve.bench.bare_engine"),
    "pymilvus": ("actors.milvus.", "serve.bench.memory"),  # which measures it as others use it
    "milvus_lite": ("actors.milvus.",),
    "mcp": ("personaagent.tools.mcp_connection", "serve.mcp."),
}


@cache
def modules() -> Mapping[str, Path]:
    found = {}
    for package in (*FLOORS, "cluster"):
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def imported(module: str) -> frozenset[str]:
    """Everything a module imports, wherever in it, also of others."""
    file = modules()[module]
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative name"
            base = node.module or ""
            names.update(f"{base}.{a.name}" if f"{base}.{a.name}" in modules() else base for a in node.names)
    return frozenset(names - {module})


def ours(module: str) -> Iterator[str]:
    yield from (name for name in imported(module) if name in modules())


def room(module: str) -> str:
    """The folder below a package, or the module itself where it stands in none."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else module


def circles(arrows: Mapping[str, set[str]]) -> list[str]:
    """Nodes from which a way leads back."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = list(arrows.get(start, ()))
        while ahead:
            node = ahead.pop()
            if node not in seen:
                seen.add(node)
                ahead.extend(arrows.get(node, ()))
        return seen

    return sorted(node for node in arrows if node in reached(node))


def test_arrows_point_down() -> None:
    up = [
        f"{module} -> {other}"
        for module in modules()
        for other in ours(module)
        if (floor := module.split(".")[0]) != (below := other.split(".")[0])
        and (
            other not in CLUSTER_NEEDS
            if floor == "cluster"
            else below == "cluster" or FLOORS.index(floor) < FLOORS.index(below)
        )
    ]
    assert up == []


def test_no_module_and_no_room_imports_itself_in_the_end() -> None:
    assert circles({module: set(ours(module)) for module in modules()}) == []
    rooms: dict[str, set[str]] = {}
    for module in modules():
        rooms.setdefault(room(module), set()).update(room(o) for o in ours(module) if room(o) != room(module))
    assert circles(rooms) == []


def test_names_are_not_used_twice() -> None:
    names = Counter(m.rpartition(".")[2] for m, file in modules().items() if file.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1 and name != "__main__"] == []


def test_classes_do_not_share_a_name() -> None:
    classes = Counter(
        node.name
        for file in modules().values()
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in classes.items() if count > 1] == []


@pytest.mark.parametrize("library", PRIVATE)
def test_what_may_change_under_us_is_touched_in_its_room_alone(library: str) -> None:
    outside = [
        module
        for module in modules()
        if any(name.split(".")[0] == library for name in imported(module)) and not module.startswith(PRIVATE[library])
    ]
    assert outside == []


def test_every_test_module_stands_where_its_subject_does() -> None:
    rooms = {".".join(m.split(".")[:-1]) for m in modules()} | set(modules())
    for file in (ROOT / "tests").rglob("test_*.py"):
        folder = file.parent.relative_to(ROOT / "tests")
        assert str(folder) == "." or ".".join(folder.parts) in rooms, file


def test_what_is_long_says_why() -> None:
    """Files over 400 lines and functions over 60 are taken apart where a seam exists; where none does, the reason is here."""
    reasons = {
        "serve/bench/recall_texts.py": "texts, no code",
        "actors/milvus/connection.py": "all that is used of pymilvus is in one place",
        "actors/milvus/milvus_store.py": "a protocol of three dozen methods, most of a few lines",
        "personaagent/memory/index.py": "columns that a row enters all of or none",
        "serve/cli/evaluating.py:evaluate": "two dozen options, each with its help",
    }
    long = set()
    for file in modules().values():
        name, text = file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            long.add(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                long.add(f"{name}:{node.name}")
    assert long == set(reasons)
