"""What recurs in the texts of a user: how they begin and end, words and phrases they are fond of.

At most three words are quoted, and none that only say what was asked.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from personaagent.claims import ClaimKind
from personaagent.persona.languages import EVERYDAY
from personaagent.persona.tally import Found, above, found
from personaagent.persona.written import Written, is_letter, often, share_and_bound

__all__ = ["edge", "fond"]

MOST_QUOTED = 45  # characters

# Words that tell how somebody writes, where most words tell what about.
_MARKS = """lol lmao rofl omg haha hahaha hehe btw tbh imo imho idk ngl fyi asap gg brb thx ty pls plz cya gonna wanna gotta kinda
    sorta dunno nah nope yep yup yeah yea ya yo hey dude bro bruh mate folks guys y'all cheers cool awesome super sweet
    n u ur r ok okay kk meh ugh yay wow whoa oops kindly regards sincerely shall perhaps indeed therefore moreover
    furthermore nevertheless hence whilst alas splendid delighted honoured grateful gladly lovely darling dear hereby
    regarding pleased obliged cordially respectfully humbly basically literally actually honestly obviously totally
    definitely absolutely"""
_MARKED = frozenset(_MARKS.split())
_UNENDING = "a an the my your our their his her of to in at on for with and or is are be from this"
_ENDLESS = frozenset(_UNENDING.split())  # no phrase begins or ends with them


def edge(texts: Sequence[Written], first: bool) -> list[Found]:
    """How texts begin, or end: the longest run of one to three words that recurs."""
    kept = [t for t in texts if len(t.words) >= 4]
    runs: dict[tuple[str, ...], list[Written]] = defaultdict(list)
    for t in kept:
        for n in (1, 2, 3):
            run = t.words[:n] if first else t.words[-n:]
            runs[(_calm(run[0]), *run[1:])].append(t)
    best: tuple[float, int, tuple[str, ...]] | None = None
    for run, having in runs.items():
        plain = all(w in EVERYDAY for w in run)
        if len(having) < 2 or (plain and len(run) < 3) or (not first and all(w.isdigit() for w in run)):
            continue
        if _asked(run, having):
            continue
        rank = (sum(t.weight for t in having) * (1 + 0.25 * len(run)), len(run), run)
        best = rank if best is None or rank > best else best
    if best is None:
        return []
    ids = {t.at.id for t in runs[best[2]]}
    newest = next(t for t in kept if t.at.id in ids)
    quote, alone = _quoted(newest.text, len(best[2]), first)
    text = f"begins with “{quote}”" if first else f"signs off with “{quote}”" if alone else f"ends with “{quote}”"
    claim = often(text, [(t, t.at.id in ids) for t in kept], 0.2)
    return [] if claim is None or len(quote) > MOST_QUOTED else [claim]


def _calm(word: str) -> str:
    """A word without stretched letters: "hiii" is "hi"."""
    return re.sub(r"(.)\1{2,}", r"\1", word)


def _asked(run: Iterable[str], texts: Sequence[Written]) -> bool:
    """Whether the words come from the requests: then they tell what was asked, not how the user writes."""
    content = [w for w in run if w not in EVERYDAY]
    return bool(content) and any(all(w in t.asked for t in texts) for w in content)


def _quoted(text: str, words: int, first: bool) -> tuple[str, bool]:
    """The first or last words as they stand in the text, and whether they stand apart from the rest."""
    pieces = text.split()
    real = [n for n, piece in enumerate(pieces) if any(map(is_letter, piece))]
    chosen = real[:words] if first else real[-words:]
    quote = " ".join(pieces[chosen[0] : chosen[-1] + 1]).strip(",.;:!?-–— “”\"'…")
    before = pieces[chosen[0] - 1] if not first and chosen[0] else "."
    return quote, not is_letter(before[-1]) and before[-1] not in "'’\""


def fond(texts: Sequence[Written], said: set[str]) -> list[Found]:
    """Words and short phrases that recur over different requests and are not what was asked."""
    having: dict[tuple[str, ...], list[Written]] = defaultdict(list)
    for t in texts:
        for run in {t.words[i : i + n] for n in (1, 2, 3) for i in range(len(t.words) - n + 1)}:
            having[run].append(t)
    ranked = []
    for run, where in having.items():
        if len(where) < 2 or not _telling(run, len(where)) or any(w in said for w in run):
            continue
        least = 0.2 if len(run) > 1 or run[0] in _MARKED else 0.3
        ids = {t.at.id for t in where}
        enough = share_and_bound([(t, t.at.id in ids) for t in texts], least)
        if enough is None or _asked(run, where) or not _different(where):
            continue
        ranked.append((enough[1] * (1 + 0.2 * len(run)), run, where))
    ranked.sort(key=lambda r: (-r[0], r[1]))
    chosen: list[tuple[tuple[str, ...], list[Written]]] = []
    for _, run, where in ranked:
        if len(chosen) < 3 and not any(
            set(run) & set(other) or _one_formula(run, other, where, there) for other, there in chosen
        ):
            chosen.append((run, where))
    if not chosen:
        return []
    all_ids = {t.at.id for _, where in chosen for t in where}
    named = ", ".join(f"“{_as_written(run, where[0])}”" for run, where in chosen)
    weights = [sum(t.weight for t in where) for _, where in chosen]
    tries = sum(t.weight for t in texts)
    how = "often" if max(weights) >= 0.6 * tries else "sometimes"
    support = [t.at for t in texts if t.at.id in all_ids]
    return [found(f"{how} says {named}", ClaimKind.WRITES, support, above(max(weights), tries))]


def _one_formula(
    one: tuple[str, ...], other: tuple[str, ...], texts: Sequence[Written], others: Sequence[Written]
) -> bool:
    """Whether two phrases stand side by side in the same texts."""
    if texts != others:
        return False
    first, second = _at(one, texts[0]), _at(other, texts[0])
    return -len(one) - 2 < first - second < len(other) + 2


def _at(run: tuple[str, ...], t: Written) -> int:
    return next(i for i in range(len(t.words)) if t.words[i : i + len(run)] == run)


def _telling(run: tuple[str, ...], texts: int) -> bool:
    """Whether a word or phrase can tell how somebody writes."""
    if sum(map(len, run)) > MOST_QUOTED:
        return False
    if len(run) == 1:
        word = run[0]
        return word in _MARKED or (texts >= 3 and len(word) >= 3 and word not in EVERYDAY and not word.isdigit())
    return run[0] not in _ENDLESS and run[-1] not in _ENDLESS and any(w not in EVERYDAY and w.isalpha() for w in run)


def _different(texts: Sequence[Written]) -> bool:
    """Whether some two requests have little in common: what recurs in answers to one subject tells of the subject."""
    bags = [asked - EVERYDAY for asked in {t.at.query: t.asked for t in texts}.values()]
    return any(len(one & other) < 0.15 * len(one | other) for one in bags[:4] for other in bags)


def _as_written(run: tuple[str, ...], t: Written) -> str:
    """A run of words as it stands in a text."""
    at = _at(run, t)
    return " ".join(t.raw[at : at + len(run)])
