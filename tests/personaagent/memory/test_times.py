"""Numbers as times are seconds since 1970 at every door."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from personaagent.readers import read
from personaagent.types import Interaction


@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_a_number_is_seconds(seconds: int) -> None:
    read = Interaction.model_validate({"id": "1", "user": "ann", "query": "q", "time": seconds})
    assert read.time.timestamp() == seconds


@pytest.mark.parametrize("number", [1e12, 1_764_000_000_000, float("nan"), float("inf"), -1e300])
def test_what_is_no_number_of_seconds_is_refused(number: float) -> None:
    with pytest.raises(ValidationError, match="seconds"):
        Interaction.model_validate({"id": "1", "user": "ann", "query": "q", "time": number})


@pytest.mark.parametrize("text", ["1740818400", "32472144000", "1e9", "now", "", " "])
def test_digits_in_quotes_are_no_time(text: str) -> None:
    with pytest.raises(ValidationError, match="ISO 8601"):
        Interaction.model_validate({"id": "1", "user": "ann", "query": "q", "time": text})


@pytest.mark.parametrize(
    "time", ["2025-03-01T08:30:00Z", "2025-03-01 08:30:00+00:00", "2025-03-01 09:30+01:00", 1740817800]
)
def test_a_line_means_the_same_time_through_a_file_and_through_the_api(tmp_path: Path, time: str | float) -> None:
    line = {"id": "1", "user": "ann", "query": "q", "time": time}
    file = tmp_path / "history.jsonl"
    file.write_text(json.dumps(line))
    [imported] = read("history", file)
    assert imported.time == Interaction.model_validate(line).time == datetime(2025, 3, 1, 8, 30, tzinfo=UTC)
