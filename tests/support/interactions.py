"""Interactions of one user, as short as tests can say them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from personaagent.types import Interaction

__all__ = ["START", "settled"]

START = datetime(2026, 1, 1, tzinfo=UTC)


def settled(n: int, query: str, truth: str, choices: tuple[str, ...] | None = None) -> Interaction:
    """Ada's interaction number `n`, so many hours after `START`, with its truth."""
    return Interaction(
        id=f"i{n}", user="ada", time=START + timedelta(hours=n), query=query, truth=truth, choices=choices
    )
