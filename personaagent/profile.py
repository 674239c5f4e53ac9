"""Semantic memory: what a user's interactions say about them, with evidence, built incrementally in the background.

Two sources feed it, both grounded in interactions alone. Settled requests become facts directly ("asked X, wanted Y"), so
the profile is useful with any model; and the model is asked, once per batch of new episodes, for the preferences behind
them. A line of the model is kept only if it names the episodes it rests on and shares words with them: small models
restate the prompt or invent, and a profile full of that is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from personaagent import prompts
from personaagent.errors import LLMError
from personaagent.features import normalised
from personaagent.persona import ranked, tokens
from personaagent.protocols import LLM, Embedder, Matrix, Memory
from personaagent.tasks import together
from personaagent.types import ChatRequest, Fact, Interaction, Kind, Message, Profile, Usage, interaction_id

__all__ = ["BATCH", "ProfileBuild", "build_profile", "extract_facts", "parse_facts", "trim"]

BATCH = 12  # episodes shown to the model in one call
MAX_CALLS = 4  # per build; older episodes beyond it are read by extraction only
SAME_SUBJECT = 0.80  # cosine of two requests above which a newer answer updates the older one
MAX_EVIDENCE = 32  # episode ids kept per fact, newest first
_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*(?P<text>.+?)\s*\[(?P<numbers>[\d,\s]+)\]\s*\.?\s*$")
_WORD = re.compile(r"[a-z]{4,}")


class ProfileBuild:
    """A built profile and what it cost."""

    def __init__(self, profile: Profile, usage: Usage, read: int) -> None:
        self.profile = profile
        self.usage = usage
        self.read = read  # new interactions that went in


async def build_profile(
    memory: Memory,
    embedder: Embedder,
    user: str,
    llm: LLM | None = None,
    budget: int = 400,
    limit: int = 1000,
    priority: int = 10,
    incarnation: int | None = None,
) -> ProfileBuild:
    """Bring the user's profile up to date with the interactions it has not read yet, and commit it.

    Args:
        memory: where interactions are read and the profile is committed.
        embedder: to find requests on the same subject.
        user: whose profile.
        llm: writes the preferences behind the requests; None: extraction only.
        budget: tokens that the current facts may take together, whatever the history's length.
        limit: newest interactions looked at.
        priority: of the model calls.
        incarnation: of the user, see `Memory`, if this build is part of longer work; by default as of now.

    Raises:
        ForgottenError: the user was forgotten meanwhile.
        ConflictError: another build committed first; nothing is lost, the next build reads the same interactions.
    """
    if incarnation is None:
        incarnation = await memory.incarnation(user)
    old = await memory.profile(user)
    known = await memory.latest(user, limit, with_truth=True)
    new = [i for i in known if old.watermark is None or i.time > old.watermark]
    if not new:
        return ProfileBuild(old, Usage(), 0)
    vectors = await embedder.embed([i.query for i in new])
    topics = await embedder.embed([f.topic for f in old.facts]) if old.facts else vectors[:0]
    facts = extract_facts(list(old.facts), topics, new, vectors)
    usage = Usage()
    if llm is not None:
        recent = new[-BATCH * MAX_CALLS :]
        batches = [recent[start : start + BATCH] for start in range(0, len(recent), BATCH)]
        for written, cost in await together(_ask(llm, batch, priority) for batch in batches):
            usage = usage + cost
            facts = _merge(facts, written)
    profile = Profile(
        version=old.version,
        facts=trim(facts, budget),
        covered=old.covered + len(new),
        watermark=max(i.time for i in new),
    )
    return ProfileBuild(await memory.commit_profile(user, profile, old.version, incarnation), usage, len(new))


def extract_facts(facts: list[Fact], topics: Matrix, new: Sequence[Interaction], vectors: Matrix) -> list[Fact]:
    """Add what settled requests say, oldest first: the same answer to the same subject adds evidence, another one
    supersedes the older fact, which stays in history.

    Args:
        facts: so far, current and past.
        topics: embeddings of their topics, (len(facts), dim).
        new: interactions with a truth, in time order.
        vectors: embeddings of their queries, (len(new), dim).
    """
    facts = list(facts)
    matrix = list(np.asarray(topics))
    for interaction, vector in zip(new, vectors, strict=True):
        if interaction.kind is Kind.RATING:
            text = f"rated {interaction.truth} for: {interaction.query}"
        else:
            text = f"asked “{interaction.query}”, wanted “{interaction.truth}”"
        truth = normalised(interaction.truth or "")
        same = [
            i
            for i, f in enumerate(facts)
            if f.valid_until is None and f.source == "extracted" and float(matrix[i] @ vector) >= SAME_SUBJECT
        ]
        agreeing = [i for i in same if normalised(facts[i].text).endswith(_tail(interaction, truth))]
        if agreeing:
            best = max(agreeing, key=lambda i: float(matrix[i] @ vector))
            facts[best] = _confirmed(facts[best], interaction)
            continue
        fact = Fact(
            id=interaction_id("fact", interaction.user, interaction.id),
            text=text[:2000],
            topic=interaction.query[:500],
            evidence=(interaction.id,),
            first_seen=interaction.time,
            last_seen=interaction.time,
            source="extracted",
        )
        for i in same:
            if _contradicts(facts[i], interaction):
                facts[i] = facts[i].model_copy(update={"valid_until": interaction.time, "superseded_by": fact.id})
        facts.append(fact)
        matrix.append(vector)
    return facts


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


async def _ask(llm: LLM, episodes: Sequence[Interaction], priority: int) -> tuple[list[Fact], Usage]:
    listed = "\n".join(f"{n}. {i.query} Wanted: {i.truth}" for n, i in enumerate(episodes, 1))
    prompt = prompts.PROFILE_BUILD.format(episodes=listed, count=max(2, len(episodes) // 3))
    request = ChatRequest(
        messages=(Message(role="system", content=prompts.PROFILE_SYSTEM), Message(role="user", content=prompt)),
        max_tokens=160,
        priority=priority,
    )
    try:
        result = await llm.chat(request)
    except LLMError:
        # The model refused this batch (too long, say): extraction has read it already, so nothing is lost.
        return [], Usage(calls=1)
    return parse_facts(result.text, episodes), result.usage


def _merge(facts: list[Fact], written: Sequence[Fact]) -> list[Fact]:
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


def _tail(interaction: Interaction, truth: str) -> str:
    return f"wanted “{truth}”" if interaction.kind is not Kind.RATING else normalised(interaction.query)


def _confirmed(fact: Fact, interaction: Interaction) -> Fact:
    return fact.model_copy(
        update={
            "evidence": (interaction.id, *(e for e in fact.evidence if e != interaction.id))[:MAX_EVIDENCE],
            "last_seen": max(fact.last_seen, interaction.time),
        }
    )


def _contradicts(fact: Fact, interaction: Interaction) -> bool:
    """Another answer replaces the old one, unless the old one was not on offer this time."""
    if interaction.kind is Kind.RATING:
        return False
    if not interaction.choices:
        return True
    return any(normalised(fact.text).endswith(f"wanted “{normalised(c)}”") for c in interaction.choices)
