"""`demo`: the whole loop on the bundled histories, with the real system and a report of what it did."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.cli.demo_report import DemoRequest, Story, sections, show_totals, tell
from serve.cli.importing import import_interactions
from serve.cli.output import check_report
from serve.cli.runner import EXIT_ERROR, Json, Run, command

if TYPE_CHECKING:
    from personaagent.agent.agent import Reply
    from serve.runtime.system import System

__all__ = ["register"]

TITLE = "PersonaAgent on Ray: a demonstration"
SAMPLES = 4  # of a written answer: the one that the persona makes likelier and that repeats no old answer is kept
REQUESTS = (
    DemoRequest(
        "I'm starving. What shall I order for lunch?",
        ("bruno", "elif"),
        ("falafel bowl", "grilled steak", "miso soup", "pizza"),
    ),
    DemoRequest("Robin invites me to a picnic on Sunday. Write my reply.", ("farid", "hugo")),
)


async def demo(
    run: Run,
    report: Annotated[Path, typer.Option(help="The HTML report.")] = Path("personaagent-report.html"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary home with its store.")] = False,
    json: Json = False,
) -> int | None:
    """The whole loop on bundled histories: import, answer, align, report. Takes a few minutes on two cores."""
    from personaagent.models.files import model_name
    from personaagent.report.html import write_report
    from personaagent.types import Outcome

    check_report(report)
    started = time.perf_counter()
    own_home = run.options.home is not None
    home = run.settings().home if own_home else Path(tempfile.mkdtemp(prefix="personaagent-demo-"))
    try:
        settings = run.settings(home=home)
        story = Story(model=model_name(settings))
        async with run.system(settings) as system:
            story.start_s = time.perf_counter() - started
            await _import(run, system, story)
            before = await _answer(run, system)
            story.answers = list(zip(REQUESTS, before, strict=True))
            await _align(run, system, story)
            story.later = await _answer(run, system)
            await _measure(run, system, story)
            tell(run.output, story)
        story.seconds = time.perf_counter() - started
        show_totals(run.output, story)
        path = write_report(report, TITLE, sections(story))
        run.output.show(f"report: {path}")
    finally:
        if not (own_home or keep):
            shutil.rmtree(home, ignore_errors=True)
    if keep:
        run.output.note(f"kept: personaagent --home {home} persona {REQUESTS[0].users[0]} --history")
    return EXIT_ERROR if any(r.outcome is Outcome.FAILED for r in story.results) else None


async def _import(run: Run, system: System, story: Story) -> None:
    from personaagent.readers import read, sample_path

    found = read("history", sample_path())
    total = sum(1 for _ in found)
    with run.output.progress("importing the sample", total) as tell:
        await import_interactions(
            system.memory, found, story.imported, lambda n: tell("importing the sample", n, total)
        )
    counts = story.imported
    run.output.show(f"imported {counts.added} interactions of {len(counts.users)} invented people")


async def _answer(run: Run, system: System) -> list[list[Reply]]:
    """The same requests of two users each."""
    from personaagent.agent.agent import Turn
    from personaagent.protocols import likely
    from personaagent.types import Message

    samples = SAMPLES if likely(system.llm) is not None else 1
    with run.output.stage("answering the same requests for two users"):
        return [
            list(
                await asyncio.gather(
                    *(
                        system.agent.respond(
                            Turn(
                                user=user,
                                messages=(Message(role="user", content=request.text),),
                                choices=request.choices,
                                max_tokens=60,
                                remember=False,
                                samples=None if request.choices else samples,
                                explain=True,
                            )
                        )
                        for user in request.users
                    )
                )
            )
            for request in REQUESTS
        ]


async def _align(run: Run, system: System, story: Story) -> None:
    from personaagent.types import Outcome
    from serve.cli.aligning import align_population

    run.output.show()
    started = time.perf_counter()
    name = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    story.results = await align_population(run, system, sorted(story.imported.users), name)
    story.align_s = time.perf_counter() - started
    for result in story.results:
        if result.outcome is Outcome.ACCEPTED:
            versions = await system.memory.personas(result.user)
            after = next(v for v in versions if v.number == result.persona_after)
            before = next(v for v in versions if v.number == after.parent)
            story.personas[result.user] = (before, after)


async def _measure(run: Run, system: System, story: Story) -> None:
    """How much likelier the personas make what people really said."""
    from alignment.evaluation.effect import Aligned, effect
    from personaagent.protocols import likely

    model = likely(system.llm)
    if model is None:
        return
    with run.output.stage("measuring what the personas do"):
        users = {}
        for user in sorted(story.imported.users):
            versions = await system.memory.personas(user)
            if versions:
                history = await system.memory.latest(user, 1_000, with_truth=True)
                users[user] = Aligned(versions[0], versions[-1], history)
        story.effect = await effect(system.agent, model, users, system.settings.agent.persona_tokens)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "demo")(demo)
