"""An engine under the real LLMServer that answers by rule: RAYLLM_VLLM_ENGINE_CLS=tests.support.scripted_engine.ScriptedEngine.

The answer repeats the last user message. Its first word can ask for more:
    refuse   an error of the request        die      the process ends at once
    explode  an exception
    dead     what vLLM raises when its engine is gone
    slow     nothing, for a minute
A closed choice falls on the option that comes first in the last message, or on the first. How likely an answer is tells a
model of single words: those that stand before are likelier. It has a prefix cache, and `dead` and `refuse` work as above.
Environment:
    SCRIPTED_DELAY_S  seconds per call      SCRIPTED_HOLD  calls of priority > 0 wait while this file exists
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import time
import uuid
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.llm._internal.serve.core.configs.openai_api_models import (  # the classes that the real engine answers with
    ChatCompletionResponse,
    ErrorResponse,
)
from ray.llm._internal.serve.core.engine.protocol import LLMEngine
from ray.serve.llm import LLMConfig
from vllm import RequestOutput, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.inputs import tokens_input
from vllm.logprobs import Logprob
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from tests.support.scripted_words import END, script, unigram

BLOCK = 16  # tokens of the prefix cache


def token(word: str) -> int:
    """A word's token."""
    return zlib.crc32(word.encode())


class Words:
    """What `AnswerReader` uses of vLLM's AsyncLLM and OpenAIServingChat, for the model of single words."""

    def __init__(self, context: int, hold: str | None) -> None:
        self._context = context
        self._hold = hold
        self._words: dict[int, str] = {}
        self._cached: set[tuple[int, ...]] = set()  # beginnings that end with a whole block
        self.renderer = self
        self.model_config = SimpleNamespace(max_model_len=context, try_get_generation_config=dict)

    def get_eos_token_id(self) -> int:
        return token(END)

    async def render_chat_request(self, request: Any) -> Any:
        text = script(request.messages) + ("assistant: " if request.add_generation_prompt else "")
        tokens = await self.tokenize_prompt_async({"prompt": text}, request.build_tok_params(self.model_config))
        return [], [tokens_input(tokens["prompt_token_ids"], prompt=text)]

    async def tokenize_prompt_async(self, prompt: dict[str, str], params: Any) -> dict[str, list[int]]:
        words = prompt["prompt"].split()
        if len(words) + params.max_output_tokens > self._context:
            raise VLLMValidationError(f"This model's maximum context length is {self._context} tokens.")
        self._words |= {token(w): w for w in words}
        return {"prompt_token_ids": [token(w) for w in words]}

    async def generate(
        self, prompt: Any, params: SamplingParams, request_id: str, priority: int = 0
    ) -> AsyncIterator[RequestOutput]:
        while self._hold and priority > 0 and Path(self._hold).exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
        tokens = prompt["prompt_token_ids"]
        words = [self._words.get(t, END) for t in tokens]
        command = words[len(words) - words[::-1].index("user:")]
        if command == "dead":
            raise EngineDeadError
        if command == "explode":
            raise EngineGenerateError
        await asyncio.sleep(0.001)
        known = 0
        for end in range(BLOCK, len(tokens), BLOCK):
            beginning = tuple(tokens[:end])
            if not params.skip_reading_prefix_cache and beginning in self._cached and known == end - BLOCK:
                known = end
            self._cached.add(beginning)
        rows = [{t: Logprob(unigram(words[:n], words[n]))} for n, t in enumerate(tokens)]
        rows[: known + 1] = [{-1: Logprob(0.0)}] * (known + 1)  # nobody has computed these
        yield RequestOutput(request_id, None, tokens, rows, [], finished=True, num_cached_tokens=known)


class ScriptedEngine(LLMEngine):  # type: ignore[misc]
    def __init__(self, llm_config: LLMConfig) -> None:
        self._context = int(llm_config.engine_kwargs.get("max_model_len", 4096))
        self._delay = float(os.environ.get("SCRIPTED_DELAY_S", "0"))
        self._hold = os.environ.get("SCRIPTED_HOLD")
        self._model = llm_config.model_id
        self._engine_client = self._oai_serving_chat = Words(self._context, self._hold)

    async def start(self) -> None:
        pass

    async def check_health(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass

    async def reset_prefix_cache(self) -> None:
        pass

    def routing_stats(self) -> dict[str, Any]:
        return {}

    async def resolve_lora(self, lora_model: Any) -> None:
        raise ValueError("no LoRA here")

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        yield _error("no completions here")

    async def embeddings(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        yield _error("no embeddings here")

    async def transcriptions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        yield _error("no transcriptions here")

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        body = request.model_dump()
        messages = [dict(m) for m in body["messages"]]
        prompt = sum(len(str(m.get("content"))) // 4 + 4 for m in messages)
        wanted = body.get("max_tokens") or 16
        if prompt + wanted > self._context:
            yield _error(
                f"This model's maximum context length is {self._context} tokens. However, you requested {wanted} output "
                f"tokens and your prompt contains {prompt} input tokens."
            )
            return
        while self._hold and body["priority"] > 0 and Path(self._hold).exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
        await asyncio.sleep(self._delay)
        last = next((str(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")
        command = last.split(" ", 1)[0]
        if command == "refuse":
            yield _error("the script refuses")
            return
        if command == "slow":  # until the caller goes away
            await asyncio.sleep(60)
        if command == "die":
            os._exit(1)
        if command == "dead":
            raise EngineDeadError
        if command == "explode":
            raise RuntimeError("the script explodes")
        choices = (body.get("structured_outputs") or {}).get("choice")
        text = _chosen(choices, last) if choices else f"echo: {last}"
        words = re.findall(r"\S+\s*", text)[:wanted] if not choices else [text]
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": len(words),
            "total_tokens": prompt + len(words),
            "prompt_tokens_details": {"cached_tokens": prompt // 2},
        }
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self._model}
        if not body["stream"]:
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(words)},
                "finish_reason": "stop",
                "logprobs": _logprobs(choices, text) if choices and body["logprobs"] else None,
            }
            yield ChatCompletionResponse(**head, choices=[choice], usage=usage)
            return
        head["object"] = "chat.completion.chunk"
        yield _event(head, {"role": "assistant", "content": ""})
        for word in words:
            await asyncio.sleep(0)
            yield _event(head, {"content": word})
        yield _event(head, {}, "stop")
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


def _chosen(choices: list[str], text: str) -> str:
    return min(choices, key=lambda c: text.find(c) if c in text else len(text))


def _error(message: str) -> ErrorResponse:
    return ErrorResponse(error={"message": message, "type": "BadRequestError", "code": 400})


def _event(head: dict[str, Any], delta: dict[str, Any], finish: str | None = None) -> str:
    chunk = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"  # as vLLM writes them


def _logprobs(choices: list[str], chosen: str) -> dict[str, Any]:
    """The chosen option has .9 of the mass, the others share the rest; tokens are whole options."""
    rest = 0.1 / max(1, len(choices) - 1)
    tokens = [{"token": c, "logprob": math.log(0.9 if c == chosen else rest), "bytes": None} for c in choices]
    return {"content": [{"token": chosen, "logprob": math.log(0.9), "bytes": None, "top_logprobs": tokens}]}
