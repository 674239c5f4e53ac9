"""What an evaluation has found out so far, with types: answers, profiles and alignments, kept in its journal.

A record rests on others: an answer on the persona it was given under, that persona on the profile it was made from. A
record counts only if everything it rests on counts and was there before it. So when something that had failed is done
at the next start, whatever was built on the failure is done again, also if that start is cut short too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pydantic import TypeAdapter, ValidationError

from alignment.evaluation.eval_plan import CONTROLS, AskedItem, Plan, learner_of, reads_profile
from alignment.evaluation.journal import Journal, JournalEntry, Place
from alignment.evaluation.metering import Tally
from alignment.evaluation.metrics import Scored
from personaagent.types import AlignmentResult, Outcome, Persona, Profile

__all__ = ["AlignedRecord", "Answered", "Built", "Records"]


@dataclass(frozen=True)
class Answered:
    """A test item with its score. `failure`: the code of the error for which there is no answer."""

    scored: Scored
    failure: str | None = None
    spent: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class Built:
    """A user's profile; None if building it failed."""

    profile: Profile | None
    failure: str | None = None
    spent: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class AlignedRecord:
    """How a user's alignment ended, and all persona versions that they had then."""

    result: AlignmentResult
    personas: tuple[Persona, ...]
    spent: Tally = field(default_factory=Tally)

    @property
    def failure(self) -> str | None:
        """The code of the error that ended it, if one did."""
        return self.result.reason.removeprefix("error: ") if self.result.outcome is Outcome.FAILED else None


Record = Answered | Built | AlignedRecord


class Records:
    """The records of one evaluation: those in its journal that count, and those added since.

    What failed in an earlier run is not among them, so it is done again; what fails in this run is, once added.
    """

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self._journal = journal
        phases = plan.benchmark.phases
        self._before: dict[str | int, str] = {phase.name: earlier.name for earlier, phase in pairwise(phases)}
        self._tests: dict[tuple[str | int, str | int], AskedItem] = {(a.stage, a.name): a for a in plan.asked}
        self._learners, self._neighbours = plan.learners, plan.neighbours
        self._alone = not plan.needs_model  # controls are asked of memory alone then
        self.damaged = journal.damaged  # lines that could not be read; what they held is done again
        # Fields that a type has lost are ignored, and new ones get their defaults: a journal outlives such changes.
        self._types: Mapping[str, TypeAdapter[Any]] = {
            "answer": TypeAdapter(Answered),
            "profile": TypeAdapter(Built),
            "align": TypeAdapter(AlignedRecord),
        }
        self._records: dict[Place, Record] = {}
        self._load()

    @property
    def answered(self) -> int:
        """How many answers are there."""
        return sum(1 for r in self._records.values() if isinstance(r, Answered) and r.failure is None)

    @property
    def missing(self) -> dict[str, int]:
        """How many answers failed, by method."""
        return dict(Counter(str(place[2]) for place, r in self._of("answer") if r.failure is not None))

    @property
    def failed(self) -> dict[str, int]:
        """How many profiles and alignments failed, where some did."""
        names = {"profile": "profiles", "align": "alignments"}
        counts = {name: sum(1 for _, r in self._of(what) if r.failure is not None) for what, name in names.items()}
        return {name: n for name, n in counts.items() if n}

    def answer(self, asked: AskedItem, number: int) -> Answered | None:
        """The answer to item `number` of a test."""
        found = self._records.get(("answer", asked.stage, asked.name, number))
        return found if isinstance(found, Answered) else None

    def profile(self, stage: str, user: str) -> Built | None:
        """A user's profile in a stage."""
        found = self._records.get(("profile", stage, user))
        return found if isinstance(found, Built) else None

    def alignment(self, stage: str, name: str, user: str) -> AlignedRecord | None:
        """How a user was aligned for a method in a stage."""
        found = self._records.get(("align", stage, name, user))
        return found if isinstance(found, AlignedRecord) else None

    def add_answer(self, asked: AskedItem, number: int, record: Answered) -> None:
        """Keep an answer, or that there is none. Raises StoreError, as the others do."""
        self._add(("answer", asked.stage, asked.name, number), record)

    def add_profile(self, stage: str, user: str, record: Built) -> None:
        """Keep a profile, or that there is none."""
        self._add(("profile", stage, user), record)

    def add_alignment(self, stage: str, name: str, record: AlignedRecord) -> None:
        """Keep how an alignment ended."""
        self._add(("align", stage, name, record.result.user), record)

    def _add(self, place: Place, record: Record) -> None:
        self._journal.write(place, self._types[str(place[0])].dump_python(record, mode="json"))
        self._records[place] = record

    def _of(self, what: str) -> Iterator[tuple[Place, Record]]:
        return ((place, record) for place, record in self._records.items() if place[0] == what)

    # What counts

    def _load(self) -> None:
        read: dict[Place, tuple[JournalEntry, Record]] = {}
        for what, kind in self._types.items():
            for place, entry in self._journal.all(what):
                try:
                    read[place] = entry, kind.validate_python(entry.value)
                except ValidationError:  # of a version that meant something else by it
                    self.damaged += 1
        known: dict[Place, bool] = {}

        def counts(place: Place) -> bool:
            if place not in known:
                known[place] = place in read and read[place][1].failure is None and stands(place)
            return known[place]

        def stands(place: Place) -> bool:
            written = read[place][0].serial
            return all(counts(other) and read[other][0].serial < written for other in self._rests_on(place))

        self._records = {place: record for place, (_, record) in read.items() if counts(place)}

    def _rests_on(self, place: Place) -> list[Place]:
        """What has to be there before something can be."""
        what, stage, *_ = place
        before = self._before.get(stage)
        if what == "profile":
            return [("profile", before, place[2])] if before else []
        if what == "align":
            return [("profile", stage, place[3]), *([("align", before, *place[2:])] if before else [])]
        _, _, name, number = place
        user = self._tests[stage, name].items[int(number)].user
        learner = learner_of(str(name))
        if name in CONTROLS and self._alone:
            return []
        if name in CONTROLS:
            user = self._neighbours[user]
            learner = "personaagent" if "personaagent" in self._learners else None
        if learner is not None:
            return [("align", stage, learner, user)]
        return [("profile", stage, user)] if name in CONTROLS or reads_profile(str(name)) else []
