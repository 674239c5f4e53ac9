"""What CONTRIBUTING.md and the files around the code say is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from personaagent import __version__
from tests.support.house_tree import PAGE, ROOT, replaced
from tests.test_layout import modules

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tree_is_the_house() -> None:
    assert replaced(TEXT) == TEXT, "run: python -m tests.support.house_tree"


def test_the_tree_names_every_folder_and_module() -> None:
    shown: set[Path] = set()
    above: list[str] = []
    for line in TEXT.split("```text\n")[1].split("```")[0].splitlines():
        if not line:
            continue
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        above[depth:] = [name.rstrip("/")]
        shown.add(Path(*above) / "__init__.py" if name.endswith("/") else Path(*above))
    there = {file.relative_to(ROOT) for file in modules().values()}
    assert there <= shown


def test_every_module_says_what_it_is() -> None:
    from tests.support.house_tree import sentence

    assert [str(file) for file in modules().values() if not sentence(file)] == []


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"`([a-z_./]+\.(?:py|md|yml|lock)|[a-z_]+(?:/[a-z_]+)*/)`", TEXT):
        assert (ROOT / name).exists() or name == "pahf.py", name


def test_hooks_are_local_and_installed_by_the_setup() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    tools = {re.split(r"[<>=]", line)[0] for line in extras["dev"]}
    config: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    for source in config["repos"]:
        assert source["repo"] == "local"
        for hook in source["hooks"]:
            assert hook["language"] == "system"
            assert hook["entry"].split()[0].removeprefix(".venv/bin/") in tools


def test_the_workflow_runs_what_everybody_runs() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]["run"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert {"python-version": "3.11"}.items() <= job["steps"][1]["with"].items()


def test_the_changelog_has_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == __version__
    assert set(re.findall(r"^### (\w+)", text, re.MULTILINE)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }
