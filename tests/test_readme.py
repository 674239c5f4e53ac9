from __future__ import annotations

import re
import shlex
import tomllib
from enum import Enum
from operator import attrgetter
from pathlib import Path

import pytest
from typer.main import get_command

from personaagent.readers import read
from personaagent.setting_names import setting_paths
from personaagent.settings import Settings
from serve.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "requirements" / "README.md",
    ROOT / "personaagent" / "sample" / "README.md",
]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """A page without the tree of modules, whose packages are called as sections of the settings are."""
    return re.sub(r"^```text\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def test_history_example_imports_without_errors(tmp_path: Path) -> None:
    example = README.split("<!-- history example -->")[1]
    file = tmp_path / "history.jsonl"
    file.write_text(blocks(example, "json")[0], encoding="utf-8")
    result = read("history", file)
    interactions = list(result)
    assert result.errors == []
    assert [i.kind.value for i in interactions] == ["choice", "rating", "text"]


def commands() -> list[list[str]]:
    lines = [
        line
        for doc in DOCS
        for block in blocks(doc.read_text(encoding="utf-8"), "bash")
        for line in block.splitlines()
        if line.startswith("personaagent ")
    ]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_documented_commands_parse(arguments: list[str]) -> None:
    name, *rest = arguments
    group = get_command(app)
    if name.startswith("--"):  # of the program itself
        assert name in {option for parameter in group.params for option in parameter.opts}
        return
    command = group.commands[name]  # type: ignore[attr-defined]
    command.make_context(name, rest, parent=group.make_context("personaagent", [], resilient_parsing=True))


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for doc in DOCS:
        text = doc.read_text(encoding="utf-8")
        used = re.findall(r"`make ([a-z-]+)", text)
        for block in blocks(text, "bash"):
            used += re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)
        assert set(used) <= targets, doc


@pytest.mark.parametrize("doc", DOCS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_lead_somewhere(doc: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", doc.read_text(encoding="utf-8")):
        assert target.startswith("http") or (doc.parent / target).exists(), target


def test_files_in_the_tree_exist() -> None:
    tree = README.split("## Files")[1].split("```")[1].strip("\n")
    folder = ""
    for line in tree.splitlines():
        name = line.split()[0]
        folder = "" if not line.startswith(" ") else folder
        assert (ROOT / folder / name).exists(), name
        folder = name if not line.startswith(" ") else folder


def test_every_setting_is_documented_and_every_documented_setting_exists() -> None:
    known = set(setting_paths(Settings))
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    documented = {s for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for s in re.findall(r"`([\w.]+)`", row)}
    assert documented == known


def test_documented_defaults_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for names, defaults in re.findall(r"^\| (`.*?) \| (.*?) \|", text, re.MULTILINE):
        expected = []
        for name in re.findall(r"`([\w.]+)`", names):
            if name == "home":  # another on every machine
                expected.append("`~/.local/share/personaagent`")
                continue
            value = attrgetter(name)(Settings())
            value = value.value if isinstance(value, Enum) else value
            shown = (
                str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
            )
            expected.append("–" if value is None else f"`{shown}`")
        assert defaults == ", ".join(expected), names


def test_settings_named_in_the_docs_exist() -> None:
    known = set(setting_paths(Settings))
    sections = "|".join({name.split(".")[0] for name in known if "." in name})
    for doc in DOCS:
        for name in re.findall(rf"`((?:{sections})\.[a-z_.]+)`", prose(doc.read_text(encoding="utf-8"))):
            if not name.endswith((".py", ".md")):
                assert name in known or any(k.startswith(f"{name}.") for k in known), f"{doc.name}: {name}"


def test_readme_defaults_are_the_settings_defaults() -> None:
    tree = Settings.model_construct()
    section = README.split("## Settings that matter")[1].split("\n## ")[0]
    found = re.findall(r"^\| `([\w.]+)` \| (.*?) \|", section, re.MULTILINE)
    assert found
    for name, default in found:
        value: object = tree
        for part in name.split("."):
            value = getattr(value, part)
        assert default.strip("`") == ("none" if value is None else str(value)), name


def test_the_lock_covers_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {
        re.split(r"[\[<>=!~; ]", dependency)[0].lower().replace("_", "-")
        for dependency in [*project["dependencies"], *extras["cpu"], *extras["dev"]]
    }
    locks = [(ROOT / "requirements" / name).read_text("utf-8") for name in ("cpu.lock", "cpu-torch.lock")]
    locked = {line.split("==")[0] for lock in locks for line in lock.splitlines() if not line.startswith(" ")}
    assert wanted <= locked


def test_every_locked_package_has_a_hash() -> None:
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements" / "cpu.lock").read_text("utf-8").strip())
    assert len(blocks) > 200
    assert [
        b.split("==")[0] for b in blocks if not re.fullmatch(r"\S+==\S+( \\\n {4}--hash=sha256:[0-9a-f]{64})+", b)
    ] == []
    torch = (ROOT / "requirements" / "cpu-torch.lock").read_text("utf-8").strip()
    overrides = (ROOT / "requirements" / "overrides.txt").read_text("utf-8").splitlines()
    assert torch.removesuffix("+cpu") in overrides
