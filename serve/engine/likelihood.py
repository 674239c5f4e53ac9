"""How likely the engine's model would have given an answer: one prefill of conversation and answer. Importing it imports vLLM.

vLLM has log-probabilities only of prompt tokens that it computes, so it leaves the prefix cache out when asked for them. Here
the cache is read all the same: of the conversation nobody wants them. It holds the answer's tokens too, once they were read or
generated behind the same conversation. Our scheduler does not take those; where vLLM's own runs, it is asked again without
the cache.
"""

from __future__ import annotations

import uuid
from typing import Any

from ray.serve.llm.openai_api_models import ChatCompletionRequest
from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind

from personaagent.errors import LLMError
from personaagent.types import Likelihood, Usage
from serve.calls import AnswerCall
from serve.engine.scheduler import CACHED_UNTIL

__all__ = ["AnswerReader"]


class AnswerReader:
    """Reads log p(answer | conversation), with the conversation as `chat` would send it to the model."""

    def __init__(self, engine: Any) -> None:
        """`engine`: Ray's, once it was started."""
        # Ray's engine has no method for this; what it asks for chats has.
        self._chat = engine._oai_serving_chat
        self._client = engine._engine_client
        self._end: int | None = None

    async def read(self, call: AnswerCall) -> Likelihood:
        """The answer's likelihood, its end of turn included.

        Raises:
            ValueError, vllm.exceptions.VLLMClientError: the request is wrong, or too long for the context.
            vllm.exceptions.VLLMServerError: the engine failed; EngineDeadError among them.
            LLMError: the engine said nothing of the answer's tokens.
        """
        request = ChatCompletionRequest(**call.body)
        tokens, first = await self._tokens(request, call.answer)
        for cached in (True, False):
            found = await self._prefill(tokens, first, cached, request)
            if found is not None:
                return found
        raise LLMError("the engine gave no log-probabilities for the answer")

    async def _tokens(self, request: ChatCompletionRequest, answer: str) -> tuple[list[int], int]:
        """Conversation, answer and end of turn, and where the answer begins."""
        prompt, text = await self._rendered(request)
        both = await self._tokenised(request, text + answer) if text is not None else []
        if both[: len(prompt)] != prompt:
            # The answer's beginning would join the end of the template to one token, as a newline does. A model that answers
            # never writes that token: the prompt it is given has ended before.
            both = prompt + await self._tokenised(request, answer)
        if self._end is None:
            self._end = await self._end_of_turn(request)
        limit = self._chat.model_config.max_model_len
        if len(both) + 1 >= limit:  # vLLM always generates one token more
            raise ValueError(
                f"This model's maximum context length is {limit} tokens. However, conversation and answer have {len(both) + 1}, "
                "and one more is generated."
            )
        return [*both, self._end], len(prompt)

    async def _rendered(self, request: ChatCompletionRequest) -> tuple[list[int], str | None]:
        """A conversation's tokens as `chat` has them, and their text where the template makes text."""
        rendered = await self._chat.render_chat_request(request)
        if (error := getattr(rendered, "error", None)) is not None:
            raise ValueError(error.message)
        _, (prompt,) = rendered
        if prompt["type"] != "token":
            raise ValueError("likelihoods are of text only")
        return list(prompt["prompt_token_ids"]), prompt.get("prompt")

    async def _tokenised(self, request: ChatCompletionRequest, text: str) -> list[int]:
        how = request.build_tok_params(self._chat.model_config)
        return list((await self._client.renderer.tokenize_prompt_async({"prompt": text}, how))["prompt_token_ids"])

    async def _end_of_turn(self, request: ChatCompletionRequest) -> int:
        """The token that ends an answer. The template writes it behind one; many have the tokeniser's, but not all."""
        usual = self._client.renderer.get_eos_token_id()
        others = self._chat.model_config.try_get_generation_config().get("eos_token_id")
        ends = {usual, *([others] if isinstance(others, int) else others or ())}
        question = [{"role": "user", "content": "Tea?"}]
        asked = request.model_copy(update={"messages": question})
        answered = {"messages": [*question, {"role": "assistant", "content": "Tea"}], "add_generation_prompt": False}
        before, _ = await self._rendered(asked)
        after, _ = await self._rendered(request.model_copy(update=answered))
        common = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
        end = next((token for token in after[common:] if token in ends), usual)
        if end is None:
            raise LLMError("the model's tokeniser has no token that ends an answer")
        return end

    async def _prefill(
        self, tokens: list[int], first: int, cached: bool, request: ChatCompletionRequest
    ) -> Likelihood | None:
        """Read the tokens; None if what is known of the answer came out of the cache, which holds no log-probabilities."""
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            detokenize=False,  # what stands where tokens were cached is not even a token
            skip_reading_prefix_cache=not cached,
            extra_args={CACHED_UNTIL: first - 1},  # a token's log-probability is computed with the token before it
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        name = f"likelihood-{uuid.uuid4().hex}"
        prompt = tokens_input(tokens, cache_salt=request.cache_salt)
        # One output, for it comes when all is done.
        (output,) = [o async for o in self._client.generate(prompt, params, name, priority=request.priority or 0)]
        known = output.num_cached_tokens or 0
        answer = tokens[first:]
        # From the end: one of vLLM's two model runners leaves cached tokens out of the list.
        rows = (output.prompt_logprobs or [])[-len(answer) :]
        # A token's log-probability is computed with the token before it.
        if (
            known >= first
            or [token for token, row in zip(answer, rows, strict=False) if row and token in row] != answer
        ):
            return None
        return Likelihood(
            logprob=sum(row[token].logprob for token, row in zip(answer, rows, strict=True)),
            tokens=len(answer),
            usage=Usage(calls=1, prompt_tokens=len(tokens), cached_tokens=known),
        )
