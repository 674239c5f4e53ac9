"""vLLM's scheduler, with short steps while somebody chats, and with bounds on what the prefix cache serves. Imported by the
engine's process.

A step of the engine takes as long as the tokens in it need, and every sequence gets one token per step. So a chat whose
answer is being decoded waits, for each of its tokens, for all batch work that shares the step: on few cores a full step is
a third of a second. While chats are under way a step takes only few tokens of anything else.

Log-probabilities are computed with the tokens they belong to, so an answer whose likelihood is asked for must not come out of
the prefix cache, but the conversation before it may.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

__all__ = ["CACHED_UNTIL", "STEP_TOKENS", "AsyncChatFirst", "ChatFirst"]

CACHED_UNTIL = "cached_until"  # key of a request's `extra_args`: tokens that may come out of the prefix cache
STEP_TOKENS = "chat_step_tokens"  # key of the engine's `additional_config`


class ChatFirst(Scheduler):  # type: ignore[misc]
    """A scheduler that bounds the tokens of batch work (priority above 0) in a step while there are chats."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._full_step: int = self.max_num_scheduled_tokens  # type: ignore[has-type]
        self._shared_step = int(self.vllm_config.additional_config[STEP_TOKENS])
        self._all_cached = self.kv_cache_manager.get_computed_blocks
        self.kv_cache_manager.get_computed_blocks = self._cached

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """See `Scheduler`. A chat's own prompt is never held up: its tokens come on top of the bound."""
        # Of those who wait, the first: the queue is ordered by priority, and looking through it would take time.
        first = [queue.peek_request() for queue in (self.waiting, self.skipped_waiting) if queue]
        chats = [r for r in (*self.running, *first) if r.priority <= 0]
        step = self._full_step
        if chats:
            # First in line: a batch prompt that is being read could use up a small step alone.
            self.running.sort(key=_rank)
            unread = sum(max(0, r.num_tokens - r.num_computed_tokens) for r in chats)
            step = min(step, self._shared_step + unread)
        self.max_num_scheduled_tokens = step
        return super().schedule(*args, **kwargs)

    def _cached(self, request: Request) -> tuple[KVCacheBlocks, int, int]:
        """As `KVCacheManager.get_computed_blocks`, which looks up all tokens but the last."""
        manager = self.kv_cache_manager
        until = ((request.sampling_params and request.sampling_params.extra_args) or {}).get(CACHED_UNTIL)
        if not isinstance(until, int) or until < 0 or not manager.prefix_cache_lookup_enabled(request):
            found: tuple[KVCacheBlocks, int, int] = self._all_cached(request)
            return found
        blocks, known, missing = manager.coordinator.find_longest_cache_hit(request.block_hashes, until)
        return manager.create_kv_cache_blocks(blocks), known, known + missing if missing else 0


class AsyncChatFirst(ChatFirst, AsyncScheduler):  # type: ignore[misc]
    """The same for engines that schedule a step while the one before is computed, as on GPUs."""


def _rank(request: Request) -> int:
    return int(request.priority)
