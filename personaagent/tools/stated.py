"""What a user said themselves: whether a fact is made of their own words.

A model that reads a page can be talked into noting what stands there. Who said something shows in the words: those of a fact
must be in one message of the user, and a subject is named in their words or in general ones that claim nothing. What clients mark
as a document in a message is nothing that the user said; what a user pastes without a mark is. No question is told from a
statement.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from personaagent.features import bare, normalised, unspaced, words

__all__ = ["stated", "subject_stated"]

# By which "I live in Ulm" becomes "the user lives in Ulm", and which say nothing by themselves.
_FRAME = """
    i me my mine myself m s re ve d ll we us our the a an user users they them their theirs themselves he him his himself she
    her hers herself it its itself this that these those who which is are am was were be been being has have had having do does
    did and or as also in on at of to for from with by about named called name
"""
_DENIED = """
    no not never none nor neither without nothing nobody nowhere kein keine keinen nicht nie non ne pas sin
"""
# What a fact can be about. None of them says what is so.
_SUBJECTS = """
    address age allergy appointment bike birthday book car child children city clothes company contact country date day diet
    drink education email exercise family film fact food friend goal habit health hobby holiday home hometown house income
    instrument interest job language living location meal meat medicine movie music nationality occupation partner person pet
    phone place plan preference profession profile relationship residence restriction school shop size sleep software sport
    status study subject taste team time tool town transport travel unit vacation vehicle weather weight work workplace
"""
FRAME, DENIED, SUBJECTS = (frozenset(text.split()) for text in (_FRAME, _DENIED, _SUBJECTS))
_ENDINGS = frozenset(("s", "es", "d", "ed", "ing", "er", "e", "n", "en"))
_SHORTEST = 4  # characters that two forms of a word share at least
_LONGEST_REST = 3  # characters by which either goes on
# Elements in which clients put documents and results of searches into the user's message, as Open WebUI does.
_QUOTED = (
    "attachment",
    "context",
    "data",
    "document",
    "excerpt",
    "file",
    "passage",
    "quote",
    "result",
    "search",
    "source",
    "web",
)
_FENCED = re.compile(r"```.*?(?:```|\Z)|^[ \t]*>[^\n]*", re.DOTALL | re.MULTILINE)
_LONGEST = 5_000  # characters at the beginning and at the end of a message that are looked at
_CLAUSE = re.compile(r"[.,;:!?()\n]+|\b(?:and|but|und|aber|et|mais|y|pero)\b", re.IGNORECASE)
_NOT = re.compile(r"n['’]t\b|(?<=can)not\b")


def stated(fact: str, said: Sequence[str]) -> bool:
    """Whether a message says all that a fact does, and denies nothing of it.

    Args:
        fact: in few words.
        said: the user's messages.
    """
    wanted = _content(fact)
    denied = _denies(fact)
    return bool(wanted) and any(_says(_own(message), wanted, denied) for message in said)


def subject_stated(subject: str, said: Sequence[str]) -> bool:
    """Whether a subject is named in the user's own words or in general ones."""
    there = {word for message in said for word in _content(_own(message))}
    return all(_forms(word, there) or _forms(word, SUBJECTS) for word in _content(subject))


def _says(message: str, wanted: Sequence[str], denied: bool) -> bool:
    there = set(_content(message))
    found = [_forms(word, there) for word in wanted]
    if not all(found):
        return False
    used = set().union(*found)
    clauses = [clause for clause in _CLAUSE.split(_plain(message)) if not used.isdisjoint(_content(clause))]
    return any(map(_denies, clauses)) == denied


def _own(message: str) -> str:
    """A message without what a client or the user marked as a quotation, and without the middle of a very long one."""
    for name in _QUOTED:
        small = message.casefold() if message.isascii() else message.lower()
        begins, ends = small.find(f"<{name}"), small.rfind(f"</{name}")
        if 0 <= begins < ends and len(small) == len(message):
            message = message[:begins] + "\n" + message[ends:]
    message = _FENCED.sub("\n", message)
    return message if len(message) <= 2 * _LONGEST else f"{message[:_LONGEST]}\n{message[-_LONGEST:]}"


def _forms(word: str, there: Collection[str]) -> set[str]:
    """Those of other words that are forms of a word."""
    begins = word[:2]
    return {other for other in there if other.startswith(begins) and _same(word, other)}


def _plain(text: str) -> str:
    return _NOT.sub(" not", bare(normalised(text)))


def _denies(text: str) -> bool:
    return any(word in DENIED for word in words(_plain(text)))


def _content(text: str) -> list[str]:
    """What a text says beyond its frame; of scripts written without spaces, pairs of characters."""
    spaced: list[str] = []
    run = ""
    for word in words(_plain(text)):
        if unspaced(word):
            run += word
        elif word not in FRAME and word not in DENIED:
            spaced.append(word)
    return [*spaced, *(run[i : i + 2] for i in range(max(1, len(run) - 1)) if run)]


def _same(one: str, other: str) -> bool:
    """Whether two words are forms of one: live and lives, allergic and allergy. Numbers have none."""
    if one == other:
        return True
    if not (one.isalpha() and other.isalpha()) or unspaced(one + other):
        return False
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    rests = one[shared:], other[shared:]
    if not rests[0] or not rests[1]:
        return shared > 1 and (rests[0] or rests[1]) in _ENDINGS
    return shared >= _SHORTEST and max(map(len, rests)) <= _LONGEST_REST
