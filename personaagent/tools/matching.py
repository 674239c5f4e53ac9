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
from personaagent.types import ANSWER

__all__ = ["likeness"]

SPREAD = 0.06  # of cosines, that makes a tool likelier by a factor of e
DESCRIBED = 1_000  # characters of a description: an application may send a hundred long ones with every request
AT_ONCE = 0.30  # cosine at which a tool is as likely as an answer without it


async def likeness(
    embedder: Embedder, request: str, names: Sequence[str], specs: Sequence[ToolSpec]
) -> npt.NDArray[np.float64]:
    """log p of each name, shape (len(names),), normalised.

    Args:
        embedder: of requests and descriptions.
        request: the user's.
        names: of tools; `ANSWER`, which is to answer at once, may be among them.
        specs: of those that are known; of others the name is all that can be told.
    """
    known = {spec.name: f": {spec.description[:DESCRIBED]}" for spec in specs}
    tools = [name for name in names if name != ANSWER]
    vectors = await embedder.embed([request, *(f"{name.replace('_', ' ')}{known.get(name, '')}" for name in tools)])
    cosines = dict(zip(tools, map(float, vectors[1:] @ vectors[0]), strict=True))
    utility = np.asarray([cosines.get(name, AT_ONCE) for name in names], dtype=np.float64) / SPREAD
    utility -= utility.max()
    return np.asarray(utility - np.log(np.exp(utility).sum()), dtype=np.float64)
