"""`eval` and `bench`: measure on real data, and against others."""

from __future__ import annotations

import json as jsonlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personaagent.errors import InvalidInput
from personaagent.nearest import likely
from serve.cli.output import check_report
from serve.cli.runner import EXIT_ERROR, Json, Run, command

if TYPE_CHECKING:
    from alignment.evaluation.action_world import ActionWorld
    from alignment.evaluation.journal import Journal
    from alignment.evaluation.run import Plan
    from personaagent.report.html import Table
    from personaagent.settings import Settings

__all__ = ["Dataset", "dataset_path", "register", "show_tables"]

METHODS_COMPARED = "none,rag,personaagent"  # unless others are named


class Dataset(StrEnum):
    """What there is to evaluate on."""

    PAHF = "pahf"
    MOVIELENS = "movielens"
    MOVIELENS_CHOICES = "movielens-choices"
    LAMP = "lamp"
    HISTORY = "history"
    SAMPLE = "sample"
    SYNTHETIC_BUNDLES = "synthetic-bundles"
    SYNTHETIC_DOMINANT = "synthetic-dominant"
    SYNTHETIC_CONTEXTS = "synthetic-contexts"
    SYNTHETIC_CHANGE = "synthetic-change"
    SYNTHETIC_DRIFT = "synthetic-drift"
    SYNTHETIC_NOISE = "synthetic-noise"
    SYNTHETIC_FEW = "synthetic-few"
    SYNTHETIC_UNSEEN = "synthetic-unseen"
    SYNTHETIC_HABITS = "synthetic-habits"
    SYNTHETIC_MANY = "synthetic-many"
    SYNTHETIC_CONSTANT = "synthetic-constant"
    SYNTHETIC_RANDOM = "synthetic-random"
    SYNTHETIC_RATINGS = "synthetic-ratings"
    ACTIONS = "actions"  # tools, by whose persona; made for this project
    ACTIONS_DEVELOP = "actions-develop"  # another such world, to tune on
    RETRIEVAL = "retrieval"  # recall alone, on pahf and movielens, without a model


class Bench(StrEnum):
    """What can be measured."""

    MEMORY = "memory"
    ALIGNMENT = "alignment"
    CHAOS = "chaos"
    OVERLOAD = "overload"
    RECALL = "recall"


async def evaluate(
    run: Run,
    dataset: Annotated[
        Dataset,
        typer.Argument(
            help="The data set; `actions` measures tools (with --users, --seed and --report alone), `retrieval` recall "
            "without a model."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Its file or folder; default: below PERSONAAGENT_DATA, or ./data.")
    ] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Only the first so many users.")] = None,
    methods: Annotated[
        str, typer.Option(help="Of none, icl, rag, pag, react, persona, personaagent.")
    ] = METHODS_COMPARED,
    ablate: Annotated[str, typer.Option(help="Parts to leave out in turn: alignment,persona,memory,actions.")] = "",
    paper: Annotated[bool, typer.Option("--paper", help="Align as the paper does, without the gate.")] = False,
    noise: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of every other user's truths replaced by random ones.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of alignment, noise and intervals.")] = 0,
    controls: Annotated[bool, typer.Option(help="Also answer every user with another user's persona.")] = True,
    cold_start: Annotated[bool, typer.Option(help="Also test with 0, 1, 3 and 10 interactions.")] = True,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew instead of going on where the same command stopped.")
    ] = False,
    run_folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where answers are kept as they come; default: one below the home folder."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report there, and beside it Markdown and a plot.")
    ] = None,
    json: Json = False,
) -> int | None:
    """Learn users in time order, test on what came later, compare methods.

    Answers are kept as they come: the same command goes on where it stopped, and shows a finished result at once.
    """
    from alignment.evaluation.report import eval_tables, write_eval_report
    from alignment.evaluation.run import ABLATIONS, METHODS, EvaluationOptions, plan_evaluation

    chosen = _names("method", methods, METHODS)
    left_out = _names("ablation", ablate, ABLATIONS)
    path = dataset_path(dataset, data)
    check_report(report)
    settings = run.settings(alignment={"paper": True} if paper else {})
    if dataset in (Dataset.ACTIONS, Dataset.ACTIONS_DEVELOP):
        given = {"--data": data, "--ablate": ablate, "--paper": paper, "--noise": noise, "--run-folder": run_folder}
        given |= {"--methods": methods != METHODS_COMPARED, "--restart": restart}
        given |= {"--no-controls": not controls, "--no-cold-start": not cold_start}
        if others := [option for option, value in given.items() if value]:
            raise InvalidInput(f"`{dataset}` takes --users, --seed and --report; leave {others[0]} out")
        return await _actions(run, settings, dataset, users, seed, report)
    if dataset is Dataset.RETRIEVAL and path is not None:
        await _retrieval(run, settings, path, users)
        return None
    options = EvaluationOptions(
        dataset=dataset.value,
        methods=tuple(chosen),
        ablate=tuple(left_out),
        users=users,
        paper=paper,
        noise=noise,
        seed=seed,
        cold_start=cold_start,
        controls=controls,
    )
    plan = await run.in_thread(lambda: plan_evaluation(options, path, settings))
    folder = run_folder.expanduser().absolute() if run_folder else settings.home / "evaluations" / plan.key
    result = await _result(run, plan, folder, restart)
    run.output.result(result)
    show_tables(run, eval_tables(result))
    if report is not None:
        page, text, plot = write_eval_report(result, report)
        run.output.note(f"report: {page}, {text.name}, {plot.name}")
    return _missing(run, result)


async def _result(run: Run, plan: Plan, folder: Path, restart: bool) -> dict[str, Any]:
    """The result of an evaluation: read from its folder if it is finished, else worked out."""
    from alignment.evaluation.journal import Journal
    from alignment.evaluation.run import code_changed

    with Journal(folder, plan.key, plan.about, restart) as journal:
        if code_changed(journal):
            run.output.note(
                "the program has changed since this evaluation began; --restart begins anew", style="yellow"
            )
        if (done := journal.finished) is not None:
            run.output.note(
                f"finished {done.time.astimezone():%Y-%m-%d %H:%M}, read from {folder}; --restart runs it again"
            )
            return done.result
        return await _evaluate(run, plan, journal, folder)


async def _evaluate(run: Run, plan: Plan, journal: Journal, folder: Path) -> dict[str, Any]:
    """Begin an evaluation or go on with one; with the engine only if a method needs it."""
    from alignment.evaluation.run import answers_there, run_evaluation
    from personaagent.models.openai_client import teacher_llm

    settings = plan.settings
    teacher = teacher_llm(settings.alignment.teacher, settings.llm.timeout_s) if plan.needs_model else None
    if there := answers_there(plan, journal):
        run.output.note(f"going on: {there:,} of {plan.answers:,} answers are there, in {folder}")
    else:
        run.output.note(f"{plan.answers:,} answers, kept in {folder}; if interrupted, the same command goes on")
    async with run.system(settings, llm=plan.needs_model) as system:
        with run.output.progress() as tell:
            return await run_evaluation(plan, system.llm, system.embedder, journal, progress=tell, teacher=teacher)


def _missing(run: Run, result: Mapping[str, Any]) -> int | None:
    """Say in one line what is missing in a result; the exit code."""
    missing, failed = result["missing"], result["failed"]
    if not missing and not failed:
        return None
    parts = [f"answers missing, counted as wrong: {_counts(missing)}"] if missing else []
    parts += [f"failed: {_counts(failed)}"] if failed else []
    run.output.note(f"{'; '.join(parts)}; the same command tries them again", style="yellow")
    return EXIT_ERROR


async def _actions(
    run: Run, settings: Settings, dataset: Dataset, users: int | None, seed: int, report: Path | None
) -> int | None:
    """Tools under one's own persona, another user's and none."""
    from alignment.evaluation.action_report import action_tables, write_action_report
    from alignment.evaluation.action_world import action_world

    if users == 1:
        raise InvalidInput("another user's persona is needed to compare with; take at least two users")
    world = action_world("develop" if dataset is Dataset.ACTIONS_DEVELOP else "measure", users, seed)
    result = await _acted(run, settings, world, seed)
    run.output.result(result)
    show_tables(run, action_tables(result))
    if report is not None:
        run.output.note(f"report: {write_action_report(result, report)}")
    if not result["missing"]:
        return None
    run.output.note(f"failed and left out: {_counts(result['missing'])}", style="yellow")
    return EXIT_ERROR


async def _acted(run: Run, settings: Settings, world: ActionWorld, seed: int) -> dict[str, Any]:
    from alignment.evaluation.action_eval import ActionEvaluation
    from personaagent.models.openai_client import teacher_llm
    from personaagent.tools.lessons import lessons

    teacher = teacher_llm(settings.alignment.teacher, settings.llm.timeout_s)
    async with run.system(settings) as system:
        with run.output.progress() as tell:
            evaluation = ActionEvaluation(
                world, settings, system.llm, system.embedder, lessons, tell, seed=seed, teacher=teacher
            )
            return await evaluation.run()


async def _retrieval(run: Run, settings: Settings, data: Path, users: int | None) -> None:
    from alignment.evaluation import retrieval

    async with run.system(settings, llm=False) as system:
        with run.output.progress() as tell:
            more = {} if users is None else {"users": users}
            result = await retrieval.run(data, system.embedder, settings=settings.memory, progress=tell, **more)
    run.output.result(result)
    run.output.show(jsonlib.dumps(result, indent=2, ensure_ascii=False))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _names(what: str, given: str, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if unknown := [name for name in names if name not in known]:
        raise InvalidInput(f"unknown {what} {unknown[0]!r}{likely(unknown[0], known)}")
    return names


def dataset_path(dataset: Dataset, data: Path | None) -> Path | None:
    """The data set's file or folder, as given or where it usually is; None for those that need none.

    Raises InvalidInput if it is not there.
    """
    if dataset is Dataset.SAMPLE or dataset.startswith(("synthetic-", "actions")):
        return None
    if data is None:
        below = [Path(folder) for folder in (os.environ.get("PERSONAAGENT_DATA"), "data") if folder]
        places = (
            below if dataset is Dataset.RETRIEVAL else [folder / dataset.removesuffix("-choices") for folder in below]
        )
        data = next((place for place in places if place.exists()), None)
        if data is None:
            raise InvalidInput(f"no {dataset} data found; name its file or folder with --data PATH")
    if not data.exists():
        raise InvalidInput(f"--data {data} does not exist")
    return data


def show_tables(run: Run, tables: Sequence[Table]) -> None:
    """Tables of a result on stdout, for people."""
    for table in tables:
        run.output.table([table.headers[0], *(f">{h}" for h in table.headers[1:])], table.rows, title=table.title)
        if table.caption:
            run.output.show(table.caption, style="dim")
        run.output.show()


async def bench(
    run: Run,
    what: Annotated[Bench, typer.Argument(help="What to measure.")],
    users: Annotated[int, typer.Option(min=1, help="Users (alignment).")] = 32,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long processes are killed and paused (chaos).")] = 5.0,
    seed: Annotated[
        int, typer.Option(help="Of what is done and what is hit (chaos), or of the histories (recall).")
    ] = 0,
    seconds: Annotated[float, typer.Option(min=1, help="How long clients chat (overload).")] = 60.0,
    clients: Annotated[int, typer.Option(min=1, help="Who chat at once (overload).")] = 200,
    json: Json = False,
) -> int | None:
    """Measure on this machine, on made-up users in a temporary store.

    `recall` needs no system: it asks made-up histories of several kinds for what they hold, by words, by meaning, by recency, by
    both as recall does it, and by reciprocal rank fusion.

    `chaos` starts a system of its own, loads it, kills and pauses its processes, and checks that nothing acknowledged is lost
    or doubled, nothing forgotten comes back, and nobody sees another's data; the exit code is 1 if something is broken.

    `overload` starts a system of its own and lets more clients chat at once than it takes: who is refused and how quickly, how
    long the others wait, and how soon after it a single chat is as quick as before.
    """
    if what is Bench.ALIGNMENT:
        from serve.bench import alignment as bench_alignment

        run.output.divert()
        with run.output.progress(what.value) as tell:
            result = await bench_alignment.run(run.settings(), users, progress=tell)
    elif what is Bench.CHAOS:
        result = await _chaos(run, minutes, seed)
    elif what is Bench.OVERLOAD:
        result = await _overload(run, seconds, clients)
    elif what is Bench.RECALL:
        result = await _recall(run, seed)
        show_tables(run, _recall_tables(result))
        run.output.result(result)
        return None
    else:
        with tempfile.TemporaryDirectory(prefix="personaagent-bench-") as home:
            settings = run.settings(home=home)
            async with run.system(settings, llm=False) as system:
                from serve.bench import memory as bench_memory

                with run.output.progress(what.value) as tell:
                    result = await bench_memory.run(settings, embedder=system.embedder, progress=tell)
    run.output.result(result)
    run.output.show(jsonlib.dumps(result, indent=2, ensure_ascii=False))
    return EXIT_ERROR if result.get("verdict") == "broken" else None


async def _recall(run: Run, seed: int) -> dict[str, Any]:
    from personaagent.models.embedding import LocalEmbedder
    from personaagent.models.files import resolve_embedder
    from serve.bench.recall import compare

    settings = run.settings()
    embedder = LocalEmbedder(resolve_embedder(settings), max_batch=settings.embedder.max_batch)
    with run.output.progress("recall") as tell:
        return await compare(embedder, seeds=(seed,), progress=tell)


def _recall_tables(result: dict[str, Any]) -> list[Table]:
    """Per number of first episodes, a line for each kind of history."""
    from personaagent.report.html import Table
    from serve.bench.recall import METHODS, TOP

    return [
        Table(
            title=f"Answers among the first {n}",
            headers=("history", *METHODS),
            rows=tuple((kind, *(f"{found[m][f'top_{n}']:.3f}" for m in METHODS)) for kind, found in result.items()),
        )
        for n in TOP
    ]


async def _chaos(run: Run, minutes: float, seed: int) -> dict[str, Any]:
    if os.environ.get("RAY_ADDRESS"):
        raise InvalidInput("bench chaos kills processes, so it starts a Ray of its own; unset RAY_ADDRESS")
    run.output.divert()
    from serve.bench.chaos import chaos_settings, run_chaos

    with tempfile.TemporaryDirectory(prefix="personaagent-chaos-", ignore_cleanup_errors=True) as home:
        async with run.system(chaos_settings(run.settings(), Path(home)), http=True) as system:
            with run.output.progress("chaos") as tell:
                return await run_chaos(system, minutes, seed, tell)


async def _overload(run: Run, seconds: float, clients: int) -> dict[str, Any]:
    run.output.divert()
    from serve.bench.overload import overload_settings, run_overload

    with tempfile.TemporaryDirectory(prefix="personaagent-overload-", ignore_cleanup_errors=True) as home:
        async with run.system(overload_settings(run.settings(), Path(home)), http=True) as system:
            with run.output.progress("overload") as tell:
                return await run_overload(system, seconds, clients, tell)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "eval")(evaluate)
    command(app, "bench")(bench)
