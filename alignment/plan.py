"""How many model calls an alignment takes, before it is made."""

from __future__ import annotations

from alignment.candidates import DEMONSTRATIONS
from alignment.search import ENOUGH
from alignment.splits import sizes
from personaagent.persona.profile import BATCH, MAX_CALLS
from personaagent.settings import AlignmentSettings

__all__ = ["calls_of"]


def calls_of(truths: int, settings: AlignmentSettings) -> int:
    """The most calls a user with so many truths takes, tool calls and the judge apart; 0 if there is too little."""
    if settings.paper:
        n = min(truths, settings.batch)
        return settings.iterations * (2 * n + 1) + _profile(truths, settings) if n else 0
    if truths < 2:
        return 0
    rewrite, select, gate = sizes(truths, settings.batch, settings.held_out)
    if select < 2:  # joined with the rewrite batch
        select += rewrite
        rewrite = min(settings.batch, select)
    # The last one is the persona that the current profile would start with.
    arms = settings.candidates + 1 + (len(DEMONSTRATIONS) if select >= ENOUGH else 0)
    rung = min(select, max(ENOUGH, -(-select // 3)))
    halving = arms * rung + (-(-arms // 2) + 1) * (select - rung) + rung
    step = rewrite + settings.candidates + halving
    return _profile(truths, settings) + rewrite + select + settings.iterations * step + 2 * gate


def _profile(truths: int, settings: AlignmentSettings) -> int:
    return min(-(-truths // BATCH), MAX_CALLS) if settings.profile else 0
