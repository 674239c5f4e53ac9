from __future__ import annotations

import asyncio
import random

from alignment.slots import Slots


async def test_who_came_first_is_served_first() -> None:
    slots, served = Slots(1), list[int]()

    async def work(rank: int) -> None:
        async with slots.taken(rank):
            served.append(rank)
            await asyncio.sleep(0)

    ranks = [slots.rank() for _ in range(4)]
    assert ranks == [0, 1, 2, 3]
    await asyncio.gather(*(work(r) for r in (2, 3, 1, 0, 3, 1)))
    assert served == [2, 0, 1, 1, 3, 3]  # the first found a free slot


async def test_no_slot_is_lost_or_made_when_waiters_are_cancelled() -> None:
    slots, running, most = Slots(3), 0, 0
    rng = random.Random(1)

    async def work() -> None:
        nonlocal running, most
        async with slots.taken(rng.randrange(5)):
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(rng.random() / 500)
            finally:
                running -= 1

    tasks = [asyncio.ensure_future(work()) for _ in range(300)]
    for task in rng.sample(tasks, 150):
        await asyncio.sleep(0)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(r, asyncio.CancelledError) for r in results) > 50
    assert most == 3
    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(3))), 5)
    assert (running, most) == (0, 3)
