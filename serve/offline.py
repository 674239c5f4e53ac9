"""The bare engine: recorded requests given to vLLM all at once, without Serve, HTTP or an agent. A process of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from personaagent.types import ChatRequest

from .isolated import isolated, serve_job

__all__ = ["replay"]


async def replay(
    model: str, engine: Mapping[str, Any], environment: Mapping[str, str], requests: Sequence[ChatRequest]
) -> dict[str, float]:
    """Run the requests offline and wait for the end; the engine's processes end with it.

    Args:
        model: folder or Hugging Face id.
        engine: arguments of the served engine; those of its HTTP side are left out.
        environment: variables of the served engine's process.
        requests: recorded calls.

    Returns:
        `seconds`, `prompt_tokens`, `completion_tokens`, `tokens_per_s`, `requests`.

    Raises:
        UnavailableError: the engine did not start, or failed on the way.
    """
    job = {"model": model, "engine": dict(engine), "requests": [r.model_dump(mode="json") for r in requests]}
    return await isolated("serve.offline", job, environment)


def _work(job: dict[str, Any]) -> dict[str, float]:
    import dataclasses

    from vllm import LLM, SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.sampling_params import StructuredOutputsParams

    known = {f.name for f in dataclasses.fields(EngineArgs)}
    engine = LLM(model=job["model"], **{k: v for k, v in job["engine"].items() if k in known})
    requests = [ChatRequest.model_validate(r) for r in job["requests"]]
    limit = engine.model_config.max_model_len
    tokenizer = engine.get_tokenizer()

    def prompt_of(request: ChatRequest) -> dict[str, list[int]]:
        text = tokenizer.apply_chat_template(
            [m.model_dump() for m in request.messages],
            tokenize=False,
            add_generation_prompt=not request.continue_final,
            continue_final_message=request.continue_final,
        )
        return {"prompt_token_ids": tokenizer(text, add_special_tokens=False)["input_ids"]}

    def params_of(request: ChatRequest, prompt: Mapping[str, Sequence[int]]) -> SamplingParams:
        return SamplingParams(
            max_tokens=request.max_tokens or max(1, limit - len(prompt["prompt_token_ids"])),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=None if current_platform.is_cpu() else request.seed,  # as `engine.PersonaLLMServer`
            frequency_penalty=float(request.extra.get("frequency_penalty") or 0.0),
            stop=list(request.stop) or None,
            logprobs=request.top_logprobs or None,
            structured_outputs=StructuredOutputsParams(choice=list(request.choices)) if request.choices else None,
        )

    warm = {"prompt_token_ids": tokenizer("Say yes.")["input_ids"]}
    choose = SamplingParams(max_tokens=1, structured_outputs=StructuredOutputsParams(choice=["yes", "no"]))
    engine.generate([warm, warm], [choose, SamplingParams(max_tokens=2)], use_tqdm=False)

    started = time.perf_counter()
    prompts = [prompt_of(r) for r in requests]
    params = [params_of(r, p) for r, p in zip(requests, prompts, strict=True)]
    answers = engine.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    prompt_tokens = sum(len(p["prompt_token_ids"]) for p in prompts)
    completion_tokens = sum(len(a.outputs[0].token_ids) for a in answers)
    return {
        "requests": len(requests),
        "seconds": seconds,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "tokens_per_s": (prompt_tokens + completion_tokens) / seconds,
    }


if __name__ == "__main__":
    serve_job(_work)
