"""Retention: interactions older than `memory.retention_days` are deleted, with what points to them.

What was learnt from them stays as long as later interactions support it, too: facts, and claims of personas in prompts. What a
person wrote or pinned stays, and so do personas written as prose. `forget` removes these. An exemplar is a copy of an
interaction and goes with it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from actors.memory.audit import AuditLog
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.memory.store import microseconds, row_key
from personaagent.persona.persona import relinked, resting
from personaagent.types import Persona, Profile, user_key, utc_now

__all__ = ["cutoff", "expire_user", "without_evidence", "without_sources"]


def cutoff(days: float) -> int:
    """Interactions before this moment (microseconds since 1970) are older than so many days."""
    try:
        return microseconds(utc_now() - timedelta(days=days))
    except OverflowError:  # longer than the calendar is
        return microseconds(datetime.min.replace(tzinfo=UTC))


def expire_user(store: UpkeepStore, user: str, digests: Collection[bytes], audit: AuditLog, by: str) -> None:
    """Delete interactions of one user, and what points to them.

    The caller is the user's only writer. Killed half-way it leaves nothing that points nowhere: links go first, and the
    next run finds the interactions again. The bytes stay in the files until `UpkeepStore.scrub`, which the caller has
    announced with `UpkeepStore.intend`.

    Args:
        store: of the user's shard.
        user: whose interactions.
        digests: which ones, see `row_key`.
        audit: is told first.
        by: who the audit log says did it.
    """
    audit.write("expire", user_key(user), by, {"interactions": len(digests)}, sync=True)
    stored = store.load(user, rows=False)
    lost = frozenset(digests)

    def gone(interaction: str) -> bool:
        return row_key(user, interaction)[1] in lost

    if stored.profile is not None:
        ids = {i for fact in stored.profile.facts for i in fact.evidence if gone(i)}
        if (profile := without_evidence(stored.profile, ids)) is not None:
            store.replace_profile(user, profile, stored.profile.version)
    for persona in stored.personas:
        if (amended := without_sources(persona, {i for i in resting(persona) if gone(i)})) is not None:
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


def without_sources(persona: Persona, lost: Collection[str]) -> Persona | None:
    """A persona version that does not rest on these ids, see `relinked`; None if nothing changes."""
    amended = relinked(persona, lambda i: None if i in lost else i)
    return None if amended is persona else amended
