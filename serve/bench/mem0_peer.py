"""The mem0 side of `personaagent bench memory`, run as `python -m serve.bench.mem0_peer FOLDER EPISODES CALLS`.

Prints p50 and p99 of recall in milliseconds; exit code 3 if mem0 is not installed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Fill a mem0 memory of two users and time searches for one of them."""
    folder, size, calls = arguments[0], int(arguments[1]), int(arguments[2])
    try:
        from mem0 import Memory
    except ImportError:
        return 3
    from serve.bench.memory import DIM, MadeUpVectors, episodes, percentiles

    class Vectors:
        """mem0's embedder interface over the same vectors."""

        config = SimpleNamespace(embedding_dims=DIM)

        def embed(self, text: str, memory_action: str | None = None) -> list[float]:
            return [float(x) for x in MadeUpVectors.one(text)]

        def embed_batch(self, texts: Sequence[str], memory_action: str | None = None) -> list[list[float]]:
            return [self.embed(text) for text in texts]

    unused = {"api_key": "unused"}  # no model is called with infer=False
    store = {
        "url": f"{folder}/mem0.db",
        "token": "",
        "collection_name": "mem0",
        "embedding_model_dims": DIM,
        "db_name": "",
    }
    memory = Memory.from_config(
        {
            "vector_store": {"provider": "milvus", "config": store},
            "llm": {"provider": "openai", "config": unused},
            "embedder": {"provider": "openai", "config": {**unused, "embedding_dims": DIM}},
            "history_db_path": f"{folder}/history.db",
        }
    )
    memory.embedding_model = Vectors()
    for user in ("someone", "else"):
        for i in episodes(user, size):
            memory.add([{"role": "user", "content": i.query}], user_id=user, infer=False)
    memory.search("warm up", filters={"user_id": "someone"}, top_k=4)
    took = []
    for n in range(calls):
        started = time.perf_counter()
        memory.search(f"Which tea today, question {n}?", filters={"user_id": "someone"}, top_k=4)
        took.append(time.perf_counter() - started)
    result = percentiles(took)
    print(result["p50"], result["p99"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
