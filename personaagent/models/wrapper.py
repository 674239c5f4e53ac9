"""What every model around another one has in common."""

from __future__ import annotations

from personaagent.protocols import LLM, Likely, likely

__all__ = ["Wrapping"]


class Wrapping:
    """A model around another one, which `protocols.likely` finds inside; what it does with a call is its subclass's matter."""

    def __init__(self, llm: LLM) -> None:
        """`llm`: the model inside."""
        self._llm = llm

    @property
    def inner(self) -> LLM:
        """The model that is asked."""
        return self._llm

    @property
    def context_length(self) -> int:
        """See `LLM`."""
        return self._llm.context_length

    @property
    def _telling(self) -> Likely:
        """The model inside as one that tells likelihoods. TypeError if it tells none: ask `protocols.likely` before."""
        model = likely(self._llm)
        if model is None:
            raise TypeError("this model tells no likelihoods")
        return model
