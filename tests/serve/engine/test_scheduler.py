"""What the engine puts into one step. vLLM's own scheduling, to which this only gives a budget, is left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.core.sched.request_queue import SchedulingPolicy, create_request_queue
from vllm.v1.core.sched.scheduler import Scheduler

from serve.engine.scheduler import CACHED_UNTIL, ChatFirst

FULL = 512


@dataclass(order=True)
class Request:
    priority: int
    arrival: int = field(default=0)
    num_tokens: int = field(default=1, compare=False)
    num_computed_tokens: int = field(default=0, compare=False)


class Cache:
    """vLLM's, while it holds 64 tokens of every request, in blocks of 16."""

    def __init__(self) -> None:
        self.coordinator = self

    def get_computed_blocks(self, request: Any) -> tuple[str, int, int]:
        return ("all", 64, 0)

    def prefix_cache_lookup_enabled(self, request: Any) -> bool:
        return not request.sampling_params.skip_reading_prefix_cache

    def find_longest_cache_hit(self, hashes: Any, until: int) -> tuple[str, int, int]:
        return ("some", min(64, until // 16 * 16), 0)

    def create_kv_cache_blocks(self, blocks: str) -> str:
        return blocks


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> ChatFirst:
    def init(self: Any, *args: Any) -> None:
        self.vllm_config = SimpleNamespace(additional_config={"chat_step_tokens": 32})
        self.max_num_scheduled_tokens = FULL
        self.kv_cache_manager = Cache()
        self.running = []
        self.waiting = create_request_queue(SchedulingPolicy.PRIORITY)
        self.skipped_waiting = create_request_queue(SchedulingPolicy.PRIORITY)

    monkeypatch.setattr(Scheduler, "__init__", init)
    monkeypatch.setattr(Scheduler, "schedule", lambda self: self.max_num_scheduled_tokens)
    return ChatFirst()


def batch(n: int) -> Request:
    return Request(10, n, num_tokens=300)


def test_batch_work_alone_fills_whole_steps(scheduler: ChatFirst) -> None:
    scheduler.running += [batch(n) for n in range(5)]
    scheduler.waiting.add_request(batch(9))
    assert scheduler.schedule() == FULL


def test_a_chat_being_decoded_shares_its_steps_with_little_else_and_comes_first(scheduler: ChatFirst) -> None:
    chat = Request(0, num_tokens=81, num_computed_tokens=80)
    scheduler.running += [batch(1), batch(2), chat]
    assert scheduler.schedule() == 32 + 1
    assert scheduler.running == [chat, batch(1), batch(2)]
    scheduler.running.remove(chat)
    assert scheduler.schedule() == FULL


def test_a_chats_own_prompt_is_read_in_full_steps(scheduler: ChatFirst) -> None:
    scheduler.waiting.add_request(batch(1))
    scheduler.waiting.add_request(Request(0, num_tokens=2000))
    assert scheduler.schedule() == FULL
    scheduler.waiting.pop_request()
    scheduler.waiting.add_request(Request(0, num_tokens=100))
    assert scheduler.schedule() == 32 + 100


@pytest.mark.parametrize(
    ("extra", "skip", "known"),
    [
        ({CACHED_UNTIL: 40}, False, ("some", 32, 0)),
        ({CACHED_UNTIL: 48}, False, ("some", 48, 0)),
        ({CACHED_UNTIL: 0}, False, ("some", 0, 0)),
        ({CACHED_UNTIL: 40}, True, ("all", 64, 0)),  # vLLM's own code looks nothing up then
        ({CACHED_UNTIL: "40"}, False, ("all", 64, 0)),
        ({CACHED_UNTIL: -1}, False, ("all", 64, 0)),
        (None, False, ("all", 64, 0)),
    ],
)
def test_what_the_prefix_cache_serves_ends_where_a_request_says(
    scheduler: ChatFirst, extra: dict[str, Any] | None, skip: bool, known: tuple[str, int, int]
) -> None:
    params = SimpleNamespace(extra_args=extra, skip_reading_prefix_cache=skip)
    request = SimpleNamespace(sampling_params=params, block_hashes=[])
    assert scheduler.kv_cache_manager.get_computed_blocks(request) == known
