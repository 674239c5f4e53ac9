"""`align`: users, or a whole population, as a job that can be resumed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personaagent.errors import InvalidInput
from serve.cli.output import check_report, number
from serve.cli.runner import EXIT_ERROR, Json, Run, command

if TYPE_CHECKING:
    from actors.jobs.population import CostEstimate, RunProgress
    from actors.jobs.run_folder import RunFolder
    from personaagent.types import AlignmentResult
    from serve.runtime.system import System

__all__ = ["align_population", "register"]


async def align(
    run: Run,
    users: Annotated[list[str] | None, typer.Argument(help="Whom to align.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All users.")] = False,
    users_file: Annotated[Path | None, typer.Option(help="A file with one user a line.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Users with an interaction since then (UTC).")] = None,
    min_new: Annotated[int, typer.Option(min=0, help="Users with so many truths since their last alignment.")] = 0,
    run_id: Annotated[str | None, typer.Option(help="Name of the run; the same name resumes it.")] = None,
    paper: Annotated[bool, typer.Option("--paper", help="As the paper does: no gate, no candidates.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate calls, tokens and time.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report there.")] = None,
    json: Json = False,
) -> int | None:
    """Rewrite personas from what users really answered; keep what scores better on answers held out of the rewrite."""
    from actors.jobs.population import estimate, read_users, select_users
    from actors.jobs.run_folder import RunFolder
    from personaagent.report.html import write_report
    from personaagent.types import Outcome
    from serve.cli.run_report import alignment_sections, totals

    named = [*(users or []), *(read_users(users_file) if users_file else [])]
    filtered = everyone or bool(since) or bool(min_new)
    if everyone and named:
        raise InvalidInput("name users or give --all, not both")
    if not (named or filtered or run_id):
        raise InvalidInput("name users, or give --all, --users-file, --since, --min-new, or --run-id to resume a run")
    check_report(report)
    settings = run.settings(alignment={"paper": True} if paper else {})
    name = run_id or f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    # Entered before users are listed: whoever is forgotten from then on is kept out of the run.
    held = nullcontext() if dry_run else RunFolder(settings.home, name)
    with held as folder:
        async with run.system(settings, llm=not dry_run) as system:
            summaries = await system.memory.users()
            chosen: list[str] = []
            if named or filtered:
                chosen = select_users(summaries, only=named or None, since=since, min_new=min_new)
            if not chosen and not (settings.home / "runs" / name / "users.parquet").is_file():
                run.output.result({"run": name, **totals([]), "seconds": 0.0, "results": []})
                run.output.show("there is no user to align")
                return None
            if dry_run:
                _estimate(run, estimate(summaries, chosen, settings.alignment, settings.home))
                return None
            started = time.perf_counter()
            everybody = [] if named else [s.user for s in summaries if s.learned]
            run.output.note(f"run {name}; if it is interrupted, `personaagent align --run-id {name}` goes on")
            results = await align_population(run, system, chosen, name, everybody, folder)
            seconds = time.perf_counter() - started
    _show(run, name, results, seconds)
    if report is not None:
        sections = alignment_sections(results, seconds, {s.user: s.truths for s in summaries})
        run.output.note(f"report: {write_report(report, f'Alignment run {name}', sections)}")
    return EXIT_ERROR if any(r.outcome is Outcome.FAILED for r in results) else None


async def align_population(
    run: Run,
    system: System,
    users: Sequence[str],
    name: str,
    everybody: Sequence[str] = (),
    held: RunFolder | None = None,
) -> list[AlignmentResult]:
    """Align users as one run of the population job, with its progress on the terminal; as `run_population`.

    Args:
        run: of the program.
        system: whose users they are.
        users: whom to align.
        name: the run's id.
        everybody: whose memory tells what people have in common, learned first; nobody: nothing is learned.
        held: the run's folder, if it was entered before the users were listed.
    """
    from actors.jobs.aligner_actor import AlignerParts
    from actors.jobs.population import learn_commons, run_population
    from personaagent.tools.described import ToolDescriptions

    parts = AlignerParts(
        system.llm,
        system.embedder,
        system.memory,
        system.settings.agent,
        system.settings.alignment,
        tools=await ToolDescriptions.of(system.tools),
    )
    if everybody and (learned := await learn_commons(parts, everybody, name, system.settings.home, held)) is not None:
        common = f"learned what {learned.users} people have in common"
        run.output.note(common if learned.foretells else "people have nothing in common that predicts what they choose")
    with run.output.progress("aligning", len(users)) as tell:

        def on_progress(p: RunProgress) -> None:
            left = "" if p.eta_s is None else f", {p.eta_s:.0f} s left"
            rates = f"{p.users_per_s:.2f} users/s, {p.tokens_per_s:,.0f} tokens/s{left}"
            tell("aligning", p.done, p.total, f"{p.accepted_share:.0%} accepted, {rates}")

        home = system.settings.home
        return await run.in_thread(lambda: run_population(parts, users, name, home, on_progress, held))


def _estimate(run: Run, plan: CostEstimate) -> None:
    run.output.result({"users": plan.users, "llm_calls": plan.calls, "tokens": plan.tokens, "seconds": plan.seconds})
    if plan.tokens is None or plan.seconds is None:
        more = "tokens and time are known once a run has been measured in this home"
    else:
        more = f"{plan.tokens:,} tokens, {plan.seconds:,.0f} s"
    run.output.show(f"at most {plan.calls:,} model calls for {plan.users} users; {more}")


def _show(run: Run, name: str, results: Sequence[AlignmentResult], seconds: float) -> None:
    from serve.cli.run_report import show_results, totals

    sums = totals(results)
    rows = [r.model_dump(mode="json") for r in results]
    run.output.result({"run": name, **sums, "seconds": round(seconds, 2), "results": rows})
    show_results(run.output, results)
    run.output.show(
        f"{sums['accepted']} of {sums['users']} personas replaced; score {number(sums['score_before'])} -> "
        f"{number(sums['score_after'])}; {sums['llm_calls']} model calls, "
        f"{sums['prompt_tokens'] + sums['completion_tokens']:,} tokens, {seconds:.1f} s"
    )


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "align")(align)
