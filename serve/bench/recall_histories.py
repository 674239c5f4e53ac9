"""Made-up histories of one user, of several kinds, with questions whose answering interactions are known.

They are for measuring recall: `serve.bench.recall`. The same kind and seed give the same history. What is held out is
made of other subjects than what defaults are chosen on, so that a choice is judged by texts that it has not seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from personaagent.types import Interaction
from serve.bench.recall_texts import DOCUMENTS, LANGUAGES, REQUESTS, SMALL_TALK, SUBJECTS, WHENS, Language, Subject

__all__ = ["KINDS", "RecallHistory", "RecallQuestion", "history"]

START = datetime(2025, 1, 6, 8, tzinfo=UTC)
USER = "somebody"
PEOPLE = (("Mara", "Joel"), ("Ines", "Tarek"), ("Ruth", "Pavel"), ("Keiko", "Dario"))
# Questions that name what was told, as those about a dialogue mostly do, and what others say that names it, too.
NAMED = ("What did {who} tell about {v}?", "When did {who} talk about {v}?", "What was it with {who} and {v}?")
ECHOES = (
    "{v}? You are joking.",
    "And, any news about {v}?",
    "I had to think of you and {v} yesterday.",
    "Wait, {v}, really?",
)
TEMPLATE = "Use the following documents to answer the question.\n\n{documents}\n\nQuestion: {question}"
BUNDLE = 9  # documents in front of a question
STORY = 24  # sentences in front of a fact


@dataclass(frozen=True, slots=True)
class RecallQuestion:
    """A question, and the interactions of which any one answers it."""

    text: str
    answers: frozenset[str]


@dataclass(frozen=True, slots=True)
class RecallHistory:
    """Interactions, oldest first, and what is asked after them."""

    kind: str
    interactions: tuple[Interaction, ...]
    asked: tuple[RecallQuestion, ...]


def history(kind: str, seed: int, held_out: bool = False) -> RecallHistory:
    """Make one up.

    Args:
        kind: one of `KINDS`.
        seed: of its random choices.
        held_out: of which half of the subjects.
    """
    rng = random.Random(f"{kind}:{seed}:{held_out}")
    return KINDS[kind](kind, rng, held_out)


class _Maker:
    """Numbers interactions on."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.made: list[Interaction] = []

    def add(self, query: str, truth: str | None = None) -> str:
        number = len(self.made)
        self.made.append(
            Interaction(id=str(number), user=USER, time=START + timedelta(minutes=7 * number), query=query, truth=truth)
        )
        return str(number)

    def history(self, asked: Sequence[RecallQuestion]) -> RecallHistory:
        return RecallHistory(self._kind, tuple(self.made), tuple(asked))


def _requests(kind: str, rng: random.Random, held_out: bool) -> RecallHistory:
    """Requests with truths: a few things for many occasions, some asked again, some with a change of mind."""
    things = REQUESTS[held_out::2]
    ways = (
        "Which {thing} should I take {when}?",
        "{When}: which {thing}?",
        "I need a {thing} {when}, what shall it be?",
    )
    again = ("What {thing} do I want {when}?", "Pick a {thing} for me, {when}.")
    maker = _Maker(kind)
    newest: dict[tuple[int, int], str] = {}
    pairs = [(t, w) for t in range(len(things)) for w in range(len(WHENS))]
    order = rng.sample(pairs, len(pairs))
    for t, w in order + rng.sample(pairs, len(pairs) // 2) + rng.sample(pairs, len(pairs) // 3):
        when = WHENS[w][0]
        way = rng.choice(ways)
        newest[t, w] = maker.add(
            way.format(thing=things[t].thing, when=when, When=when[0].upper() + when[1:]), rng.choice(things[t].wanted)
        )
    asked = []
    for t, w in rng.sample(pairs, 60):
        thing = rng.choice((things[t].thing, things[t].other))
        when = WHENS[w][rng.random() < 0.6]
        asked.append(RecallQuestion(rng.choice(again).format(thing=thing, when=when), frozenset((newest[t, w],))))
    return maker.history(asked)


def _dialogue(kind: str, rng: random.Random, held_out: bool) -> RecallHistory:
    """Two people talk for months, without truths; what one of them told is asked for in other words."""
    people = PEOPLE[rng.randrange(len(PEOPLE))]
    turns: list[tuple[str, str, tuple[int, int] | None]] = []
    values: dict[tuple[int, int], str] = {}
    subjects = SUBJECTS[held_out::2]
    for s, subject in enumerate(subjects):
        for p, (person, value) in enumerate(zip(people, rng.sample(subject.values, 2), strict=True)):
            values[s, p] = value
            turns.append((person, rng.choice(subject.told).format(v=value), (s, p)))
            turns.append((people[1 - p], rng.choice(ECHOES).format(v=value), None))
        turns += [(rng.choice(people), line, None) for line in subject.talk for _ in range(2)]
    for s, subject in enumerate(SUBJECTS):
        turns += [(rng.choice(people), rng.choice(SMALL_TALK), None) for _ in range(5)]
        if s % 2 != held_out:  # what is not asked for is told, too
            turns += [
                (person, rng.choice(subject.told).format(v=rng.choice(subject.values)), None) for person in people
            ]
            turns.append((rng.choice(people), rng.choice(subject.talk), None))
        echoed = rng.choice(people)
        turns.append((echoed, f"{people[echoed == people[0]]}, {rng.choice(SMALL_TALK)}", None))
    rng.shuffle(turns)
    maker = _Maker(kind)
    told = {}
    for person, line, about in turns:
        number = maker.add(f"{person}: {line}")
        if about is not None:
            told[about] = number
    asked = [
        RecallQuestion(question.format(who=people[p], v=values[s, p]), frozenset((number,)))
        for (s, p), number in told.items()
        for question in (*subjects[s].asked, *rng.sample(NAMED, 2))
    ]
    return maker.history(asked)


def _bundles(kind: str, rng: random.Random, held_out: bool) -> RecallHistory:
    """A program puts the same documents before (or behind) every question."""
    maker = _Maker(kind)
    asked = []
    for _ in range(3):
        documents = "\n\n".join(rng.sample(DOCUMENTS, BUNDLE))
        for subject in rng.sample(SUBJECTS[held_out::2], 10):
            who = rng.choice([name for pair in PEOPLE for name in pair])
            first, second = (question.format(who=who) for question in rng.sample(subject.asked, 2))
            front = rng.random() < 0.25
            number = frozenset((maker.add(_bundled(documents, first, front)),))
            asked.append(RecallQuestion(_bundled(documents, second, front), number))
            asked.append(RecallQuestion(second, number))
    return maker.history(asked)


def _bundled(documents: str, question: str, front: bool) -> str:
    return f"{question}\n\n{documents}" if front else TEMPLATE.format(documents=documents, question=question)


def _stories(kind: str, rng: random.Random, held_out: bool) -> RecallHistory:
    """Long messages, of which some come to something at their end; that is asked for in other words."""
    maker = _Maker(kind)
    asked = []
    subjects = SUBJECTS[held_out::2]
    lines = [line for subject in SUBJECTS for line in subject.talk] + list(SMALL_TALK)
    told: list[Subject | None] = [*SUBJECTS, *[None] * len(SUBJECTS)]
    for subject in rng.sample(told, len(told)):
        story = rng.sample(lines, STORY) + rng.sample(lines, STORY)
        if subject is not None:
            story.append(rng.choice(subject.told).format(v=rng.choice(subject.values)))
        number = maker.add(" ".join(story))
        if subject in subjects:
            asked += [
                RecallQuestion(question.format(who="the writer"), frozenset((number,))) for question in subject.asked
            ]
    return maker.history(asked)


def _language(language: Language) -> Callable[[str, random.Random, bool], RecallHistory]:
    def made(kind: str, rng: random.Random, held_out: bool) -> RecallHistory:
        """Requests with truths in one language, asked again in the same words and in others."""
        maker = _Maker(kind)
        pairs = [(t, w) for t in language.things for w in language.whens]
        number = {
            pair: maker.add(language.asked[0].format(thing=pair[0], when=pair[1]), rng.choice(language.truths))
            for pair in rng.sample(pairs, len(pairs))
        }
        chosen = rng.sample(pairs, len(pairs))
        return maker.history(
            [
                RecallQuestion(language.asked[n % 2].format(thing=t, when=w), frozenset((number[t, w],)))
                for n, (t, w) in enumerate(chosen)
            ]
        )

    return made


KINDS: dict[str, Callable[[str, random.Random, bool], RecallHistory]] = {
    "requests": _requests,
    "dialogues": _dialogue,
    "bundles": _bundles,
    "stories": _stories,
    **{language.name: _language(language) for language in LANGUAGES},
}
