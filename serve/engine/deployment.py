"""How the engine is deployed: its arguments, replicas and limits, from the settings. Importing it imports vLLM."""

from __future__ import annotations

import math
import os
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig
from ray.serve.llm import LLMConfig, build_llm_deployment

from personaagent.models.files import context_length, llm_source, model_name
from personaagent.settings import EMBEDDED, LLMSettings, Settings
from serve.accelerator import on_gpu
from serve.engine.scheduler import STEP_TOKENS
from serve.engine.server import PersonaLLMServer

__all__ = ["llm_config", "llm_deployment"]

MAX_LOGPROBS = 128  # option scores read up to 100 tokens of the first position
CPU_CHAT_STEP = 32  # tokens; see `LLMSettings.chat_step_tokens`


class LocalModel(CallbackBase):  # type: ignore[misc]
    """Skips Ray's download step for a model that is a local folder: it would import vLLM once more for nothing."""

    async def on_before_node_init(self) -> None:
        """Called by the engine before it looks for the model."""
        self.ctx.run_init_node = False


def llm_config(settings: Settings, model: str) -> LLMConfig:
    """The engine's configuration for this cluster. Ray must be connected.

    Args:
        settings: the tree.
        model: the folder or Hugging Face id to load.
    """
    llm = settings.llm
    gpu = on_gpu(settings)
    environment = {
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if gpu:
        placement: dict[str, Any] = {"bundle_per_worker": {"GPU": 1}}
    else:
        placement = {"bundles": [{"CPU": 1}] * llm.tensor_parallel}
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, math.ceil(llm.kv_cache_gb)))
    local = llm.model == EMBEDDED or os.path.isdir(model)
    return LLMConfig(
        model_loading_config={"model_id": model_name(settings), "model_source": model},
        accelerator_config={"kind": "gpu" if gpu else "cpu"},
        placement_group_config=placement,
        engine_kwargs=_engine_arguments(settings, gpu),
        runtime_env={"env_vars": environment},
        deployment_config=_replicas(llm),
        server_cls=PersonaLLMServer,
        callback_config=CallbackConfig(callback_class=LocalModel if local else CallbackBase),
        log_engine_metrics=False,
    )


def _engine_arguments(settings: Settings, gpu: bool) -> dict[str, Any]:
    llm = settings.llm
    engine: dict[str, Any] = {
        "max_model_len": context_length(settings),
        "max_num_seqs": llm.max_num_seqs,
        "max_logprobs": MAX_LOGPROBS,
        "enable_prefix_caching": True,
        "enable_prompt_tokens_details": True,
        "scheduling_policy": "priority",
        "dtype": llm.dtype,
        "tensor_parallel_size": llm.tensor_parallel,
    }
    if llm.model == EMBEDDED:  # its tool calls have this form; another model's parser is for engine_kwargs to say
        engine |= {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    if not gpu:
        engine["block_size"] = (
            32  # the CPU default of 128 tokens lets the prefix cache share too little of short prompts
        )
        engine["enforce_eager"] = True  # compiling for the CPU costs minutes and gains little
    engine |= llm.engine_kwargs
    step = llm.chat_step_tokens or (None if gpu else CPU_CHAT_STEP)
    if step is not None and "scheduler_cls" not in engine:
        engine["scheduler_cls"] = f"serve.engine.scheduler.{'AsyncChatFirst' if gpu else 'ChatFirst'}"
        engine["additional_config"] = {**engine.get("additional_config", {}), STEP_TOKENS: step}
    return engine


def _replicas(llm: LLMSettings) -> dict[str, Any]:
    """How many engines there are, and how requests come to them."""
    deployment: dict[str, Any] = {
        # Ray's defaults for both are a billion, which switches autoscaling off.
        "max_ongoing_requests": llm.max_ongoing_requests,
        "autoscaling_config": {
            "min_replicas": llm.min_replicas,
            "max_replicas": max(llm.min_replicas, llm.max_replicas),
            "target_ongoing_requests": llm.target_ongoing_requests,
        },
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        "graceful_shutdown_timeout_s": 10,
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    if deployment["autoscaling_config"]["max_replicas"] > 1:
        # A user's requests begin alike; sent to one replica (`HandleLLM` names it by the prefix), they find it cached.
        deployment["request_router_config"] = {
            "request_router_class": "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
        }
    return deployment


def llm_deployment(settings: Settings, name: str) -> Any:
    """The engine as a Serve application node, to be bound into another deployment. Ray must be connected."""
    llm = settings.llm
    slots = max(1, int(llm.batch_share * llm.max_num_seqs))
    # Half of what Serve lets in stays free of waiting batch work, or chat would queue behind it in Serve.
    waiting = max(1, llm.max_ongoing_requests // 2 - slots)
    limits = {"batch_slots": slots, "batch_waiting": waiting, "chats": llm.max_num_seqs + llm.max_queued_chats}
    return build_llm_deployment(
        llm_config(settings, llm_source(settings)),
        bind_kwargs={"settings": settings, **limits},
        override_serve_options={"name": name, "max_queued_requests": llm.max_ongoing_requests},
    )
