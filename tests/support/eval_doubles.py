"""A model for evaluations that copies what it is shown, and small data sets whose right answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from personaagent.types import ChatRequest, ChatResult, Usage
from tests.support.fake_llm import FakeLLM

OPTIONS = ("amber", "basil", "cedar", "dune")
SUBJECTS = ("paint", "tea", "incense", "carpet")
START = datetime(2024, 1, 1, tzinfo=UTC)


class CopyingLLM(FakeLLM):
    """Prefers options that stand in the conversation before the request; the later, the more.

    `fail` may raise for a request. Free text gets the last assistant message, or "nothing".
    """

    def __init__(self, fail: Callable[[ChatRequest], None] | None = None) -> None:
        super().__init__(context_length=8192)
        self.before = fail

    def result(self, request: ChatRequest) -> ChatResult:
        said = [m.text for m in request.messages if m.role == "assistant"]
        usage = Usage(calls=1, prompt_tokens=sum(len(m.text) for m in request.messages) // 4, completion_tokens=1)
        if request.choices:
            seen = {c: max((n + 1 for n, s in enumerate(said) if s == c), default=0) for c in request.choices}
            first = tuple((c, float(seen[c]) - 0.01 * i) for i, c in enumerate(request.choices))
            return ChatResult(text=request.choices[0], usage=usage, first_logprobs=_normalised(first))
        return ChatResult(text=said[-1] if said else "nothing", usage=usage)

    def pieces(self, result: ChatResult) -> Iterator[str]:
        yield result.text


def taste(user: int, subject: str) -> str:
    """What a user of `history_file` wants; neighbours in number want different things."""
    return OPTIONS[(user + SUBJECTS.index(subject)) % len(OPTIONS)]


def history_file(folder: Path, users: int = 4, interactions: int = 20) -> Path:
    """A history of closed choices with constant tastes. Every query is unique: it ends with its number."""
    path = folder / "history.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for user in range(users):
            for n in range(interactions):
                subject = SUBJECTS[n % len(SUBJECTS)]
                line = {
                    "user": f"user-{user}",
                    "id": f"{user}-{n}",
                    "time": (START + timedelta(hours=n)).isoformat(),
                    "query": f"{subject} for user {user}, request {n}.",
                    "choices": list(OPTIONS),
                    "truth": taste(user, subject),
                    "metadata": {"segment": "even" if user % 2 == 0 else "odd"},
                }
                file.write(json.dumps(line) + "\n")
    return path


def pahf_folder(folder: Path, users: int = 3) -> Path:
    """PAHF's four files: in the evolved ones every user wants the next option instead."""
    for part, shift in (("original", 0), ("evolved", 1)):
        for half in "AB":
            items: list[dict[str, Any]] = []
            for user in range(users):
                for subject in SUBJECTS:
                    wanted = OPTIONS[(user + SUBJECTS.index(subject) + shift) % len(OPTIONS)]
                    items.append(
                        {
                            "index": len(items),
                            "user": f"P{user}",
                            "task": f"{subject} please" if half == "A" else f"some {subject} please",
                            "user_intent_object": wanted,
                            "scene_objects": list(OPTIONS),
                        }
                    )
            (folder / f"embodied_{part}_scenarios_{half}.json").write_text(json.dumps(items))
    return folder


def movielens_folder(folder: Path, users: int = 3, ratings: int = 20) -> Path:
    """Each user gives comedies one grade and dramas another."""
    movies = [f"{n + 1},Film {n},{'Comedy' if n % 2 else 'Drama'}" for n in range(ratings)]
    rows = [
        f"{u + 1},{n + 1},{4.5 - u if n % 2 else 2.0 + u},{1_000_000 + n}" for u in range(users) for n in range(ratings)
    ]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]))
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows]))
    return folder


def lamp_file(folder: Path) -> Path:
    """LaMP-3: two users who give good reviews five stars and bad ones one."""
    words = {"5": "good fine lovely", "1": "bad poor awful"}
    questions, golds = [], []
    for n, gold in enumerate(("5", "1")):
        profile = [{"id": f"{n}{i}", "text": f"{words[s]} thing {i}", "score": s} for i, s in enumerate("5151")]
        text = f"What is the score? review: {words[gold]} thing"
        questions.append({"id": f"{n}", "input": text, "profile": profile})
        golds.append({"id": f"{n}", "output": gold})
    (folder / "dev_questions.json").write_text(json.dumps(questions))
    (folder / "dev_outputs.json").write_text(json.dumps({"task": "LaMP_3", "golds": golds}))
    return folder / "dev_questions.json"


def _normalised(first: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    top = max(value for _, value in first)
    return tuple((token, value - top) for token, value in first)
