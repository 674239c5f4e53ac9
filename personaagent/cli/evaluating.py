"""`eval` and `bench`: measure on real data, and against others."""

from __future__ import annotations

import json as jsonlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from personaagent.cli.output import check_report
from personaagent.cli.runtime import Json, Run, command
from personaagent.errors import InvalidInput

__all__ = ["register"]


class Dataset(StrEnum):
    """What there is to evaluate on."""

    PAHF = "pahf"
    MOVIELENS = "movielens"
    LAMP = "lamp"
    HISTORY = "history"


class Bench(StrEnum):
    """What can be measured."""

    MEMORY = "memory"
    ALIGNMENT = "alignment"


async def evaluate(
    run: Run,
    dataset: Annotated[Dataset, typer.Argument(help="The data set.")],
    data: Annotated[
        Path | None, typer.Option(help="Its file or folder; default: below PERSONAAGENT_DATA, or ./data.")
    ] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Only the first so many users.")] = None,
    methods: Annotated[
        str, typer.Option(help="Of none, icl, rag, pag, react, persona, personaagent.")
    ] = "none,rag,personaagent",
    ablate: Annotated[str, typer.Option(help="Parts to leave out in turn: alignment,persona,memory,actions.")] = "",
    paper: Annotated[bool, typer.Option("--paper", help="Align as the paper does, without the gate.")] = False,
    noise: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of every other user's truths replaced by random ones.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of alignment, noise and intervals.")] = 0,
    controls: Annotated[bool, typer.Option(help="Also answer every user with another user's persona.")] = True,
    cold_start: Annotated[bool, typer.Option(help="Also test with 0, 1, 3 and 10 interactions.")] = True,
    report: Annotated[Path | None, typer.Option(help="Write the whole result there as JSON.")] = None,
    json: Json = False,
) -> None:
    """Learn users in time order, test on what came later, compare methods."""
    from alignment.evaluation import ABLATIONS, METHODS, run_evaluation
    from personaagent.llm import teacher_llm

    chosen = _names("method", methods, METHODS)
    left_out = _names("ablation", ablate, ABLATIONS)
    path = _data(dataset, data)
    check_report(report)
    settings = run.settings(alignment={"paper": True} if paper else {})
    async with run.system(settings) as system:
        with run.output.progress(dataset.value) as tell:
            result = await run_evaluation(
                dataset.value,
                path,
                chosen,
                users,
                system.llm,
                system.embedder,
                settings,
                paper=paper,
                ablate=left_out,
                seed=seed,
                progress=tell,
                cold_start=cold_start,
                controls=controls,
                noise=noise,
                teacher=teacher_llm(settings.alignment.teacher, settings.llm.timeout_s),
            )
    run.output.result(result)
    _show(run, result)
    if report is not None:
        report.write_text(jsonlib.dumps(result, indent=2, ensure_ascii=False), encoding="utf-8")
        run.output.note(f"report: {report}")


def _names(what: str, given: str, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if unknown := [name for name in names if name not in known]:
        raise InvalidInput(f"unknown {what} {unknown[0]!r}; there are {', '.join(known)}")
    return names


def _data(dataset: Dataset, data: Path | None) -> Path:
    """The data set's file or folder: as given, or where it usually is."""
    if data is None:
        below = [Path(folder) for folder in (os.environ.get("PERSONAAGENT_DATA"), "data") if folder]
        data = next((b / dataset for b in below if (b / dataset).exists()), None)
        if data is None:
            raise InvalidInput(f"no {dataset} data found; name its file or folder with --data PATH")
    if not data.exists():
        raise InvalidInput(f"--data {data} does not exist")
    return data


def _show(run: Run, result: Mapping[str, Any]) -> None:
    """One table per phase: methods down, scores with their intervals across."""
    for phase, by_method in result["results"].items():
        names = list(dict.fromkeys(name for scores in by_method.values() for name, v in scores.items() if _is_score(v)))
        rows = [[method, *(_score(scores.get(name)) for name in names)] for method, scores in by_method.items()]
        rows += [[f"({name})", *(_score(scores.get(n)) for n in names)] for name, scores in _beside(result, phase)]
        run.output.table(["method", *(f">{name}" for name in names)], rows, title=str(phase))
    rows = [[name, *(f"{cost[key]:,.0f}" for key in COSTS)] for name, cost in result["cost"].items()]
    run.output.table(["method", *(f">{key}" for key in COSTS)], rows, title="cost")


COSTS = ("calls", "prompt_tokens", "completion_tokens", "seconds")


def _beside(result: Mapping[str, Any], phase: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Floors that need no model, and controls, of a phase."""
    return [*result.get("floors", {}).get(phase, {}).items(), *result.get("control", {}).get(phase, {}).items()]


def _is_score(value: Any) -> bool:
    return isinstance(value, Mapping) and {"value", "low", "high"} <= set(value)


def _score(value: Any) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" if _is_score(value) else "-"


async def bench(
    run: Run,
    what: Annotated[Bench, typer.Argument(help="What to measure.")],
    users: Annotated[int, typer.Option(min=1, help="Users (alignment).")] = 32,
    json: Json = False,
) -> None:
    """Measure on this machine, on made-up users in a temporary store."""
    if what is Bench.ALIGNMENT:
        from alignment import bench as bench_alignment

        run.output.divert()
        with run.output.progress(what.value) as tell:
            result = await bench_alignment.run(run.settings(), users, progress=tell)
    else:
        with tempfile.TemporaryDirectory(prefix="personaagent-bench-") as home:
            settings = run.settings(home=home)
            async with run.system(settings, llm=False) as system:
                from actors import bench_memory

                with run.output.progress(what.value) as tell:
                    result = await bench_memory.run(settings, embedder=system.embedder, progress=tell)
    run.output.result(result)
    run.output.show(jsonlib.dumps(result, indent=2, ensure_ascii=False))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "eval")(evaluate)
    command(app, "bench")(bench)
