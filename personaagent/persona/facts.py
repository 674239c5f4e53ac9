"""What interactions say about a user, as facts with evidence: extracted by counting, and read from what a model wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt

from personaagent.features import normalised
from personaagent.persona.persona import ranked, tokens
from personaagent.protocols import Matrix
from personaagent.types import (
    Fact,
    Interaction,
    Kind,
    interaction_id,
    utc_now,
)

__all__ = ["begun_anew", "extract_facts", "merged", "not_ahead", "parse_facts", "trim", "withdrawn"]

SAME_SUBJECT = 0.80  # cosine of two requests above which a newer answer updates the older one
_ASKED = ("asked “", "rated ")  # how facts begin that tell of a request; others were noted as they stand
MAX_EVIDENCE = 32  # episode ids kept per fact, newest first
_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*(?P<text>.+?)\s*\[(?P<numbers>[\d,\s]+)\]\s*\.?\s*$")
_WORD = re.compile(r"[a-z]{4,}")


def not_ahead(facts: Sequence[Fact], before: datetime) -> list[Fact]:
    """Facts without times later than now, which a clock left that was ahead: such a fact would outrank all later answers.

    When it really was is not known; it was read before what is read now, so it is put before that.
    """
    now = utc_now()

    def dated(fact: Fact) -> Fact:
        if max(fact.last_seen, fact.valid_until or fact.last_seen) <= now:
            return fact
        until = None if fact.valid_until is None else min(fact.valid_until, before)
        ahead = {"first_seen": min(fact.first_seen, before), "last_seen": min(fact.last_seen, before)}
        return fact.model_copy(update={**ahead, "valid_until": until})

    return [dated(f) for f in facts]


def extract_facts(facts: list[Fact], topics: Matrix, new: Sequence[Interaction], vectors: Matrix) -> list[Fact]:
    """Add what settled requests say: the same answer to the same subject adds evidence; of different ones the newest is
    the current fact, and the others stay in history.

    An interaction whose truth was corrected takes its evidence away from what it said before.

    Args:
        facts: so far, current and past.
        topics: embeddings of their topics, (len(facts), dim).
        new: interactions with a truth, in time order.
        vectors: embeddings of their queries, (len(new), dim).
    """
    facts = list(facts)
    matrix = np.empty((len(facts) + len(new), np.asarray(vectors).shape[1]), dtype=np.float32)
    matrix[: len(facts)] = topics
    cited: dict[str, set[str]] = {}  # extracted facts by the interactions that they rest on
    for fact in facts:
        if fact.source == "extracted":
            for i in fact.evidence:
                cited.setdefault(i, set()).add(fact.id)
    for interaction, vector in zip(new, vectors, strict=True):
        said = cited.pop(interaction.id, set())
        held = [i for i, f in enumerate(facts) if f.id in said] if said else []
        if any(_says(facts[i], interaction) for i in held):  # read already
            cited[interaction.id] = said
            continue
        if held:
            facts, kept = withdrawn(facts, held, interaction.id)
            matrix[: len(kept)] = matrix[kept]
        cosines = matrix[: len(facts)] @ vector
        near = [int(i) for i in np.flatnonzero(cosines >= SAME_SUBJECT) if facts[i].source == "extracted"]
        at = _entered(facts, near, interaction, cosines)
        if at == len(cosines):
            matrix[at] = vector
        cited.setdefault(interaction.id, set()).add(facts[at].id)
    return facts


def _entered(facts: list[Fact], near: Sequence[int], interaction: Interaction, cosines: npt.NDArray[np.float32]) -> int:
    """Enter what an interaction says among the facts on the same subject; where it stands."""
    current = [i for i in near if facts[i].valid_until is None]
    newer = [i for i in current if _contradicts(facts[i], interaction) and facts[i].last_seen > interaction.time]
    agreeing = [i for i in current if _says(facts[i], interaction)]
    if newer and not agreeing:  # this one has come late, and is history
        agreeing = [i for i in near if facts[i].valid_until is not None and _says(facts[i], interaction)]
    if agreeing:
        at = max(agreeing, key=lambda i: float(cosines[i]))
        facts[at] = _confirmed(facts[at], interaction)
    else:
        at = len(facts)
        facts.append(_fact(interaction))
        if newer:
            after = min((facts[i] for i in newer), key=lambda f: f.first_seen)
            until = max(after.first_seen, interaction.time)
            facts[at] = facts[at].model_copy(update={"valid_until": until, "superseded_by": after.id})
    if not newer:
        for i in current:
            if i != at and _contradicts(facts[i], interaction):
                ended = {"valid_until": interaction.time, "superseded_by": facts[at].id}
                facts[i] = facts[i].model_copy(update=ended)
    return at


def _fact(interaction: Interaction) -> Fact:
    return Fact(
        id=interaction_id("fact", interaction.user, interaction.id, interaction.truth),
        text=_text(interaction),
        topic=interaction.query[:500],
        evidence=(interaction.id,),
        first_seen=interaction.time,
        last_seen=interaction.time,
        source="extracted",
    )


def _text(interaction: Interaction) -> str:
    if interaction.noted:
        return f"{interaction.query}: {interaction.truth}"[:2000]
    if interaction.kind is Kind.RATING:
        return f"rated {interaction.truth} for: {interaction.query}"[:2000]
    return f"asked “{interaction.query}”, wanted “{interaction.truth}”"[:2000]


def withdrawn(facts: list[Fact], held: Sequence[int], interaction: str) -> tuple[list[Fact], list[int]]:
    """Facts without an interaction as evidence, and which ones are left: those that rest on nothing else are dropped.

    What a dropped fact had superseded is current again.
    """
    for i in held:
        rest = tuple(e for e in facts[i].evidence if e != interaction)
        facts[i] = facts[i].model_copy(update={"evidence": rest})
    kept = [i for i, f in enumerate(facts) if f.evidence]
    dropped = {f.id for f in facts if not f.evidence}
    revived = {"valid_until": None, "superseded_by": None}
    return [f.model_copy(update=revived) if (f := facts[i]).superseded_by in dropped else f for i in kept], kept


def _says(fact: Fact, interaction: Interaction) -> bool:
    """Whether a fact says what an interaction says."""
    if fact.text == _text(interaction):
        return True
    return (
        not interaction.noted
        and interaction.kind is not Kind.RATING
        and normalised(fact.text).endswith(f"wanted “{normalised(interaction.truth or '')}”")
    )


def begun_anew(facts: Sequence[Fact]) -> list[Fact]:
    """The facts of a profile of the version before, whose interactions are all read once more.

    A fact that claims to be of the future would be the newest for good; it comes back from its interaction, as of now.
    """
    now = utc_now()
    gone = {f.id for f in facts if f.source == "extracted" and f.last_seen > now}
    revived = {"valid_until": None, "superseded_by": None}
    kept = [f.model_copy(update=revived) if f.superseded_by in gone else f for f in facts if f.id not in gone]
    return [f.model_copy(update={"last_seen": min(f.last_seen, now)}) for f in kept]


def parse_facts(text: str, episodes: Sequence[Interaction]) -> list[Fact]:
    """The lines of a model's answer that hold: they cite episodes they were shown, and share a word with each half of
    their evidence (a line that shares none is invented or restates the prompt)."""
    facts: list[Fact] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or not 8 <= len(match["text"]) <= 300:
            continue
        numbers = sorted({int(n) for n in re.findall(r"\d+", match["numbers"])})
        if not numbers or numbers[0] < 1 or numbers[-1] > len(episodes):
            continue
        cited = [episodes[n - 1] for n in numbers]
        words = set(_WORD.findall(match["text"].casefold()))
        grounded = [i for i in cited if words & set(_WORD.findall(f"{i.query} {i.truth}".casefold()))]
        if len(grounded) * 2 < len(cited) or len(cited) > max(4, len(episodes) // 2):
            continue
        times = [i.time for i in grounded]
        facts.append(
            Fact(
                id=interaction_id("fact", episodes[0].user, match["text"]),
                text=match["text"],
                topic=match["text"],
                evidence=tuple(i.id for i in grounded),
                first_seen=min(times),
                last_seen=max(times),
            )
        )
    return facts


def trim(facts: Sequence[Fact], budget: int) -> tuple[Fact, ...]:
    """Facts within the budget: the best current ones, and as much history of superseded ones again."""
    kept: list[Fact] = []
    for group in ([f for f in facts if f.valid_until is None], [f for f in facts if f.valid_until is not None]):
        left = budget
        for fact in ranked(group):
            if (left := left - tokens(fact.text)) < 0:
                break
            kept.append(fact)
    ids = {f.id for f in kept}
    # History may not point at a fact that was trimmed away.
    return tuple(
        f if f.superseded_by is None or f.superseded_by in ids else f.model_copy(update={"superseded_by": None})
        for f in sorted(kept, key=lambda f: (f.first_seen, f.id))
    )


def merged(facts: list[Fact], written: Sequence[Fact]) -> list[Fact]:
    """Facts with those that a model wrote: of the same words one, with the evidence of both."""
    by_text = {normalised(f.text): i for i, f in enumerate(facts)}
    for fact in written:
        at = by_text.get(normalised(fact.text))
        if at is None:
            by_text[normalised(fact.text)] = len(facts)
            facts.append(fact)
        else:
            old = facts[at]
            facts[at] = old.model_copy(
                update={
                    "evidence": tuple(dict.fromkeys((*fact.evidence, *old.evidence)))[:MAX_EVIDENCE],
                    "last_seen": max(old.last_seen, fact.last_seen),
                }
            )
    return facts


def _confirmed(fact: Fact, interaction: Interaction) -> Fact:
    return fact.model_copy(
        update={
            "evidence": (interaction.id, *(e for e in fact.evidence if e != interaction.id))[:MAX_EVIDENCE],
            "first_seen": min(fact.first_seen, interaction.time),
            "last_seen": max(fact.last_seen, interaction.time),
        }
    )


def _contradicts(fact: Fact, interaction: Interaction) -> bool:
    """Another answer replaces the old one, unless the old one was not on offer this time; another rating, if it is of the
    same, and so with what was noted, which answers do not replace."""
    if _says(fact, interaction):
        return False
    if interaction.noted != (not fact.text.startswith(_ASKED)):
        return False
    if interaction.kind is Kind.RATING or interaction.noted:
        return normalised(fact.topic) == normalised(interaction.query[:500])
    if not interaction.choices:
        return True
    return any(normalised(fact.text).endswith(f"wanted “{normalised(c)}”") for c in interaction.choices)
