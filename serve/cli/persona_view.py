"""How a persona looks on the command line: its claims with what they rest on, its exemplars, and how memory is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from serve.cli.explaining import show_interactions, shown
from serve.cli.output import Output

if TYPE_CHECKING:
    from personaagent.claims import Claim, Exemplar
    from personaagent.types import Decision, Interaction, PersonaDraft

__all__ = ["gained", "reading", "rests", "show_claim", "show_persona", "show_seen"]

LONG = 200  # characters of a claim where it stands among others
ORIGINS = {"counted": "", "model": "written by the model", "person": "said by a person"}


def show_persona(output: Output, persona: PersonaDraft, about: Mapping[str, Interaction] | None = None) -> None:
    """All of it. `about`: interactions by id, to show those behind each claim."""
    from personaagent.persona.persona import standing

    claims = standing(persona)
    if not claims:
        output.show(persona.text)
    for number, claim in enumerate(claims, 1):
        show_claim(output, number, claim, about)
    if persona.exemplars:
        output.show("in the user's own words:")
    for exemplar in persona.exemplars:
        measured = gained(exemplar)
        output.show(f'  "{shown(exemplar.query)}" -> "{shown(exemplar.truth)}"{f", {measured}" if measured else ""}')
    for text in persona.struck:
        output.show(f"struck: {shown(text, LONG)}", style="dim")
    output.show(f"memory: {reading(persona.decision)}", style="dim")


def show_claim(output: Output, number: int, claim: Claim, about: Mapping[str, Interaction] | None = None) -> None:
    """One claim, and with `about`, interactions by id, those behind it."""
    first, *more = claim.told.splitlines() or [""]
    output.show(f"{number:2}. [{claim.kind}] {first}")
    for line in more:
        output.show(f"    {line}")
    output.show(f"    {rests(claim)}", style="dim")
    if about is not None:
        show_interactions(output, [about[i] for i in claim.sources if i in about], indent=6)


def rests(claim: Claim) -> str:
    """What a claim rests on and is worth, on one line."""
    count = len(claim.sources)
    parts = [
        "pinned" if claim.pinned else "",
        ORIGINS[claim.origin],
        f"since {claim.since:%Y-%m-%d}" if claim.since else "",
        f"on {count} interaction{'' if count == 1 else 's'}" if count else "",
        gained(claim),
        "" if claim.shown else "not shown: what it rested on is deleted",
    ]
    return ", ".join(filter(None, parts))


def gained(measured: Claim | Exemplar) -> str:
    """How much likelier it made the user's own words; empty where that was not measured."""
    if measured.gain is None:
        return ""
    error = "" if measured.error is None else f" (± {_short(measured.error)})"
    return f"{'-' if measured.gain < 0 else '+'}{_short(abs(measured.gain))} nats per token{error}"


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def reading(decision: Decision) -> str:
    """How memory enters the answers, for people."""
    count = decision.episodes
    form = "as a list" if decision.form == "list" else "as exchanges"
    seen = f"{count} similar request{'' if count == 1 else 's'} shown {form}" if count else "no past requests shown"
    if not decision.evidence:
        return f"{seen}; choices are the model's alone"
    if not decision.model_weight:
        by = "choices by memory alone"
    else:
        by = f"choices by memory and the model (weight {decision.model_weight:g})"
    return f"{seen}; {by}, tastes x{decision.prior_scale:g}, change x{decision.change:g}"


def show_seen(output: Output, claims: Sequence[str], exemplars: Iterable[Interaction]) -> None:
    """What of the persona a model saw."""
    if claims:
        output.show("it saw these claims:")
        for text in claims:
            output.show(f"  {shown(text, LONG)}")
    if examples := list(exemplars):
        output.show("it saw these exemplars:")
        show_interactions(output, examples)
