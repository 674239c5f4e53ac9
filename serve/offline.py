"""The bare engine: recorded requests given to vLLM all at once, without Serve, HTTP or an agent. A process of its own.

    python -m serve.offline JOB.json

The job file names the model, the engine's arguments, the requests and the file the result goes to.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from personaagent.errors import UnavailableError
from personaagent.types import ChatRequest

__all__ = ["replay"]

_ROOT = Path(__file__).resolve().parent.parent


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
    with tempfile.TemporaryDirectory(prefix="personaagent-offline-") as folder:
        job, result = Path(folder) / "job.json", Path(folder) / "result.json"
        content = {
            "model": model,
            "engine": dict(engine),
            "requests": [r.model_dump(mode="json") for r in requests],
            "result": str(result),
        }
        job.write_text(json.dumps(content), encoding="utf-8")
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "serve.offline", str(job)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **environment, "PYTHONPATH": path},
            start_new_session=True,  # vLLM starts processes of its own, which must go with it
        )
        try:
            _, error = await process.communicate()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode or not result.is_file():
            lines = error.decode("utf-8", "replace").strip().splitlines()
            raise UnavailableError(f"the engine failed offline: {lines[-1] if lines else 'no reason given'}")
        found: dict[str, float] = json.loads(result.read_text("utf-8"))
        return found


def main(job_file: str) -> None:
    """What the process does."""
    import dataclasses

    from vllm import LLM, SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.sampling_params import StructuredOutputsParams

    job = json.loads(Path(job_file).read_text("utf-8"))
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
            seed=request.seed,
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
    measured = {
        "requests": len(requests),
        "seconds": seconds,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "tokens_per_s": (prompt_tokens + completion_tokens) / seconds,
    }
    Path(job["result"]).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
