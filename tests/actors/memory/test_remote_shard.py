"""Calls of a shard in another process: what is asked again, what is not, and what travels."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayActorError, RayTaskError

from actors.memory import remote_shard as calls
from actors.memory.remote_shard import remote_shard
from personaagent.errors import ConflictError, UnavailableError


class Part:
    """A handle whose calls end as they are told to, one after the other."""

    def __init__(self, *ends: Any) -> None:
        self.ends = list(ends)
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return type("Method", (), {"remote": staticmethod(lambda *args: self._end(name, args))})

    async def _end(self, name: str, args: tuple[Any, ...]) -> Any:
        self.asked.append((name, args))
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def have(seconds: float) -> None:
        monkeypatch.setattr(calls, "RESTART_S", seconds)
        monkeypatch.setattr(calls, "GONE_S", seconds)

    return have


async def test_a_call_has_the_name_and_the_arguments_of_the_method() -> None:
    part = Part(7)
    assert await remote_shard(part, 0).append("ann", "batch", "me", 3) == 7  # type: ignore[arg-type, comparison-overlap]
    assert part.asked == [("append", ("ann", "batch", "me", 3))]


async def test_a_call_is_repeated_while_the_shard_is_being_restarted() -> None:
    part = Part(RayActorError(), ActorDiedError(), 7)
    assert await remote_shard(part, 0).incarnation() == 7
    assert part.asked == [("incarnation", ())] * 3


@pytest.mark.parametrize("gone", [RayActorError(), ActorDiedError()])
async def test_a_shard_that_does_not_come_back_is_unavailable(
    gone: RayActorError, patience: Callable[[float], None]
) -> None:
    patience(-1.0)
    with pytest.raises(UnavailableError, match="memory shard 3 is not there"):
        await remote_shard(Part(gone), 3).incarnation()


async def test_a_shard_whose_node_is_gone_is_not_waited_for() -> None:
    with pytest.raises(UnavailableError, match="memory shard 3 is gone"):
        await remote_shard(Part(ActorUnschedulableError("no node")), 3).incarnation()


async def test_errors_of_the_shard_are_raised_as_its_own() -> None:
    wrapped = RayTaskError("append", "", ConflictError("taken"), proctitle="test", pid=1, ip="here")
    wrapped.cause = ConflictError("taken")
    with pytest.raises(ConflictError, match="taken"):
        await remote_shard(Part(wrapped), 0).incarnation()


async def test_it_travels() -> None:
    there = pickle.loads(pickle.dumps(remote_shard(Part(7), 2)))
    assert await there.incarnation() == 7
