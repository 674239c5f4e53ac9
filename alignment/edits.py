"""The textual gradient as edits of claims: one call for each wrong answer says what is wrong, and what to change."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from alignment.budget import Caller
from alignment.textual import PRIORITY, Case, tidy
from personaagent import prompts
from personaagent.aio import together
from personaagent.claims import MAX_SOURCES, Claim, ClaimKind, oldest, same_claim
from personaagent.errors import ContextLengthExceeded
from personaagent.persona.persona import clip, tokens
from personaagent.persona.safety import objection
from personaagent.protocols import LLM
from personaagent.types import ChatRequest, Frozen, Message

__all__ = ["Edit", "EditProposer", "Edits", "apply", "schema"]

MAX_LOSS = 160  # characters
MAX_TEXT = 160
ANSWER_TOKENS = 200  # of loss and edit with their JSON, at the worst
ROOM_FOR_EXAMPLES = 3000  # tokens of context
CLAIM_TOKENS = 100  # of one note as it is shown; prose of older personas is longer

Action = Literal["add", "replace", "strike"]

_ACTIONS: Mapping[str, Action] = {
    "add": "add",
    "replace": "replace",
    "change": "replace",
    "update": "replace",
    "edit": "replace",
    "strike": "strike",
    "delete": "strike",
    "remove": "strike",
}


class Edit(Frozen):
    """One change of a persona's claims.

    `number` is the claim it is about, counting from 1, and None for an addition. `text` is the new claim; it is empty for a
    strike. `sources` are the interactions whose losses it came from.
    """

    action: Action
    number: int | None = None
    text: str = ""
    kind: ClaimKind = ClaimKind.FACT
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edits:
    """Usable edits, all different, best supported first, and how many answers gave none, by reason."""

    edits: tuple[Edit, ...] = ()
    dropped: Counter[str] = field(default_factory=Counter)


class EditProposer:
    """LLM_loss and LLM_update in one call: the model says what the claims get wrong in one case, then edits one of them."""

    def __init__(self, llm: LLM, seed: int = 0) -> None:
        self._llm = llm
        self._seed = seed
        self._share = max(32, llm.context_length // 10)  # of the context in tokens, for each text from outside
        shown = prompts.EDIT_EXAMPLES if llm.context_length >= ROOM_FOR_EXAMPLES else ()
        self._examples = tuple(
            message
            for asked, answered in shown
            for message in (Message(role="user", content=asked), Message(role="assistant", content=answered))
        )

    async def propose(
        self,
        claims: Sequence[Claim],
        cases: Sequence[Case],
        count: int,
        caller: Caller,
        struck: Sequence[str] = (),
        names: Collection[str] = (),
    ) -> Edits:
        """At most `count` edits, one asked for from each case that was not answered perfectly.

        Cases that lead to the same edit support it together. Whatever the model returns, only edits come back that change
        the claims and that may stand in a persona; the others are counted by reason.

        Args:
            claims: of the persona; edits speak of them by their place.
            cases: past interactions and what the persona made of them.
            count: how many edits.
            caller: makes the calls.
            struck: texts that were taken away for good.
            names: ids of other users, which no claim may name.

        Raises:
            PersonaAgentError: of the engine or the budget only.
        """
        wrong = [c for c in cases if c.score < 1.0 - 1e-6]
        if not wrong or count < 1:
            return Edits()
        listed, numbers = self._listed(claims)
        answers = await together(self._ask(listed, numbers, case, caller) for case in wrong)
        found: list[Edit] = []
        dropped: Counter[str] = Counter()
        for case, answer in zip(wrong, answers, strict=True):
            edit = _read(answer, case)
            reason = edit if isinstance(edit, str) else self._refusal(edit, claims, case, struck, names)
            if reason is not None:
                dropped[reason] += 1
            elif isinstance(edit, Edit):
                _gather(found, edit)
        found.sort(key=lambda edit: -len(edit.sources))
        if found[count:]:
            dropped["too many"] += len(found) - count
        return Edits(tuple(found[:count]), dropped)

    def _listed(self, claims: Sequence[Claim]) -> tuple[str, list[int]]:
        """The claims as numbered notes within their share of the context, and which of them may be changed."""
        lines: list[str] = []
        numbers: list[int] = []
        room = 2 * self._share
        for number, claim in enumerate(claims, 1):
            line = f"{number}. {clip(' '.join(claim.text.split()), min(CLAIM_TOKENS, self._share))}"
            room -= tokens(line) + 1
            if room < 0:
                break
            lines.append(line)
            if _free(claim):
                numbers.append(number)
        return "\n".join(lines) or prompts.NO_CLAIMS, numbers

    async def _ask(self, listed: str, numbers: Sequence[int], case: Case, caller: Caller) -> str:
        """What the model answers; empty if it says nothing."""
        prompt = prompts.EDIT.format(
            claims=listed,
            query=clip(case.asked, 2 * self._share),
            answer=clip(case.answered, self._share) or "(nothing)",
            truth=clip(case.wanted, self._share),
        )
        request = ChatRequest(
            messages=(
                Message(role="system", content=prompts.ALIGN_SYSTEM),
                *self._examples,
                Message(role="user", content=prompt),
            ),
            max_tokens=min(ANSWER_TOKENS, 3 * self._share),
            seed=self._seed,
            priority=PRIORITY,
            extra={"structured_outputs": {"json": schema(numbers)}},
        )
        try:
            result = await caller.call(lambda: self._llm.chat(request), lambda r: r.usage)
        except ContextLengthExceeded:  # a tokenizer that needs far more tokens than estimated: as good as no answer
            return ""
        return result.text

    def _refusal(
        self, edit: Edit, claims: Sequence[Claim], case: Case, struck: Sequence[str], names: Collection[str]
    ) -> str | None:
        """Why an edit is of no use, in a few words."""
        reason = _idle(claims, edit, struck)
        if reason is not None or edit.action == "strike":
            return reason
        if len(edit.text) >= MAX_TEXT - 1 and edit.text[-1].isalnum():
            return "cut off"  # by the schema
        # A claim may name an option. Answers in whole sentences are no claims; the user's own words are for exemplars.
        asked = case.interaction
        quoted = (asked.query,) if asked.choices else (asked.query, asked.truth or "", case.answer)
        return objection(edit.text, names, quoted)


def schema(numbers: Sequence[int]) -> dict[str, Any]:
    """The JSON schema of an answer.

    Args:
        numbers: of the claims that may be replaced or struck.
    """
    actions = ["add", "replace", "strike"] if numbers else ["add"]
    return {
        "type": "object",
        "properties": {
            "loss": {"type": "string", "minLength": 1, "maxLength": MAX_LOSS},
            "action": {"type": "string", "enum": actions},
            "number": {"type": "integer", "enum": [0, *numbers]},
            "kind": {"type": "string", "enum": [kind.value for kind in ClaimKind]},
            "text": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
        },
        "required": ["loss", "action", "number", "kind", "text"],
        "additionalProperties": False,
    }


def apply(
    claims: Sequence[Claim], edit: Edit, times: Mapping[str, datetime], struck: Sequence[str] = ()
) -> tuple[Claim, ...]:
    """The claims after an edit; as they were if it would change nothing, or something that it may not.

    What replaces a claim rests on the interactions of both. Pinned claims and claims of a person stay.

    Args:
        claims: of the persona.
        edit: of them.
        times: of interactions by id; those of the edit's sources that are known say since when the claim holds.
        struck: texts that were taken away for good.
    """
    if _idle(claims, edit, struck) is not None:
        return tuple(claims)
    if edit.action == "add":
        return (*claims, _claim(edit, times))
    at = (edit.number or 0) - 1
    new = () if edit.action == "strike" else (_claim(edit, times, claims[at]),)
    return (*claims[:at], *new, *claims[at + 1 :])


def _claim(edit: Edit, times: Mapping[str, datetime], old: Claim | None = None) -> Claim:
    sources = dict.fromkeys((*(old.sources if old else ()), *edit.sources))
    known = [times[source] for source in edit.sources if source in times]
    if old is not None and old.since is not None:
        known.append(old.since)
    return Claim(
        text=edit.text, kind=edit.kind, sources=tuple(sources)[-MAX_SOURCES:], since=oldest(known), origin="model"
    )


def _free(claim: Claim) -> bool:
    """Whether alignment may change it."""
    return not claim.pinned and claim.origin != "person"


def _idle(claims: Sequence[Claim], edit: Edit, struck: Sequence[str]) -> str | None:
    """Why an edit leaves the claims as they are, in a few words; None if it changes them."""
    if edit.action != "add":
        if edit.number is None or not 1 <= edit.number <= len(claims):
            return "no such claim"
        if not _free(claims[edit.number - 1]):
            return "protected"
    if edit.action == "strike":
        return None
    if not edit.text.strip():
        return "empty"
    if any(same_claim(edit.text, claim.text) for claim in claims):
        return "known"
    return "struck" if any(same_claim(edit.text, text) for text in struck) else None


def _gather(found: list[Edit], edit: Edit) -> None:
    """Add an edit, or its sources to one that is the same."""
    for n, other in enumerate(found):
        if (other.action, other.number) == (edit.action, edit.number) and same_claim(other.text, edit.text):
            sources = tuple(dict.fromkeys((*other.sources, *edit.sources)))[:MAX_SOURCES]
            found[n] = other.model_copy(update={"sources": sources})
            return
    found.append(edit)


def _read(answer: str, case: Case) -> Edit | str:
    """The edit in a model's answer, however it is wrapped; or why there is none."""
    if not answer.strip():
        return "no answer"
    fields = _object(answer)
    if fields is None:
        return "unreadable"
    action = _ACTIONS.get(str(fields["action"]).strip().casefold())
    if action is None:
        return "unreadable"
    number = re.search(r"\d{1,4}", str(fields.get("number", "")))
    kind = str(fields.get("kind", "")).strip().casefold()
    text = fields.get("text")
    said = tidy(text) if isinstance(text, str) and action != "strike" else ""
    return Edit(
        action=action,
        number=int(number[0]) if number and action != "add" else None,
        text=re.sub(r"\A(?:[-*•]|\d{1,2}[.)])\s+", "", " ".join(said.split())),
        kind=ClaimKind(kind) if kind in list(ClaimKind) else ClaimKind.FACT,
        sources=(case.interaction.id,),
    )


def _object(answer: str) -> dict[str, Any] | None:
    """The first JSON object with an action: servers without structured outputs put words or fences around it."""
    text = re.sub(r",(\s*[}\]])", r"\1", answer)
    decoder = json.JSONDecoder(strict=False)
    for start in (m.start() for m in re.finditer(r"\{", text)):
        try:
            found, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and "action" in found:
            return found
    return None
