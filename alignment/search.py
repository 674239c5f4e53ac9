"""The search for a better persona of one user: candidates, successive halving, selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from alignment.budget import Caller
from alignment.candidates import DEMONSTRATIONS, Arm
from alignment.gate import ROUNDING, clearly_better
from alignment.rollouts import Rollouts
from alignment.splits import Split
from alignment.stages import stage
from alignment.textual import Proposer, unquoted
from personaagent.errors import BudgetExceeded
from personaagent.settings import AlignmentSettings
from personaagent.types import Interaction, Kind

__all__ = ["Search", "SearchResult", "fitted_kinds"]

Mask = npt.NDArray[np.bool_]

ENOUGH = 4  # selection interactions it takes to fit anything but the prose


@dataclass
class SearchResult:
    """The challenger (arm and decision); `arm` and `index` are the incumbent's if nothing was clearly better."""

    arm: Arm
    index: int = 0
    candidates: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    reason: str = ""


def fitted_kinds(split: Split) -> list[Kind]:
    """The kinds of requests there are enough of to fit decision parameters on; prose is tried in any case."""
    counts = Counter(i.kind for i in split.select)
    return [kind for kind in (Kind.CHOICE, Kind.RATING) if counts[kind] >= ENOUGH]


class Search:
    """Looks for a persona that is clearly better on the selection set, among other arms and the decisions it is allowed.

    Of the gate's interactions it uses nothing; it only takes care that personas shown to the teacher do not quote them.
    """

    def __init__(
        self,
        settings: AlignmentSettings,
        proposer: Proposer | None,
        rollouts: Rollouts,
        caller: Caller,
        allowed: Mask,
        texts: Sequence[str] = (),
    ) -> None:
        """Args:
        settings: of alignment.
        proposer: of prose; None leaves the prose as it is.
        rollouts: replays of the user.
        caller: of the teacher.
        allowed: which decisions of the grid it may move to, (grid.size,).
        texts: personas to try beside those proposed.
        """
        self._settings = settings
        self._texts = texts
        self._proposer = proposer
        self._rollouts = rollouts
        self._caller = caller
        self._allowed = allowed

    @stage("search")
    async def run(self, base: Arm, split: Split, index: int = 0) -> SearchResult:
        """Up to `iterations` steps from `base` and decision `index`, each from the best so far; one that finds nothing is
        the last.

        Running out of budget ends it too, with the best so far.
        """
        found = SearchResult(base, index)
        try:
            for _ in range(self._settings.iterations):
                if not await self._step(found, split):
                    break
        except BudgetExceeded as e:
            found.reason = e.message
        return found

    async def _step(self, found: SearchResult, split: Split) -> bool:
        base, rewrite, select = found.arm, split.rewrite, split.select
        await self._rollouts.run([base], [*rewrite, *select])
        table = self._rollouts.scores(base, [*rewrite, *select])
        if table.hard[:, found.index].min() >= 1.0 - 1e-6:
            found.reason = "every answer was already right"
            return False
        arms = [base]
        try:
            arms = await self._arms(found, split)
            found.candidates += len(arms) * int(self._allowed.sum()) - 1
            arms = await self._halve(arms, select)
        finally:  # also when the budget ends: what was replayed to the end can still win
            better = self._select(found, [a for a in arms if self._rollouts.finished(a, select)], select)
        return better

    async def _arms(self, found: SearchResult, split: Split) -> list[Arm]:
        """The incumbent's arm, rewritten ones, and other ways of showing episodes."""
        base = found.arm
        texts = list(self._texts)
        if self._proposer is not None:
            cases = self._rollouts.cases(base, found.index, split.rewrite)
            shown = unquoted(base.text, split.gate)
            proposals = await self._proposer.propose(shown, cases, self._settings.candidates, self._caller)
            found.dropped += proposals.dropped
            texts = [*proposals.texts, *texts]
        arms = [base, *(Arm(text, base.episodes, base.form) for text in texts)]
        if len(split.select) >= ENOUGH and self._model_matters(base, [*split.rewrite, *split.select]):
            arms += [Arm(base.text, n, form) for n, form in DEMONSTRATIONS]
        return list(dict.fromkeys(arms))

    def _model_matters(self, base: Arm, interactions: Sequence[Interaction]) -> bool:
        """Whether other ways of showing episodes are worth their calls: what they change, they change through the model.

        They are not where the model changes no answer that memory gives, unless some decision that listens to it more does
        at least as well. All decisions were scored on these replays already. Prose is tried in any case: it also speaks
        to requests of other kinds than those that can be replayed.
        """
        silent = self._rollouts.silent(base, interactions)[self._allowed]
        if not silent.any():
            return True
        value = self._rollouts.scores(base, interactions).value.mean(axis=0)[self._allowed]
        return bool(not silent.all() and value[~silent].max() >= value[silent].max() - ROUNDING)

    async def _halve(self, arms: list[Arm], select: Sequence[Interaction]) -> list[Arm]:
        """Try all arms on a third of the selection set, the better half of them (and the incumbent) on all of it."""
        base, others = arms[0], arms[1:]
        rung = max(ENOUGH, -(-len(select) // 3))
        if len(others) > 1 and rung < len(select):
            # Spread over time, the newest among them: what the user wants may have changed on the way.
            few = [select[round(i)] for i in np.linspace(len(select) - 1, 0, rung)]
            await self._rollouts.run(others, few)
            others = sorted(others, key=lambda a: -self._value(a, few))[: -(-len(others) // 2)]
            prose = next((a for a in others if a.text != base.text), None)
            shown = next((a for a in others if a.text == base.text), None)
            if prose and shown:  # both got this far, so both together may go further
                others.append(Arm(prose.text, shown.episodes, shown.form))
        await self._rollouts.run(others, select)
        return [base, *others]

    def _value(self, arm: Arm, interactions: Sequence[Interaction]) -> float:
        return float(self._rollouts.scores(arm, interactions).value.mean(axis=0)[self._allowed].max())

    def _select(self, found: SearchResult, arms: Sequence[Arm], select: Sequence[Interaction]) -> bool:
        base = found.arm
        if base not in arms:
            return False
        own = self._rollouts.scores(base, select).column(found.index)
        best = -np.inf
        for arm in arms:  # the incumbent's arm first, so that a tie changes least
            sure = clearly_better(self._rollouts.scores(arm, select), own, self._settings.min_gain)
            sure = np.where(self._allowed, sure, -np.inf)
            if sure.max() > best:
                best = float(sure.max())
                found.arm, found.index = arm, int(sure.argmax())
        if best == -np.inf:
            found.reason = f"nothing was clearly better on {len(select)} interactions"
        return best > -np.inf
