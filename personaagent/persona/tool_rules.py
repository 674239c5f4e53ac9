"""How a user wants tools used, counted from lessons: which tool for which requests, and with which arguments.

The standards are those of tastes: beyond chance, by many enough, not contradicted by the newest. In addition the tool or value
must be the right one most of the time, since a rule is followed whenever it fits, and not only where nothing else is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from personaagent.claims import ClaimKind
from personaagent.persona.tally import Found, above, found
from personaagent.persona.tastes import MOST_CHARACTERS, Leaning, Offer, counted, leanings
from personaagent.types import ACTION, ANSWER, TOOL_LESSON, Interaction

__all__ = ["rules"]

MOST = 200  # newest lessons of a kind that are read; what is older weighs little
SHARE = 0.5  # of the requests where it would apply, for which a rule must hold at least


def rules(lessons: Sequence[Interaction], weights: Sequence[float]) -> list[Found]:
    """What can be said of how a user wants tools used, best first.

    Args:
        lessons: see `personaagent.tools.lessons`, newest first; other interactions say nothing.
        weights: of them.
    """
    by_action: dict[str, list[tuple[Interaction, float]]] = defaultdict(list)
    for lesson, weight in zip(lessons, weights, strict=True):
        if lesson.lesson:
            by_action["" if lesson.id.startswith(TOOL_LESSON) else str(lesson.metadata.get(ACTION))].append(
                (lesson, weight)
            )
    said: list[Found] = []
    for action, known in sorted(by_action.items()):
        offers = [offer for lesson, weight in known[:MOST] if (offer := _offer(lesson, weight)) is not None]
        for leaning in leanings(offers, refused=False):
            said += _rule(action, offers, leaning)
    return sorted(said, key=lambda f: (-f.worth, f.claim.text))


def _offer(lesson: Interaction, weight: float) -> Offer | None:
    """The options of a lesson, each of which is taken as a whole."""
    options = lesson.choices or ()
    if lesson.truth not in options:
        return None
    ordered = (lesson.truth, *(o for o in options if o != lesson.truth))
    return Offer(lesson, weight, tuple(frozenset((o,)) for o in ordered), 0)


def _rule(action: str, offers: Sequence[Offer], leaning: Leaning) -> list[Found]:
    count, often, support = counted(offers, leaning)
    name = leaning.part.name
    if above(count.hits, count.tries) < SHARE or len(name) > MOST_CHARACTERS:
        return []
    tool, _, argument = action.partition(".")
    text = _of_argument(tool, argument, name) if action else _of_tool(name)
    if leaning.word:
        text += f" when a request says “{leaning.word}”"
    strength = count.strength(taken=True)
    return [found(text, ClaimKind.RULE, support, strength, group=action or "tool", note=f"right {often}")]


def _of_tool(name: str) -> str:
    return "wants an answer without tools" if name == ANSWER else f"uses “{name}” first"


def _of_argument(tool: str, argument: str, value: str) -> str:
    of = argument.replace("_", " ").replace("-", " ")
    if value in ("true", "false"):
        return f"asks {tool} {'with' if value == 'true' else 'without'} “{of}”"
    return f"asks {tool} for “{value}” {of}"
