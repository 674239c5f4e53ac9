"""A task set of its own for actions, made up for this project: twelve users, six tools, and two hundred requests.

What is right to do at a request depends on who asks: which tool is asked, or that none is; with which arguments; and whether
the answer should hold the first thing found alone, or all of it. So the same request has another ideal for another user, and
every ideal is known. Eighty requests are learned from, sixteen by each user. The other hundred and twenty are held out, ten for
each user; they differ in their wording, and in the places, days and things that they name.

There are two such worlds, of other people, words and things: `measure`, which nothing may be tuned on, and `develop`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations, count
from types import MappingProxyType
from typing import Any, Literal, get_args

from pydantic import JsonValue

from alignment.evaluation.action_texts import HELD_OUT, KINDS, LEARNED, PEOPLE, Vocabulary
from alignment.evaluation.action_texts_develop import DEVELOP_HELD_OUT, DEVELOP_LEARNED, DEVELOP_PEOPLE
from alignment.evaluation.action_tools import TOOL_NAMES, WorldThings, WorldTool, world_tools
from personaagent.errors import InvalidInput
from personaagent.types import ANSWER, Action, Interaction

__all__ = ["ActionRequest", "ActionWorld", "Habits", "IdealAction", "WorldName", "action_world"]

WorldName = Literal["measure", "develop"]
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
LEARNED_EACH = 10  # requests of a kind to learn from; every user has asked two of them
ASKED_EACH = 2
# Requests held out of each kind: two or one for every user.
HELD_OUT_EACH: Mapping[str, int] = MappingProxyType(
    {kind: 24 if kind in ("journey", "outing") else 12 for kind in KINDS}
)

_WORLDS: Mapping[WorldName, tuple[tuple[str, ...], Vocabulary, Vocabulary]] = MappingProxyType(
    {
        "measure": (PEOPLE, LEARNED, HELD_OUT),
        "develop": (DEVELOP_PEOPLE, DEVELOP_LEARNED, DEVELOP_HELD_OUT),
    }
)

# What users differ in. Equally many have each of the values.
_HABITS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "journey": ("trains", "flights", "calendar"),  # asks for trains, or flights, or first whether the day is free
        "outing": ("weather", "calendar", "news"),
        "dinner": ("recipes", "calendar", ANSWER),  # the calendar knows of guests; others want an idea and no search
        "subject": ("news", ANSWER),
        "comfort": (True, False),
        "sort": ("earliest", "cheapest", "fastest"),
        "units": ("metric", "imperial"),
        "span": ("day", "week"),
        "diet": ("any", "vegetarian", "vegan"),
        "age": ("day", "week", "year"),
        "brief": (True, False),
    }
)


@dataclass(frozen=True)
class Habits:
    """How a user wants tools used.

    `journey`, `outing`, `dinner` and `subject` are what they ask at such requests. `comfort` is first and business class,
    `brief` that they want the first thing found and nothing more. The others are arguments by their own names.
    """

    journey: str
    outing: str
    dinner: str
    subject: str
    comfort: bool
    sort: str
    units: str
    span: str
    diet: str
    age: str
    brief: bool

    def tool(self, kind: str) -> str:
        """What is asked at a request of this kind."""
        by_kind = {
            **{own: str(getattr(self, own)) for own in ("journey", "outing", "dinner", "subject")},
            "temperature": "weather",
            "headlines": "news",
            "cooking": "recipes",
            "plain": ANSWER,
        }
        return by_kind[kind]


@dataclass(frozen=True)
class ActionRequest:
    """A request and what it names. `said` is the answer of who looks nothing up."""

    id: str
    kind: str
    text: str
    place: str = ""
    date: str = ""
    subject: str = ""
    ingredient: str = ""
    said: str = ""


@dataclass(frozen=True)
class IdealAction:
    """What is right at a request: the action, and an answer.

    Every right answer names all of `must` and none of `must_not`; there are none of these where nothing is looked up.
    """

    action: Action
    answer: str
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()


@dataclass(frozen=True)
class ActionWorld:
    """One world. `asked` and `tested` are the requests of each user, from `learned` and `held_out`."""

    name: WorldName
    users: tuple[str, ...]
    habits: Mapping[str, Habits]
    tools: Mapping[str, WorldTool]
    learned: tuple[ActionRequest, ...]
    held_out: tuple[ActionRequest, ...]
    asked: Mapping[str, tuple[ActionRequest, ...]]
    tested: Mapping[str, tuple[ActionRequest, ...]]

    def ideal(self, user: str, request: ActionRequest) -> IdealAction:
        """What would be right if this user made this request."""
        habits = self.habits[user]
        tool = habits.tool(request.kind)
        if tool == ANSWER:
            return IdealAction(Action(tool=ANSWER, among=TOOL_NAMES), request.said)
        arguments = _arguments(tool, habits, request)
        first, *others = self.tools[tool].find(arguments).entries
        action = Action(tool=tool, arguments=arguments, among=TOOL_NAMES)
        if habits.brief:
            return IdealAction(action, first.line, (first.key,), tuple(entry.key for entry in others))
        every = (first, *others)
        return IdealAction(action, "; ".join(e.line for e in every), tuple(e.key for e in every))

    def history(self, user: str) -> list[tuple[Interaction, Action]]:
        """What is learned of a user, oldest first: their requests with ideal answers, and what was right to do at each."""
        number = self.users.index(user)
        return [
            (self._interaction(user, number, at, r), self.ideal(user, r).action)
            for at, r in enumerate(self.asked[user])
        ]

    def _interaction(self, user: str, number: int, at: int, request: ActionRequest) -> Interaction:
        ideal = self.ideal(user, request)
        calls: list[JsonValue] = []
        if ideal.action.tool != ANSWER:
            told = self.tools[ideal.action.tool].find(ideal.action.arguments).text
            arguments = dict(ideal.action.arguments)
            calls.append({"name": ideal.action.tool, "arguments": arguments, "result": told, "error": False})
        return Interaction(
            id=f"{self.name}-{user}-{at:02d}",
            user=user,
            time=START + timedelta(hours=9 * at, minutes=number),
            query=request.text,
            truth=ideal.answer,
            metadata={"source": "synthetic", "kind": request.kind, "calls": calls},
        )


def action_world(name: WorldName = "measure", users: int | None = None, seed: int = 0) -> ActionWorld:
    """A world. A user is the same however many there are, and the same seed gives the same world.

    Args:
        name: `measure`, or `develop` to tune on.
        users: only the first so many; None: all twelve.
        seed: of who has which habits, who asks what, on which days, and what the tools tell.

    Raises:
        InvalidInput: there is no such world, or not so many users.
    """
    if name not in _WORLDS:
        raise InvalidInput(f"there is no world {name!r} of actions; choose from {', '.join(get_args(WorldName))}")
    people, learning, held_out = _WORLDS[name]
    if users is not None and not 1 <= users <= len(people):
        raise InvalidInput(f"the number of users must be from 1 to {len(people)}, not {users}")
    key = f"actions:{name}:{seed}"
    known = WorldThings(
        places=(*learning.places, *held_out.places),
        subjects=tuple(subject for part in (learning, held_out) for subject, _ in part.subjects),
        ingredients=tuple(ingredient for part in (learning, held_out) for ingredient, _ in part.ingredients),
    )
    learned = _requests(key, "learned", learning, dict.fromkeys(KINDS, LEARNED_EACH))
    tested = _requests(key, "held_out", held_out, HELD_OUT_EACH)
    chosen = people[:users]
    return ActionWorld(
        name=name,
        users=chosen,
        habits={user: habits for user, habits in _habits(key, people).items() if user in chosen},
        tools=world_tools(key, known),
        learned=learned,
        held_out=tested,
        asked={user: asked for user, asked in _dealt(f"{key}:asked", people, learned).items() if user in chosen},
        tested={user: asked for user, asked in _dealt(f"{key}:tested", people, tested).items() if user in chosen},
    )


def _habits(key: str, people: Sequence[str]) -> dict[str, Habits]:
    """Habits of which any two people differ in a tool, and in five of the eleven; drawn until they do."""
    for attempt in count():
        drawn: dict[str, list[Any]] = {}
        for name, values in _HABITS.items():
            dealt = list(values) * (len(people) // len(values))
            drawn[name] = random.Random(f"{key}:{name}:{attempt}").sample(dealt, len(dealt))
        found = list(zip(*drawn.values(), strict=True))
        differ = ([a != b for a, b in zip(one, other, strict=True)] for one, other in combinations(found, 2))
        if all(any(d[:4]) and sum(d) >= 5 for d in differ):
            break
    return {user: Habits(**dict(zip(drawn, values, strict=True))) for user, values in zip(people, found, strict=True)}


def _requests(key: str, part: str, words: Vocabulary, counts: Mapping[str, int]) -> tuple[ActionRequest, ...]:
    made = []
    for kind in KINDS:
        rng = random.Random(f"{key}:{part}:{kind}")
        for n in range(counts[kind]):
            made.append(_request(f"{part}-{kind}-{n:02d}", kind, n, words, rng))
    return tuple(made)


def _request(name: str, kind: str, n: int, words: Vocabulary, rng: random.Random) -> ActionRequest:
    """The n-th request of a kind: wordings and things go round at different speeds, so that no pair of them comes twice."""
    if kind == "plain":
        text, said = words.plain[n]
        return ActionRequest(name, kind, text, said=said)
    wordings = words.requests[kind]
    at = n + n // len(wordings)
    day = f"{rng.randint(1, 28)} {rng.choice(words.months)}"
    fields = {"date": day, "place": "", "subject": "", "ingredient": "", "said": ""}
    if kind in ("subject", "headlines"):
        fields["subject"], fields["said"] = words.subjects[at % len(words.subjects)]
        fields["date"] = ""
    elif kind in ("dinner", "cooking"):
        fields["ingredient"], fields["said"] = words.ingredients[at % len(words.ingredients)]
        fields["date"] = day if kind == "dinner" else ""
    else:
        fields["place"] = words.places[at % len(words.places)]
    return ActionRequest(name, kind, wordings[n % len(wordings)].format(**fields), **fields)


def _dealt(key: str, people: Sequence[str], requests: Sequence[ActionRequest]) -> dict[str, tuple[ActionRequest, ...]]:
    """Requests to people, equally many of each kind for everybody; in the order of a user's own.

    Where there are fewer than everybody needs, several people have asked the same.
    """
    dealt: dict[str, list[ActionRequest]] = {user: [] for user in people}
    for kind in KINDS:
        own = [request for request in requests if request.kind == kind]
        each = max(1, len(own) // len(people)) if len(own) >= len(people) else ASKED_EACH
        order = random.Random(f"{key}:{kind}").sample(own, len(own))
        for n, user in enumerate(people):
            dealt[user] += [order[(n * each + k) % len(order)] for k in range(each)]
    return {user: tuple(random.Random(f"{key}:{user}").sample(some, len(some))) for user, some in dealt.items()}


def _arguments(tool: str, habits: Habits, request: ActionRequest) -> dict[str, Any]:
    """The arguments with which this user wants a tool asked at this request."""
    found: dict[str, dict[str, Any]] = {
        "trains": {
            "to": request.place,
            "date": request.date,
            "class": "first" if habits.comfort else "second",
            "sort": habits.sort,
        },
        "flights": {
            "to": request.place,
            "date": request.date,
            "cabin": "business" if habits.comfort else "economy",
            "sort": habits.sort,
        },
        "weather": {"place": request.place, "date": request.date, "units": habits.units},
        "calendar": {"date": request.date, "span": habits.span},
        "recipes": {"ingredient": request.ingredient, "diet": habits.diet},
        "news": {"subject": request.subject or request.place, "age": habits.age},
    }
    return found[tool]
