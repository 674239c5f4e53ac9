"""What an evaluation says while it runs, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from personaagent.errors import PersonaAgentError, UnavailableError

__all__ = ["Outage", "Progress", "Watch", "silent"]

IN_A_ROW = 20  # calls that find the model down: then it is


class Progress(Protocol):
    """`progress(stage, done, total, note)`: so many steps of a stage are done, those of earlier runs included."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """`note` says how far the whole evaluation is."""
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """A `Progress` that tells nobody."""


class Watch:
    """Counts the steps of the stage under way and the answers of the whole evaluation, and tells both."""

    def __init__(self, tell: Progress, answers: int, answered: int, calls: Callable[[], int]) -> None:
        """Args:
        tell: is told.
        answers: that the evaluation takes in all.
        answered: that are there already.
        calls: how many model calls were made so far.
        """
        self._tell = tell
        self._answers = answers
        self._answered = answered
        self._calls = calls
        self._stage, self._done, self._total = "", 0, 0

    def stage(self, stage: str, done: int, total: int) -> None:
        """A stage begins, or is so far already."""
        self._stage, self._done, self._total = stage, done, total
        self.again()

    def step(self, answered: bool = False) -> None:
        """A step of the stage is done; `answered`: and the evaluation has an answer more."""
        self._done += 1
        self._answered += answered
        self.again()

    def again(self) -> None:
        """Tell the same, with the model calls made meanwhile: a stage whose steps are long shows that it lives."""
        if not self._stage:
            return
        calls = self._calls()
        note = f"{self._answered:,} of {self._answers:,} answers" + (f", {calls:,} model calls" if calls else "")
        self._tell(self._stage, self._done, self._total, note)


class Outage:
    """Tells a call that failed from a model that is down, so that a run does not spend itself on one.

    It is down if 20 calls in a row found it so, or more than half of the first 20 of a stage.
    """

    def __init__(self) -> None:
        self._in_a_row = 0
        self._seen = 0
        self._down = 0

    def begin(self) -> None:
        """A stage begins."""
        self._seen = self._down = 0

    def saw(self, error: PersonaAgentError | None) -> None:
        """What a call ended with; None: an answer.

        Raises:
            UnavailableError: enough is enough.
        """
        self._seen += 1
        if not isinstance(error, UnavailableError):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        self._down += 1
        if self._in_a_row >= IN_A_ROW:
            many = f"{self._in_a_row} calls in a row failed"
        elif self._seen <= IN_A_ROW and 2 * self._down > IN_A_ROW:
            many = f"{self._down} of the first {self._seen} calls failed"
        else:
            return
        kept = "what was answered is kept, and the same command goes on"
        raise UnavailableError(f"{error.message}; {many}, so the evaluation was stopped: {kept}") from error
