"""The bare engine: recorded requests given to vLLM all at once, without Serve, HTTP or an agent. A process of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from personaagent.types import ChatRequest, LikelihoodRequest, Message
from serve.bench.child_process import isolated, serve_job

__all__ = ["replay"]


async def replay(
    model: str,
    engine: Mapping[str, Any],
    environment: Mapping[str, str],
    requests: Sequence[ChatRequest | LikelihoodRequest],
) -> dict[str, float]:
    """Run the requests offline and wait for the end; the engine's processes end with it.

    Args:
        model: folder or Hugging Face id.
        engine: arguments of the served engine; those of its HTTP side are left out.
        environment: variables of the served engine's process.
        requests: recorded calls.

    Returns:
        `seconds`, `prompt_tokens`, `cached_tokens` among them, `completion_tokens`, `tokens_per_s`, `requests`.

    Raises:
        UnavailableError: the engine did not start, or failed on the way.
    """
    job = {"model": model, "engine": dict(engine), "requests": [r.model_dump(mode="json") for r in requests]}
    return await isolated("serve.bench.bare_engine", job, environment)


def _work(job: dict[str, Any]) -> dict[str, float]:
    import dataclasses

    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs

    known = {f.name for f in dataclasses.fields(EngineArgs)}
    engine = LLM(model=job["model"], **{k: v for k, v in job["engine"].items() if k in known})
    asks = _Prompts(engine.get_tokenizer(), engine.model_config.max_model_len)
    _generate(engine, asks, _WARM_UP)

    requests = [(LikelihoodRequest if "answer" in r else ChatRequest).model_validate(r) for r in job["requests"]]
    started = time.perf_counter()
    answers = _generate(engine, asks, requests)
    seconds = time.perf_counter() - started
    prompt_tokens = sum(len(a.prompt_token_ids) for a in answers)
    # Behind a likelihood's prompt vLLM generates a token, which nobody asked for and the served engine does not count either.
    chats = [a for a, r in zip(answers, requests, strict=True) if isinstance(r, ChatRequest)]
    completion_tokens = sum(len(a.outputs[0].token_ids) for a in chats)
    return {
        "requests": len(requests),
        "seconds": seconds,
        "prompt_tokens": prompt_tokens,
        "cached_tokens": sum(a.num_cached_tokens or 0 for a in answers),
        "completion_tokens": completion_tokens,
        "tokens_per_s": (prompt_tokens + completion_tokens) / seconds,
    }


def _generate(engine: Any, asks: _Prompts, requests: Sequence[ChatRequest | LikelihoodRequest]) -> Sequence[Any]:
    """The engine's outputs, all requests given to it at once."""
    both = [asks.likelihood(r) if isinstance(r, LikelihoodRequest) else asks.chat(r) for r in requests]
    return engine.generate(  # type: ignore[no-any-return]
        [{"prompt_token_ids": tokens} for tokens, _ in both],
        [params for _, params in both],
        use_tqdm=False,
        # Without it all of them would be chats, which our scheduler gives shorter steps.
        priority=[r.priority for r in requests],
    )


class _Prompts:
    """Recorded requests as the served engine has them: tokens, and how they are sampled."""

    def __init__(self, tokenizer: Any, limit: int) -> None:
        """`limit`: tokens of the context."""
        self._tokenizer = tokenizer
        self._limit = limit

    def chat(self, request: ChatRequest) -> tuple[list[int], Any]:
        """A chat."""
        from vllm import SamplingParams
        from vllm.platforms import current_platform
        from vllm.sampling_params import StructuredOutputsParams

        tokens = self._tokens(self._text(request.messages, request.continue_final))
        bound = {"choice": list(request.choices)} if request.choices else request.extra.get("structured_outputs")
        return tokens, SamplingParams(
            max_tokens=request.max_tokens or max(1, self._limit - len(tokens)),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=None if current_platform.is_cpu() else request.seed,  # as `engine.PersonaLLMServer`
            frequency_penalty=float(request.extra.get("frequency_penalty") or 0.0),
            stop=list(request.stop) or None,
            logprobs=request.top_logprobs or None,
            structured_outputs=StructuredOutputsParams(**bound) if bound else None,
        )

    def likelihood(self, request: LikelihoodRequest) -> tuple[list[int], Any]:
        """Conversation, answer and end of turn, read once with the conversation out of the prefix cache; see `AnswerReader`."""
        from vllm import SamplingParams

        from serve.engine.scheduler import CACHED_UNTIL

        text = self._text(request.messages)
        before, both = self._tokens(text), self._tokens(text + request.answer)
        if both[: len(before)] != before:
            both = before + self._tokens(request.answer)
        # Which token ends a turn makes no difference to the time it takes.
        tokens = [*both, self._tokenizer.eos_token_id]
        return tokens, SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            detokenize=False,
            skip_reading_prefix_cache=False,
            extra_args={CACHED_UNTIL: len(before) - 1},
        )

    def _text(self, messages: Sequence[Message], continued: bool = False) -> str:
        text: str = self._tokenizer.apply_chat_template(
            [m.model_dump() for m in messages],
            tokenize=False,
            add_generation_prompt=not continued,
            continue_final_message=continued,
        )
        return text

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


_HI = (Message(role="user", content="Say yes."),)
_JSON = {"structured_outputs": {"json": {"type": "object", "properties": {"yes": {"type": "boolean"}}}}}
# The first call of each kind is slow: lazy imports, the grammar's compiler.
_WARM_UP: tuple[ChatRequest | LikelihoodRequest, ...] = (
    ChatRequest(messages=_HI, max_tokens=2),
    ChatRequest(messages=_HI, max_tokens=1, choices=("yes", "no"), top_logprobs=5),
    ChatRequest(messages=_HI, max_tokens=2, extra=_JSON),
    LikelihoodRequest(messages=_HI, answer="yes"),
)


if __name__ == "__main__":
    serve_job(_work)
