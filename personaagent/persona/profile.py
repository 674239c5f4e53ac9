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

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from personaagent import prompts
from personaagent.aio import together
from personaagent.errors import LLMError
from personaagent.persona.facts import begun_anew, extract_facts, merged, not_ahead, parse_facts, trim, withdrawn
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.types import (
    ChatRequest,
    Fact,
    Interaction,
    Message,
    Profile,
    Truths,
    Usage,
    utc_now,
)

__all__ = ["BATCH", "PAGE", "ProfileBuild", "build_profile"]

BATCH = 12  # episodes shown to the model in one call
MAX_CALLS = 4  # per build; older episodes beyond it are read by extraction only
PAGE = 1000  # truths read and committed together
PAGES = 10  # of one build; the next one goes on
TOGETHER = 50  # cited interactions looked up in one call
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    incarnation = await memory.incarnation(user) if incarnation is None else incarnation
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
        facts = list(standing) if profile.mark is not None else begun_anew(standing)
        if new:  # or what arrived was deleted meanwhile
            facts = await _extracted(embedder, facts, new)
        if new and llm is not None and not more:
            written, cost = await _written(llm, new, priority)
            facts, usage = merged(facts, written), usage + cost
        covered = len(new) + (0 if profile.mark is None else profile.covered)
        mark = found.mark if found.mark or profile.mark is not None else None
        draft = Profile(version=profile.version, facts=trim(facts, budget), covered=covered, mark=mark)
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
    return extract_facts(not_ahead(facts, new[0].time), topics, new, vectors)


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
        left, _ = withdrawn(left, held, interaction)
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


async def _written(llm: LLM, new: Sequence[Interaction], priority: int) -> tuple[list[Fact], Usage]:
    """What the model writes of the newest interactions."""
    recent = new[-BATCH * MAX_CALLS :]
    batches = [recent[start : start + BATCH] for start in range(0, len(recent), BATCH)]
    answers = await together(_ask(llm, batch, priority) for batch in batches)
    return [fact for facts, _ in answers for fact in facts], sum((cost for _, cost in answers), Usage())


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
