"""What a chat request is answered with: OpenAI's completion, or its chunks as server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from personaagent.agent.agent import Reply
from personaagent.agent.explanation import why
from personaagent.tools.toolbox import Observation
from personaagent.types import Usage

__all__ = ["RESPONSE", "ChunkWriter", "completion", "sse", "traced"]

RESPONSE = "chatcmpl-"  # a response's id is this and the interaction's
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _extension(reply: Reply) -> dict[str, Any]:
    return {
        "interaction_id": reply.interaction_id,
        "persona": reply.persona,
        "recalled": list(reply.recalled),
        "scores": reply.scores,
        "expected": reply.expected,
        "why": None if reply.reasons is None else why(reply.reasons),
        "saw": None if reply.saw is None else reply.saw.model_dump(mode="json"),
        "copied": None if reply.copied is None else reply.copied.model_dump(mode="json"),
        "samples": None if reply.samples is None else reply.samples.model_dump(mode="json"),
        "steps": reply.steps,
        "trace": None if reply.trace is None else [traced(o) for o in reply.trace],
    }


def traced(observation: Observation) -> dict[str, Any]:
    """A call of a tool as programs read it."""
    call = observation.call
    return {
        "tool": call.name,
        "arguments": call.arguments,
        "result": observation.text,
        "error": observation.error,
        "client": observation.client,
        "seconds": round(observation.seconds, 4),
        "decided_seconds": round(observation.decided_s, 4),
        "written_seconds": round(observation.written_s, 4),
        "tokens": observation.tokens,
        "bytes": observation.bytes,
        "chosen": {name: round(p, 4) for name, p in observation.chosen.items()},
    }


def completion(reply: Reply, model: str) -> dict[str, Any]:
    """OpenAI's chat.completion object."""
    message = {"role": "assistant", "refusal": None, **reply.message, "content": reply.text}
    if message.get("tool_calls"):
        message["content"] = reply.text or None
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
    return {
        "id": f"{RESPONSE}{reply.interaction_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": _usage(reply.usage),
        "personaagent": _extension(reply),
    }


class ChunkWriter:
    """OpenAI's chat.completion.chunk objects of one answer, as server-sent events."""

    def __init__(self, interaction: str, model: str, include_usage: bool) -> None:
        self._head: dict[str, Any] = {
            "id": f"{RESPONSE}{interaction}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._include_usage = include_usage

    def start(self) -> str:
        """The first event."""
        return self._choice({"role": "assistant", "content": ""})

    def text(self, piece: str) -> str:
        """An event with a piece of the answer."""
        return self._choice({"content": piece})

    def end(self, reply: Reply) -> Iterator[str]:
        """The last events: tool calls, the finish reason with our extension, usage if asked for, and the end mark."""
        for index, call in enumerate(reply.message.get("tool_calls") or []):
            yield self._choice({"tool_calls": [{**call, "index": index}]})
        yield self._choice({}, reply.finish_reason, {"personaagent": _extension(reply)})
        if self._include_usage:
            yield sse({**self._head, "choices": [], "usage": _usage(reply.usage)})
        yield "data: [DONE]\n\n"

    def _choice(self, delta: dict[str, Any], finish: str | None = None, more: dict[str, Any] | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        return sse({**self._head, "choices": [choice], **usage, **(more or {})})


def sse(data: dict[str, Any]) -> str:
    """One server-sent event.

    Clients in several languages end a line at these characters, too; JSON may hold them as escapes wherever it may hold them.
    """
    return f"data: {json.dumps(data, ensure_ascii=False).translate(_LINE_ENDS)}\n\n"
