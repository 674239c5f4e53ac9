"""The command line. Importing it loads neither Ray nor any model; commands do when they run."""

from __future__ import annotations

from serve.cli.command import app, main

__all__ = ["app", "main"]
