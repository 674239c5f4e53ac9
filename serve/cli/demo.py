"""`demo`: the whole loop on the bundled histories, with the real system and a report of what it did."""

from __future__ import annotations

import asyncio
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.cli.importing import Imported, import_interactions
from serve.cli.output import check_report, number
from serve.cli.runner import EXIT_ERROR, Json, Run, command

if TYPE_CHECKING:
    from alignment.evaluation.effect import Effect
    from personaagent.agent.agent import Reply
    from personaagent.claims import Claim
    from personaagent.report.html import Section
    from personaagent.types import AlignmentResult, Persona
    from serve.cli.output import Output
    from serve.runtime.system import System

__all__ = ["register"]

TITLE = "PersonaAgent on Ray: a demonstration"
INTRO = """\
Everything here was produced by one run of `personaagent demo`. A persona is claims about a user, counted from what they
did, and a few exchanges in their own words. New words are kept only if they make what the user really said clearly likelier,
and more so than another user's words do, on answers they were not made from. The people and their histories are invented and
bundled with the project.

{model} served by vLLM; {users} users, {interactions} interactions; {seconds:.0f} seconds in all, {start:.0f} of them to start
the system."""
SHOWN = 3  # personas side by side
CLAIMS = 3  # claims of a persona on the terminal
SAMPLES = 4  # of a written answer: the one that the persona makes likelier and that repeats no old answer is kept


@dataclass(frozen=True)
class DemoRequest:
    """A request that two users make, and between what, if it is a closed choice."""

    text: str
    users: tuple[str, str]
    choices: tuple[str, ...] | None = None


REQUESTS = (
    DemoRequest(
        "I'm starving. What shall I order for lunch?",
        ("bruno", "elif"),
        ("falafel bowl", "grilled steak", "miso soup", "pizza"),
    ),
    DemoRequest("Robin invites me to a picnic on Sunday. Write my reply.", ("farid", "hugo")),
)


@dataclass
class Story:
    """What the demonstration has produced so far."""

    model: str = ""
    imported: Imported = field(default_factory=Imported)
    answers: list[tuple[DemoRequest, list[Reply]]] = field(default_factory=list)  # before alignment
    later: list[list[Reply]] = field(default_factory=list)  # and after it, in the same order
    effect: Effect | None = None  # None: the model's server does not tell likelihoods
    results: list[AlignmentResult] = field(default_factory=list)
    personas: dict[str, tuple[Persona, Persona]] = field(default_factory=dict)  # before and after, of accepted users
    start_s: float = 0.0
    align_s: float = 0.0
    seconds: float = 0.0

    @property
    def calls(self) -> int:
        """Model calls of answers and alignment."""
        replies = [r for _, replies in self.answers for r in replies] + [r for later in self.later for r in later]
        measured = self.effect.calls if self.effect is not None else 0
        return sum(r.usage.calls for r in replies) + sum(r.calls for r in self.results) + measured

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens of alignment and measurement that were not in the engine's cache."""
        spent = [(r.prompt_tokens, r.cached_tokens) for r in self.results]
        if self.effect is not None:
            spent.append((self.effect.prompt_tokens, self.effect.cached_tokens))
        return sum(read - cached for read, cached in spent)


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
            _tell(run.output, story)
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


def _tell(output: Output, story: Story) -> None:
    """Who learned what, what it is worth, the same request before and after, and what the gate refused."""
    output.show()
    output.show("What the personas learned", style="bold")
    for user, (before, after) in story.personas.items():
        gain = story.effect.by_user.get(user) if story.effect is not None else None
        if not _reworded(before, after) or not gain:
            output.show(f"  {user}: how their memory is read")
            continue
        claims = "; ".join(_learned(c) for c in after.claims[:CLAIMS]) or "no claims"
        words = f", and {len(after.exemplars)} exchanges of their own" if after.exemplars else ""
        output.show(f"  {user}: {claims}{words}")
        output.show(f"    each word they really said is {factor(gain):.2f} times as likely", style="dim")
    for (request, before_replies), later in zip(story.answers, story.later, strict=True):
        output.show()
        output.show(request.text, style="bold")
        for user, before_reply, after_reply in zip(request.users, before_replies, later, strict=True):
            output.show(f"  {user}, before: {before_reply.text}")
            output.show(f"  {user}, after:  {after_reply.text}")
            if after_reply.copied is not None and after_reply.copied.fault:
                taken = ", ".join(after_reply.copied.names) or after_reply.copied.run
                output.show(f"    taken from an old answer: {taken}", style="dim")
    refused: dict[str, list[str]] = {}
    for result in story.results:
        versions = story.personas.get(result.user)
        if versions is None or not _reworded(*versions):
            refused.setdefault(result.reason.split("; ")[-1], []).append(result.user)
    if refused:
        output.show()
        output.show("Whose words the gate left as they were", style="bold")
        for reason, users in refused.items():
            output.show(f"  {', '.join(users)}: {reason}")
    _tell_dropped(output, story)


def _learned(claim: Claim) -> str:
    """A claim, and how many interactions it was learned from."""
    count = len(claim.sources)
    return f"{claim.text} (from {count} answer{'s' if count != 1 else ''})" if count else claim.text


def _tell_dropped(output: Output, story: Story) -> None:
    """Claims that a first persona made and the aligned one does not, and claims that no persona may make."""
    lines = []
    for user, (before, after) in story.personas.items():
        kept = {c.text for c in after.claims}
        if dropped := [c.text for c in before.claims if c.text not in kept]:
            lines.append(f"  {user}: {'; '.join(dropped)}")
    refused = [f"  {r.user}: {reason} ({count})" for r in story.results for reason, count in r.refused.items()]
    if refused:
        output.show()
        output.show("Claims that no persona may make", style="bold")
        for line in refused:
            output.show(line)
    if lines:
        output.show()
        output.show(
            "Claims that made the answers less likely by themselves, or that another one replaced", style="bold"
        )
        for line in lines:
            output.show(line)


def _reworded(before: Persona, after: Persona) -> bool:
    """Whether a persona says something else than before."""
    return (before.text, before.exemplars) != (after.text, after.exemplars)


def factor(gain: float) -> float:
    """How many times as likely a gain in nats makes something."""
    return math.exp(gain)


def _best(story: Story) -> str | None:
    """The user whose accepted persona gained most, one with new claims before one with new decision parameters only."""
    gains = {
        r.user: (r.score_after or 0.0) - (r.score_before or 0.0) for r in story.results if r.user in story.personas
    }
    rewritten = [u for u, (before, after) in story.personas.items() if before.text != after.text]
    return max(rewritten or story.personas, key=lambda u: gains[u], default=None)


def _described(persona: Persona) -> str:
    """Claims, exemplars and decision parameters as text, a line each."""
    from personaagent.persona.persona import standing

    lines = [f"[{c.kind}] {c.told}" for c in standing(persona) if c.shown] or [persona.text]
    lines += [f'[exemplar] "{e.query}" -> "{e.truth}"' for e in persona.exemplars]
    decision = persona.decision.model_dump(exclude_none=True)
    return "\n".join([*lines, "", *(f"[decision] {name}: {value}" for name, value in decision.items())])


def _show_totals(output: Output, story: Story) -> None:
    from serve.cli.run_report import totals

    sums, effect = totals(story.results), story.effect
    output.result(
        {
            "model": story.model,
            "users": sums["users"],
            "accepted": sums["accepted"],
            "own_minus_other": effect.own_minus_other.as_dict() if effect is not None else None,
            "text_gain": effect.gain.as_dict() if effect is not None else None,
            "factor": round(factor(effect.gain.mean), 3) if effect is not None else None,
            "score_before": sums["score_before"],
            "score_after": sums["score_after"],
            "llm_calls": story.calls,
            "prefill_tokens": story.prefill_tokens,
            "seconds": round(story.seconds, 1),
        }
    )
    output.show()
    words = sum(_reworded(before, after) for before, after in story.personas.values())
    output.show(
        f"{sums['accepted']} of {sums['users']} personas changed: {words} in what they say, the others in how memory is read",
        style="bold",
    )
    if effect is not None:
        gain, apart = effect.gain, effect.own_minus_other
        low, high = factor(gain.mean - 1.96 * gain.se), factor(gain.mean + 1.96 * gain.se)
        output.show(
            f"each word that people really said is {factor(gain.mean):.2f} times as likely as at first"
            f" [{low:.2f}, {high:.2f}], with memory as served, {gain.n} texts"
        )
        output.show(
            f"own persona against another user's, alone, on kinds of requests not learned: {apart.mean:+.3f} nats per token"
            f" (± {apart.se:.3f}), {apart.n} texts"
        )
    else:
        output.show("the model's server does not tell likelihoods, so words were judged by scores of simulated answers")
    moved = "" if sums["score_before"] != sums["score_after"] else ", which did not move"
    output.show(
        f"choices and ratings held out of the fit: score {number(sums['score_before'])} -> {number(sums['score_after'])}{moved}"
    )
    output.show(
        f"{story.calls} model calls, {story.prefill_tokens:,} tokens read (others were cached), {story.seconds:.0f} s in all"
    )


def _sections(story: Story) -> list[Section]:
    from personaagent.report.html import Chat, Diff, SideBySide, Text
    from serve.cli.run_report import alignment_sections, claims_table

    intro = INTRO.format(
        model=story.model,
        users=len(story.imported.users),
        interactions=story.imported.added,
        seconds=story.seconds,
        start=story.start_s,
    )
    paragraphs = (" ".join(p.split()) for p in intro.split("\n\n"))
    sections: list[Section] = [Text("\n\n".join(paragraphs), title="What this is")]
    if story.effect is not None:
        sections.append(Text(_worth(story.effect), title="What it is worth"))
        sections.append(_by_user(story.effect))
    for (request, replies), later in zip(story.answers, story.later, strict=True):
        answers = [
            pair
            for user, before, after in zip(request.users, replies, later, strict=True)
            for pair in ((f"{user}, before", before.text), (f"{user}, after", after.text))
        ]
        title = "The same request of two users, before alignment and after it"
        sections.append(Chat(request.text, answers, title=title, choices=request.choices or ()))
    sections += alignment_sections(story.results, story.align_s)
    best = _best(story)
    if best is not None:
        before, after = story.personas[best]
        sections.append(Diff(_described(before), _described(after), title=f"What changed for {best}"))
    new = [user for user, versions in story.personas.items() if _reworded(*versions)]
    shown: Sequence[str] = [*new, *(u for u in story.personas if u not in new)][:SHOWN]
    if shown:
        texts = [(f"{user}, version {p.number}", _described(p)) for user in shown for p in story.personas[user]]
        sections.append(SideBySide(texts, title="Personas before and after"))
        sections.append(claims_table([(user, story.personas[user][1]) for user in shown]))
    return sections


def _by_user(effect: Effect) -> Section:
    """What each user's new words gained them; those who kept their words stand at 0."""
    from personaagent.report.html import Bars

    users = sorted(effect.by_user)
    gains = [100 * (factor(effect.by_user[user]) - 1) for user in users]
    return Bars(
        users,
        {"per cent": gains},
        title="How much likelier the new words made what each user really said",
        ylabel="per cent likelier, per token",
    )


def _worth(effect: Effect) -> str:
    gain, apart = effect.gain, effect.own_minus_other
    return (
        f"Each word that people really said is {factor(gain.mean):.2f} times as likely as under their first persona, with memory"
        f" as served ({gain.mean:+.3f} nats per token, standard error {gain.se:.3f}, {gain.n} texts, each under words made"
        f" without it).\n\nA persona alone, on kinds of requests it has not seen, is {apart.mean:+.3f} nats per token better"
        f" than another user's (standard error {apart.se:.3f}, {apart.n} texts)."
    )


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "demo")(demo)
