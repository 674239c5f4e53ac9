"""`eval-personas`: what personas are worth, with the controls that tell a persona from luck."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from personaagent.errors import InvalidInput
from serve.cli.evaluating import Dataset, dataset_path, show_tables
from serve.cli.output import check_report
from serve.cli.runner import EXIT_ERROR, Json, Run, command

__all__ = ["register"]


class Shuffled(StrEnum):
    """Between what learned truths are shuffled."""

    NONE = "none"
    ITEMS = "items"
    USERS = "users"


class Searched(StrEnum):
    """Who looks for a persona's words."""

    CLAIMS = "claims"
    MEMORY = "memory"
    GEPA = "gepa"
    INSTRUCT = "instruct"


async def eval_personas(
    run: Run,
    dataset: Annotated[Dataset, typer.Argument(help="The data set; all but `actions` and `retrieval`.")],
    data: Annotated[
        Path | None, typer.Option(help="Its file or folder; default: below PERSONAAGENT_DATA, or ./data.")
    ] = None,
    users: Annotated[int | None, typer.Option(min=2, help="Only the first so many users.")] = None,
    shuffle: Annotated[
        Shuffled, typer.Option(help="Control: learned truths dealt out anew, within each user or among users.")
    ] = Shuffled.NONE,
    noise: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Control: share of every user's learned truths that are random.")
    ] = 0.0,
    search: Annotated[
        Searched, typer.Option(help="Who looks for words: claims (ours), memory (nobody), instruct or gepa.")
    ] = Searched.CLAIMS,
    seed: Annotated[int, typer.Option(help="Of alignment, shuffling and noise.")] = 0,
    left_out: Annotated[
        bool, typer.Option(help="Of `sample`: also measure all its free texts, each left out in turn.")
    ] = True,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report there.")] = None,
    json: Json = False,
) -> int | None:
    """Own persona against the first, another user's and none, on test items that no search ever saw."""
    from alignment.evaluation.persona_eval import Controls, PersonaEvaluation, plan_personas
    from alignment.evaluation.persona_report import persona_tables, write_persona_report
    from personaagent.models.openai_client import teacher_llm

    if dataset in (Dataset.ACTIONS, Dataset.ACTIONS_DEVELOP):
        raise InvalidInput(f"`{dataset}` has measures of its own; run `personaagent eval {dataset}`")
    if dataset is Dataset.RETRIEVAL:
        raise InvalidInput("`retrieval` measures recall alone; choose another data set")
    check_report(report)
    settings = run.settings()
    path = dataset_path(dataset, data)
    controls = Controls(shuffle=shuffle.value, noise=noise, search=search.value, seed=seed, left_out=left_out)
    plan = await run.in_thread(lambda: plan_personas(dataset.value, path, users, controls, settings))
    teacher = teacher_llm(settings.alignment.teacher, settings.llm.timeout_s)
    async with run.system(settings) as system:
        with run.output.progress() as tell:
            result = await PersonaEvaluation(plan, system.llm, system.embedder, tell, teacher).run()
    run.output.result(result)
    show_tables(run, persona_tables(result))
    if report is not None:
        run.output.note(f"report: {write_persona_report(result, report)}")
    lost = dict(result["missing"])
    lost["alignments"] = sum(phase["alignment"]["failed"] for phase in result["phases"].values())
    if not any(lost.values()):
        return None
    said = ", ".join(f"{what} {count}" for what, count in lost.items() if count)
    run.output.note(f"failed and left out: {said}", style="yellow")
    return EXIT_ERROR


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "eval-personas")(eval_personas)
