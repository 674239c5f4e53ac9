"""How a user's persona is made of claims and exemplars, and what people and upkeep change in one.

Everything here is pure: a change gives a new draft, and whoever asked for it commits that.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import ValidationError

from personaagent import prompts
from personaagent.claims import (
    MAX_SOURCES,
    Claim,
    ClaimKind,
    Exemplar,
    claim_key,
    ordered,
    prose,
    render,
    rendered,
    same_claim,
    silenced,
)
from personaagent.errors import InvalidInput, NotFoundError
from personaagent.persona.safety import danger
from personaagent.types import Decision, Fact, Origin, Persona, PersonaDraft, Profile

__all__ = [
    "CHARS_PER_TOKEN",
    "add",
    "again",
    "clip",
    "initial_persona",
    "made",
    "numbered",
    "pin_claim",
    "ranked",
    "relinked",
    "resting",
    "standing",
    "stated",
    "strike",
    "tokens",
    "written",
]

CHARS_PER_TOKEN = 4  # an estimate on the safe side for English; exact counts would tie the agent to one tokenizer

P = TypeVar("P", bound=PersonaDraft)


def tokens(text: str) -> int:
    """Estimated number of tokens."""
    return -(-len(text) // CHARS_PER_TOKEN)


def clip(text: str, budget: int) -> str:
    """`text` within `budget` tokens, cut at the end of a line or sentence where there is one."""
    limit = budget * CHARS_PER_TOKEN
    text = text.strip()
    if len(text) <= limit:
        return text
    cut = text[:limit]
    for mark in ("\n", ". ", " "):
        at = cut.rfind(mark)
        if at > limit // 2:
            return cut[: at + 1].strip()
    return cut.strip()


# Making one


def made(
    claims: Sequence[Claim],
    decision: Decision,
    origin: Origin,
    *,
    exemplars: Sequence[Exemplar] = (),
    struck: Sequence[str] = (),
    budget: int | None,
    pinned: bool = False,
) -> PersonaDraft:
    """A draft whose text is its claims as they are shown.

    Claims that repeat another, were struck or rest on nothing are left out.

    Args:
        claims: the most important ones first.
        decision: how memory enters the answers.
        origin: where the version comes from.
        exemplars: in the order in which they are shown.
        struck: claims that must not come back.
        budget: tokens of the text. Claims that do not fit are left out, from the end; what a person pinned or wrote stays in
            any case. None: no limit.
        pinned: whether alignment must leave the whole persona alone.
    """
    different: dict[str, Claim] = {}
    for claim in claims:
        if claim.shown and not silenced(claim, struck):
            different.setdefault(claim_key(claim.text), claim)
    kept = {key: claim for key, claim in different.items() if claim.pinned or claim.origin == "person"}
    for key, claim in different.items():
        if budget is None or tokens(render([*kept.values(), claim])) <= budget:
            kept[key] = claim
    shown = ordered([claim for key, claim in different.items() if key in kept])
    sources = dict.fromkeys([*(s for c in shown for s in c.sources), *(e.source for e in exemplars)])
    return PersonaDraft(
        text=render(shown) or prompts.NEW_USER,
        origin=origin,
        decision=decision,
        claims=shown,
        exemplars=tuple(exemplars),
        struck=tuple(struck),
        sources=tuple(sources)[:MAX_SOURCES],
        pinned=pinned,
    )


def initial_persona(
    profile: Profile, decision: Decision, budget: int = 300, claims: Sequence[Claim] = ()
) -> PersonaDraft:
    """The persona a user starts with: what their interactions say, a neutral one if that is nothing.

    Args:
        profile: the user's semantic memory; its current facts become claims. Those that only repeat what was asked and
            wanted do so only where nothing else is known: recall shows them where they fit. What may not stand in a persona
            (`safety.danger`) is left out.
        decision: how memory enters their answers.
        budget: length of a persona in tokens. The first one takes half of it, so that alignment can add to it.
        claims: what else is known, and comes first.
    """
    known = [f for f in profile.current if f.text.strip() and (f.source == "model" or not claims)]
    facts = [stated(fact) for fact in ranked(known) if danger(fact.text) is None]
    return made([*claims, *facts], decision, Origin.INITIAL, budget=budget // 2)


def ranked(facts: Sequence[Fact]) -> list[Fact]:
    """Facts by what they are worth in a short text: written by the model first, then best supported, then newest."""
    return sorted(facts, key=lambda f: (f.source == "model", len(f.evidence), f.last_seen), reverse=True)


def stated(fact: Fact) -> Claim:
    """A fact of the profile as a claim."""
    return Claim(
        text=" ".join(fact.text.split()),
        kind=ClaimKind.FACT,
        sources=fact.evidence[:MAX_SOURCES],
        since=fact.first_seen,
        origin="model" if fact.source == "model" else "counted",
    )


# What people do


def standing(draft: PersonaDraft) -> tuple[Claim, ...]:
    """The claims that a draft's prompt is made of, by whose numbers people name them; a persona written as prose is one.

    Nothing is said of a new user. Prose that no stored interaction supports any more is the word of the person who keeps it.
    """
    if draft.claims or draft.text == prompts.NEW_USER:
        return draft.claims
    claims = draft.stated
    return claims if all(c.shown for c in claims) else prose(draft.text, True)


def add(draft: PersonaDraft, text: str, kind: ClaimKind = ClaimKind.FACT) -> PersonaDraft:
    """A draft that says this, too, on a person's word. Something struck is so no longer.

    Raises:
        InvalidInput: the text is empty, too long or may not stand in a persona (`safety.danger`), or a claim says so already.
    """
    line = " ".join(text.split())
    if all(c.isspace() or unicodedata.category(c) == "Cf" for c in line):
        raise InvalidInput("a claim cannot be empty")
    for number, known in enumerate(standing(draft), 1):
        if known.shown and same_claim(known.text, line):
            raise InvalidInput(f"claim {number} says that already")
    try:
        claim = Claim(text=line, kind=kind, origin="person")
    except ValidationError as e:
        raise InvalidInput(f"claim: {e.errors()[0]['msg'].removeprefix('Value error, ')}") from e
    if (reason := danger(line)) is not None:
        raise InvalidInput(f"this may not stand in a persona: {reason}")
    struck = tuple(s for s in draft.struck if not same_claim(s, line))
    return _amended(draft, (*standing(draft), claim), struck)


def strike(draft: PersonaDraft, number: int) -> PersonaDraft:
    """A draft without this claim, which alignment will not propose again. Raises NotFoundError if there is no such claim."""
    claims = standing(draft)
    gone = numbered(claims, number)
    struck = (*(s for s in draft.struck if not same_claim(s, gone.text)), gone.text)
    return _amended(draft, [c for c in claims if not same_claim(c.text, gone.text)], struck)


def pin_claim(draft: PersonaDraft, number: int, pinned: bool = True) -> PersonaDraft:
    """A draft with this claim pinned, so that alignment leaves it alone, or unpinned; `draft` itself if it is so already.

    Raises NotFoundError if there is no such claim.
    """
    claims = standing(draft)
    claim = numbered(claims, number)
    if claim.pinned == pinned:
        return draft
    changed = (*claims[: number - 1], claim.model_copy(update={"pinned": pinned}), *claims[number:])
    return _amended(draft, changed, draft.struck)


def written(text: str, decision: Decision, base: PersonaDraft | None = None, pinned: bool = False) -> PersonaDraft:
    """A draft of which a person wrote the whole text, as one claim; of the text as it is, the claims that it is made of.

    Args:
        text: as it stands in the prompt.
        decision: how memory enters the answers.
        base: the version it replaces, whose exemplars and struck claims stay.
        pinned: whether alignment must leave it alone.

    Raises:
        InvalidInput: it may not stand in a persona (`safety.danger`); what stands there already may stay.
        ValidationError: the text is too long or no valid Unicode.
    """
    if base is not None and base.text == text:
        return again(base, Origin.MANUAL, pinned).model_copy(update={"decision": decision})
    if (reason := danger(text)) is not None:
        raise InvalidInput(f"this may not stand in a persona: {reason}")
    # Checked first: a claim's errors would name fields that nobody has given.
    draft = PersonaDraft(text=text, origin=Origin.MANUAL, decision=decision, pinned=pinned)
    if base is None:
        return draft.model_copy(update={"claims": prose(text, True)})
    struck = tuple(s for s in base.struck if not same_claim(s, text))
    more = {"claims": prose(text, True), "exemplars": base.exemplars, "struck": struck}
    return draft.model_copy(update={**more, "sources": tuple(e.source for e in base.exemplars)[:MAX_SOURCES]})


def again(
    version: PersonaDraft, origin: Origin, pinned: bool | None = None, struck: Sequence[str] = ()
) -> PersonaDraft:
    """The same persona as a new version.

    Args:
        version: what it says and shows.
        origin: of the new version.
        pinned: whether alignment must leave it alone; None: as before.
        struck: claims struck in other versions. They stay so, unless this one makes them.

    Raises:
        NotFoundError: the texts of this version are gone, see `Persona.dropped`.
    """
    if isinstance(version, Persona) and version.dropped:
        raise NotFoundError(
            f"the texts of persona version {version.number} are gone, because the user's versions took up more than"
            " memory.limits.persona_chain_mb allows; choose a newer version"
        )
    claims = standing(version)
    more = [
        s for s in struck if not any(same_claim(s, other) for other in (*version.struck, *(c.text for c in claims)))
    ]
    return PersonaDraft(
        text=version.text,
        origin=origin,
        decision=version.decision,
        claims=claims,
        exemplars=version.exemplars,
        struck=(*version.struck, *more),
        sources=version.sources,
        pinned=version.pinned if pinned is None else pinned,
    )


def numbered(claims: Sequence[Claim], number: int) -> Claim:
    """A claim by its number, from 1. Raises NotFoundError if there is none."""
    if not 1 <= number <= len(claims):
        raise NotFoundError(f"there is no claim {number}; there {_are(len(claims))}")
    return claims[number - 1]


def _are(count: int) -> str:
    return {0: "are none yet", 1: "is 1"}.get(count, f"are {count}")


def _amended(draft: PersonaDraft, claims: Sequence[Claim], struck: Sequence[str]) -> PersonaDraft:
    """A person's version: whatever they did not touch stays, also where it is more than alignment would keep."""
    try:
        return made(
            claims,
            draft.decision,
            Origin.MANUAL,
            exemplars=draft.exemplars,
            struck=struck,
            budget=None,
            pinned=draft.pinned,
        )
    except ValidationError as e:
        raise InvalidInput(f"persona: {e.errors()[0]['msg']}") from e


# What upkeep does


def resting(draft: PersonaDraft) -> frozenset[str]:
    """The ids of all interactions that a draft names."""
    of_claims = (s for c in draft.claims for s in c.sources)
    return frozenset([*draft.sources, *of_claims, *(e.source for e in draft.exemplars)])


def relinked(version: P, link: Callable[[str], str | None]) -> P:
    """A version with other ids of interactions; `version` itself if nothing changes.

    A claim that loses the last one it rests on is no longer shown, unless a person wrote it, pinned it or pinned the persona.

    Args:
        version: whose claims, exemplars and sources.
        link: gives an id's new one, or None if the interaction is gone; an exemplar goes with it.
    """

    def linked(ids: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(new for i in ids if (new := link(i)) is not None))

    exemplars: dict[str, Exemplar] = {}
    for exemplar in version.exemplars:
        if (source := link(exemplar.source)) is not None:
            exemplars.setdefault(source, exemplar.model_copy(update={"source": source}))
    claims = []
    for claim in version.claims:
        sources = linked(claim.sources)
        kept = claim.pinned or (version.pinned and claim.shown and not sources)
        claims.append(claim.model_copy(update={"sources": sources, "pinned": kept}))
    made_of_claims = rendered(version.text, version.claims)
    changed = version.model_copy(
        update={
            "claims": tuple(claims),
            "exemplars": tuple(exemplars.values()),
            "sources": linked(version.sources),
            "text": (render(claims) or prompts.NEW_USER) if made_of_claims else version.text,
        }
    )
    return version if changed == version else changed
