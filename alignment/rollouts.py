"""Simulated responses of one user, each computed once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from alignment.budget import Caller
from alignment.candidates import Arm, Grid
from alignment.gate import ScoreTable
from alignment.memory_views import Recalled
from alignment.scorer import Remembered, Scorer, Scores, constant
from alignment.splits import repetitions
from alignment.textual import Case, unquoted
from personaagent import prompts
from personaagent.agent.agent import Agent, Replay
from personaagent.aio import together
from personaagent.claims import independent, render
from personaagent.errors import InvalidInput, LLMError
from personaagent.tools.lessons import kin
from personaagent.types import Interaction, Kind, PersonaDraft, RecallQuery

__all__ = ["Rollouts", "reworded", "unknowing"]


class Rollouts:
    """Replays a user's interactions under arms. A pair of arm and interaction is replayed once in a run.

    What memory holds during a replay: given a `history`, closed requests are asked of memory as it is now, but as if they were
    new: without the interaction and all others that asked the same in the same words. What a persona has to answer next
    is partly new, and is answered from a memory as full as this one, so such replays tell more about it than an emptier
    memory does; and partly repeated, which `Scores.kept` stands for. Otherwise, and always for free text, whose later turns
    refer to earlier ones, memory is as it was before the interaction.

    A persona is replayed without what it says about the very request replayed.

    An interaction that the model cannot be asked (too long, refused) scores 0 under that arm; but if this happens to most
    of a batch it is the engine that fails, and the error is raised.
    """

    def __init__(
        self, agent: Agent, scorer: Scorer, caller: Caller, grid: Grid, history: Sequence[Interaction] = ()
    ) -> None:
        """`history`: the user's latest interactions; without it memory is read as it was before each replay."""
        self._memory = agent.memory
        # Candidates differ in prose more than in what they recall, so nothing is looked up twice.
        self._agent = Agent(agent.llm, Recalled(agent.memory), agent.settings, toolbox=agent.toolbox)
        self._without = repetitions([i for i in history if i.kind is not Kind.TEXT])
        self._scorer = scorer
        self._caller = caller
        self._grid = grid
        self._remembered: dict[str, Remembered] = {}
        self._done: dict[tuple[Arm, str], Scores] = {}

    async def run(self, arms: Iterable[Arm], interactions: Sequence[Interaction]) -> None:
        """Replay every interaction under every arm, all calls in flight together, arm by arm.

        Raises:
            BudgetExceeded: replays that had ended are kept.
            InvalidInput, LLMError: more than half of the replays failed; the first of their errors.
            UnavailableError, StoreError: a part of the system is down.
        """
        await self._recall(interactions)
        missing = {(a, i.id): (a, i) for a in arms for i in interactions if (a, i.id) not in self._done}
        if not missing:
            return
        await self._prefetch(missing.values())
        errors = [e for e in await together(self._one(a, i) for a, i in missing.values()) if e is not None]
        if 2 * len(errors) > len(missing):
            raise errors[0]

    def finished(self, arm: Arm, interactions: Sequence[Interaction]) -> bool:
        """Whether all interactions were replayed under an arm."""
        return all((arm, i.id) in self._done for i in interactions)

    def scores(self, arm: Arm, interactions: Sequence[Interaction]) -> ScoreTable:
        """Scores of finished replays."""
        return _table([self._done[arm, i.id] for i in interactions])

    def silent(self, arm: Arm, interactions: Sequence[Interaction]) -> npt.NDArray[np.bool_]:
        """Decisions, (grid.size,), under which memory alone would have answered every one of finished replays alike."""
        return np.asarray(np.stack([self._done[arm, i.id].silent for i in interactions]).all(axis=0))

    def cases(self, arm: Arm, index: int, interactions: Sequence[Interaction]) -> list[Case]:
        """Finished replays under decision `index`, for the textual loss."""
        result = []
        for interaction in interactions:
            done = self._done[arm, interaction.id]
            answer = done.answers[index] if len(done.answers) > 1 else done.answers[0]
            result.append(Case(interaction, answer, float(done.hard[index])))
        return result

    async def _recall(self, interactions: Iterable[Interaction]) -> None:
        """Read memory under all readings of the grid; they are the same for every arm."""
        missing = {i.id: i for i in interactions if i.id not in self._remembered}
        closed = [i for i in missing.values() if i.kind is not Kind.TEXT and self._grid.evidence]
        self._remembered |= dict.fromkeys(missing, Remembered())
        if not closed:
            return
        again = [i for i in closed if i.kind is Kind.CHOICE]
        queries = [self._evidence(i) for i in closed] + [self._evidence(i, reworded(i.query)) for i in again]
        found = await self._caller.patiently(lambda: self._memory.recall_many(closed[0].user, queries))
        now = {i.id: recall.evidence for i, recall in zip(again, found[len(closed) :], strict=True)}
        for interaction, recall in zip(closed, found, strict=False):
            told = recall.evidence if recall.episodes or not interaction.lesson else ()
            self._remembered[interaction.id] = Remembered(told, now.get(interaction.id, ()))

    def _evidence(self, interaction: Interaction, again: str | None = None) -> RecallQuery:
        """What memory says to the request as if it were new, or to the same in other words (`again`)."""
        without = () if again else self._without.get(interaction.id, ())
        query = RecallQuery(
            text=again or interaction.query,
            k=int(interaction.lesson),  # of lessons it matters whether there are any
            choices=interaction.choices,
            decisions=self._grid.queries(),
            before=None if again or without else interaction.id,
            exclude=without,
            with_truth=True,
        )
        return kin(query, interaction)

    async def _prefetch(self, pairs: Collection[tuple[Arm, Interaction]]) -> None:
        """Have memory answer all at once what these replays, at least one, will ask; it is kept in the view."""
        queries = [
            self._agent.replay_query(i, self._grid.draft(0, arm), without=self._without.get(i.id, ()))
            for arm, i in pairs
        ]
        user = next(iter(pairs))[1].user
        await self._caller.patiently(lambda: self._agent.memory.recall_many(user, queries))

    async def _one(self, arm: Arm, interaction: Interaction) -> InvalidInput | LLMError | None:
        draft = unknowing(self._grid.draft(0, arm), interaction)
        remembered = self._remembered[interaction.id]
        error: InvalidInput | LLMError | None = None
        try:
            replay: Replay = await self._caller.call(
                lambda: self._agent.replay(interaction, draft, without=self._without.get(interaction.id, ())),
                lambda r: r.usage,
            )
            scores = await self._scorer.score(interaction, replay, remembered, self._grid, self._caller)
        except (InvalidInput, LLMError) as e:
            scores, error = constant(0.0, "", self._grid), e
        self._done[arm, interaction.id] = scores
        return error


def unknowing(draft: PersonaDraft, interaction: Interaction) -> PersonaDraft:
    """A persona without what it says of one interaction alone, or quotes from it."""
    claims = independent(draft.claims, {interaction.id})
    text = render(claims) if draft.claims else draft.text
    return draft.model_copy(update={"claims": claims, "text": unquoted(text, [interaction]) or prompts.NEW_USER})


def reworded(text: str) -> str:
    """A request as it might be asked again: without every third word.

    In the very same words an older answer would be outvoted however little newer ones weigh; people seldom use them.
    """
    return " ".join(word for n, word in enumerate(text.split(), 1) if n % 3) or text


def _table(rows: Sequence[Scores]) -> ScoreTable:
    return ScoreTable(*(np.stack([getattr(r, name) for r in rows]) for name in ("hard", "soft", "kept")))
