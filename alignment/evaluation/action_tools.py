"""Six tools over made-up local data, for measuring actions: trains, flights, weather, calendar, recipes and news.

What they tell is invented and always the same for the same arguments and seed. It fits together: another order of connections
lists the same ones, other units are the same weather, and a wider search finds what a narrower one does, and more. They answer
everybody alike, so that what another user would have been told can be compared.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any

from personaagent.errors import InvalidInput
from personaagent.tools.tool import ToolContext, ToolOutput, ToolSpec

__all__ = [
    "TOOL_NAMES",
    "Entry",
    "Listing",
    "WorldThings",
    "WorldTool",
    "day_of",
    "named",
    "spoken",
    "tells",
    "world_tools",
]

TOOL_NAMES = ("trains", "flights", "weather", "calendar", "recipes", "news")
YEAR = 2026  # of all dates, which are named by day and month
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
MORE = 3  # words that a free argument may have beside what it has to name
SKIES = ("sunshine", "light rain", "heavy clouds", "drizzle", "thunderstorms", "fog", "clear sky", "showers")
APPOINTMENTS = (
    *("dentist", "choir practice", "parents evening", "car inspection", "yoga class", "tax adviser", "piano lesson"),
    *(
        "guests from abroad",
        "chess club",
        "haircut",
        "board meeting",
        "swimming course",
        "vaccination",
        "house viewing",
        "bicycle repair",
    ),
)
DISHES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "vegan": ("curry", "stew", "salad", "tagine", "noodle soup"),
        "vegetarian": ("gratin", "quiche", "omelette", "lasagne", "risotto"),
        "any": ("chicken pie", "beef ragout", "fish cakes", "ham rolls", "lamb skewers"),
    }
)
REPORTS = (
    *("prices fall again", "council votes on rules", "study surprises experts", "queues after a busy weekend"),
    *("new project opens", "critics demand answers", "record year reported", "costs worry families"),
    *("volunteers are wanted", "plans delayed until spring"),
)
AGES: Mapping[str, int] = MappingProxyType({"day": 2, "week": 4, "year": 6})  # reports that are found
DATED = ("today", "today", "three days ago", "five days ago", "two months ago", "last year")
ORDERS = ("earliest", "cheapest", "fastest")

_DAY = re.compile(
    r"\b(\d{1,2})(?:st|nd|rd|th|\.)?\s+(?:of\s+)?([A-Za-z]{3,9})|\b([A-Za-z]{3,9})\s+(\d{1,2})(?:st|nd|rd|th)?\b"
)
_ISO = re.compile(r"\b\d{4}-(\d{2})-(\d{2})\b")


@dataclass(frozen=True)
class Entry:
    """One thing that a tool found: the line that tells it, and what of it an answer names that tells it, too (see `tells`)."""

    line: str
    key: str


@dataclass(frozen=True)
class Listing:
    """What a tool found, in its order."""

    heading: str
    entries: tuple[Entry, ...]

    @property
    def text(self) -> str:
        """As the tool answers."""
        return "\n".join([f"{self.heading}:", *(f"- {entry.line}" for entry in self.entries)])


@dataclass(frozen=True)
class WorldThings:
    """What there is to ask the tools of a world about."""

    places: tuple[str, ...]
    subjects: tuple[str, ...]
    ingredients: tuple[str, ...]


class WorldTool:
    """One of the tools; it reads, and sees nothing but its arguments."""

    def __init__(self, spec: ToolSpec, find: Callable[[Mapping[str, Any]], Listing]) -> None:
        self._spec = spec
        self.find = find

    @property
    def spec(self) -> ToolSpec:
        """See `Tool`."""
        return self._spec

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """See `Tool`. Raises InvalidInput for a place, subject, ingredient or day that it does not know."""
        return ToolOutput(text=self.find(arguments).text)


def world_tools(seed: str, known: WorldThings) -> dict[str, WorldTool]:
    """The tools of a world by name, in the order in which they are offered."""
    order = {"type": "string", "enum": list(ORDERS), "description": "which connection comes first"}
    to, day = _text("the place to travel to"), _text("the day, such as 3 May")
    made: dict[str, tuple[str, dict[str, Any], Callable[[Mapping[str, Any]], Listing]]] = {
        "trains": (
            "Look up train connections: how to travel to a place by rail on a day.",
            {"to": to, "date": day, "class": {"type": "string", "enum": ["first", "second"]}, "sort": order},
            partial(_connections, seed, known, "trains"),
        ),
        "flights": (
            "Look up flights: how to travel to a place by plane on a day.",
            {"to": to, "date": day, "cabin": {"type": "string", "enum": ["business", "economy"]}, "sort": order},
            partial(_connections, seed, known, "flights"),
        ),
        "weather": (
            "The weather forecast of a place for a day: temperature, sky and wind.",
            {
                "place": _text("the place"),
                "date": day,
                "units": {"type": "string", "enum": ["metric", "imperial"]},
            },
            partial(_weather, seed, known),
        ),
        "calendar": (
            "What stands in the calendar: appointments and guests on a day or from it on.",
            {"date": day, "span": {"type": "string", "enum": ["day", "week"]}},
            partial(_calendar, seed),
        ),
        "recipes": (
            "Search the cookbook for recipes with an ingredient.",
            {
                "ingredient": _text("the ingredient"),
                "diet": {"type": "string", "enum": ["any", "vegetarian", "vegan"]},
            },
            partial(_recipes, seed, known),
        ),
        "news": (
            "Search news reports on a subject or a place.",
            {
                "subject": _text("the subject or place"),
                "age": {"type": "string", "enum": list(AGES), "description": "how old reports may be"},
            },
            partial(_news, seed, known),
        ),
    }
    return {name: WorldTool(_spec(name, said, properties), find) for name, (said, properties, find) in made.items()}


def spoken(day: date) -> str:
    """A day as requests name it."""
    return f"{day.day} {MONTHS[day.month - 1]}"


def day_of(text: str) -> date | None:
    """The day that a text names by day and month, in words or as YYYY-MM-DD; None if it names none."""
    if found := _ISO.search(text):
        return _date(int(found[2]), int(found[1]))
    for found in _DAY.finditer(text):
        number, word = (found[1], found[2]) if found[1] else (found[4], found[3])
        month = next((n for n, m in enumerate(MONTHS, 1) if m.casefold().startswith(word.casefold())), None)
        if month is not None:
            return _date(int(number), month)
    return None


def named(text: str, name: str) -> bool:
    """Whether an argument names a thing: in whole words of any case, with at most three more around them."""
    words, wanted = re.findall(r"\w+", text.casefold()), re.findall(r"\w+", name.casefold())
    if len(words) > len(wanted) + MORE:
        return False
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words)))


def tells(text: str, key: str) -> bool:
    """Whether an answer says a key: as whole words and numbers, in any case, with `degrees` for ° and any space before units."""
    said = re.sub(r"\s*\bdegrees?\b", "°", " ".join(text.casefold().split()))
    said = re.sub(r"(?<=\d) (?=°|km/h|mph)", "", said)
    end = r"(?!\w)" if key[-1].isalnum() else ""
    return re.search(rf"(?<![\w:-]){re.escape(key.casefold())}{end}", said) is not None


def _date(day: int, month: int) -> date | None:
    try:
        return date(YEAR, month, day)
    except ValueError:
        return None


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": 60, "description": description}


def _spec(name: str, description: str, properties: dict[str, Any]) -> ToolSpec:
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return ToolSpec(name=name, description=description, parameters=parameters)


def _known(what: str, text: str, names: Sequence[str]) -> str:
    found = next((name for name in names if named(text, name)), None)
    if found is None:
        raise InvalidInput(f"no such {what} is known: {text[:60]!r}")
    return found


def _day(text: str) -> date:
    found = day_of(text)
    if found is None:
        raise InvalidInput(f"{text[:60]!r} is no day; write it like 3 May")
    return found


def _connections(seed: str, known: WorldThings, by: str, arguments: Mapping[str, Any]) -> Listing:
    """Of three connections one is the earliest, another the cheapest and the third the fastest."""
    place, day = _known("place", str(arguments["to"]), known.places), _day(str(arguments["date"]))
    rng = random.Random(f"{seed}:{by}:{place}:{day}")
    kind = str(arguments["class" if by == "trains" else "cabin"])
    dear = 1.8 if kind in ("first", "business") else 1.0
    low, high = (90, 240) if by == "trains" else (55, 110)
    hours = sorted(rng.sample(range(6, 20), 3))
    cheapest, fastest = rng.sample((1, 2), 2)
    legs = []
    for n, hour in enumerate(hours):
        minutes = low - 10 if n == fastest else rng.randrange(low, high)
        price = rng.randrange(20, 30) if n == cheapest else rng.randrange(40, 90)
        legs.append((f"{hour:02d}:{rng.randrange(0, 60, 3):02d}", round(price * dear), minutes))
    column = ORDERS.index(str(arguments["sort"]))
    legs.sort(key=lambda leg: leg[column])
    entries = tuple(
        Entry(f"{leaves}, {minutes // 60} h {minutes % 60:02d} min, {price} euros", leaves)
        for leaves, price, minutes in legs
    )
    what = f"{by.capitalize()} to {place} on {spoken(day)}, {kind} class, {arguments['sort']} first"
    return Listing(what, entries)


def _weather(seed: str, known: WorldThings, arguments: Mapping[str, Any]) -> Listing:
    place, day = _known("place", str(arguments["place"]), known.places), _day(str(arguments["date"]))
    rng = random.Random(f"{seed}:weather:{place}:{day}")
    sky = rng.choice(SKIES)
    celsius, wind = rng.randrange(4, 28), rng.randrange(8, 39)
    metric = arguments["units"] == "metric"
    speeds = "km/h" if metric else "mph"
    warm = celsius if metric else round(celsius * 9 / 5 + 32)
    speed = wind if metric else round(wind / 1.609)
    entries = (
        Entry(f"{warm} {'°C' if metric else '°F'}", f"{warm}°"),
        Entry(sky, sky),
        Entry(f"wind {speed} {speeds}", f"{speed}{speeds}"),
    )
    return Listing(f"Weather in {place} on {spoken(day)}", entries)


def _calendar(seed: str, arguments: Mapping[str, Any]) -> Listing:
    """A day with both of its appointments, or the first appointment of each of five days."""
    day = _day(str(arguments["date"]))
    titles = random.Random(f"{seed}:calendar").sample(APPOINTMENTS, len(APPOINTMENTS))

    def appointment(when: date, number: int) -> tuple[str, str]:
        place = when.toordinal() * 2 + number
        return f"{8 + 7 * number + place % 5:02d}:30", titles[place % len(titles)]

    if arguments["span"] == "day":
        told = [appointment(day, number) for number in (0, 1)]
        return Listing(f"Calendar for {spoken(day)}", tuple(Entry(f"{time} {title}", title) for time, title in told))
    days = [day + timedelta(days=n) for n in range(5)]
    listed = [(when, *appointment(when, 0)) for when in days]
    entries = tuple(Entry(f"{spoken(when)}, {time} {title}", title) for when, time, title in listed)
    return Listing(f"Calendar for the week from {spoken(day)}", entries)


def _recipes(seed: str, known: WorldThings, arguments: Mapping[str, Any]) -> Listing:
    ingredient, diet = _known("ingredient", str(arguments["ingredient"]), known.ingredients), str(arguments["diet"])
    allowed = list(DISHES)[: list(DISHES).index(diet) + 1]
    rng = random.Random(f"{seed}:recipes:{ingredient}")
    dishes = {kind: rng.sample(names, 3) for kind, names in DISHES.items()}
    minutes = {name: rng.randrange(15, 75, 5) for names in dishes.values() for name in names}
    # What the diet alone allows comes first: who eats everything sees meat first, and vegans nothing else than vegan dishes.
    chosen = dishes[diet] if diet == "vegan" else [dishes[kind][0] for kind in reversed(allowed)]
    if diet == "vegetarian":
        chosen = [*chosen, dishes["vegetarian"][1]]
    entries = tuple(Entry(f"{name} with {ingredient}, {minutes[name]} minutes", name) for name in chosen)
    return Listing(f"Recipes with {ingredient}, diet: {diet}", entries)


def _news(seed: str, known: WorldThings, arguments: Mapping[str, Any]) -> Listing:
    subject = _known("subject", str(arguments["subject"]), (*known.subjects, *known.places))
    reports = random.Random(f"{seed}:news:{subject}").sample(REPORTS, len(DATED))
    found = list(zip(reports, DATED, strict=True))[: AGES[str(arguments["age"])]]
    entries = tuple(Entry(f"{subject}: {report} ({when})", report) for report, when in found)
    return Listing(f"News on {subject}, newest first", entries)
