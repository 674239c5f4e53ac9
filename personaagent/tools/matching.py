"""How well a request fits the description of each tool, told from embeddings alone: what is known before anybody was observed.

It is the first stage of tool retrieval (as in ToolLLM, Qin et al., 2023) with one thing more: answering at once is an option
too, as likely as a tool whose description has a fixed cosine with the request.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from personaagent.protocols import Embedder
from personaagent.tools.tool import ToolSpec

__all__ = ["likeness"]

SPREAD = 0.06  # of cosines, that makes a tool likelier by a factor of e
AT_ONCE = 0.30  # cosine at which a tool is as likely as an answer without it


async def likeness(embedder: Embedder, request: str, specs: Sequence[ToolSpec]) -> npt.NDArray[np.float64]:
    """log p of answering at once and of each tool, shape (1 + len(specs),), normalised."""
    texts = [f"{spec.name.replace('_', ' ')}: {spec.description}" for spec in specs]
    vectors = await embedder.embed([request, *texts])
    utility = np.concatenate(([AT_ONCE], vectors[1:] @ vectors[0])) / SPREAD
    utility -= utility.max()
    return np.asarray(utility - np.log(np.exp(utility).sum()), dtype=np.float64)
