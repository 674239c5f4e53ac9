"""What may not stand in a persona. A persona is data about a user: it gives no orders to the system and holds no secrets.

It looks at the text alone, by patterns: how the user wants to be served is for the user to say, and passes; orders about the
system, its prompts, other users or secrets do not. It cannot tell whether a claim is true or useful; the gate measures that.
A refused claim costs little, so where a pattern cannot tell, it refuses.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

from personaagent import prompts
from personaagent.persona.orders import is_order
from personaagent.persona.secrets_in_text import holds_secret

__all__ = ["LONGEST", "danger", "objection", "repeats_prompt", "repetitive", "words"]

LONGEST = 400  # characters of a claim that a model wrote
PROMPT_RUN = 6  # words
QUOTE_RUN = 8  # words; a text of fewer is quoted if it is there as a whole
SHORTEST_QUOTE = 5
QUOTE_RUN_UNSPACED = 14  # characters of scripts without spaces

_MARKUP = re.compile(
    r"<\||\|>|<</?sys>>|\[/?inst\]|</?s>|</?(?:system|assistant|user|human|tool|function|think|instructions?|prompt|persona|"
    r"message|im_|start_of_|end_of_|begin_of_|eot)\w*[^<>\n]{0,40}>|```|\{\{|\{%|!\[[^\]]{0,80}\]\(|"
    r"[\"'](?:tool_calls?|arguments|function|parameters)[\"']\s*:|\[/?(?:system|assistant|user|tool)\]|(?<!#)#{2,}+\s*[^\W\d_]",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"(?<![^\W_])(?:system|assistant|user|human|developer|tool|ai|benutzer|utilisateur|usuario|sistema|système)"
    r"(?:[ _](?:message|prompt|note|override))?[*_#\]\s]*[:：]",
    re.IGNORECASE,
)
_BEGINS = frozenset("\n.!?;\"'“”(")  # after which a sentence begins
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNITS = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def objection(text: str, names: Collection[str] = (), quoted: Sequence[str] = (), limit: int = LONGEST) -> str | None:
    """Why a text cannot be a claim about a user, in a few words; None if it can.

    Args:
        text: of the claim.
        names: ids of other users.
        quoted: texts that it must not repeat at length, such as the request that it was learned from.
        limit: its longest length in characters.
    """
    plain = _plain(text)
    if not plain:
        return "empty"
    if len(text) > limit:
        return "too long"
    if (reason := danger(text)) is not None:
        return reason
    folded = plain.casefold()
    if any(len(name) > 2 and _has_name(folded, _plain(name).casefold()) for name in names):
        return "names another user"
    if sum(unicodedata.category(c)[0] in "LM" for c in plain) < max(2, len(plain) // 3):
        return "not words"
    said = words(plain)
    if repeats_prompt(said):
        return "the prompt itself"
    if any(_quotes(folded, quote) for quote in quoted):
        return "quotes a request"
    if repetitive(text, said) or _stuck(said):
        return "repetitive"
    return None


def danger(text: str) -> str | None:
    """Why nobody's words may stand in a persona, be they the user's own or another person's; None if they may.

    It takes no more than time in proportion to the text.
    """
    if _hidden(text):
        return "hidden characters"
    if _speaks_as(unicodedata.normalize("NFKC", text)):
        return "markup"
    # What has no width may part words or stand inside one; a model reads it either way.
    for plain in dict.fromkeys((_plain(text), _plain(text, " "))):
        if _MARKUP.search(plain):
            return "markup"
        if holds_secret(plain):
            return "a secret"
        if _disguised(plain):
            return "disguised letters"
        if is_order(plain.casefold()):
            return "an order to the system"
    return None


def words(text: str) -> list[str]:
    """The words of a text, in order and case-folded."""
    return re.findall(r"\w+", text.casefold())


def repeats_prompt(said: Sequence[str], own: Sequence[str] | None = None) -> bool:
    """Whether a run of six of these words comes from the fixed part of a prompt; a persona has no reason to hold one.

    Args:
        said: words of a text.
        own: templates to look at; default: all of ours.
    """
    fixed = _fixed_runs(tuple(own) if own is not None else None)
    return any(run in fixed for run in _runs(said, PROMPT_RUN))


@lru_cache(maxsize=16)
def _fixed_runs(own: tuple[str, ...] | None) -> frozenset[tuple[str, ...]]:
    templates = tuple(_texts([getattr(prompts, name) for name in prompts.__all__])) if own is None else own
    parts = (part for template in templates for part in re.split(r"\{\w+\}", template))
    return frozenset(run for part in parts for run in _runs(words(part), PROMPT_RUN))


def _texts(values: Sequence[Any]) -> Iterator[str]:
    """All texts among values that may be sequences of texts."""
    for value in values:
        yield from [value] if isinstance(value, str) else _texts(value)


def repetitive(text: str, said: Sequence[str]) -> bool:
    """Few different words, one line again and again, or text that compresses far better than any prose does."""
    if len(said) >= 12 and len(set(said)) < len(said) * 0.3:
        return True
    lines = Counter(line.strip() for line in text.splitlines() if line.strip())
    if lines and max(lines.values()) >= 3:
        return True
    raw = text.encode("utf-8", "replace")
    return len(raw) >= 60 and len(raw) / len(zlib.compress(raw, 9)) > 5.0


def _stuck(said: Sequence[str]) -> bool:
    """Whether a short text goes round in circles."""
    return any(max(Counter(_runs(said, size)).values(), default=0) >= times for size, times in ((2, 4), (3, 3), (5, 2)))


def _quotes(folded: str, quote: str) -> bool:
    """Whether the text has a run of the quote's words, or all of a short quote."""
    asked = _UNITS.findall(_plain(quote).casefold())
    said = _UNITS.findall(folded)
    unspaced = sum(len(unit) == 1 and not unit.isascii() for unit in asked) * 2 > len(asked)
    size = QUOTE_RUN_UNSPACED if unspaced else QUOTE_RUN
    if not unspaced and SHORTEST_QUOTE <= len(asked) < size:
        size = len(asked)
    return not set(_runs(asked, size)).isdisjoint(_runs(said, size))


def _runs(said: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(said[i : i + size]) for i in range(len(said) - size + 1))


def _has_name(folded: str, name: str) -> bool:
    return name in folded and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", folded) is not None


def _speaks_as(text: str) -> bool:
    """Whether a sentence begins like a line of a conversation's record: "System: ..."."""
    for role in _ROLE.finditer(text):
        at = role.start()
        while at and not text[at - 1].isalnum() and text[at - 1] not in _BEGINS:
            at -= 1
        if at == 0 or text[at - 1] in _BEGINS:
            return True
    return False


def _plain(text: str, unseen: str = "") -> str:
    """A text as it looks: compatibility forms resolved, `unseen` for what has no width, one space where there are many."""
    seen = "".join(unseen if unicodedata.category(c) == "Cf" else c for c in unicodedata.normalize("NFKC", text))
    return " ".join(seen.replace("\u2019", "'").split())


def _hidden(text: str) -> bool:
    """Characters that a person does not see and a model reads: controls, reordering, tags, lone surrogates."""
    return any(
        (unicodedata.category(c) in ("Cc", "Cs", "Co") and c not in "\n\t\r")
        or "\u202a" <= c <= "\u202e"
        or "\u2066" <= c <= "\u2069"
        or "\U000e0000" <= c <= "\U000e007f"
        for c in text
    )


def _disguised(plain: str) -> bool:
    """A word of Latin letters with Greek or Cyrillic ones among them, which look the same."""
    for word in plain.split():
        if word.isascii() or len(word) < 4:
            continue
        scripts = {unicodedata.name(c, "").split(" ")[0] for c in word if c.isalpha() and c not in "µμπΩ"}
        if "LATIN" in scripts and scripts & {"CYRILLIC", "GREEK"}:
            return True
    return False
