"""How much of an answer repeats what the user said on other occasions: runs of words, and names that do not belong to it.

To write as a user does is what a persona is for, so their habits do not count: what at least two of their texts say. Nor
does what the present request says itself. A pure function of texts; it knows nothing of models or prompts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from personaagent.base import Frozen
from personaagent.features import unspaced, words
from personaagent.persona.languages import EVERYDAY, language

__all__ = ["BOUND", "Copy", "Copying", "Said", "copied", "copying"]

# Words from which on a run is a copy. People repeat less by themselves: of the sample's 48 texts, 44 share a shorter run with
# every other text of their author, though with so few texts no habit is discounted. The four are one author's set phrases.
BOUND = 6
_EXPLAINED = 2  # words of a run that the request or a habit explains; a single word ("on", "the") is too common to
_SENTENCE = re.compile(r"[.!?…:;\n\"“”«»。！？、]+")
_I = re.compile(r"\bI['’]\w+")  # the only English word inside a sentence that is no name for its capital
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")  # as people type it


@dataclass(frozen=True, slots=True)
class Said:
    """What a user said (the truth) to an earlier request."""

    request: str
    truth: str


class Copy(Frozen):
    """What an answer repeats.

    `words` is the length of the longest run without what the request or a habit explains, `share` its part of the answer
    (0 to 1) and `run` its text, normalised. `names` are names and numbers of an old answer that do not belong to this request.
    """

    words: int = 0
    share: float = 0.0
    run: str = ""
    names: tuple[str, ...] = ()

    @property
    def fault(self) -> bool:
        """Whether it is more than manner."""
        return self.words >= BOUND or bool(self.names)


@dataclass(frozen=True, slots=True)
class Copying:
    """Over n answers: the mean longest run in words, and the shares (0 to 1) that have one of `BOUND` words, or foreign names."""

    mean: float
    above: float
    named: float
    n: int


def copied(answer: str, sources: Sequence[Said], allowed: Sequence[str] = ()) -> Copy:
    """The longest run of words that an answer shares with one of the sources, and their names and numbers in it.

    A character of a script written without spaces counts as half a word (of the Thai family: a quarter). Names are told by
    capitals or digits, so in scripts without capitals only numbers are.

    Args:
        answer: of the model.
        sources: what the user said before, each interaction once: what two of them say is a habit.
        allowed: what may be repeated: the conversation, and what is known of the user.
    """
    said = _plain(answer)
    truths = [_plain(s.truth) for s in sources]
    free = [_plain(text) for text in allowed]
    lengths = [_weight(word) for word in said]
    index = _Runs(said)
    found = [index.within(truth) for truth in truths]
    explained = _explained(found, [index.within(text) for text in free], len(said))
    before = [0.0]  # before[n]: words among the first n that nothing explains
    for length, known in zip(lengths, explained, strict=True):
        before.append(before[-1] + (0.0 if known else length))
    most, start, end = 0.0, 0, 0
    for runs in found:
        for last, run in enumerate(runs):
            if before[last + 1] - before[last + 1 - run] > most:
                most, start, end = before[last + 1] - before[last + 1 - run], last + 1 - run, last + 1
    while start < end and explained[start]:
        start += 1
    return Copy(
        words=int(most),
        share=most / sum(lengths) if most else 0.0,
        run=_joined(said[start:end]) if most >= 1 else "",
        names=_names(said, sources, truths, allowed),
    )


def copying(copies: Sequence[Copy]) -> Copying:
    """What many answers repeat; of none, all is 0."""
    n = len(copies)
    if not n:
        return Copying(0.0, 0.0, 0.0, 0)
    mean = sum(c.words for c in copies) / n
    return Copying(mean, sum(c.words >= BOUND for c in copies) / n, sum(bool(c.names) for c in copies) / n, n)


class _Runs:
    """All runs of an answer's words, as a suffix automaton (Blumer et al. 1985): a text is looked up in time in proportion to it,
    also one that says the same word ten thousand times.
    """

    def __init__(self, said: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._link = [-1]
        self._length = [0]
        self._ends: list[int] = []  # the state of everything up to a word
        last = 0
        for word in said:
            last = self._add(last, word)
            self._ends.append(last)
        self._order = sorted(range(1, len(self._length)), key=self._length.__getitem__)

    def _add(self, last: int, word: str) -> int:
        new = self._state({}, self._length[last] + 1, 0)
        at = last
        while at >= 0 and word not in self._next[at]:
            self._next[at][word] = new
            at = self._link[at]
        if at >= 0:
            old = self._next[at][word]
            if self._length[old] > self._length[at] + 1:
                copy = self._state(dict(self._next[old]), self._length[at] + 1, self._link[old])
                while at >= 0 and self._next[at].get(word) == old:
                    self._next[at][word] = copy
                    at = self._link[at]
                self._link[old] = old = copy
            self._link[new] = old
        return new

    def _state(self, following: dict[str, int], length: int, link: int) -> int:
        self._next.append(following)
        self._length.append(length)
        self._link.append(link)
        return len(self._length) - 1

    def within(self, text: Sequence[str]) -> list[int]:
        """For every word of the answer, the longest run that ends with it and stands in `text`."""
        longest = [0] * len(self._length)  # of each state
        state = run = 0
        for word in text:
            while state and word not in self._next[state]:
                state = self._link[state]
                run = self._length[state]
            if word in self._next[state]:
                state = self._next[state][word]
                run += 1
                longest[state] = max(longest[state], run)
        for state in reversed(self._order):  # what stands there has its ends there, too
            if longest[state]:
                longest[self._link[state]] = self._length[self._link[state]]
        for state in self._order:
            longest[state] = max(longest[state], longest[self._link[state]])
        return [longest[state] for state in self._ends]


def _explained(found: Sequence[Sequence[int]], free: Sequence[Sequence[int]], size: int) -> list[bool]:
    """For every word of the answer, whether it is in a run of a text that may be repeated or of two sources."""
    known = [False] * size
    for last in range(size):
        habit = sorted((runs[last] for runs in found), reverse=True)[1:2]
        run = max([*(runs[last] for runs in free), *habit], default=0)
        if run >= _EXPLAINED:
            known[last + 1 - run : last + 1] = [True] * run
    return known


def _names(
    said: Sequence[str], sources: Sequence[Said], truths: Sequence[Sequence[str]], allowed: Sequence[str]
) -> tuple[str, ...]:
    """Names and numbers of one old answer, or of several that had them from their own requests."""
    own = {word for text in allowed for word in _plain(text)}
    common = _common([text for s in sources for text in (s.request, s.truth)] + list(allowed))
    foreign: set[str] = set()
    habits: Counter[str] = Counter()
    for source, truth in zip(sources, truths, strict=True):
        asked = set(_plain(source.request))
        foreign |= (_proper(source, asked) & set(truth)) - common - own
        habits.update(set(truth) - asked)
        # A name that an old answer took from its own request is no habit, however often that happened.
    once = {word for truth in truths for word in set(truth)}
    kept = {w for w in foreign & once if habits[w] < 2}
    return tuple(dict.fromkeys(word for word in said if word in kept))


def _proper(source: Said, asked: set[str]) -> set[str]:
    """Words of an exchange that are numbers, or that capitals show to be names."""
    inner, first = _capitals(source.truth)
    inner_asked, first_asked = _capitals(source.request)
    answered = set(_plain(source.truth))
    # A sentence's first word is a name if the answer takes it up; German writes every noun with a capital.
    taken_up = (first_asked | inner_asked) & answered
    german = language(source.truth, answered) or language(source.request, asked)
    names = taken_up | (inner | (first & inner_asked) if german != "German" else (inner | first) & asked)
    numbers = {w for w in answered if any(c.isdigit() for c in w)}
    return {w for w in names if w not in EVERYDAY and len(w) > 1} | numbers


def _capitals(text: str) -> tuple[set[str], set[str]]:
    """Words with a capital inside sentences, and at their beginning. What is all in capitals is loud, not a name."""
    inner: set[str] = set()
    first: set[str] = set()
    for sentence in _SENTENCE.split(_I.sub("i", text)):
        for at, word in enumerate(_cased(sentence)):
            if word[0].isupper() and not (len(word) > 1 and word.isupper()):
                (inner if at else first).add(word.casefold())
    return inner, first


def _common(texts: Sequence[str]) -> set[str]:
    """Words that somebody who uses capitals wrote without one."""
    return {w for text in texts if any(c.isupper() for c in text) for w in _cased(text) if w[0].islower()}


def _cased(text: str) -> list[str]:
    return words(_APOSTROPHE.sub("", unicodedata.normalize("NFKC", text)))


def _plain(text: str) -> list[str]:
    return [word.casefold() for word in _cased(text)]


def _weight(word: str) -> float:
    """How much of a word a token is."""
    if not unspaced(word):
        return 1.0
    return 0.5 if word >= "\u3000" else 0.25


def _joined(run: Sequence[str]) -> str:
    text = ""
    for word in run:
        text += word if not text or (unspaced(word) and unspaced(text[-1])) else f" {word}"
    return text
