"""`personaagent doctor`: checks every invariant of a store that no service uses, and repairs what is safe to repair.

Safe are: parts and versions that nothing refers to, links to what does not exist, names that the texts themselves tell.
Whatever would have to be guessed is reported and left alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from actors.memory.audit import AuditLog
from actors.milvus.counts import SEEN
from actors.milvus.leftovers import leftovers
from actors.milvus.store_identity import shard_of
from actors.milvus.upkeep_store import UpkeepStore
from actors.upkeep.checks import Checkup, Finding
from actors.upkeep.closed_stores import Tell, description, open_stores, silent, tenant_folder
from personaagent.agent.client_prompts import Housekeeping
from personaagent.memory.deletion import without_evidence, without_sources
from personaagent.memory.store import row_key
from personaagent.persona.persona import relinked, resting
from personaagent.settings import Settings
from personaagent.types import user_key

__all__ = ["doctor"]

_KEY = re.compile(r"[0-9a-f]{32}")
LISTED = 1_000  # findings; beyond it they are only counted


def doctor(settings: Settings, fix: bool = False, duplicates: bool = False, tell: Tell = silent) -> dict[str, Any]:
    """Check a store that no service uses. Reads everything, changes nothing without `fix`, never calls a model.

    Args:
        settings: where the store is.
        fix: repair what is safe.
        duplicates: with `fix`, also delete interactions that repeat an earlier one exactly.
        tell: is told how far it is.

    Returns:
        Counts (`users`, `interactions`, `personas`, `facts`, `shards`), `findings` as dictionaries of `Finding`, `by_check`
        (how many of each), `fixed`, and `remaining`: broken invariants that are still there. No texts.

    Raises:
        StoreError: there is no store, it is in use, or it cannot be opened.
        UnavailableError: the Milvus server does not answer.
    """
    audit = AuditLog(settings.home / "audit", f"memory-{settings.memory.tenant}-upkeep")
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    stored = description(settings)
    housekeeping = Housekeeping(settings.serve.housekeeping_patterns)
    with open_stores(settings) as stores:
        seen: set[str] = set()
        for shard, store in enumerate(stores):
            listed = store.directory()
            for done, (key, (episodes, records)) in enumerate(sorted(listed.items()), start=1):
                if _KEY.fullmatch(key) is None:
                    findings.append(
                        Finding("foreign", key, "rows that are not of this program", len(episodes) + len(records))
                    )
                    continue
                mine = settings.memory.uri is not None or shard_of(key, int(stored["shards"])) == shard
                checkup = Checkup(store, key, mine, housekeeping=housekeeping).run(episodes, records)
                counts.update(
                    users=int(key not in seen),
                    interactions=len(episodes),
                    personas=len(checkup.personas),
                    facts=len(checkup.profile.facts) if checkup.profile else 0,
                )
                seen.add(key)
                if fix:
                    if checkup.findings:
                        store.intend([key])
                    _repair(store, checkup, duplicates, audit)
                findings += checkup.findings
                tell(f"checking shard {shard}", done, len(listed))
            if fix and store.intended():
                store.scrub(())
    findings += _left_behind(settings)
    return {
        "shards": int(stored["shards"]),
        **{name: counts[name] for name in ("users", "interactions", "personas", "facts")},
        "findings": [asdict(f) for f in sorted(findings, key=lambda f: (not f.problem, f.fixed))[:LISTED]],
        "by_check": dict(Counter(f.check for f in findings)),
        "fixed": sum(f.fixed for f in findings),
        "remaining": sum(f.problem and not f.fixed for f in findings),
    }


def _left_behind(settings: Settings) -> list[Finding]:
    """Old stores beside this one, of which only Milvus Lite has any."""
    found = leftovers(tenant_folder(settings)) if settings.memory.uri is None else []
    told = "left by a reshard, with users' texts in it; finish the reshard, or delete it"
    return [Finding("leftover", "", f"{path.name}: {told}", problem=False) for path in found]


def _repair(store: UpkeepStore, checkup: Checkup, duplicates: bool, audit: AuditLog) -> None:
    """Repair what is safe, marking findings as fixed. The caller has announced that a scrub will follow."""
    user = checkup.user

    def mend(check: str, repair: Callable[[], None], detail: str = "") -> None:
        found = [f for f in checkup.findings if f.check == check and detail in f.detail]
        if found:
            audit.write("repair", checkup.key, "operator", {"check": check}, sync=True)
            repair()
            for finding in found:
                finding.fixed = True

    mend("orphan parts", lambda: store.drop_records(checkup.orphans))
    mend("profile", lambda: store.drop_records(checkup.old_profiles), "not removed")
    if user is None or user_key(user) != checkup.key:
        return  # whose it is must be known for the rest
    name = user
    mend("nameless", lambda: store.name(name))
    mend("listing", lambda: store.recount(name))
    mend("empty", lambda: store.drop_records([f"{checkup.key}/{kind}" for kind in ("user", "counts", SEEN)]))
    if duplicates and checkup.duplicates:

        def remove() -> None:
            for repeated in checkup.duplicates:
                checkup.interactions.pop(repeated)
            _relink(store, name, checkup)  # first, so that nothing points nowhere if this is interrupted
            store.remove(name, [row_key(name, i)[1] for i in checkup.duplicates])

        mend("duplicates", remove)
    for check in ("evidence", "superseded_by", "persona sources"):
        mend(check, lambda: _relink(store, name, checkup))


def _relink(store: UpkeepStore, user: str, checkup: Checkup) -> None:
    """Drop links to what does not exist; a link to a removed duplicate goes to the interaction that it repeated."""

    def existing(id: str) -> str:
        return id if id in checkup.interactions else checkup.duplicates.get(id, id)

    if checkup.profile is not None:
        old = checkup.profile
        facts = tuple(
            f.model_copy(update={"evidence": tuple(dict.fromkeys(map(existing, f.evidence)))}) for f in old.facts
        )
        moved = old.model_copy(update={"facts": facts})
        pruned = without_evidence(moved, checkup.lost(i for f in facts for i in f.evidence))
        new = pruned or (moved.model_copy(update={"version": old.version + 1}) if moved != old else None)
        if new is not None:
            store.replace_profile(user, new, old.version)
            checkup.profile = new
    for n, persona in enumerate(checkup.personas):
        moved_persona = relinked(persona, existing)
        amended = without_sources(moved_persona, checkup.lost(resting(moved_persona))) or moved_persona
        if amended is not persona:
            store.amend_persona(user, amended)
            checkup.personas[n] = amended
