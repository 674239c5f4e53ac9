"""Rules on the use of tools, counted from lessons."""

from __future__ import annotations

import pytest

from personaagent.claims import ClaimKind, render, silenced
from personaagent.persona.counting import counted_claims
from personaagent.types import Interaction
from tests.support.interactions import START, settled
from tests.support.taught import taught


def texts(interactions: list[Interaction]) -> list[str]:
    return [c.text for c in counted_claims(interactions)]


def traveller(count: int = 8) -> list[Interaction]:
    made: list[Interaction] = []
    for n in range(count):
        made += taught(4 * n, f"how shall I travel to place {n}", "trains")
        made += taught(4 * n + 1, f"will it rain on day {n}", "weather", units="metric", alerts=False)
        made += taught(4 * n + 2, f"what did I write of subject {n}", "notes")
        made += taught(4 * n + 3, f"tell me joke {n}", "answer")
    return made


def test_a_tool_that_is_right_when_something_is_asked_about_is_a_rule() -> None:
    found = counted_claims(traveller())
    said = {c.text: c for c in found}
    assert "uses “trains” first when a request says “travel”" in said
    rule = said["uses “trains” first when a request says “travel”"]
    assert rule.kind is ClaimKind.RULE
    assert rule.note == "right 8 of 8 times"
    assert len(rule.sources) == 8
    assert all(s.startswith("lesson:tool:") for s in rule.sources)
    assert rule.since == START
    assert not any("flights" in text for text in said)
    assert not any(text.startswith("uses “weather” first") and "when" not in text for text in said)


def test_arguments_are_rules_of_their_tool() -> None:
    said = texts(traveller())
    assert "asks weather for “metric” units" in said
    assert "asks weather without “alerts”" in said


def test_a_model_reads_them_without_quotation_marks() -> None:
    assert "asks weather for metric units" in render(counted_claims(traveller()))


def test_an_answer_that_needs_no_tool_is_said_so() -> None:
    made = [i for n in range(8) for i in taught(n, f"greet guest {n}", "answer")]
    assert "wants an answer without tools" in texts(made)


def test_a_few_lessons_or_mixed_ones_say_nothing() -> None:
    assert texts(taught(0, "how shall I travel", "trains")) == []
    mixed = [i for n in range(12) for i in taught(n, f"request {n}", ("trains", "flights", "notes")[n % 3])]
    assert texts(mixed) == []


def test_what_the_newest_contradict_is_no_rule() -> None:
    old = [i for n in range(8) for i in taught(n, f"rain on day {n}", "weather", units="imperial")]
    new = [i for n in range(8, 16) for i in taught(n, f"rain on day {n}", "weather", units="metric")]
    assert "asks weather for “imperial” units" not in texts(old + new)


@pytest.mark.parametrize("shift", [0, 3])
def test_claims_of_other_interactions_are_those_without_lessons(shift: int) -> None:
    asked = [settled(n, f"drink number {n}", "tea" if n % 4 else "coffee", ("tea", "coffee")) for n in range(12)]
    plain = counted_claims(asked)
    both = counted_claims([*asked[:shift], *traveller(), *asked[shift:]])
    assert plain
    assert tuple(c for c in both if c.kind is not ClaimKind.RULE) == plain


def test_a_rule_that_was_struck_is_not_said_again() -> None:
    claims = {c.text: c for c in counted_claims(traveller())}
    rule = claims["asks weather for “metric” units"]
    assert silenced(rule, ("asks weather for metric units",))
    assert silenced(rule, ("asks weather for “metric” units",))
    assert not silenced(rule, ("asks weather for “imperial” units",))
    assert not silenced(claims["uses “trains” first when a request says “travel”"], ("uses “notes” first",))
