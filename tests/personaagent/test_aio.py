from __future__ import annotations

import asyncio

import pytest

from personaagent.aio import together
from personaagent.errors import LLMError


async def test_together_ends_the_others_before_it_raises() -> None:
    ended = []

    async def slow(i: int) -> int:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(i)
        return i

    async def fail() -> int:
        await asyncio.sleep(0)
        raise LLMError("broken")

    with pytest.raises(LLMError):
        await together([slow(1), fail(), slow(2)])
    assert ended == [1, 2]
    assert await together(asyncio.sleep(0, i) for i in range(3)) == [0, 1, 2]
