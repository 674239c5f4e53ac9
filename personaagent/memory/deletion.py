"""Deleting single interactions of a user, and what points to them: facts, claims, exemplars, lessons.

What was learned from them stays as long as other interactions support it, too. What a person wrote or pinned stays, and so
do personas written as prose; `forget` removes these. An exemplar is a copy of an interaction and goes with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection

from personaagent.memory.store import Store, row_key
from personaagent.persona.persona import relinked, resting
from personaagent.types import Persona, Profile

__all__ = ["delete_interactions", "without_evidence", "without_sources"]


def delete_interactions(store: Store, user: str, digests: Collection[bytes], silent: bool = False) -> None:
    """Delete interactions of one user, and what points to them.

    The caller is the user's only writer. Killed half-way it leaves nothing that points nowhere: links go first, and the
    next call finds the interactions again.

    Args:
        store: of the user.
        user: whose interactions.
        digests: which ones, see `row_key`.
        silent: keep a claim that rested on them alone, where no prompt shows it; else it goes, with its text.
    """
    stored = store.load(user, rows=False)
    lost = frozenset(digests)

    def gone(interaction: str) -> bool:
        return row_key(user, interaction)[1] in lost

    if stored.profile is not None:
        ids = {i for fact in stored.profile.facts for i in fact.evidence if gone(i)}
        if (profile := without_evidence(stored.profile, ids)) is not None:
            store.put_profile(user, profile, stored.profile.version, uuid.uuid4().hex)
    for persona in stored.personas:
        if (amended := without_sources(persona, {i for i in resting(persona) if gone(i)}, silent)) is not None:
            store.amend_persona(user, amended)
    store.remove(user, digests)


def without_evidence(profile: Profile, lost: Collection[str]) -> Profile | None:
    """The next version of a profile, without these ids as evidence, facts that rest on nothing else, and links to those.

    None if nothing changes.
    """
    facts = []
    for fact in profile.facts:
        evidence = tuple(i for i in fact.evidence if i not in lost)
        if evidence == fact.evidence:
            facts.append(fact)
        elif evidence:
            facts.append(fact.model_copy(update={"evidence": evidence}))
    known = {fact.id for fact in facts}
    linked = tuple(
        fact.model_copy(update={"superseded_by": None})
        if fact.superseded_by and fact.superseded_by not in known
        else fact
        for fact in facts
    )
    if linked == profile.facts:
        return None
    return profile.model_copy(update={"facts": linked, "version": profile.version + 1})


def without_sources(persona: Persona, lost: Collection[str], silent: bool = True) -> Persona | None:
    """A persona version that does not rest on these ids, see `relinked`; None if nothing changes.

    `silent`: a claim that rested on nothing else stays, but is not shown; else it goes.
    """
    amended = relinked(persona, lambda i: None if i in lost else i)
    if amended is persona:
        return None
    if silent:
        return amended
    pairs = zip(persona.claims, amended.claims, strict=True)
    return amended.model_copy(update={"claims": tuple(now for was, now in pairs if now.shown or not was.shown)})
