"""The embedder as a deployment that batches the texts of all users, and the handle's side of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

from personaagent.embedding import SentenceEmbedder
from personaagent.errors import UnavailableError
from personaagent.models import resolve_embedder
from personaagent.protocols import Matrix
from personaagent.settings import Settings

from .batcher import TextBatcher

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["Embedder", "HandleEmbedder", "embedder_deployment"]

_GONE = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)


class Embedder:
    """One replica: a model, a cache of recent texts and a batcher."""

    def __init__(self, settings: Settings) -> None:
        config = settings.embedder
        self._model = SentenceEmbedder(
            resolve_embedder(settings), max_batch=config.max_batch, cache_texts=config.cache_texts
        )
        self._model.load()
        self._model.encode(["warm-up"])
        self._batcher = TextBatcher(self._model.encode, config.max_batch, config.batch_wait_ms / 1000)

    async def embed(self, texts: list[str]) -> Matrix:
        """One row per text."""
        rows = self._model.cached(texts)
        return rows if rows is not None else await self._batcher.submit(texts)


class HandleEmbedder:
    """`protocols.Embedder` over the deployment. It can be sent to other processes of the cluster."""

    def __init__(self, handle: DeploymentHandle[Any], max_batch: int = 64, timeout_s: float = 300.0) -> None:
        """Args:
        handle: of the Embedder deployment.
        max_batch: texts per pass of the model; four times as many are sent in one call.
        timeout_s: of one call.
        """
        self._handle = handle
        self._chunk = 4 * max_batch
        self._timeout_s = timeout_s

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """One row per text, float32, L2-normalised; shape (len(texts), dim).

        Raises:
            UnavailableError: the embedder is down.
        """
        texts = list(texts)
        if len(texts) <= self._chunk:
            return await self._call(texts)
        starts = range(0, len(texts), self._chunk)
        return np.concatenate(await asyncio.gather(*(self._call(texts[s : s + self._chunk]) for s in starts)))

    async def _call(self, texts: list[str]) -> Matrix:
        for attempt in (1, 2):
            response = self._handle.embed.remote(texts)
            try:
                async with asyncio.timeout(self._timeout_s):
                    rows: Matrix = await response
                    return rows
            except _GONE as e:
                if attempt == 2:
                    raise UnavailableError("the embedder's replica died twice under the same call") from e
            except TimeoutError as e:
                raise UnavailableError(f"the embedder did not answer within {self._timeout_s:g} s") from e
            except RayError as e:
                raise UnavailableError(f"the embedder failed ({type(e).__name__}); see the replica's log") from e
        raise AssertionError("unreachable")


def embedder_deployment(settings: Settings, name: str) -> Any:
    """The embedder as a Serve application node, to be bound into another deployment."""
    config = settings.embedder
    # Ray gives a worker one thread for less than one CPU; the model uses what the machine has.
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    options: dict[str, Any] = {
        "name": name,
        "num_replicas": config.num_replicas,
        "max_ongoing_requests": 1000,
        "ray_actor_options": {"num_cpus": 0.5, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}}},
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    return serve.deployment(Embedder, **options).bind(settings)
