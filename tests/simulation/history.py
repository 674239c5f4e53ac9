"""What clients asked and what they were told, in the order of the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from personaagent.errors import ConflictError, ForgottenError, InvalidInput, NotFoundError, PersonaAgentError
from tests.simulation.kernel import Kernel

__all__ = ["FAIL", "NEVER", "OK", "UNKNOWN", "History", "Op"]

OK, FAIL, UNKNOWN = "ok", "fail", "unknown"
NEVER = float("inf")


@dataclass
class Op:
    """One call. `began`: when the work began that it is the end of; `ended`: when the caller heard, or gave up."""

    number: int
    client: str
    kind: str
    user: str
    asked: dict[str, Any]
    began: float
    invoked: float
    ended: float = NEVER
    outcome: str = UNKNOWN
    value: Any = None
    error: str = ""
    fenced: bool = True  # it says under which incarnation it began

    @property
    def lasts(self) -> float:
        """Until when it may have an effect."""
        return NEVER if self.outcome == UNKNOWN else self.ended

    def __str__(self) -> str:
        asked = " ".join(f"{name}={value}" for name, value in self.asked.items())
        said = self.error or ("" if self.value is None else str(self.value))
        return f"#{self.number} {self.client} {self.kind} {self.user} {asked} -> {self.outcome} {said}"[:400]


@dataclass
class History:
    """All calls of a simulation."""

    kernel: Kernel
    ops: list[Op] = field(default_factory=list)

    @contextmanager
    def call(self, client: str, kind: str, user: str, began: float | None = None, **asked: Any) -> Iterator[Op]:
        """Record a call; errors that a caller can act on end here, and the call's outcome says so."""
        now = self.kernel.now
        op = Op(
            len(self.ops), client, kind, user, asked, now if began is None else began, now, fenced=began is not None
        )
        self.ops.append(op)
        deaths = self.kernel.deaths
        self.kernel.note("ask", op.client, f"#{op.number}", kind, user, asked)
        try:
            yield op
            op.outcome = OK
        except (ConflictError, InvalidInput, NotFoundError) as e:
            op.error = f"{e.code}: {e.message}"
            # A restore is several writes: a try that broke off may have done some before the next one met a conflict.
            # A profile whose first try was stored may have been replaced before the shard was there again to repeat the call.
            broken = kind == "restore" or (kind == "commit_profile" and self.kernel.deaths > deaths)
            if not broken or isinstance(e, ForgottenError):
                op.outcome = FAIL
        except (PersonaAgentError, TimeoutError) as e:
            op.error = f"{type(e).__name__}: {e}"
        finally:
            op.ended = self.kernel.now
            self.kernel.note("told", op.client, op)
