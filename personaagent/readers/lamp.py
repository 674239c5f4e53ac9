"""LaMP's own files: one user per question, whose profile items become what the user did before.

Reads LaMP-1 (which paper to cite), LaMP-2 (tag of a movie, or category of a news article) and LaMP-3 (stars of a review)
from `*_questions.json`; what was right is in `*_outputs.json` beside it. Profile items are asked for in the form of the
question, so that memory shows how this user answers it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from personaagent.base import why
from personaagent.errors import InvalidInput
from personaagent.readers.read_result import ReadResult, checked, json_items, loads, opened
from personaagent.types import MAX_TEXT, Interaction

__all__ = ["CATEGORIES", "STARS", "TAGS", "TASKS", "lamp_label", "lamp_tests", "read"]

WANTED = "a LaMP *_questions.json file"
# fmt: off
TAGS = (
    "sci-fi", "based on a book", "comedy", "action", "twist ending", "dystopia", "dark comedy", "classic",
    "psychology", "fantasy", "romance", "thought-provoking", "social commentary", "violence", "true story",
)
CATEGORIES = (
    "women", "religion", "politics", "style & beauty", "entertainment", "culture & arts", "sports",
    "science & technology", "travel", "business", "crime", "education", "healthy living", "parents",
    "food & drink",
)
# fmt: on
STARS = ("1", "2", "3", "4", "5")
START = datetime(2025, 1, 1, tzinfo=UTC)  # of a profile whose items carry no date; then one item a minute
_REFERENCES = re.compile(r'\[1\]:\s*"(?P<first>.*?)"\s*(?:and|or|,)?\s*\[2\]:\s*"(?P<second>.*?)"\s*$', re.DOTALL)


@dataclass(frozen=True)
class _Task:
    """How one task is told from others and asked."""

    name: str  # in ids and metadata
    keys: frozenset[str]  # of a profile item
    answer: str  # the key that holds what the user did
    shown: tuple[str, ...]  # the keys that are shown with a profile item
    request: str
    labels: tuple[str, ...] | None  # of profile items and questions; None: free text
    marker: str = ""  # what the item itself comes after in a question's input
    says: str = ""  # what a question's input says, where keys alone do not tell

    def query(self, text: str) -> str:
        return f"{self.request} {text.strip()}"[:MAX_TEXT]


TASKS: tuple[_Task, ...] = (
    _Task(
        "LaMP-2M",
        frozenset({"tag", "description"}),
        "tag",
        ("description",),
        "Which tag fits this movie?",
        TAGS,
        "description:",
    ),
    _Task(
        "LaMP-2N",
        frozenset({"text", "title", "category"}),
        "category",
        ("title", "text"),
        "Which category fits this article?",
        CATEGORIES,
        "article:",
    ),
    _Task(
        "LaMP-3",
        frozenset({"text", "score"}),
        "score",
        ("text",),
        "How many stars does this review give?",
        STARS,
        "review:",
    ),
    _Task(
        "LaMP-1",
        frozenset({"title", "abstract"}),
        "title",
        ("abstract",),
        "What is the title of your paper with this abstract?",
        None,
        says="[1]",
    ),
)


def read(path: Path, limit_users: int | None = None) -> ReadResult:
    """The profiles' items, user by user. Line errors count the questions of the file.

    Raises:
        InvalidInput: the file is missing, broken from its start, or of a task that is not read here.
    """
    task = _detect(path)
    return ReadResult(lambda result: _profiles(path, task, limit_users, result))


def lamp_tests(path: str | Path, limit_users: int | None = None) -> list[Interaction]:
    """The questions themselves, with what was right; each comes after its user's profile in time.

    LaMP-1 asks for "[1]" or "[2]"; here the two papers' titles are the choices, which memory can say something about.
    `lamp_label` gives the label back.

    Raises:
        InvalidInput: a file is missing or broken, or a question has no output.
    """
    path = Path(path)
    task = _detect(path)
    golds = _golds(path)
    tests: list[Interaction] = []
    for number, question in json_items(path, WANTED):
        if limit_users is not None and len(tests) >= limit_users:
            break
        try:
            if isinstance(question, ValueError):
                raise question
            user, profile = _user(question, task)
            if str(question["id"]) not in golds:
                raise ValueError("its id is not among the outputs")
            tests.append(_question(question, user, len(profile), golds[str(question["id"])], task, profile))
        except (ValueError, OverflowError) as e:
            raise InvalidInput(f"{path.name}, question {number}: {why(e)}") from e
    return tests


def lamp_label(interaction: Interaction, answer: str) -> str:
    """The label in LaMP's own terms that an answer to a question stands for; LaMP-1's "[1]" for the first title."""
    labels = interaction.metadata.get("labels")
    if isinstance(labels, list) and interaction.choices and answer in interaction.choices:
        return str(labels[interaction.choices.index(answer)])
    return answer


def _detect(path: Path) -> _Task:
    """The task, from the first question with a profile."""
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; give {WANTED}")
    for _, question in json_items(path, WANTED):
        if not isinstance(question, dict) or "input" not in question or not isinstance(question.get("profile"), list):
            raise InvalidInput(f"{path} holds no LaMP questions (id, input, profile); give {WANTED}")
        for item in question["profile"][:1]:
            keys = item.keys() if isinstance(item, dict) else set()
            for task in TASKS:
                if task.keys <= keys and task.says in str(question["input"]):
                    return task
            raise InvalidInput(f"{path} is of a task that is not read here; LaMP-1, LaMP-2 and LaMP-3 are")
    raise InvalidInput(f"{path} holds no question with a profile; give {WANTED}")


def _profiles(path: Path, task: _Task, limit_users: int | None, result: ReadResult) -> Iterator[Interaction]:
    users = 0
    for number, question in json_items(path, WANTED):
        if limit_users is not None and users >= limit_users:
            return
        try:
            if isinstance(question, ValueError):
                raise question
            user, profile = _user(question, task)
        except ValueError as e:
            result.fail(number, why(e))
            continue
        users += 1
        ids: set[str] = set()
        for position, item in enumerate(profile):
            try:
                interaction = checked(_item(item, user, position, task))
                if interaction.id in ids:
                    raise ValueError("an id comes twice")
            except (ValueError, OverflowError) as e:
                result.fail(number, f"profile item {position + 1}: {why(e)}")
            else:
                ids.add(interaction.id)
                yield interaction


def _user(question: Any, task: _Task) -> tuple[str, list[Any]]:
    if not isinstance(question, dict):
        raise ValueError("not a JSON object")
    if missing := [name for name in ("id", "input", "profile") if name not in question]:
        raise ValueError(f"`{missing[0]}` is missing")
    if not isinstance(question["profile"], list) or not isinstance(question["input"], str):
        raise ValueError("`profile` is not a list or `input` not text")
    # Question ids count from the same number in every task.
    return f"{task.name.lower()}-{question['id']}", question["profile"]


def _item(item: Any, user: str, position: int, task: _Task) -> Interaction:
    if not isinstance(item, dict):
        raise ValueError("not a JSON object")
    if missing := [name for name in ("id", task.answer, *task.shown) if not isinstance(item.get(name), str | int)]:
        raise ValueError(f"`{missing[0]}` is missing or not text")
    return Interaction(
        id=f"{user}-{item['id']}",
        user=user,
        time=_time(item, position),
        query=task.query(". ".join(str(item[name]).strip() for name in task.shown)),
        truth=_truth(item[task.answer])[:MAX_TEXT],
        choices=task.labels,
        metadata={"source": "lamp", "task": task.name},
    )


def _question(
    question: Mapping[str, Any], user: str, items: int, gold: str, task: _Task, profile: list[Any]
) -> Interaction:
    text = question["input"]
    times = [_time(item, at) for at, item in enumerate(profile) if isinstance(item, dict)]
    metadata: dict[str, Any] = {"source": "lamp", "task": task.name, "test": True}
    choices = task.labels
    if choices is None:
        labels = ("[1]", "[2]")
        found = _REFERENCES.search(text)
        titles = (found["first"].strip(), found["second"].strip()) if found else labels
        usable = all(titles) and titles[0] != titles[1] and gold in labels
        choices = titles if usable else labels
        gold = choices[labels.index(gold)] if usable else gold
        metadata["labels"] = list(labels)
    elif task.marker in text:
        text = task.query(text.split(task.marker, 1)[1])
    return Interaction(
        id=f"{user}-question",
        user=user,
        time=max(times, default=START) + timedelta(days=1),
        query=text[:MAX_TEXT],
        truth=gold,
        choices=choices,
        metadata=metadata,
    )


def _golds(path: Path) -> dict[str, str]:
    if not path.name.endswith("questions.json"):
        raise InvalidInput(f"{path.name} does not end in questions.json, so its outputs cannot be found; give {WANTED}")
    file = path.with_name(path.name.removesuffix("questions.json") + "outputs.json")
    opened(file, "LaMP's *_outputs.json beside its questions")
    try:
        content = loads(file.read_text(encoding="utf-8-sig"))
        return {str(gold["id"]): _truth(gold["output"]) for gold in content["golds"]}
    except (ValueError, TypeError, KeyError) as e:
        raise InvalidInput(f"{file} is not a LaMP outputs file ({why(e)})") from e


def _truth(value: Any) -> str:
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text  # "4.0" stars are "4"


def _time(item: Mapping[str, Any], position: int) -> datetime:
    """The item's own date where there is one (LaMP's time-based split), else the order of the profile."""
    try:
        time = datetime.fromisoformat(str(item.get("date")))
    except ValueError:
        return START + timedelta(minutes=position)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
