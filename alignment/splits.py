"""Which interactions a persona is rewritten from, selected on and judged on: three parts that never mix."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from personaagent.features import normalised
from personaagent.types import OF, Frozen, Interaction, user_key

__all__ = ["Split", "halved", "repetitions", "sizes", "split", "window"]

PARTS = ("rewrite", "select", "gate")


class Split(Frozen):
    """Three parts of a user's latest interactions, each oldest first.

    `gate` has nothing in common with the others. `rewrite` and `select` have nothing in common either, unless the
    user has too few interactions (`joined`).
    """

    rewrite: tuple[Interaction, ...] = ()
    select: tuple[Interaction, ...] = ()
    gate: tuple[Interaction, ...] = ()
    joined: bool = False


def repetitions(history: Sequence[Interaction]) -> dict[str, tuple[str, ...]]:
    """Of each interaction, those that asked the same in the same words, itself among them, by id.

    Those of a lesson are the interaction that it is about, too, which tells what became of the request.
    """
    alike: dict[str, list[str]] = {}
    for interaction in history:
        same = alike.setdefault(normalised(interaction.query), [])
        same.append(interaction.id)
        if interaction.lesson:
            same.append(str(interaction.metadata.get(OF)))
    return {i: tuple(dict.fromkeys(ids)) for ids in alike.values() for i in ids}


def window(batch: int, held_out: int) -> int:
    """How many interactions a full split takes."""
    return batch + 2 * held_out


def sizes(count: int, batch: int, held_out: int) -> tuple[int, int, int]:
    """Interactions in the rewrite, select and gate parts of a user with `count` of them, at least two."""
    used = min(count, window(batch, held_out))
    scale = used / window(batch, held_out)
    rewrite, gate = max(1, int(batch * scale)), max(1, int(held_out * scale))
    return rewrite, used - rewrite - gate, gate


def halved(latest: Sequence[Interaction], each: int, seed: int = 0) -> Split:
    """A split without anything to rewrite from: `each` interactions to select on and as many to judge on, or half of what is
    there. Dealt as `split` deals.

    Args:
        latest: at least two interactions of one user, oldest first; only the newest ones are used.
        each: interactions of each part.
        seed: of the whole run.
    """
    if len(latest) < 2:
        raise ValueError("a split takes at least two interactions")
    used = list(latest[-2 * each :])
    gate = len(used) // 2
    return _dealt(used, {"select": len(used) - gate, "gate": gate}, seed)


def split(latest: Sequence[Interaction], batch: int, held_out: int, seed: int = 0) -> Split:
    """Deal a user's latest interactions with truth out to the three parts.

    Sizes: `batch`, `held_out` and `held_out` if there are enough. With fewer, rewrite and gate keep their share of what
    there is, rounded down but at least one, and select takes the rest. A selection set of fewer than two could be decided
    by one lucky example, so it is joined with the rewrite batch then; the gate always stays apart.

    Interactions are dealt from the newest to the oldest, each to the part that is furthest behind its share, so every
    part holds recent and older ones alike. Ties go by an order drawn from the user's key and `seed`: the same
    interactions always give the same split.

    Args:
        latest: at least two interactions of one user, oldest first; only the newest `window(batch, held_out)` are used.
        batch: n, interactions to rewrite from.
        held_out: interactions to select on, and as many to judge on.
        seed: of the whole run.
    """
    if len(latest) < 2:
        raise ValueError("a split takes at least two interactions")
    used = list(latest[-window(batch, held_out) :])
    parts = _dealt(used, dict(zip(PARTS, sizes(len(used), batch, held_out), strict=True)), seed)
    if len(parts.select) >= 2:
        return parts
    gate = {i.id for i in parts.gate}
    learn = tuple(i for i in used if i.id not in gate)
    return Split(rewrite=learn[-batch:], select=learn, gate=parts.gate, joined=True)


def _dealt(used: Sequence[Interaction], limits: Mapping[str, int], seed: int) -> Split:
    """Interactions of one user, oldest first, dealt out to parts of these sizes."""
    order = list(limits)
    random.Random(f"{seed}:{user_key(used[0].user)}").shuffle(order)
    dealt: dict[str, list[Interaction]] = {part: [] for part in PARTS}
    for position, interaction in enumerate(reversed(used), start=1):
        open_parts = [p for p in order if len(dealt[p]) < limits[p]]
        behind = {p: limits[p] * position / len(used) - len(dealt[p]) for p in open_parts}
        dealt[max(open_parts, key=lambda p: behind[p])].append(interaction)
    rewrite, select, gate = (tuple(reversed(dealt.get(part, ()))) for part in PARTS)
    return Split(rewrite=rewrite, select=select, gate=gate)
