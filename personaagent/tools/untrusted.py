"""What tools answer is data. It is marked as such before a model reads it, and cannot forge the mark or a turn of the talk."""

from __future__ import annotations

import re

from personaagent import prompts
from personaagent.base import readable

__all__ = ["as_data", "cleaned"]

# Tokens by which chat templates part the speakers: <|im_start|>, <｜User｜>, [INST], <start_of_turn>, <s>, <tool_call> ...
_CONTROL = re.compile(
    r"<[|｜][^<>|｜]{1,40}[|｜]>|</?s>|<[be]os>|</?think>|<</?SYS>>|</?(?:start|end)_of_turn>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_(?:CALLS|RESULTS|CONTENT)|CALL_ID|THINK)\]"
    r"|</?tool_(?:call|response|result)s?>|</?data>",
    re.IGNORECASE,
)


def as_data(name: str, text: str) -> str:
    """A tool's result between marks, without anything in it that ends them or speaks as somebody else; nor in the name, which
    an application or a history file may have made up."""
    return prompts.TOOL_RESULT.format(name=" ".join(cleaned(name).split()), result=cleaned(text))


def cleaned(text: str) -> str:
    """`text` as valid Unicode, without tokens by which chat templates part the speakers."""
    quoted = _CONTROL.sub(lambda m: m[0].replace("<", "‹").replace(">", "›").replace("[", "(").replace("]", ")"), text)
    return readable(quoted)
