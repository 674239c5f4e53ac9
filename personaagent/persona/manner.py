"""How a user writes, counted in their own texts: length, case, marks, how they begin and end, words they are fond of.

Only the texts count, never what they are about: at most three words of them are quoted, and only those that recur.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personaagent.claims import ClaimKind
from personaagent.features import normalised
from personaagent.persona.languages import language
from personaagent.persona.phrases import edge, fond
from personaagent.persona.tally import Found, above, found, settled
from personaagent.persona.written import Written, is_letter, often, read, tokens
from personaagent.types import Interaction

__all__ = ["manner"]

Doubles = npt.NDArray[np.float64]

MOST_TEXTS = 100  # newest ones that are read; what is older weighs little

_FRAGMENT = 6  # words; shorter sentences are said to be short
_EMOJI = re.compile("[\U0001f300-\U0001f3fa\U0001f400-\U0001faff\u2600-\u27bf\u2b50\u2b55]")
_EMOTICON = re.compile(r"(?<![\w:;=])(?:[:;=][-']?[)(DPp/|*]|<3|\^_?\^|xD)(?!\w)")
_STRETCHED = re.compile(r"\b\w*?([^\W\d_])\1\1\w*", re.IGNORECASE)
_CAPITALS = re.compile(r"(?<![\w-])[A-ZÀ-ÞА-Я]{3,}(?![\w-])")
_BARE = re.compile(
    r"\b(?:im|ive|dont|doesnt|didnt|cant|wont|isnt|thats|whats|youre|theyre|couldnt|wouldnt"
    r"|ill (?:be|come|bring|see|go|do|take|get|have|try|check|send|let))\b",
    re.IGNORECASE,
)
_CONTRACTED = re.compile(
    r"\b(?:i|you|we|they|it|that|he|she|what|is|do|does|did|ca|wo|would|could)(?:n)?['’]\w+", re.IGNORECASE
)
_FULL = re.compile(
    r"\b(?:i (?:am|will|have|would|shall)|(?:do|does|did|will|could|would) not|it is|that is)\b", re.IGNORECASE
)
_LIST = re.compile(r"^\s*(?:[-*•–]|\d+[.)])\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Habit:
    """Something a text shows or not; None where it cannot show."""

    text: str
    shows: Callable[[Written], bool | None]
    least: float = 0.5  # lower bound of its share
    marked: bool = False  # unusual enough that two texts show it


def manner(interactions: Sequence[Interaction], weights: Sequence[float]) -> list[Found]:
    """What can be said of how a user writes, in no order.

    Args:
        interactions: with free texts as their truth, newest first.
        weights: of them.
    """
    texts = [read(i, w) for i, w in zip(interactions[:MOST_TEXTS], weights, strict=False)]
    claims = [*_habits(texts), *_signs(texts), *_languages(texts)]
    if len(texts) >= 3:
        claims += _lengths(texts)
    different = list({normalised(t.text): t for t in reversed(texts)}.values())[::-1]
    edges = [*edge(different, first=True), *edge(different, first=False)]
    claims += edges
    said = {w for e in edges for w in tokens(e.claim.text)}
    return claims + fond(different, said)


def _cased(t: Written) -> list[str]:
    return [c for c in t.text if c.islower() or c.isupper()]


def _lower(t: Written) -> bool | None:
    letters = _cased(t)
    return None if len(letters) < 8 else all(c.islower() for c in letters)


def _upper(t: Written) -> bool | None:
    letters = _cased(t)
    return None if len(letters) < 8 else sum(c.isupper() for c in letters) >= 0.8 * len(letters)


def _small_start(t: Written) -> bool | None:
    first = next((c for c in t.text if c.isalpha()), "")
    return None if not (first.islower() or first.isupper()) or len(t.words) < 3 or _lower(t) else first.islower()


def _loud(t: Written) -> bool | None:
    return None if _upper(t) else bool(_CAPITALS.search(t.text))


def _no_stop(t: Written) -> bool | None:
    bare = _EMOTICON.sub("", _EMOJI.sub("", t.text)).rstrip("\ufe0f\u200d \n)\"'")
    return None if len(t.words) < 3 or not t.spaced or not bare else is_letter(bare[-1])


def _no_apostrophe(t: Written) -> bool | None:
    bare, marked = _BARE.search(t.text), _CONTRACTED.search(t.text)
    return None if not bare and not marked else not marked


def _in_full(t: Written) -> bool | None:
    full, short = _FULL.search(t.text), _CONTRACTED.search(t.text) or _BARE.search(t.text)
    return None if not full and not short else not short


_HABITS = (
    _Habit("writes all in lower case", _lower, marked=True),
    _Habit("writes all in capitals", _upper, marked=True),
    _Habit("begins without a capital letter", _small_start),
    _Habit("puts words in capitals", _loud, 0.3),
    _Habit("leaves out the full stop at the end", _no_stop),
    _Habit("uses exclamation marks", lambda t: "!" in t.text or "！" in t.text, 0.35),
    _Habit("uses ellipses (...)", lambda t: "..." in t.text or "…" in t.text, 0.3),
    _Habit("leaves out apostrophes (im, dont)", _no_apostrophe),
    _Habit("writes words out in full (I am, not I'm)", _in_full),
    _Habit("joins sentences with semicolons", lambda t: "; " in t.text, 0.3),
    _Habit("asks a question back", lambda t: "?" in t.text or "？" in t.text),
    _Habit("writes lists", lambda t: len(_LIST.findall(t.text)) >= 2, 0.3),
    _Habit("writes in paragraphs", lambda t: "\n\n" in t.text.replace("\r", "")),
)


def _habits(texts: Sequence[Written]) -> list[Found]:
    claims: list[Found] = []
    for habit in _HABITS:
        shown = [(t, bool(shows)) for t in texts if (shows := habit.shows(t)) is not None]
        # What few texts can show is not this user's manner, and may be noise.
        if len(shown) < 0.4 * len(texts):
            continue
        if (claim := often(habit.text, shown, habit.least, 2 if habit.marked else 3)) is not None:
            claims.append(claim)
    return claims


def _signs(texts: Sequence[Written]) -> list[Found]:
    """Signs that are named: emoji, emoticons, stretched words."""
    claims = []
    for what, pattern, most in (
        ("uses emoji", _EMOJI, 3),
        ("uses emoticons", _EMOTICON, 3),
        ("stretches words", _STRETCHED, 2),
    ):
        seen = [dict.fromkeys(m.group() for m in pattern.finditer(t.text)) for t in texts]
        counted = Counter(sign for signs in seen for sign in signs if len(sign) <= 12)
        named = " ".join(sign for sign, _ in counted.most_common(most))
        claim = often(f"{what} ({named})", [(t, bool(s)) for t, s in zip(texts, seen, strict=True)], 0.2)
        if claim is not None and named:
            claims.append(claim)
    return claims


def _languages(texts: Sequence[Written]) -> list[Found]:
    spoken = [language(t.text, t.words) for t in texts]
    named = sorted({name for name in spoken if name is not None})
    told = [(t, name) for t, name in zip(texts, spoken, strict=True) if len(t.words) >= 2 or name is not None]
    claims = [often(f"writes in {name}", [(t, n == name) for t, n in told], 0.2) for name in named]
    return [c for c in claims if c is not None]


def _lengths(texts: Sequence[Written]) -> list[Found]:
    spaced = sum(t.spaced for t in texts) * 2 >= len(texts)
    texts = [t for t in texts if t.spaced is spaced]
    sizes = np.asarray([t.length for t in texts], dtype=np.float64)
    weights = np.asarray([t.weight for t in texts])
    middle = _quantile(sizes, weights, 0.5)
    if not middle or _quantile(sizes, weights, 0.8) > 3 * _quantile(sizes, weights, 0.2):
        return []
    near = [(t, middle / 2 <= t.length <= middle * 2) for t in texts]
    if not settled([hit for _, hit in near], 0.5):
        return []
    unit, short, long = ("words", 12, 60) if spaced else ("characters", 25, 150)
    size = "short " if middle <= short else "long " if middle >= long else ""
    text = f"writes {size}messages of about {_rounded(middle)} {unit}"
    if spaced and middle <= 2:
        text = "answers in a word or two"
    parts = _quantile(np.asarray([t.length / t.sentences for t in texts]), weights, 0.5)
    if spaced and parts <= _FRAGMENT and sum(t.sentences > 1 for t in texts) * 2 > len(texts):
        text += f", in short sentences of about {max(2, round(parts))}"
    share = sum(t.weight for t, hit in near if hit) / float(weights.sum())
    strength = above(share * weights.sum(), float(weights.sum()))
    return [found(text, ClaimKind.WRITES, [t.at for t, hit in near if hit], strength)]


def _quantile(values: Doubles, weights: Doubles, share: float) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][min(len(order) - 1, int(np.searchsorted(reached, share * reached[-1])))])


def _rounded(size: float) -> int:
    step = 1 if size < 20 else 5 if size < 100 else 50 if size < 1000 else 500
    return max(1, round(size / step) * step)
