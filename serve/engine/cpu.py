"""Fits vLLM to the processor of a node without a GPU. Importing it imports vLLM."""

from __future__ import annotations

import os
import time
from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_models import VLLMEngineConfig
from ray.serve.llm import LLMConfig

from personaagent.models.files import is_quantised
from personaagent.settings import Settings

__all__ = ["cpu_fit", "fit_to_cpu", "quicker_dtype"]

FEW_CORES = 4  # on so many or fewer, no core is spared for vLLM's scheduler
STEP_TOKENS = 512  # of few cores: larger steps leave their caches, and hold up what is being decoded
IN_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


class OneProcess(VLLMEngineConfig):  # type: ignore[misc]
    """An engine that computes in the process that schedules; Ray gives it a worker process whatever is asked for.

    vLLM's scheduler spins while a worker computes, which takes a large share of few cores.
    """

    def get_initialization_kwargs(self) -> dict[str, Any]:
        """As Ray has them, but for the executor."""
        return {**super().get_initialization_kwargs(), "distributed_executor_backend": IN_PROCESS}


def fit_to_cpu(config: LLMConfig, settings: Settings) -> None:
    """Choose number format and processes for this node, where the settings leave them open. Changes `config`."""
    arguments, environment = cpu_fit(settings)
    os.environ.update(environment)
    executor = arguments.pop("distributed_executor_backend", None)
    config.update_engine_kwargs(**arguments)
    if executor is not None:
        engine = config.get_engine_config()
        config._engine_config = OneProcess(**{name: getattr(engine, name) for name in VLLMEngineConfig.model_fields})


def cpu_fit(settings: Settings) -> tuple[dict[str, Any], dict[str, str]]:
    """Engine arguments and environment variables that suit this node, beside those of the settings."""
    llm = settings.llm
    arguments: dict[str, Any] = {}
    if llm.dtype == "auto" and "dtype" not in llm.engine_kwargs:
        arguments["dtype"] = "bfloat16" if is_quantised(settings) else quicker_dtype()
    cores = len(os.sched_getaffinity(0))
    if cores > FEW_CORES:
        return arguments, {}
    if "max_num_batched_tokens" not in llm.engine_kwargs:  # a step has at least one token of every sequence
        arguments["max_num_batched_tokens"] = max(STEP_TOKENS, llm.max_num_seqs)
    if llm.tensor_parallel == 1 and not {"tensor_parallel_size", "pipeline_parallel_size"} & set(llm.engine_kwargs):
        arguments["distributed_executor_backend"] = IN_PROCESS
    # Ray has set the first to the logical CPUs asked for; the second is for an engine of several workers, if nobody set it.
    reserved = os.environ.get("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    return arguments, {"OMP_NUM_THREADS": str(cores), "VLLM_CPU_NUM_OF_RESERVED_CPU": reserved}


def quicker_dtype() -> str:
    """`bfloat16` or `float32`, whichever this processor multiplies faster; some emulate bfloat16."""
    import torch

    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, weight = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        torch.nn.functional.linear(rows, weight)  # the first one sets things up
        started = time.perf_counter()
        for _ in range(8):
            torch.nn.functional.linear(rows, weight)
        seconds[dtype] = time.perf_counter() - started
    return "float32" if seconds[torch.float32] < seconds[torch.bfloat16] else "bfloat16"
