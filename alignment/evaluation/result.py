"""The result of an evaluation, computed from what was answered; it is the same however often the run was cut short."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from alignment.evaluation.datasets import floors
from alignment.evaluation.eval_plan import COLD, CONTROLS, AskedItem, Plan, cold_stage, learner_of, reads_profile
from alignment.evaluation.metering import Tally, spent
from alignment.evaluation.metrics import Scored, gain, outcomes, summary
from alignment.evaluation.records import AlignedRecord, Records
from alignment.evaluation.segments import Groups, segment_scores

__all__ = ["result_of"]


def result_of(plan: Plan, records: Records, groups: Mapping[str, Groups]) -> dict[str, Any]:
    """All tables of an evaluation whose every test item was asked, JSON-able; `run_evaluation` says what is in it.

    Args:
        plan: of the evaluation.
        records: its answers, profiles and alignments.
        groups: of users, by phase.
    """
    seed = plan.options.seed
    results: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    control: dict[str, Any] = {}
    segments: dict[str, Any] = {}
    for phase in plan.benchmark.phases:
        tests = {asked.name: _scored(records, asked) for asked in plan.asked_in(phase.name)}
        answers = {name: items for name, items in tests.items() if name not in CONTROLS}
        results[phase.name] = {name: summary(items, seed) for name, items in answers.items()}
        if ours := answers.get("personaagent"):
            others = {name: items for name, items in answers.items() if name != "personaagent"}
            differences[phase.name] = {name: gain(ours, items, seed) for name, items in others.items()}
        if wrong := {name: items for name, items in tests.items() if name in CONTROLS}:
            control[phase.name] = {name: summary(items, seed) for name, items in wrong.items()}
        segments[phase.name] = segment_scores(groups[phase.name], answers, seed)
    result: dict[str, Any] = {
        "results": results,
        "floors": {p.name: floors(plan.benchmark, p, seed) for p in plan.benchmark.phases},
        "differences": differences,
        "control": control,
        "segments": segments,
        "cost": {name: _cost(plan, records, name) for name in plan.options.names},
        "alignment": {name: _outcomes(plan, records, name) for name in plan.learners},
        "missing": records.missing,
        "failed": records.failed,
    }
    if plan.options.cold_start:
        cold = {n: plan.asked_in(cold_stage(n)) for n in COLD}
        result["cold_start"] = {
            str(n): {asked.name: summary(_scored(records, asked), seed) for asked in tests}
            for n, tests in cold.items()
            if tests
        }
    return result


def _scored(records: Records, asked: AskedItem) -> list[Scored]:
    answers = (records.answer(asked, n) for n in range(len(asked.items)))
    return [answer.scored for answer in answers if answer is not None]


def _alignments(plan: Plan, records: Records, stage: str, name: str) -> list[AlignedRecord]:
    found = (records.alignment(stage, name, user) for user in plan.benchmark.users)
    return [aligned for aligned in found if aligned is not None]


def _outcomes(plan: Plan, records: Records, name: str) -> dict[str, Any]:
    return {
        phase.name: outcomes([a.result for a in _alignments(plan, records, phase.name, name)])
        for phase in plan.benchmark.phases
    }


def _cost(plan: Plan, records: Records, name: str) -> dict[str, Any]:
    """What a method would have cost alone: calls, tokens and its share of the engine's busy seconds.

    It is the cost of the answers, profiles and personas that the result rests on; what was lost when a run was cut short,
    and tries that failed before another run succeeded, would tell nothing about the method.
    """
    phases = [phase.name for phase in plan.benchmark.phases]
    users = plan.benchmark.users
    learner = learner_of(name)

    def answers() -> Iterable[Tally]:
        for asked in plan.asked:
            if asked.stage in phases and asked.name == name:
                found = (records.answer(asked, n) for n in range(len(asked.items)))
                yield from (answer.spent for answer in found if answer is not None)

    def profiles() -> Iterable[Tally]:
        built = (records.profile(phase, user) for phase in phases for user in users)
        return (profile.spent for profile in built if profile is not None)

    def alignments() -> Iterable[Tally]:
        return (a.spent for phase in phases for a in _alignments(plan, records, phase, learner or ""))

    parts = {
        "answer": spent(answers()),
        "profile": spent(profiles() if reads_profile(name) else ()),
        "align": spent(alignments() if learner is not None else ()),
    }
    per_user = {part: {k: round(value / len(users), 4) for k, value in cost.items()} for part, cost in parts.items()}
    total = {key: round(sum(cost[key] for cost in parts.values()), 4) for key in parts["answer"]}
    return {**total, "per_user": per_user}
