"""What the engine puts into one step. vLLM's own scheduling, to which this only gives a budget, is left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.core.sched.request_queue import SchedulingPolicy, create_request_queue
from vllm.v1.core.sched.scheduler import Scheduler

from serve.scheduler import ChatFirst

FULL = 512


@dataclass(order=True)
class Request:
    priority: int
    arrival: int = field(default=0)
    num_tokens: int = field(default=1, compare=False)
    num_computed_tokens: int = field(default=0, compare=False)


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> ChatFirst:
    def init(self: Any, *args: Any) -> None:
        self.vllm_config = SimpleNamespace(additional_config={"chat_step_tokens": 32})
        self.max_num_scheduled_tokens = FULL
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
