"""What the demonstration tells: on the terminal and in its HTML report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serve.cli.importing import Imported
from serve.cli.output import number

if TYPE_CHECKING:
    from alignment.evaluation.effect import PersonaEffect
    from personaagent.agent.agent import Reply
    from personaagent.claims import Claim
    from personaagent.report.html import Section
    from personaagent.types import AlignmentResult, Persona
    from serve.cli.output import Output

__all__ = ["DemoRequest", "Story", "described", "factor", "reworded", "sections", "show_totals", "tell"]

INTRO = """\
Everything here was produced by one run of `personaagent demo`. A persona is claims about a user, counted from what they
did, and a few exchanges in their own words. New words are kept only if they make what the user really said clearly likelier,
and more so than another user's words do, on answers they were not made from. The people and their histories are invented and
bundled with the project.

{model} served by vLLM; {users} users, {interactions} interactions; {seconds:.0f} seconds in all, {start:.0f} of them to start
the system."""
SHOWN = 3  # personas side by side
CLAIMS = 3  # claims of a persona on the terminal


@dataclass(frozen=True)
class DemoRequest:
    """A request that two users make, and between what, if it is a closed choice."""

    text: str
    users: tuple[str, str]
    choices: tuple[str, ...] | None = None


@dataclass
class Story:
    """What the demonstration has produced so far."""

    model: str = ""
    imported: Imported = field(default_factory=Imported)
    answers: list[tuple[DemoRequest, list[Reply]]] = field(default_factory=list)  # before alignment
    later: list[list[Reply]] = field(default_factory=list)  # and after it, in the same order
    effect: PersonaEffect | None = None  # None: the model's server does not tell likelihoods
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


def tell(output: Output, story: Story) -> None:
    """Who learned what, what it is worth, the same request before and after, and what the gate refused."""
    output.show()
    output.show("What the personas learned", style="bold")
    for user, (before, after) in story.personas.items():
        gain = story.effect.by_user.get(user) if story.effect is not None else None
        if not reworded(before, after) or not gain:
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
        if versions is None or not reworded(*versions):
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


def reworded(before: Persona, after: Persona) -> bool:
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


def described(persona: Persona) -> str:
    """Claims, exemplars and decision parameters as text, a line each."""
    from personaagent.persona.persona import standing

    lines = [f"[{c.kind}] {c.told}" for c in standing(persona) if c.shown] or [persona.text]
    lines += [f'[exemplar] "{e.query}" -> "{e.truth}"' for e in persona.exemplars]
    decision = persona.decision.model_dump(exclude_none=True)
    return "\n".join([*lines, "", *(f"[decision] {name}: {value}" for name, value in decision.items())])


def show_totals(output: Output, story: Story) -> None:
    """The result, and what it is worth in a few lines."""
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
    words = sum(reworded(before, after) for before, after in story.personas.values())
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


def sections(story: Story) -> list[Section]:
    """The HTML report, from what this is to what each persona says."""
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
    found: list[Section] = [Text("\n\n".join(paragraphs), title="What this is")]
    if story.effect is not None:
        found.append(Text(_worth(story.effect), title="What it is worth"))
        found.append(_by_user(story.effect))
    for (request, replies), later in zip(story.answers, story.later, strict=True):
        answers = [
            pair
            for user, before, after in zip(request.users, replies, later, strict=True)
            for pair in ((f"{user}, before", before.text), (f"{user}, after", after.text))
        ]
        title = "The same request of two users, before alignment and after it"
        found.append(Chat(request.text, answers, title=title, choices=request.choices or ()))
    found += alignment_sections(story.results, story.align_s)
    best = _best(story)
    if best is not None:
        before, after = story.personas[best]
        found.append(Diff(described(before), described(after), title=f"What changed for {best}"))
    new = [user for user, versions in story.personas.items() if reworded(*versions)]
    shown: Sequence[str] = [*new, *(u for u in story.personas if u not in new)][:SHOWN]
    if shown:
        texts = [(f"{user}, version {p.number}", described(p)) for user in shown for p in story.personas[user]]
        found.append(SideBySide(texts, title="Personas before and after"))
        found.append(claims_table([(user, story.personas[user][1]) for user in shown]))
    return found


def _by_user(effect: PersonaEffect) -> Section:
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


def _worth(effect: PersonaEffect) -> str:
    gain, apart = effect.gain, effect.own_minus_other
    return (
        f"Each word that people really said is {factor(gain.mean):.2f} times as likely as under their first persona, with memory"
        f" as served ({gain.mean:+.3f} nats per token, standard error {gain.se:.3f}, {gain.n} texts, each under words made"
        f" without it).\n\nA persona alone, on kinds of requests it has not seen, is {apart.mean:+.3f} nats per token better"
        f" than another user's (standard error {apart.se:.3f}, {apart.n} texts)."
    )
