"""What a replica of the API starts and ends with."""

from __future__ import annotations

from collections.abc import Sequence

from personaagent.tools.tool import Tool
from tests.support.api_world import World


class Source:
    """Tools of a server that is told to end."""

    def __init__(self) -> None:
        self.closed = 0

    async def tools(self) -> Sequence[Tool]:
        return ()

    def status(self) -> None:
        return None

    async def close(self) -> None:
        self.closed += 1


async def test_a_replica_that_ends_closes_its_tools() -> None:
    source = Source()
    world = World(sources=[source])
    async with world.app.router.lifespan_context(world.app):
        assert source.closed == 0
        assert (await world.http.get("/readyz")).json()["status"] == "ready"
    assert source.closed == 1
    assert (await world.http.get("/readyz")).status_code == 503
    world = World()  # without tools there is nothing to end
    async with world.app.router.lifespan_context(world.app):
        pass
