"""What a user would choose and why, by memory alone: no language model is asked, and nothing is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from personaagent.agent.decision import decide
from personaagent.memory.incoming import said
from personaagent.protocols import Memory
from personaagent.types import Choices, Decision, Frozen, Reason, RecallQuery, Text

__all__ = ["Explanation", "Question", "explain", "why"]


class Question(Frozen):
    """A request with the options that answer it."""

    query: Annotated[Text, AfterValidator(said), Field(min_length=1)]
    choices: Choices


class Explanation(Frozen):
    """What memory would answer; see `personaagent.agent.agent.Reply`. The probabilities sum to 1."""

    answer: str
    probabilities: dict[str, float]
    expected: float | None
    reasons: tuple[Reason, ...]


async def explain(memory: Memory, user: str, question: Question, default: Decision) -> Explanation:
    """Answer from memory alone.

    Args:
        memory: of all users. Of an unknown user it knows nothing: the options are as likely as they are for anybody.
        user: whose choice it is.
        question: what is asked.
        default: how memory is read for a user without a persona.
    """
    persona = await memory.persona(user)
    decision = persona.decision if persona else default
    query = RecallQuery(
        text=question.query, k=0, choices=question.choices, decisions=(decision,), with_truth=True, explain=True
    )
    recall = await memory.recall(user, query)
    made = decide(question.choices, None, recall.evidence[0], 1.0)
    return Explanation(
        answer=made.answer, probabilities=made.probabilities, expected=made.expected, reasons=recall.reasons
    )


def why(reasons: Sequence[Reason]) -> list[dict[str, Any]]:
    """Reasons as the API and the command line give them to programs."""
    return [{"text": r.text, "weight": r.weight, "interactions": list(r.sources)} for r in reasons]
