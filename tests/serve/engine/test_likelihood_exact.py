"""Likelihoods of the real engine against transformers. About a minute.

In float32 and without rounded activations: in bfloat16, or with 8-bit activations, two ways to compute the same differ by a
nat and more in a sentence, and a wrong token would not be noticed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from personaagent.models.files import resolve_llm
from personaagent.protocols import likely
from personaagent.settings import load_settings
from personaagent.types import LikelihoodRequest, Message
from serve.runtime.system import System
from tests.support.reference_model import Reference

pytestmark = [pytest.mark.model, pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

ANSWERS = (
    "Paris.",
    "Berlin, I think.",
    "  two spaces before",
    "\n\nafter two newlines",
    "one newline behind\n",
    "Париж — столица Франции.",
    "東京です。",
    "🙂 naïve café",
    "<|im_end|>",
    " ",
    "I would rather have a cup of mint tea, and then take the slow train along the river to see my grandmother.",
)
PERSONA = "You are Anna, who likes mint tea, slow trains and short answers, and never eats meat. " * 18


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(Path(resolve_llm(load_settings())))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    home: Path = tmp_path_factory.mktemp("exact")
    reference.save(home / "plain")
    llm = {"model": str(home / "plain"), "dtype": "float32", "max_model_len": 1024, "kv_cache_gb": 1}
    running = await System.start(load_settings(home=home, llm=llm))
    yield running
    await running.close()


async def test_likelihoods_are_those_of_the_model(system: System, reference: Reference) -> None:
    llm = likely(system.llm)
    assert llm is not None
    requests = [
        LikelihoodRequest(
            messages=(Message(role="system", content=persona), Message(role="user", content="Where to?")), answer=answer
        )
        for answer in ANSWERS
        for persona in ("Hi", PERSONA)
    ]
    expected = [reference.likelihood([m.model_dump() for m in r.messages], r.answer) for r in requests]
    for cached in (False, True):
        found = await llm.likelihoods(requests)
        assert [f.tokens for f in found] == [tokens for _, tokens in expected]
        # Sums of up to thirty logarithms of sums of 49,152 terms, in single precision.
        assert [f.logprob for f in found] == pytest.approx([logprob for logprob, _ in expected], abs=1e-2)
        assert not cached or max(f.usage.cached_tokens for f in found) > 300
