"""Command lines of this package: mistakes in use are one line on stderr, with exit code 2, as those of `personaagent`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from personaagent.nearest import likely

__all__ = ["OneLineParser"]


class OneLineParser(argparse.ArgumentParser):
    """Reads arguments; whoever mistyped one is told the nearest right one."""

    def __init__(self, **options: Any) -> None:
        self._words: list[str] = []
        self._commands: Any = None  # argparse keeps the type of what `add_subparsers` returns to itself
        super().__init__(**options, allow_abbrev=False)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """As argparse has it."""
        self._words += [name for name in names if name.startswith("-")]
        return super().add_argument(*names, **options)

    def add_subparsers(self, **options: Any) -> Any:
        """As argparse has it."""
        self._commands = super().add_subparsers(**options)
        return self._commands

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The arguments, by default those of the process, which ends with 2 if they are wrong."""
        found, rest = self.parse_known_args(arguments)
        if rest:
            of = self if self._commands is None else self._commands.choices[found.command]
            word = rest[0].partition("=")[0]
            if word.startswith("-"):
                self.error(f"no such option {word}{likely(word, of._words)}")
            self.error(f"one argument too many: {rest[0]!r}")
        return found

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and end the process with 2."""
        if found := re.search(r"invalid choice: '(.*)' \(choose from", message):
            near = likely(found[1], self._commands.choices, quote="'")
            message = f"no such command '{found[1]}'{near}"
        message = message.replace("the following arguments are required:", "missing:")
        print(f"error: {message}; `{self.prog} --help` tells more", file=sys.stderr)
        sys.exit(2)
