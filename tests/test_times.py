"""Numbers as times are seconds since 1970 at every door."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from personaagent.types import Interaction


@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_a_number_is_seconds(seconds: int) -> None:
    read = Interaction.model_validate({"id": "1", "user": "ann", "query": "q", "time": seconds})
    assert read.time.timestamp() == seconds


@pytest.mark.parametrize("number", [1e12, 1_764_000_000_000, float("nan"), float("inf"), -1e300])
def test_what_is_no_number_of_seconds_is_refused(number: float) -> None:
    with pytest.raises(ValidationError, match="seconds"):
        Interaction.model_validate({"id": "1", "user": "ann", "query": "q", "time": number})
