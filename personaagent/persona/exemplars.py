"""Which exchanges of a user's own show best how they write.

A pure function of the interactions; it knows nothing of what a model makes of an exemplar. An exemplar is repeated in every
prompt, where a recalled episode comes and goes, so what may not stand in a claim may not stand in one either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import median

from personaagent.claims import Exemplar
from personaagent.features import normalised, parts
from personaagent.persona.counting import habits_of_writing, newest_first
from personaagent.persona.safety import danger
from personaagent.types import Interaction, Kind

__all__ = ["choose_exemplars"]

LIKE = 1.0  # what it costs to say again what another exemplar says
AGE = 0.3  # and to be the oldest


def choose_exemplars(interactions: Sequence[Interaction], most: int = 3, longest: int = 600) -> tuple[Exemplar, ...]:
    """Exchanges with free texts of the user's that show their manner, are unlike each other and rather new, best first.

    Args:
        interactions: of one user; closed choices and ratings show no manner.
        most: exemplars.
        longest: characters of a request and its truth together.
    """
    texts = [i for i in newest_first(interactions) if i.kind is Kind.TEXT]
    short = [i for i in texts if len(i.query) + len(i.truth or "") <= longest and i.query]
    fit = [i for i in short if _harmless(i.query) and _harmless(i.truth or "")]
    if not fit:
        return ()
    habits = habits_of_writing(interactions)
    whole = sum(h.worth for h in habits) or 1.0
    usual = median(len(i.truth or "") for i in texts)
    worth = {}
    for age, i in enumerate(fit):
        shown = sum(h.worth for h in habits if i.id in h.support) / whole
        off = abs(math.log((len(i.truth or "") + 1) / (usual + 1)))
        worth[i.id] = shown - 0.3 * min(off, 3.0) - AGE * age / len(fit)
    words = {i.id: (frozenset(parts(i.truth or "").words), frozenset(parts(i.query).words)) for i in fit}
    chosen: list[Interaction] = []
    while len(chosen) < most:
        said = {normalised(c.truth or "") for c in chosen}
        left = [i for i in fit if i not in chosen and normalised(i.truth or "") not in said]
        if not left:
            break
        alike = {i.id: max((_alike(words[i.id], words[c.id]) for c in chosen), default=0.0) for i in left}
        chosen.append(max(left, key=lambda i: (worth[i.id] - LIKE * alike[i.id], i.time, i.id)))
    return tuple(Exemplar(source=i.id, query=i.query, truth=i.truth or "") for i in chosen)


@lru_cache(maxsize=4096)
def _harmless(text: str) -> bool:
    """Whether a text may stand in every prompt from now on: no secret, no order to the system, no marks of its prompts."""
    return danger(text) is None


def _alike(one: tuple[frozenset[str], frozenset[str]], other: tuple[frozenset[str], frozenset[str]]) -> float:
    """How much two exchanges say the same, in the answer or in the request, between 0 and 1."""
    return max(len(a & b) / len(a | b) if a | b else 1.0 for a, b in zip(one, other, strict=True))
