"""Results of alignment as rows of a table and as sections of an HTML report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from personaagent.types import AlignmentResult, Outcome
from serve.cli.output import Output, number
from serve.cli.persona_view import gained

if TYPE_CHECKING:
    from personaagent.report.html import Cell, Section
    from personaagent.types import Persona

__all__ = ["alignment_sections", "claims_table", "show_results", "totals"]

SLOWEST = 10
NAMED = 50  # users whose decisions stand one by one; beyond that reasons are counted
REASONS = 20
HISTORY = ((5, "0-5"), (20, "6-20"), (100, "21-100"), (None, "over 100"))  # truths of a user


_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def totals(results: Sequence[AlignmentResult]) -> dict[str, Any]:
    """What a run came to. Scores are means over the users that the gate judged."""
    ended = [r.outcome for r in results]
    judged = [r for r in results if r.score_before is not None and r.score_after is not None]
    kept = [(r.score_after if r.outcome is Outcome.ACCEPTED else r.score_before) or 0.0 for r in judged]
    return {
        "users": len(results),
        **{outcome.value: ended.count(outcome) for outcome in Outcome},
        "score_before": round(fmean(r.score_before or 0.0 for r in judged), 4) if judged else None,
        "score_after": round(fmean(kept), 4) if judged else None,
        "llm_calls": sum(r.calls for r in results),
        "prompt_tokens": sum(r.prompt_tokens for r in results),
        "completion_tokens": sum(r.completion_tokens for r in results),
    }


def show_results(output: Output, results: Sequence[AlignmentResult]) -> None:
    """A table with one row per user, on stdout, and why some were not aligned."""
    rows = [
        (
            r.user,
            r.outcome.value,
            number(r.score_before),
            number(r.score_after),
            versions(r),
            r.calls,
            f"{r.prompt_tokens + r.completion_tokens:,}",
        )
        for r in results
    ]
    output.table(["user", "gate", ">before", ">after", "version", ">calls", ">tokens"], rows)
    for r in results:
        if r.outcome not in (Outcome.ACCEPTED, Outcome.REJECTED):
            output.show(f"{r.user}: {r.outcome.value}, {r.reason}")
    if any(r.words_judged_by == "simulated answers" for r in results):
        output.show("the model's server tells no likelihoods, so words were judged by simulated answers", style="dim")


def versions(result: AlignmentResult) -> str:
    """How the persona's version changed."""
    before, after = result.persona_before, result.persona_after
    if before is None and after is None:
        return "-"
    return f"{before or '-'}" if after in (before, None) else f"{before or '-'} -> {after}"


def alignment_sections(
    results: Sequence[AlignmentResult], seconds: float, truths: Mapping[str, int] | None = None
) -> list[Section]:
    """A run as sections: totals, scores per user, gate decisions, segments by length of history, cost, slowest users.

    Args:
        results: one per user.
        seconds: the run took.
        truths: per user, for the segments.
    """
    from personaagent.report.html import Dumbbell, Histogram, Table

    sections: list[Section] = [_totals_table(results, seconds)]
    after = [r.score_after if r.outcome is Outcome.ACCEPTED else r.score_before for r in results]
    if any(r.score_before != score for r, score in zip(results, after, strict=True)):
        sections.append(
            Dumbbell(
                [r.user for r in results],
                [r.score_before for r in results],
                after,
                title="Score per user",
                xlabel="score on held-out interactions",
            )
        )
    sections.append(_gate_table(results))
    if truths is not None:
        sections.append(
            Table(
                ["known answers", "users", "accepted", "score before", "score after"],
                _segments(results, truths),
                title="By length of history",
            )
        )
    if len(results) > 1:
        costs = [float(r.prompt_tokens + r.completion_tokens) for r in results]
        sections.append(Histogram(costs, title="Cost per user", xlabel="tokens"))
    slowest = sorted(results, key=lambda r: r.seconds, reverse=True)[:SLOWEST]
    rows: list[list[Cell]] = [
        [r.user, round(r.seconds, 1), r.calls, r.prompt_tokens + r.completion_tokens] for r in slowest
    ]
    sections.append(Table(["user", "seconds", "model calls", "tokens"], rows, title="Slowest users"))
    return sections


def _totals_table(results: Sequence[AlignmentResult], seconds: float) -> Section:
    from personaagent.report.html import Table

    sums = totals(results)
    told: dict[str, Cell] = {
        "users": sums["users"],
        "accepted": sums["accepted"],
        "score before": sums["score_before"],
        "score after": sums["score_after"],
        "model calls": sums["llm_calls"],
        "tokens": sums["prompt_tokens"] + sums["completion_tokens"],
        "seconds": round(seconds),
        "users per minute": f"{60 * len(results) / seconds:.1f}" if seconds > 0 else None,
    }
    return Table(
        list(told),
        [list(told.values())],
        title="The run",
        caption="Scores are means over held-out interactions that neither rewriting nor selection saw; higher is better. "
        "The score after is that of the persona which each user now has.",
    )


def claims_table(personas: Sequence[tuple[str, Persona]]) -> Section:
    """The claims of users' personas as a section: what each rests on, and what it was measured to be worth."""
    from personaagent.persona.persona import standing
    from personaagent.report.html import Table

    rows: list[list[Cell]] = [
        [user, c.kind.value, c.told, c.since, len(c.sources), gained(c) or None]
        for user, persona in personas
        for c in standing(persona)
        if c.shown
    ]
    return Table(
        ["user", "kind", "claim", "since", "interactions", "gain"],
        rows,
        title="What the claims rest on",
        caption="The gain is how much likelier a claim made what the user really said, on interactions it was not made from.",
    )


def _gate_table(results: Sequence[AlignmentResult]) -> Section:
    """Why each user's persona is what it is; of many users how often each reason was given, whatever its numbers."""
    from personaagent.report.html import Table

    if len(results) <= NAMED:
        rows: list[list[Cell]] = [[r.user, r.outcome.value, r.reason] for r in results]
        return Table(["user", "outcome", "why"], rows, title="Decisions of the gate")
    counted = Counter((r.outcome.value, _NUMBER.sub("…", r.reason)) for r in results)
    rows = [[outcome, count, reason] for (outcome, reason), count in counted.most_common(REASONS)]
    return Table(["outcome", "users", "why"], rows, title="Decisions of the gate")


def _segments(results: Sequence[AlignmentResult], truths: Mapping[str, int]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    low = -1
    for high, name in HISTORY:
        users = [r for r in results if low < truths.get(r.user, 0) and (high is None or truths.get(r.user, 0) <= high)]
        low = high if high is not None else low
        if users:
            sums = totals(users)
            rows.append([name, sums["users"], sums["accepted"], sums["score_before"], sums["score_after"]])
    return rows
