"""The log of calls: names of tools, before they are called."""

from __future__ import annotations

import asyncio

import pytest

from personaagent.errors import DeadlineExceeded, StoreError, UnavailableError
from personaagent.tools.call_log import CallLog


async def test_what_cannot_be_logged_is_not_to_be_done() -> None:
    async def write(user: str, tool: str, failed: bool) -> None:
        raise StoreError("the audit log /srv/audit cannot be written: no space left")

    with pytest.raises(UnavailableError, match="could not be logged") as raised:
        await CallLog(write).calling("ada", "pay")
    assert "/srv" not in raised.value.message  # the model reads it


async def test_the_end_of_a_request_is_the_end_of_it() -> None:
    async def write(user: str, tool: str, failed: bool) -> None:
        raise DeadlineExceeded

    with pytest.raises(DeadlineExceeded):
        await CallLog(write).calling("ada", "pay")


async def test_failures_are_written_in_the_background_and_before_the_end(caplog: pytest.LogCaptureFixture) -> None:
    written: list[tuple[str, str, bool]] = []

    async def write(user: str, tool: str, failed: bool) -> None:
        await asyncio.sleep(0.01)
        if tool == "lost":
            raise UnavailableError("the shard is away")
        written.append((user, tool, failed))

    log = CallLog(write)
    log.failed("ada", "pay")
    log.failed("ada", "lost")
    assert written == []
    await log.close()
    assert written == [("ada", "pay", True)]
    assert "lost was logged, but not that it failed" in caplog.text
