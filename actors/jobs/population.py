"""Aligns whole populations as a Ray Data pipeline over an autoscaling pool of alignment actors.

Results go to disk as they come (`actors.jobs.run_folder`). The same run id goes on where a killed job stopped: users with a
result are left out, and of the others the store tells which ones the run has aligned already.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.jobs.aligner_actor import AlignerParts, AlignmentActor
from actors.jobs.run_folder import RunFolder, from_table, latest_run, to_table
from alignment.learned_commons import learn_into
from alignment.plan import calls_of
from personaagent.errors import ConflictError, InvalidInput
from personaagent.evidence.commons import Population
from personaagent.settings import AlignmentSettings
from personaagent.types import AlignmentResult, Outcome, UserSummary

__all__ = [
    "CostEstimate",
    "RunProgress",
    "batch_size",
    "estimate",
    "learn_commons",
    "read_users",
    "run_population",
    "select_users",
]

log = logging.getLogger(__name__)

GATHER_S = 0.5  # results of a batch that come within so long are written together: a run leaves no file for each user


@dataclass(frozen=True)
class RunProgress:
    """How far a run is. Rates are of the present start; counts and shares of the whole run."""

    done: int
    total: int
    accepted: int
    failed: int
    seconds: float
    users_per_s: float
    tokens_per_s: float
    eta_s: float | None

    @property
    def accepted_share(self) -> float:
        """Of the users done."""
        return self.accepted / self.done if self.done else 0.0


@dataclass(frozen=True)
class CostEstimate:
    """What a run would take at most. Tokens and seconds are known once a run has been measured in this home."""

    users: int
    calls: int
    tokens: int | None
    seconds: float | None


def select_users(
    summaries: Iterable[UserSummary],
    *,
    only: Sequence[str] | None = None,
    since: datetime | None = None,
    min_new: int = 0,
) -> list[str]:
    """The users to align, sorted.

    Args:
        summaries: of all users.
        only: no others than these; unknown ones are kept, and will be reported as skipped.
        since: only users with an interaction at or after this time.
        min_new: only users with at least so many truths since their last alignment.
    """
    known = {s.user: s for s in summaries}
    wanted = sorted(known) if only is None else list(dict.fromkeys(only))
    return [u for u in wanted if (s := known.get(u)) is None or _fits(s, since, min_new)]


def _fits(summary: UserSummary, since: datetime | None, min_new: int) -> bool:
    recent = since is None or (summary.last_time is not None and summary.last_time >= since)
    return recent and summary.truths_since_alignment >= min_new


def read_users(file: Path) -> list[str]:
    """User ids from a text file, one a line; empty lines are left out. Raises InvalidInput if it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidInput(f"cannot read users from {file}: {e}") from e
    return [line for line in lines if line.strip()]


async def learn_commons(
    parts: AlignerParts, users: Sequence[str], run: str, home: Path, held: RunFolder | None = None
) -> Population | None:
    """Learn what users have in common, once per run, before any of them is aligned.

    Args:
        parts: of the running system.
        users: all of them, whether they are aligned or not.
        run: the run's id.
        home: of the results.
        held: the run's folder, if the caller entered it before it listed the users, so that nobody forgotten since is in it.

    Returns:
        What was learned; None if `alignment.population` is off, the run did it before, there are too few users, or somebody
        else learned it at the same time.

    Raises:
        InvalidInput: the run id is not a plain name.
        ConflictError: another process works on this run.
        StoreError: the memory or the run's folder cannot be written.
    """
    if not parts.alignment.population:
        return None
    with held or RunFolder(home, run) as folder:
        if folder.learned:
            return None
        try:
            learned = await learn_into(parts.memory, users)
        except ConflictError as e:
            log.warning("%s", e.message)
            return None
        folder.note_learned(None if learned is None else learned.number)
        return learned


def run_population(
    parts: AlignerParts,
    users: Sequence[str],
    run: str,
    home: Path,
    on_progress: Callable[[RunProgress], None] | None = None,
    held: RunFolder | None = None,
) -> list[AlignmentResult]:
    """Align users; blocks until all have a result. Ray must be running.

    An actor that dies is replaced and its batch done again. Users that failed in an earlier start are tried once more.

    Args:
        parts: of the running system.
        users: whom to align. A run that resumes keeps to the users of its first start, with any new ones behind.
        run: the run's id; the same id resumes.
        home: of the results.
        on_progress: called at the start, and whenever there are more results.
        held: the run's folder, if the caller entered it before it listed the users, so that nobody forgotten since is in it.

    Returns:
        One result per user of the run.

    Raises:
        InvalidInput: the run id is not a plain name.
        ConflictError: another process works on this run.
        StoreError: results cannot be written.
    """
    with held or RunFolder(home, run) as folder:
        planned = folder.plan(users)
        results = {u: r for u, r in folder.results().items() if r.outcome is not Outcome.FAILED}
        earlier, started, fresh = folder.seconds, time.monotonic(), list[AlignmentResult]()

        def report() -> None:
            seconds = time.monotonic() - started
            folder.spend(earlier + seconds)
            if on_progress is not None:
                on_progress(_progress(results, fresh, len(planned), seconds))

        report()
        # Of a batch whose actor died Ray takes the tables of the second try from the number on at which the first one ended.
        # They hold other users by then, so whoever is missing in the end is asked for again.
        while todo := [u for u in planned if u not in results]:
            for group in _pipeline(parts, todo, run, sum(r.calls for r in results.values()), _tokens(results.values())):
                if not (new := [r for r in group if r.user not in results]):
                    continue
                folder.write(new)
                results.update((r.user, r) for r in new)
                fresh += new
                report()
        return [results[u] for u in planned]


def batch_size(users: int, actors: int, most: int) -> int:
    """How many users are aligned together, as a cohort: what the others of a batch gain is evidence in advance for each.

    So a batch has as many users as allowed, unless actors would have none.

    Args:
        users: to align.
        actors: that the pool may have.
        most: users of a batch.
    """
    return max(1, min(most, -(-users // actors)))


def _pipeline(
    parts: AlignerParts, users: Sequence[str], run: str, calls: int, tokens: int
) -> Iterator[list[AlignmentResult]]:
    """Results in groups as they come; `calls` and `tokens` are what the run has spent before."""
    import ray.data  # takes seconds, and only this needs it

    settings = parts.alignment
    most = max(settings.actors, settings.max_actors)
    size = batch_size(len(users), most, settings.users_per_batch)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # byte: what an actor has yielded is passed on at once
    if not log.isEnabledFor(logging.DEBUG):  # progress is ours to report
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    data = ray.data.from_items([{"user": u} for u in users], override_num_blocks=-(-len(users) // size)).map_batches(
        _Align,
        fn_constructor_args=(_share(parts, most, calls, tokens), run),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=min(settings.actors, most),
            max_size=most,
            # One more than it takes to have `users_per_batch` users under way, so that the end of a batch idles nothing.
            max_concurrent_calls_per_actor=-(-settings.users_per_batch // size) + 1,
            enable_true_multi_threading=True,  # the calls' threads only wait for the one that has the event loop
        ),
        num_cpus=settings.actor_cpus,
    )
    for table in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from_table(table)


class _Align:
    """One of Ray Data's actors: a table of users in, tables of their results out, as they come.

    Its call is a plain generator, whose tables Ray Data passes on one by one; those of an asynchronous one it keeps until
    the generator has ended (Ray 2.60).
    """

    def __init__(self, parts: AlignerParts, run: str) -> None:
        self._actor = AlignmentActor(parts)
        self._run = run
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def __call__(self, users: pa.Table) -> Iterator[pa.Table]:
        """One row per user, whatever happens."""
        found = queue.SimpleQueue[AlignmentResult | None]()
        work = asyncio.run_coroutine_threadsafe(self._align(users["user"].to_pylist(), found.put), self._loop)
        work.add_done_callback(lambda _: found.put(None))
        for group in _groups(found):
            yield to_table(group)
        work.result()

    async def _align(self, users: Sequence[str], put: Callable[[AlignmentResult], None]) -> None:
        left, reason = dict.fromkeys(users), "error: no result"
        try:
            async for result in self._actor.stream(users, self._run):
                left.pop(result.user, None)
                put(result)
        except Exception as e:
            log.debug("%d users of a batch of %d failed", len(left), len(users), exc_info=True)
            reason = f"error: {type(e).__name__}"
        for user in left:  # or the run would ask for them for ever
            put(AlignmentResult(user=user, outcome=Outcome.FAILED, reason=reason, run=self._run))


def _groups(found: queue.SimpleQueue[AlignmentResult | None]) -> Iterator[list[AlignmentResult]]:
    """What is put there until None, and with each what follows within `GATHER_S`."""
    group, until = list[AlignmentResult](), 0.0
    while True:
        try:
            result = found.get(timeout=max(0.0, until - time.monotonic()) if group else None)
        except queue.Empty:
            yield group
            group = []
            continue
        if result is None:
            break
        if not group:
            until = time.monotonic() + GATHER_S
        group.append(result)
    if group:
        yield group


def _share(parts: AlignerParts, actors: int, calls: int, tokens: int) -> AlignerParts:
    """Parts whose run budget is one actor's share of what is left of it."""
    settings = parts.alignment
    update: dict[str, Any] = {}
    if settings.run_calls is not None:
        update["run_calls"] = max(1, (settings.run_calls - calls) // actors)
    if settings.run_tokens is not None:
        update["run_tokens"] = max(1, (settings.run_tokens - tokens) // actors)
    alignment = settings.model_copy(update=update)
    return replace(parts, alignment=alignment)


def _progress(
    results: dict[str, AlignmentResult], fresh: Sequence[AlignmentResult], total: int, seconds: float
) -> RunProgress:
    outcomes = [r.outcome for r in results.values()]
    rate = len(fresh) / seconds if seconds > 0 else 0.0
    return RunProgress(
        done=len(results),
        total=total,
        accepted=outcomes.count(Outcome.ACCEPTED),
        failed=outcomes.count(Outcome.FAILED),
        seconds=seconds,
        users_per_s=rate,
        tokens_per_s=_tokens(fresh) / seconds if seconds > 0 else 0.0,
        eta_s=(total - len(results)) / rate if rate > 0 else None,
    )


def _tokens(results: Iterable[AlignmentResult]) -> int:
    return sum(r.prompt_tokens + r.completion_tokens for r in results)


def estimate(
    summaries: Iterable[UserSummary], users: Sequence[str], settings: AlignmentSettings, home: Path
) -> CostEstimate:
    """What aligning `users` would take, from their numbers of truths and the last run measured in `home`.

    Calls are an upper bound: searches that end early take fewer.
    """
    known = {s.user: s for s in summaries}
    each = [calls_of(s.learned, settings) if (s := known.get(u)) and not s.pinned else 0 for u in users]
    calls = sum(min(c, settings.max_calls) for c in each)
    last = latest_run(home)
    if last is None:
        return CostEstimate(len(users), calls, None, None)
    folder = RunFolder(home, last)
    measured = list(folder.results().values())
    spent = sum(r.calls for r in measured)
    if not spent or not folder.seconds:
        return CostEstimate(len(users), calls, None, None)
    return CostEstimate(len(users), calls, round(calls * _tokens(measured) / spent), calls * folder.seconds / spent)
