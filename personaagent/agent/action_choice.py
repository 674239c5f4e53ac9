"""The choices of a turn that acts, weighed: which tool is needed, or which value of an argument.

A turn makes them (`personaagent.agent.acting`), and alignment makes them again where a lesson tells what was right
(`personaagent.agent.replaying`). Both weigh them here: alignment must not judge what a persona says by a choice that no turn
makes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from personaagent.agent.decision import Choice, OptionScores, combined, score_options
from personaagent.base import Frozen
from personaagent.errors import LLMError
from personaagent.protocols import LLM, Embedder
from personaagent.tools.matching import likeness
from personaagent.tools.tool import ToolSpec
from personaagent.types import ANSWER, Message

__all__ = ["ActionChoice", "model_scores"]

log = logging.getLogger(__name__)

SWING = (
    10.0  # nats by which a model at weight 1 turns a choice; one that is clearer than that is made without asking it
)

Float = npt.NDArray[np.float64]


class ActionChoice(Frozen):
    """What there is to choose from, and what is known of it without lessons and without the model.

    `fit` is log p of each option from the request and the tools' descriptions; None: nothing tells. `optional` says that
    nothing need be chosen: an argument that the tool does not require, and of which no lesson tells, is left out. `weight` is
    that of the model's scores where the settings say it; None: the persona does.
    """

    options: tuple[str, ...]
    fit: tuple[float, ...] | None = None
    optional: bool = False
    weight: float | None = None

    @classmethod
    async def of_tool(
        cls,
        options: Sequence[str],
        specs: Sequence[ToolSpec],
        request: str,
        embedder: Embedder | None,
        weight: float | None = None,
    ) -> ActionChoice:
        """Which tool.

        Args:
            options: names of tools, and `ANSWER`.
            specs: of those that are known.
            request: the user's.
            embedder: of requests and descriptions; None: how well they fit is left out.
            weight: of the model by the settings.
        """
        fit = None if embedder is None else tuple((await likeness(embedder, request, options, specs)).tolist())
        return cls(options=tuple(options), fit=fit, weight=weight)

    @classmethod
    def of_value(
        cls, options: Sequence[str], argument: str, spec: ToolSpec | None, weight: float | None = None
    ) -> ActionChoice:
        """Which value of an argument; `spec`: the tool's, if it is known."""
        required = () if spec is None else spec.parameters.get("required") or ()
        optional = spec is not None and argument not in required  # type: ignore[operator]  # `check_schema` has seen it
        return cls(options=tuple(options), fit=(0.0,) * len(options), optional=optional, weight=weight)

    def left_out(self, known: Sequence[float] | Float | None) -> bool:
        """Whether nothing is chosen; `known`: log p of each option as lessons tell it, None where they tell nothing."""
        return self.optional and known is None

    def clear(self, known: Sequence[float] | Float | None, weight: float) -> bool:
        """Whether the model can be left out, since it would change nothing; `weight`: of the persona."""
        weight = self._weight(weight)
        best, second = np.sort(self._standing(known, weight))[::-1][:2]
        return bool(best - second > weight * SWING)

    def probabilities(self, lm: Sequence[float] | None, known: Sequence[float] | Float | None, weight: float) -> Float:
        """p of each option, which sum to 1; nothing but zeros where the choice is left out.

        Args:
            lm: log p of each option by the model, or None if it was not asked.
            known: the same by lessons, or None where they tell nothing.
            weight: of the model by the persona.
        """
        if self.left_out(known):
            return np.zeros(len(self.options))
        asked = None if self.clear(known, weight) else lm
        weight = self._weight(weight)
        standing = self._standing(known, weight)
        return np.asarray(combined(asked, standing[None, :], weight, len(self.options))[0], dtype=np.float64)

    def made(self, lm: Sequence[float] | None, known: Sequence[float] | Float | None, weight: float) -> Choice:
        """The choice: the likeliest option, the earlier one of two; an empty answer where it is left out."""
        if self.left_out(known):
            return Choice(answer="", probabilities={})
        p = self.probabilities(lm, known, weight)
        named = dict(zip(self.options, map(float, p), strict=True))
        return Choice(answer=self.options[int(np.argmax(p))], probabilities=named)

    def _weight(self, weight: float) -> float:
        return weight if self.weight is None else self.weight

    def _standing(self, known: Sequence[float] | Float | None, weight: float) -> Float:
        """What is known before the model is asked."""
        total = np.zeros(len(self.options)) if known is None else np.asarray(known, dtype=np.float64)
        if self.fit is not None:
            return np.asarray(total + np.asarray(self.fit), dtype=np.float64)
        if known is None and ANSWER in self.options:  # a weak model does not know when it has enough
            total[self.options.index(ANSWER)] += SWING * (1.0 - weight)
        return total


async def model_scores(
    llm: LLM, messages: Sequence[Message], choice: ActionChoice, priority: int
) -> OptionScores | None:
    """What the model says of each option; None where it gives no scores, as servers of other people may not.

    Raises:
        ContextLengthExceeded: the messages do not fit.
    """
    try:
        return await score_options(llm, messages, choice.options, priority)
    except LLMError as e:
        log.warning("the model gives no scores for tools: %s", e.message)
        return None
