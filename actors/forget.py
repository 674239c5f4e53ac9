"""Forgetting a user everywhere: the one use case behind the API's DELETE and the command `forget`.

Every step may be repeated, and a call that broke off anywhere is finished by the next one. Results of alignment runs go before
memory, so that an "unknown user" is only said when there is nothing left anywhere; and once more after it, because a
run that had read its users before may have written them meanwhile. From then on memory refuses whatever is still under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from actors.jobs.run_folder import erase_user
from personaagent.errors import NotFoundError, UnavailableError
from personaagent.protocols import Memory
from personaagent.types import ForgetReceipt, user_key, utc_now

__all__ = ["forget_everywhere"]

logger = logging.getLogger(__name__)

NODE_S = 60.0  # wait so long for another node to look through its runs


async def forget_everywhere(
    memory: Memory, home: Path, user: str, by: str, told: Callable[[str], None] | None = None
) -> ForgetReceipt:
    """Remove every trace of a user: memory, results of alignment runs on all nodes, and queued work.

    Args:
        memory: of all users.
        home: whose runs are looked through, on every node of the cluster.
        user: whom to forget.
        by: who the audit log says asked for it.
        told: is told the user at the end, so that queues drop them.

    Returns:
        The receipt, with `run_rows` removed from runs.

    Raises:
        NotFoundError: nothing is known of this user anywhere.
        StoreError, UnavailableError: something is left; the same call goes on.
    """
    rows = await _erase_runs(home, user)
    try:
        receipt = await memory.forget(user, by=by)
    except NotFoundError:
        if not rows:
            raise
        receipt = ForgetReceipt(
            user_key=user_key(user),
            time=utc_now(),
            interactions=0,
            personas=0,
            facts=0,
            remaining=0,
            audit_id="",
            note="memory knew nothing of this user; results of alignment runs did",
        )
    rows += await _erase_runs(home, user)
    if told is not None:
        told(user)
    return receipt.model_copy(update={"run_rows": rows})


async def _erase_runs(home: Path, user: str) -> int:
    """Remove a user from the runs on this node's disk, then on those of all others; how many rows that were."""
    rows = await asyncio.to_thread(erase_user, home, user)
    for node in _other_nodes():
        rows += await _erase_on(node, home, user)
    return rows


def _other_nodes() -> list[str]:
    """Ids of the cluster's other nodes; none without Ray. Where they share a disk they will find nothing more."""
    import ray

    if not ray.is_initialized():
        return []
    own = ray.get_runtime_context().get_node_id()
    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != own]


async def _erase_on(node: str, home: Path, user: str) -> int:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    erase = ray.remote(erase_user).options(num_cpus=0, scheduling_strategy=there)
    try:
        async with asyncio.timeout(NODE_S):
            rows: int = await erase.remote(home, user)
            return rows
    except (RayError, TimeoutError) as e:
        logger.warning("node %s could not look through its runs for user %s: %s", node, user_key(user), e)
        raise UnavailableError("a node could not look through its alignment runs; forget the user again") from e
