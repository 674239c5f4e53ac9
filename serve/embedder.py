"""The embedder as a deployment that batches the texts of all users, and the handle's side of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)

from personaagent import deadline
from personaagent.aio import together
from personaagent.errors import OverloadedError, UnavailableError
from personaagent.models.embedding import SentenceEmbedder
from personaagent.models.files import resolve_embedder
from personaagent.protocols import Matrix
from personaagent.settings import Settings
from serve.batcher import TextBatcher
from serve.loopback import stay_local

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["EmbedderDeployment", "HandleEmbedder", "embedder_deployment"]

_GONE = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
ONGOING = 1000  # calls that a replica takes at once; the batcher is fair among them
QUEUED = 1000  # calls that may wait in front of it, per caller's process
WAIT_S = 0.003  # that the first text of a batch waits for others
_BACKOFF_S = (0.05, 1.0)


class EmbedderDeployment:
    """One replica: a model, a cache of recent texts and a batcher."""

    def __init__(self, settings: Settings) -> None:
        stay_local()
        config = settings.embedder
        self._model = SentenceEmbedder(
            resolve_embedder(settings), max_batch=config.max_batch, cache_texts=config.cache_texts
        )
        self._model.load()
        self._model.encode(["warm-up"])
        self._batcher = TextBatcher(self._model.encode, config.max_batch, WAIT_S)

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
            UnavailableError: the embedder is down, or did not answer in time.
            OverloadedError: too many calls wait for it, and this one is part of a request with a deadline.
        """
        texts = list(texts)
        if len(texts) <= self._chunk:
            return await self._call(texts)
        starts = range(0, len(texts), self._chunk)
        return np.concatenate(await together(self._call(texts[s : s + self._chunk]) for s in starts))

    async def _call(self, texts: list[str]) -> Matrix:
        """One call of a replica. What is nobody's request waits while there is no room for it."""
        async with deadline.bounded(self._timeout_s, f"the embedder did not answer within {self._timeout_s:g} s"):
            died, wait = False, _BACKOFF_S[0]
            while True:
                try:
                    return await self._answer(texts)
                except BackPressureError as e:
                    if deadline.remaining() is not None:
                        raise OverloadedError("too many texts wait for the embedder; try again in a few seconds") from e
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, _BACKOFF_S[1])
                except _GONE as e:
                    if died:
                        raise UnavailableError("the embedder's replica died twice under the same call") from e
                    died = True
                except (RayError, RayServeException) as e:
                    raise UnavailableError(f"the embedder failed ({type(e).__name__}); see the replica's log") from e

    async def _answer(self, texts: list[str]) -> Matrix:
        """The rows of one call, which is cancelled in the replica whatever ends the waiting for it."""
        response = self._handle.embed.remote(texts)
        answered = False
        try:
            rows: Matrix = await response
            answered = True
            return rows
        finally:
            if not answered:
                response.cancel()


def embedder_deployment(settings: Settings, name: str) -> Any:
    """The embedder as a Serve application node, to be bound into another deployment."""
    config = settings.embedder
    # Ray gives a worker one thread for less than one CPU; the model uses what the machine has.
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    options: dict[str, Any] = {
        "name": name,
        "num_replicas": config.num_replicas,
        "max_ongoing_requests": ONGOING,
        "max_queued_requests": QUEUED,
        "ray_actor_options": {"num_cpus": 0.5, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}}},
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    return serve.deployment(EmbedderDeployment, **options).bind(settings)
