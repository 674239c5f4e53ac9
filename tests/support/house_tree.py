"""The tree of the house as CONTRIBUTING.md shows it, made from the first sentence of every module.

`python -m tests.support.house_tree` writes it there.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- tree: python -m tests.support.house_tree -->", "<!-- end of the tree -->"
PACKAGES = ("serve", "actors", "alignment", "personaagent", "cluster")
NAMES, WIDTH = 28, 120  # columns


def sentence(file: Path) -> str:
    """The first sentence of a module's docstring, or as much of it as has room."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = re.split(r"\.(?=\s|$)", " ".join(text.split()))[0]
    room = WIDTH - NAMES - 2
    return first if len(first) <= room else f"{first[: room - 3].rsplit(' ', 1)[0]} ..."


def lines(folder: Path, depth: int = 0) -> list[str]:
    """A package with its modules and then its rooms."""
    indent = "  " * depth
    found = [f"{indent}{folder.name}/".ljust(NAMES) + sentence(folder / "__init__.py")]
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            found.append(f"{indent}  {file.name}".ljust(NAMES) + sentence(file))
    for room in sorted(folder.iterdir()):
        if (room / "__init__.py").is_file():
            found += lines(room, depth + 1)
        elif room.is_dir() and any(file.is_file() and file.suffix != ".pyc" for file in room.rglob("*")):
            found.append(f"{indent}  {room.name}/")
    return [line.rstrip() for line in found]


def tree() -> str:
    """The tree as it belongs into the page."""
    shown = [line for package in PACKAGES for line in [*lines(ROOT / package), ""]]
    return "\n".join([BEGIN, "```text", *shown[:-1], "```", END])


def replaced(page: str) -> str:
    """The page with the tree as it is now."""
    before, rest = page.split(BEGIN)
    return before + tree() + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
