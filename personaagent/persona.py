"""The first persona of a user, made from the semantic profile, and the length budget that every persona keeps."""

from __future__ import annotations

from collections.abc import Sequence

from personaagent import prompts
from personaagent.types import Decision, Fact, Origin, PersonaDraft, Profile

__all__ = ["CHARS_PER_TOKEN", "clip", "initial_persona", "tokens"]

CHARS_PER_TOKEN = 4  # an estimate on the safe side for English; exact counts would tie the agent to one tokenizer


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


def initial_persona(profile: Profile, decision: Decision, budget: int = 300) -> PersonaDraft:
    """The persona a user starts with: a neutral one for a new user, otherwise the current facts of the profile.

    Args:
        profile: the user's semantic memory.
        decision: how memory enters their answers.
        budget: length of a persona in tokens. The first one takes half of it, so that rewriting can add to it.
    """
    facts = ranked(profile.current)
    if not facts:
        return PersonaDraft(text=prompts.NEW_USER, origin=Origin.INITIAL, decision=decision)
    lines = [prompts.KNOWN_USER]
    for fact in facts:
        lines.append(f"- {fact.text}")
        if tokens("\n".join(lines)) > budget // 2:
            lines.pop()
            break
    sources = tuple(dict.fromkeys(e for f in facts[: len(lines) - 1] for e in f.evidence))[:64]
    return PersonaDraft(text="\n".join(lines), origin=Origin.INITIAL, decision=decision, sources=sources)


def ranked(facts: Sequence[Fact]) -> list[Fact]:
    """Facts by what they are worth in a short text: written by the model first, then best supported, then newest."""
    return sorted(facts, key=lambda f: (f.source == "model", len(f.evidence), f.last_seen), reverse=True)
