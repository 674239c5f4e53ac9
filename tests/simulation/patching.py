"""What the simulation and its mutants put in the place of parts of the product, and take away again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["Patch", "patched"]

Patch = tuple[Any, str, Any]  # of which module or class, which name, and what it is meanwhile


@contextmanager
def patched(patches: Sequence[Patch]) -> Iterator[None]:
    """Replace names, and put back what they were."""
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in patches]  # as they are: a static method stays one
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
