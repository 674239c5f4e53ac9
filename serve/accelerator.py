"""What the engine computes on."""

from __future__ import annotations

import ray

from personaagent.settings import Settings

__all__ = ["on_gpu"]


def on_gpu(settings: Settings) -> bool:
    """Whether the engine runs on GPUs. Ray must be connected."""
    kind = settings.llm.accelerator
    return kind == "gpu" or (kind == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
