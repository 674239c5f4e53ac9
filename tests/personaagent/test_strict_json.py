"""What is not JSON, or cannot be kept as JSON, is refused at the door; what an older version let in can be read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.base import readable, repaired
from personaagent.strict_json import MAX_DEPTH, finite, loads
from personaagent.types import Interaction, utc_now
from tests.support.api_world import JSON, World, assert_error

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FAULTS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"9" * 400, b"-" + b"9" * 5000, b'"\xff"', '"q"'.encode("utf-16"),
    b"[" * 129 + b"]" * 129, b"[" * 1_000 + b"]" * 1_000, b"[" * 100_000, b'{"a":' * 200 + b"1" + b"}" * 200, b"{", b"'a'",
    b"[1,]",
]  # fmt: skip


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert loads(json.dumps(value).encode()) == value
    assert loads(json.dumps(value, ensure_ascii=False)) == value


def test_the_deepest_and_the_largest_that_are_taken() -> None:
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert loads(b"9" * 308) == int("9" * 308)
    assert loads(b"\xef\xbb\xbf[1.5]") == [1.5]
    assert loads(b"[" + b"{}," * 500 + b"{}]") == [{}] * 501


@pytest.mark.parametrize("inner", FAULTS, ids=range(len(FAULTS)))
async def test_faults_are_400_at_every_door(inner: bytes) -> None:
    world = World()
    for path, head, tail in (
        ("/v1/users/anna/interactions", b'{"query": "q", "metadata": {"x": ', b"}}"),
        ("/v1/users/anna/explain", b'{"query": "q", "choices": ["a", "b"], "x": ', b"}"),
        ("/v1/users/anna/persona/pin", b'{"pinned": ', b"}"),
        ("/v1/chat/completions", b'{"model": "echo", "user": "a", "tools": [{"x": ', b"}]}"),
    ):
        response = await world.http.post(path, content=head + inner + tail, headers=JSON)
        assert_error(response, 400, "invalid_json")
    assert await world.memory.users() == ()


async def test_numbers_that_an_older_version_stored_do_not_stop_reading() -> None:
    world = World()
    old = {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": 1.5}
    await world.memory.append(
        "anna", [Interaction(id="1", user="anna", time=utc_now(), query="q", truth="t", metadata=old)]
    )
    for rest in ("/memory", "/memory?query=q", "/export"):
        response = await world.http.get(f"/v1/users/anna{rest}")
        assert response.status_code == 200
        for line in response.text.splitlines():
            loads(line)
    assert finite(old) == {"a": None, "b": [None, {"c": None}], "d": 1.5}


async def test_options_that_are_no_numbers_or_extreme_ones_are_answered() -> None:
    world = World()
    for choices in (["nan", "1"], ["inf", "-inf"], ["1e308", "-1e308"], ["5e-324", "0"], ["1e400", "2"]):
        response = await world.post("anna", "/explain", {"query": "q", "choices": choices})
        assert response.status_code == 200, choices
        assert sum(loads(response.content)["probabilities"].values()) == pytest.approx(1)


@given(st.text(st.characters()))
def test_any_text_is_made_readable_without_losing_what_was(text: str) -> None:
    made = readable(text)
    made.encode("utf-8")
    whole = [c for c in text if not "\ud800" <= c <= "\udfff"]
    rest = iter(made)
    assert all(c in rest for c in whole)  # in their order
    assert readable(made) == made
    assert (made == text) == (len(whole) == len(text))
    assert repaired({text: [text, 1, None]}) == {made: [made, 1, None]}
