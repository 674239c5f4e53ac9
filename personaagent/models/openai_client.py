"""Chat models behind any OpenAI-compatible URL, and the translation between our requests and OpenAI's schema."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import openai

from personaagent.errors import (
    ContextLengthExceeded,
    InvalidInput,
    LLMError,
    OverloadedError,
    PersonaAgentError,
    RequestRefused,
    UnavailableError,
)
from personaagent.models.files import model_name
from personaagent.settings import Settings, TeacherSettings
from personaagent.types import ChatRequest, ChatResult, Usage

__all__ = ["OpenAILLM", "StreamParser", "connected_llm", "engine_error", "request_body", "result_of", "teacher_llm"]

log = logging.getLogger(__name__)

_NO_ANSWER = (
    "what the model's server sent is no chat completion; check that llm.base_url is an OpenAI-compatible server's"
)
MAX_TOP_LOGPROBS = 20  # OpenAI's bound; vLLM's own is a setting of the engine
# What servers other than vLLM may refuse. An answer is still worth having without it.
_OPTIONAL = ("structured_outputs", "priority")


def request_body(request: ChatRequest, model: str) -> dict[str, Any]:
    """The request in OpenAI's schema with vLLM's extensions; fields at their default are left out."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_with_ids(message.model_dump()) for message in request.messages],
        "temperature": request.temperature,
        **request.extra,
    }
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = list(request.stop)
    if request.choices:
        body["structured_outputs"] = {"choice": list(request.choices)}
    if request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.continue_final:
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    if request.priority:
        body["priority"] = request.priority
    return body


def _with_ids(message: dict[str, Any]) -> dict[str, Any]:
    """The message with an id for every tool call: vLLM asks for one, and not all clients keep those they were given."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [{"id": f"call_{place}", **call} for place, call in enumerate(calls)]}


def result_of(response: dict[str, Any]) -> ChatResult:
    """A whole response in OpenAI's schema as a result.

    Raises:
        LLMError: it holds no answer, or is no such response.
    """
    with _understood():
        return _result_of(response)


def _result_of(response: dict[str, Any]) -> ChatResult:
    choices = response.get("choices") or []
    if not choices:
        raise LLMError("the model answered with nothing")
    choice = choices[0]
    message = {k: v for k, v in choice["message"].items() if v is not None and v != []}
    message.setdefault("content", None)
    positions = (choice.get("logprobs") or {}).get("content") or []
    first = positions[0]["top_logprobs"] if positions else []
    return ChatResult(
        text=message["content"] or "",
        finish_reason=choice.get("finish_reason") or "stop",
        usage=usage_of(response.get("usage")),
        first_logprobs=tuple((t["token"], t["logprob"]) for t in first),
        message=message,
    )


def usage_of(usage: dict[str, Any] | None) -> Usage:
    """OpenAI's usage object, of one call."""
    usage = usage or {}
    return Usage(
        calls=1,
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
    )


@contextmanager
def _understood() -> Iterator[None]:
    """Reads what another program wrote. Raises LLMError where it is not what it should be."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        log.warning("a model's answer cannot be read (%s)", type(e).__name__)
        raise LLMError(_NO_ANSWER) from e


class StreamParser:
    """Gathers the chunks of a streamed answer; `result` is what they add up to."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._answered = False
        self._finish = "stop"
        self._usage: dict[str, Any] | None = None

    def add(self, chunk: dict[str, Any]) -> str:
        """The text that a chunk adds; often empty. Raises LLMError if it is no chunk of an answer."""
        with _understood():
            return self._add(chunk)

    def _add(self, chunk: dict[str, Any]) -> str:
        self._usage = chunk.get("usage") or self._usage
        text = ""
        for choice in chunk.get("choices") or []:
            self._answered = True
            text += (choice.get("delta") or {}).get("content") or ""
            self._finish = choice.get("finish_reason") or self._finish
        if text:
            self._pieces.append(text)
        return text

    @property
    def begun(self) -> bool:
        """Whether there was any text."""
        return bool(self._pieces)

    @property
    def result(self) -> ChatResult:
        """The whole answer so far. Raises LLMError if there was nothing that could be the beginning of one."""
        if not self._answered:
            raise LLMError("the model answered with nothing")
        text = "".join(self._pieces)
        message = {"role": "assistant", "content": text}
        with _understood():
            return ChatResult(text=text, finish_reason=self._finish, usage=usage_of(self._usage), message=message)


def engine_error(status: int, message: str, code: object = None) -> PersonaAgentError:
    """What an engine's error means to us."""
    line = message.strip().split("\n")[0] or "no reason given"
    lowered = line.lower()
    if code == "context_length_exceeded" or "context length" in lowered or "context window" in lowered:
        return ContextLengthExceeded(line)
    if status == 429:
        return OverloadedError(f"the model cannot take the request now: {line}")
    if status in (408, 502, 503, 504):
        return UnavailableError(f"the model cannot take the request now: {line}")
    if status in (401, 403):
        return LLMError("the model's server refused our credentials; check the API key in the settings")
    if status in (404, 405):
        return LLMError(f"the model's server knows no such model or route; check llm.model and llm.base_url: {line}")
    if 400 <= status < 500:
        return RequestRefused(f"the model refused the request: {line}")
    return LLMError(f"the model failed: {line}")


class OpenAILLM:
    """`protocols.LLM` through the `openai` client. It can be sent to other processes."""

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        context_length: int = 4096,
        timeout_s: float = 300.0,
        batch_slots: int | None = None,
    ) -> None:
        """Args:
        base_url: of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.
        model: the model's name there.
        api_key: sent as bearer token; never logged.
        context_length: tokens that prompt and answer may take together.
        timeout_s: of one call, until its first byte of each part.
        batch_slots: requests of priority > 0 in flight from this process; None for no bound.
        """
        self._arguments = (base_url, model, api_key, context_length, timeout_s, batch_slots)
        self._model = model
        self._context_length = context_length
        self._batch = asyncio.Semaphore(batch_slots) if batch_slots else None
        self._unsupported: set[str] = set()
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",
            timeout=openai.Timeout(timeout_s, connect=10.0),
            max_retries=2,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        url, model, key, context_length, timeout_s, slots = self._arguments
        return (_rebuild, (url, model, key, context_length, timeout_s, slots))

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may take together."""
        return self._context_length

    async def chat(self, request: ChatRequest) -> ChatResult:
        """The whole answer. Raises as `protocols.LLM.chat` says."""
        if self._batch is not None and request.priority > 0:
            async with self._batch:
                return await self._completed(request)
        return await self._completed(request)

    async def _completed(self, request: ChatRequest) -> ChatResult:
        response = await self._create(request, stream=False)
        with _understood():
            return _result_of(response.model_dump(warnings=False))

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """Pieces of text, then the whole answer."""
        parser = StreamParser()
        chunks = await self._create(request, stream=True)
        try:
            async with chunks:
                async for chunk in chunks:
                    with _understood():
                        content = chunk.model_dump(warnings=False)  # they would quote the answer
                    if text := parser.add(content):
                        yield text
        except openai.OpenAIError as e:
            raise _translated(e) from e
        except ValueError as e:  # what the client raises for an event that is not JSON
            raise LLMError(_NO_ANSWER) from e
        yield parser.result

    async def check(self, timeout_s: float = 5.0) -> None:
        """Raise UnavailableError unless the server answers."""
        try:
            await self._client.with_options(max_retries=0, timeout=timeout_s).models.list()
        except openai.APIConnectionError as e:
            raise UnavailableError(f"no OpenAI-compatible server answers at {self._arguments[0]}") from e
        except openai.APIStatusError as e:
            if e.status_code in (401, 403):
                raise _translated(e) from e
            log.debug("the server does not list its models (status %d)", e.status_code)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _create(self, request: ChatRequest, stream: bool) -> Any:
        """One call; an optional extension that the server refuses is left out from then on, and said so once."""
        body = request_body(request, self._model)
        if "top_logprobs" in body:
            body["top_logprobs"] = min(body["top_logprobs"], MAX_TOP_LOGPROBS)
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        while True:
            sent = {k: v for k, v in body.items() if k not in self._unsupported}
            known = {k: sent.pop(k) for k in ("model", "messages", "stream") if k in sent}
            try:
                return await self._client.chat.completions.create(**known, extra_body=sent)
            except openai.BadRequestError as e:
                refused = next((k for k in _OPTIONAL if k in sent and k in str(e.message).lower()), None)
                if refused is None:
                    raise _translated(e) from e
                log.warning("the model's server does not support %s; going on without it", refused)
                self._unsupported.add(refused)
            except openai.OpenAIError as e:
                raise _translated(e) from e
            except ValueError as e:  # what the client raises for a body that is not JSON
                raise LLMError(_NO_ANSWER) from e


def _rebuild(
    url: str, model: str, key: str | None, context_length: int, timeout_s: float, slots: int | None
) -> OpenAILLM:
    return OpenAILLM(url, model, key, context_length=context_length, timeout_s=timeout_s, batch_slots=slots)


def _translated(error: openai.OpenAIError) -> PersonaAgentError:
    if isinstance(error, openai.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        return engine_error(error.status_code, str(body.get("message") or error.message), error.code)
    if isinstance(error, openai.APITimeoutError):
        return UnavailableError("the model's server did not answer in time (llm.timeout_s)")
    if isinstance(error, openai.APIConnectionError):
        return UnavailableError("the model's server cannot be reached, or broke off")
    if isinstance(error, openai.APIError):  # an error inside a stream
        return engine_error(500, error.message, error.code)
    return LLMError(f"the model's server answered in an unknown way ({type(error).__name__})")


def connected_llm(settings: Settings) -> OpenAILLM:
    """The model behind `llm.base_url`.

    Raises:
        InvalidInput: there is no URL, or no model name with it.
    """
    llm = settings.llm
    if llm.base_url is None:
        raise InvalidInput("llm.base_url is not set")
    return OpenAILLM(
        llm.base_url,
        model_name(settings),
        llm.api_key.get_secret_value() if llm.api_key else None,
        context_length=llm.max_model_len,
        timeout_s=llm.timeout_s,
        batch_slots=max(1, int(llm.batch_share * llm.max_num_seqs)),
    )


def teacher_llm(teacher: TeacherSettings, timeout_s: float = 300.0) -> OpenAILLM | None:
    """The model that writes losses and rewrites, or None if the served model does it.

    Raises:
        InvalidInput: a URL without a model, or a model without a URL.
    """
    if teacher.base_url is None and teacher.model is None:
        return None
    if teacher.base_url is None or teacher.model is None:
        raise InvalidInput("alignment.teacher needs both base_url and model")
    key = teacher.api_key.get_secret_value() if teacher.api_key else None
    return OpenAILLM(teacher.base_url, teacher.model, key, context_length=32_768, timeout_s=timeout_s)
