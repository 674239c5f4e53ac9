"""What the clients of `bench chaos` know of users and of answers, and where they note what they did."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from actors.milvus.store_identity import shard_of
from personaagent.types import user_key
from serve.bench.chaos_history import Operation, Status

__all__ = ["ENGINE", "ROUTER", "ChaosAnswer", "History", "Person", "marks_in", "shard_part"]

ROUTER, ENGINE = "router", "engine"  # parts that operations need, beside the shards
MARK = re.compile(r"zq[a-p]{12}")  # so long that a model that garbles one does not hit another


def shard_part(number: int) -> str:
    """A memory shard as a part that operations need."""
    return f"shard-{number}"


@dataclass
class Person:
    """A user as clients know them. `asked`: interactions that feedback may be given to, with the mark of that feedback."""

    name: str
    part: str
    asked: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=12))

    @property
    def path(self) -> str:
        """Of the user in the API."""
        return f"/v1/users/{quote(self.name, safe='')}"


@dataclass
class ChaosAnswer:
    """What came back of a call. `started` is when the first piece of a streamed answer was there."""

    status: Status = Status.UNKNOWN
    code: int = 0
    text: str = ""
    error: str | None = None  # the code in our API's error
    started: float | None = None

    def judge(self) -> None:
        """Set `status` from the HTTP status: what our API refuses was not done; who answers 5xx does not say."""
        if 200 <= self.code < 300:
            self.status = Status.OK
            return
        try:
            self.error = str(json.loads(self.text)["error"]["code"])
        except (ValueError, KeyError, TypeError):  # not from our API, but from what stands before it
            return
        if 400 <= self.code < 500:
            self.status = Status.FAIL


class History:
    """Collects operations; makes the marks."""

    def __init__(self, seed: int, shards: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.operations: list[Operation] = []
        self.answers: Counter[str] = Counter()  # by kind and HTTP status or reason, for people
        self.clock = clock
        self._marks = random.Random(f"marks {seed}")
        self._shards = shards
        self._number = 0

    def person(self, name: str) -> Person:
        """A user."""
        return Person(name, shard_part(shard_of(user_key(name), self._shards)))

    def mark(self) -> str:
        """A new mark."""
        return "zq" + "".join(self._marks.choice("abcdefghijklmnop") for _ in range(12))

    def note(self, kind: str, user: str, began: float, answer: ChaosAnswer, **fields: Any) -> Operation:
        """Add an operation that ended now; `fields` are of `Operation`."""
        self._number += 1
        self.answers[f"{kind} {answer.error or answer.code or 'no answer'}"] += 1
        more: dict[str, Any] = {n: frozenset(v) if isinstance(v, set) else v for n, v in fields.items()}
        operation = Operation(
            self._number, kind, user, began, self.clock(), answer.status, started=answer.started, **more
        )
        self.operations.append(operation)
        return operation


def marks_in(text: str) -> set[str]:
    """The marks that stand in a text."""
    return set(MARK.findall(text))
