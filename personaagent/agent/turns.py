"""What the agent is asked and what it answers: a turn with its reply, and a past interaction with its replay."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from personaagent.agent.action_choice import ActionChoice
from personaagent.agent.contrast import MAX_SAMPLES, Samples
from personaagent.agent.copying import Copy
from personaagent.agent.decision import Choice
from personaagent.agent.view import Saw
from personaagent.tools.toolbox import Observation
from personaagent.types import Frozen, Interaction, Message, Reason, Usage, UserId

__all__ = ["Replay", "Reply", "Turn"]


class Turn(Frozen):
    """One request of a user. `extra` holds further OpenAI fields (tools, response_format, ...), passed through.

    `generated` says that the interaction's id was made up for this request: one that brings results of the application's
    tools then goes on with the interaction that called them. With `explain` the reply says what the model saw, and to a
    closed choice or rating also why; with `trace` which tools were called, and what came of it. `samples` is how many answers
    a free text is chosen from; None: what the settings say.
    """

    user: UserId
    messages: tuple[Message, ...]
    choices: tuple[str, ...] | None = None
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra: dict[str, Any] = Field(default_factory=dict)
    interaction_id: str | None = None
    generated: bool = False
    priority: int = 0
    remember: bool = True
    explain: bool = False
    trace: bool = False
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    identity: str = "user"  # how the request named the user; kept with the interaction


class Reply(Frozen):
    """The agent's answer and what it rests on.

    Closed choices and ratings have `scores`, the probability of each option, which sum to 1. The answer of a rating is the
    median grade of that distribution, `expected` its mean. `reasons` are what memory has to say about the answer, if that was
    asked for; none where the persona leaves memory out. `saw`, too, is there if asked for: the reasons of free text are in it.
    Of free text, `copied` and `samples` are there if asked for, and `samples` also where the settings could not be followed.
    """

    interaction_id: str
    text: str
    finish_reason: str = "stop"
    usage: Usage = Usage()
    persona: int = 0
    recalled: tuple[str, ...] = ()
    scores: dict[str, float] | None = None
    expected: float | None = None
    reasons: tuple[Reason, ...] | None = None
    saw: Saw | None = None
    copied: Copy | None = None
    samples: Samples | None = None
    steps: int = 1
    trace: tuple[Observation, ...] | None = None
    message: dict[str, Any] = Field(default_factory=dict)


class Replay(Frozen):
    """A simulated response to a past interaction. `choices` has one entry per decision asked for.

    Of a lesson, `acting` says how its choice is weighed, and `evidence` is empty where no other lesson tells anything. Its text
    is empty where a turn would have left the argument out.
    """

    interaction: Interaction
    text: str
    lm: tuple[float, ...] | None = None
    evidence: tuple[tuple[float, ...], ...] = ()
    choices: tuple[Choice, ...] = ()
    acting: ActionChoice | None = None
    usage: Usage = Usage()
