"""The memory service of a cluster: its shards are Ray actors, which are found or started."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.memory.client import ShardedMemory
from actors.memory.redaction import Redaction
from actors.memory.remote_shard import remote_shard
from actors.memory.shard_actor import MemoryShardActor
from actors.milvus.open import ShardConfig
from personaagent.errors import StoreError
from personaagent.protocols import Embedder
from personaagent.settings import Settings

__all__ = ["NAMESPACE", "start_memory"]

NAMESPACE = "personaagent"
CONCURRENT_CALLS = 2_000  # per shard


async def start_memory(settings: Settings, embedder: Embedder, by: str = "service") -> ShardedMemory:
    """The memory of these settings: its shards are found in the cluster, or started. Ray must be running.

    Raises:
        StoreError: the store is damaged, in use, or not what the settings say; shards started for it are ended.
        InvalidInput: memory.redact or memory.encryption_key needs the `privacy` extra, or is not a key.
        UnavailableError: the Milvus server or the embedder is away.
    """
    redaction = Redaction(settings.memory.redact)
    await redaction.ready()
    # An embedder in this process knows without loading its model; one behind a handle has it loaded anyway.
    dim = getattr(embedder, "dim", None) or (await embedder.embed(["how long is a vector"])).shape[1]
    model = settings.embedder.model
    # The same model may lie elsewhere on another machine: a path is named by its last folder.
    name = model.rstrip("/").rsplit("/", 1)[-1] if model.startswith(("/", ".", "~")) else model
    configs = [
        ShardConfig(
            memory=settings.memory,
            store_dir=settings.store_dir,
            audit_dir=settings.home / "audit",
            embedder=name,
            dim=dim,
            shard=shard,
        )
        for shard in range(settings.memory.shards)
    ]
    started: list[Any] = []
    shards: list[Any] = []
    for config in configs:
        try:
            shards.append(ray.get_actor(config.actor_name, namespace=NAMESPACE))
        except ValueError:
            shards.append(_create(config))
            started.append(shards[-1])
    opened = await asyncio.gather(
        *(remote_shard(shard, n).ready(config) for n, (shard, config) in enumerate(zip(shards, configs, strict=True))),
        return_exceptions=True,
    )
    if errors := [e for e in opened if isinstance(e, BaseException)]:
        for shard in started:
            ray.kill(shard, no_restart=True)
        # The one that says most about the cause: a store's own words before a shard that merely is not there.
        raise next((e for e in errors if isinstance(e, StoreError)), errors[0])
    return ShardedMemory(embedder, shards, configs, by, redaction)


def _create(config: ShardConfig) -> Any:
    """Start a shard that outlives this process, and that Ray starts anew whenever its process dies.

    Raises:
        StoreError: its store is a file, and in a cluster of several nodes nobody knows on which of them.
    """
    actor = ray.remote(MemoryShardActor).options(
        name=config.actor_name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0.01,  # hardly any, but not 0: nodes that are kept free of work (a cluster's head) offer none
        max_restarts=-1,
        max_task_retries=0,  # `remote_shard` repeats calls
        max_concurrency=CONCURRENT_CALLS,
        # Its matrices are small: on two cores several threads made a recall with evidence half as slow again.
        scheduling_strategy=_where(config),
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}},
    )
    return actor.remote(config)


def _where(config: ShardConfig) -> Any:
    """Where a shard may run. Milvus Lite's files are on one node: on any other a shard would begin an empty store."""
    if config.memory.uri is not None:
        return "DEFAULT"
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if len(nodes) > 1:
        raise StoreError(
            f"this cluster has {len(nodes)} nodes, and memories in Milvus Lite files are on the disk of one; set memory.uri to"
            " a Milvus server"
        )
    here = ray.get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(node_id=here, soft=False)  # also when nodes join later, and it is restarted
