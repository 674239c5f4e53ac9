"""Aligns whole populations as a Ray Data pipeline over an autoscaling pool of alignment actors.

Results go to disk batch by batch (`actors.jobs.run_folder`). The same run id goes on where a killed job stopped: users with a
result are left out, and of the others the store tells which ones the run has aligned already.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
        on_progress: called at the start and after each batch.
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
        todo = [u for u in planned if u not in results]
        earlier, started, fresh = folder.seconds, time.monotonic(), list[AlignmentResult]()

        def report() -> None:
            seconds = time.monotonic() - started
            folder.spend(earlier + seconds)
            if on_progress is not None:
                on_progress(_progress(results, fresh, len(planned), seconds))

        report()
        for batch in _pipeline(parts, todo, run, sum(r.calls for r in results.values()), _tokens(results.values())):
            folder.write(batch)
            results.update((r.user, r) for r in batch)
            fresh += batch
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
    """Results batch by batch as they come; `calls` and `tokens` are what the run has spent before."""
    if not users:
        return
    import ray.data  # takes seconds, and only this needs it

    settings = parts.alignment
    most = max(settings.actors, settings.max_actors)
    size = batch_size(len(users), most, settings.users_per_batch)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
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
        ),
        num_cpus=settings.actor_cpus,
    )
    for table in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from_table(table)


class _Align:
    """One of Ray Data's actors: a table of users in, a table of results out."""

    def __init__(self, parts: AlignerParts, run: str) -> None:
        self._actor = AlignmentActor(parts)
        self._run = run

    async def __call__(self, users: pa.Table) -> pa.Table:
        """One row per user, whatever happens."""
        names = users["user"].to_pylist()
        try:
            results = await self._actor.align(names, self._run)
        except Exception as e:
            log.debug("a batch of %d users failed", len(names), exc_info=True)
            reason = f"error: {type(e).__name__}"
            results = [AlignmentResult(user=u, outcome=Outcome.FAILED, reason=reason, run=self._run) for u in names]
        return to_table(results)


def _share(parts: AlignerParts, actors: int, calls: int, tokens: int) -> AlignerParts:
    """Parts whose run budget is one actor's share of what is left of it."""
    settings = parts.alignment
    update: dict[str, Any] = {}
    if settings.run_calls is not None:
        update["run_calls"] = max(1, (settings.run_calls - calls) // actors)
    if settings.run_tokens is not None:
        update["run_tokens"] = max(1, (settings.run_tokens - tokens) // actors)
    alignment = settings.model_copy(update=update)
    return AlignerParts(parts.llm, parts.embedder, parts.memory, parts.agent, alignment, parts.teacher)


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
    each = [calls_of(s.truths, settings) if (s := known.get(u)) and not s.pinned else 0 for u in users]
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
