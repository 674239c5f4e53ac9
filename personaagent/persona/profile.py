"""Semantic memory: what a user's interactions say about them, with evidence, built incrementally in the background.

Two sources feed it, both grounded in interactions alone. Settled requests become facts directly ("asked X, wanted Y"), so
the profile is useful with any model; and the model is asked, once per batch of new episodes, for the preferences behind
them. A line of the model is kept only if it names the episodes it rests on and shares words with them: small models
restate the prompt or invent, and a profile full of that is worse than none.

Truths are read in the order in which they arrived, page by page, each once: one that comes late, or with a history imported
afterwards, is new whatever time its interaction is of. Which of two answers is the newer one is told by that time. So the
newest answer on a subject is the current fact in whatever order the truths arrived, as long as what is on one subject does not
depend on the order (it need not be transitive, nor are all answers always on offer); which interactions a fact cites and what
is in history may depend on it.
Reading a truth twice changes nothing. A truth that was withdrawn takes its evidence away at the next build.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from personaagent import prompts
from personaagent.aio import together
from personaagent.errors import LLMError
from personaagent.features import normalised
from personaagent.memory.store import Vector
from personaagent.persona.persona import ranked, tokens
from personaagent.protocols import LLM, Embedder, Matrix, Memory
from personaagent.types import (
    ChatRequest,
    Fact,
    Interaction,
    Kind,
    Message,
    Profile,
    Truths,
    Usage,
    interaction_id,
    utc_now,
)

__all__ = ["BATCH", "PAGE", "ProfileBuild", "build_profile", "extract_facts", "parse_facts", "trim"]

BATCH = 12  # episodes shown to the model in one call
MAX_CALLS = 4  # per build; older episodes beyond it are read by extraction only
PAGE = 1000  # truths read and committed together
PAGES = 10  # of one build; the next one goes on
SAME_SUBJECT = 0.80  # cosine of two requests above which a newer answer updates the older one
MAX_EVIDENCE = 32  # episode ids kept per fact, newest first
TOGETHER = 50  # cited interactions looked up in one call
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*(?P<text>.+?)\s*\[(?P<numbers>[\d,\s]+)\]\s*\.?\s*$")
_WORD = re.compile(r"[a-z]{4,}")


@dataclass(frozen=True, slots=True)
class ProfileBuild:
    """A built profile and what it cost."""

    profile: Profile
    usage: Usage
    read: int  # truths that went in
    more: bool = False  # whether there are truths that the next build has to read


async def build_profile(
    memory: Memory,
    embedder: Embedder,
    user: str,
    llm: LLM | None = None,
    budget: int = 400,
    page: int = PAGE,
    pages: int = PAGES,
    priority: int = 10,
    incarnation: int | None = None,
    commit: bool = True,
) -> ProfileBuild:
    """Bring the user's profile up to date with the truths it has not read yet, and commit it.

    Each page is committed by itself: whatever breaks off, the next build goes on behind what is stored. The model is asked
    about the last page only; of a long history imported at once the rest is read by extraction.

    Args:
        memory: where interactions are read and the profile is committed.
        embedder: to find requests on the same subject.
        user: whose profile.
        llm: writes the preferences behind the requests; None: extraction only.
        budget: tokens that the current facts may take together, whatever the history's length.
        page: truths read together.
        pages: so many of them at most.
        priority: of the model calls.
        incarnation: of the user, see `Memory`, if this build is part of longer work; by default as of now.
        commit: False: nothing is stored.

    Raises:
        ForgottenError: the user was forgotten meanwhile.
        ConflictError: another build committed first; nothing is lost, the next build reads the same truths.
    """
    if incarnation is None:
        incarnation = await memory.incarnation(user)
    profile = await memory.profile(user)
    standing = await _standing(memory, user, profile.facts)
    usage, read, more = Usage(), 0, True
    while more and pages > 0:
        pages -= 1
        found = await memory.truths(user, profile.mark or 0, page)
        more = found.more
        if found.mark == (profile.mark or 0) and standing == profile.facts:
            break
        new = _by_time(found)
        facts = list(standing) if profile.mark is not None else _begun_anew(standing)
        if new:  # or what arrived was deleted meanwhile
            facts = await _extracted(embedder, facts, new)
        if new and llm is not None and not more:
            recent = new[-BATCH * MAX_CALLS :]
            batches = [recent[start : start + BATCH] for start in range(0, len(recent), BATCH)]
            for written, cost in await together(_ask(llm, batch, priority) for batch in batches):
                usage = usage + cost
                facts = _merge(facts, written)
        draft = Profile(
            version=profile.version,
            facts=trim(facts, budget),
            covered=len(new) + (0 if profile.mark is None else profile.covered),
            mark=found.mark if found.mark or profile.mark is not None else None,
        )
        if commit:
            profile = await memory.commit_profile(user, draft, profile.version, incarnation)
        else:
            profile = draft.model_copy(update={"version": profile.version + 1})
        standing = profile.facts
        read += len(new)
    return ProfileBuild(profile, usage, read, more)


async def _extracted(embedder: Embedder, facts: Sequence[Fact], new: Sequence[Interaction]) -> list[Fact]:
    """The facts with what counting finds in new interactions, oldest first."""
    vectors = await embedder.embed([i.query for i in new])
    topics = await embedder.embed([f.topic for f in facts]) if facts else vectors[:0]
    return extract_facts(_not_ahead(facts, new[0].time), topics, new, vectors)


async def _standing(memory: Memory, user: str, facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """The facts without the interactions whose truth was withdrawn (a thumb down took back what a thumb up had confirmed).

    Such a truth does not arrive again, so nothing else tells of it. An interaction that is gone altogether was taken out by
    whoever deleted it.
    """
    cited = tuple(dict.fromkeys(i for fact in facts for i in fact.evidence))
    untold: list[str] = []
    for first in range(0, len(cited), TOGETHER):
        some = await memory.interactions(user, cited[first : first + TOGETHER])
        untold += [i.id for i in some if i.truth is None]
    left = list(facts)
    for interaction in untold:
        held = [n for n, fact in enumerate(left) if interaction in fact.evidence]
        left, _ = _withdrawn(left, held, interaction)
    return tuple(left) if untold else facts


def _by_time(found: Truths) -> list[Interaction]:
    """A page's interactions, oldest first. One that says it is of a later time than when its truth arrived is of then, and
    nothing is of later than now: the clock may have been ahead."""
    dated, now = [], utc_now()
    for interaction, arrived in zip(found.interactions, found.arrived, strict=True):
        told = min(EPOCH + timedelta(microseconds=arrived), now)
        late = interaction.time > told
        dated.append(interaction.model_copy(update={"time": told}) if late else interaction)
    return sorted(dated, key=lambda i: i.time)  # stable: of one time in the order of arrival


def _not_ahead(facts: Sequence[Fact], before: datetime) -> list[Fact]:
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
            facts, kept = _withdrawn(facts, held, interaction.id)
            matrix[: len(kept)] = matrix[kept]
        cosines = matrix[: len(facts)] @ vector
        near = [int(i) for i in np.flatnonzero(cosines >= SAME_SUBJECT) if facts[i].source == "extracted"]
        at = _entered(facts, near, interaction, cosines)
        if at == len(cosines):
            matrix[at] = vector
        cited.setdefault(interaction.id, set()).add(facts[at].id)
    return facts


def _entered(facts: list[Fact], near: Sequence[int], interaction: Interaction, cosines: Vector) -> int:
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
    if interaction.kind is Kind.RATING:
        return f"rated {interaction.truth} for: {interaction.query}"[:2000]
    return f"asked “{interaction.query}”, wanted “{interaction.truth}”"[:2000]


def _withdrawn(facts: list[Fact], held: Sequence[int], interaction: str) -> tuple[list[Fact], list[int]]:
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
    return interaction.kind is not Kind.RATING and normalised(fact.text).endswith(
        f"wanted “{normalised(interaction.truth or '')}”"
    )


def _begun_anew(facts: Sequence[Fact]) -> list[Fact]:
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
    same."""
    if _says(fact, interaction):
        return False
    if interaction.kind is Kind.RATING:
        return normalised(fact.topic) == normalised(interaction.query[:500])
    if not interaction.choices:
        return True
    return any(normalised(fact.text).endswith(f"wanted “{normalised(c)}”") for c in interaction.choices)
