"""`demo`: the whole loop on the bundled histories, with the real system and a report of what it did."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personaagent.cli.importing import Imported, import_interactions
from personaagent.cli.output import check_report, number
from personaagent.cli.runtime import EXIT_ERROR, Json, Run, command

if TYPE_CHECKING:
    from personaagent.agent import Reply
    from personaagent.cli.output import Output
    from personaagent.report import Section
    from personaagent.types import AlignmentResult, Persona
    from serve.system import System

__all__ = ["register"]

TITLE = "PersonaAgent on Ray: a demonstration"
INTRO = """\
Everything here was produced by one run of `personaagent demo`: the answers and rewrites come from the model named below, the
scores from interactions that were held out of every rewrite. Histories this short leave few of those, so any gain counts
here, where the default gate also asks for one standard error (alignment.caution). The people and their
histories are invented and bundled with
the project.

{model} served by vLLM; {users} users, {interactions} interactions; {seconds:.0f} seconds in all, {start:.0f} of them to start
the system."""
SHOWN = 3  # personas side by side


@dataclass(frozen=True)
class Request:
    """A request that two users make, and between what, if it is a closed choice."""

    text: str
    users: tuple[str, str]
    choices: tuple[str, ...] | None = None


REQUESTS = (
    Request(
        "I'm starving. What shall I order for lunch?",
        ("bruno", "elif"),
        ("falafel bowl", "grilled steak", "miso soup", "pizza"),
    ),
    Request("Robin invites me to a picnic on Sunday. Write my reply.", ("farid", "hugo")),
)


@dataclass
class Story:
    """What the demonstration has produced so far."""

    model: str = ""
    imported: Imported = field(default_factory=Imported)
    answers: list[tuple[Request, list[Reply]]] = field(default_factory=list)
    results: list[AlignmentResult] = field(default_factory=list)
    personas: dict[str, tuple[Persona, Persona]] = field(default_factory=dict)  # before and after, of accepted users
    start_s: float = 0.0
    align_s: float = 0.0
    seconds: float = 0.0

    @property
    def calls(self) -> int:
        """Model calls of answers and alignment."""
        return sum(r.usage.calls for _, replies in self.answers for r in replies) + sum(r.calls for r in self.results)


async def demo(
    run: Run,
    report: Annotated[Path, typer.Option(help="The HTML report.")] = Path("personaagent-report.html"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary home with its store.")] = False,
    json: Json = False,
) -> int | None:
    """The whole loop on bundled histories: import, answer, align, report. Takes a few minutes on two cores."""
    from personaagent.models import model_name
    from personaagent.report import write_report
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
            await _answer(run, system, story)
            await _align(run, system, story)
        story.seconds = time.perf_counter() - started
        _show_totals(run.output, story)
        path = write_report(report, TITLE, _sections(story))
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


async def _answer(run: Run, system: System, story: Story) -> None:
    """The same request of two users, before any alignment: the difference is what memory makes."""
    from personaagent.agent import Turn
    from personaagent.types import Message

    output = run.output
    for request in REQUESTS:
        message = Message(role="user", content=request.text)
        turns = [
            Turn(user=user, messages=(message,), choices=request.choices, max_tokens=60, remember=False)
            for user in request.users
        ]
        with output.stage("answering the same request for two users"):
            replies = list(await asyncio.gather(*(system.agent.respond(turn) for turn in turns)))
        story.answers.append((request, replies))
        output.show()
        output.show(request.text, style="bold")
        if request.choices:
            output.show(f"({', '.join(request.choices)})", style="dim")
        for user, reply in zip(request.users, replies, strict=True):
            output.show(f"  {user}: {reply.text}")


async def _align(run: Run, system: System, story: Story) -> None:
    from actors.alignment_actor import Parts, align_users
    from personaagent.cli.reports import show_results
    from personaagent.types import Outcome

    users = sorted(story.imported.users)
    settings = system.settings
    # Twenty interactions a person leave eight for the gate, too few for a gain to stand out from chance.
    alignment = settings.alignment.model_copy(update={"caution": 0.0})
    parts = Parts(system.llm, system.embedder, system.memory, settings.agent, alignment)
    run.output.show()
    started = time.perf_counter()
    with run.output.progress("aligning", len(users)) as tell:
        done: list[AlignmentResult] = []

        def on_result(result: AlignmentResult) -> None:
            done.append(result)
            accepted = sum(r.outcome is Outcome.ACCEPTED for r in done)
            tell("aligning", len(done), len(users), f"{accepted} accepted, last {result.user}")

        story.results = await align_users(parts, users, "demo", on_result)
    story.align_s = time.perf_counter() - started
    for result in story.results:
        if result.outcome is Outcome.ACCEPTED:
            versions = await system.memory.personas(result.user)
            after = next(v for v in versions if v.number == result.persona_after)
            before = next(v for v in versions if v.number == after.parent)
            story.personas[result.user] = (before, after)
    show_results(run.output, story.results)
    best = _best(story)
    if best is not None:
        before, after = story.personas[best]
        run.output.show()
        run.output.show(f"What changed for {best}:", style="bold")
        run.output.diff(_described(before), _described(after))


def _best(story: Story) -> str | None:
    """The user whose accepted persona gained most, one with new claims before one with new decision parameters only."""
    gains = {
        r.user: (r.score_after or 0.0) - (r.score_before or 0.0) for r in story.results if r.user in story.personas
    }
    rewritten = [u for u, (before, after) in story.personas.items() if before.text != after.text]
    return max(rewritten or story.personas, key=lambda u: gains[u], default=None)


def _described(persona: Persona) -> str:
    """Claims, exemplars and decision parameters as text, a line each."""
    from personaagent.persona import standing

    lines = [f"[{c.kind}] {c.text}" for c in standing(persona) if c.shown] or [persona.text]
    lines += [f'[exemplar] "{e.query}" -> "{e.truth}"' for e in persona.exemplars]
    decision = persona.decision.model_dump(exclude_none=True)
    return "\n".join([*lines, "", *(f"[decision] {name}: {value}" for name, value in decision.items())])


def _show_totals(output: Output, story: Story) -> None:
    from personaagent.cli.reports import totals

    sums = totals(story.results)
    output.result(
        {
            "model": story.model,
            "users": sums["users"],
            "accepted": sums["accepted"],
            "score_before": sums["score_before"],
            "score_after": sums["score_after"],
            "llm_calls": story.calls,
            "seconds": round(story.seconds, 1),
        }
    )
    output.show()
    output.show(
        f"{sums['accepted']} of {sums['users']} personas replaced; score on held-out interactions "
        f"{number(sums['score_before'])} -> {number(sums['score_after'])}"
    )
    tokens = sums["prompt_tokens"] + sums["completion_tokens"]
    output.show("(here any gain counts; by default the gate also asks for one standard error, see alignment.caution)")
    output.show(f"{story.calls} model calls, {tokens:,} tokens of alignment, {story.seconds:.0f} s in all")


def _sections(story: Story) -> list[Section]:
    from personaagent.cli.reports import alignment_sections, claims_table
    from personaagent.report import Chat, Diff, SideBySide, Text

    intro = INTRO.format(
        model=story.model,
        users=len(story.imported.users),
        interactions=story.imported.added,
        seconds=story.seconds,
        start=story.start_s,
    )
    sections: list[Section] = [Text(intro, title="What this is")]
    for request, replies in story.answers:
        answers = [(user, reply.text) for user, reply in zip(request.users, replies, strict=True)]
        title = "The same request of two users, before alignment"
        sections.append(Chat(request.text, answers, title=title, choices=request.choices or ()))
    sections += alignment_sections(story.results, story.align_s)
    best = _best(story)
    if best is not None:
        before, after = story.personas[best]
        sections.append(Diff(_described(before), _described(after), title=f"What changed for {best}"))
    shown: Sequence[str] = list(story.personas)[:SHOWN]
    if shown:
        texts = [(f"{user}, version {p.number}", _described(p)) for user in shown for p in story.personas[user]]
        sections.append(SideBySide(texts, title="Personas before and after"))
        sections.append(claims_table([(user, story.personas[user][1]) for user in shown]))
    return sections


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "demo")(demo)
