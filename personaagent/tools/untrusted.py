"""What tools answer is data. It is marked as such before a model reads it, and cannot forge the mark or a turn of the talk.

Only the marks are looked for, not the meaning: a text that asks for something stays as it is, and stays data. What it could be
told to do is bounded elsewhere, by what tools see and by what memory notes.
"""

from __future__ import annotations

import re

from personaagent import prompts
from personaagent.base import readable

__all__ = ["as_data", "cleaned"]

# Tokens by which chat templates part the speakers and mark what they do: <|im_start|>, <|eot_id|>, <｜User｜>, <start_of_turn>,
# <s>, <tool_call>, <function=f>, [INST] ... and our own mark, however it is spelled and even where it does not end.
_OPEN, _CLOSE, _BAR = "[<＜﹤]", "[>＞﹥]", "[|｜]"
_SPEAKS = (
    r"bos|eos|pad|unk|cls|sep|mask|(?:start|end|begin)_of_\w+|unused\d+|eo[ti]|fim_\w+|tools?|tool_\w+|functions?|"
    r"function_\w+|parameter|think|thinking|system|assistant|user|human|im_\w+"
)
_CONTROL = re.compile(
    rf"{_OPEN}\s{{0,3}}{_BAR}[^<>＜＞﹤﹥]{{1,60}}?{_BAR}\s{{0,3}}{_CLOSE}"
    rf"|{_OPEN}/?(?:s\s{{0,3}}|(?:{_SPEAKS})(?![\w-])[^<>＜＞﹤﹥]{{0,60}}){_CLOSE}"
    rf"|{_OPEN}\s{{0,3}}[/∕⁄／]?\s{{0,3}}d[a\u0430]t[a\u0430](?![\w-])(?:[^<>＜＞﹤﹥]{{0,60}}{_CLOSE})?"
    r"|<</?SYS>>"
    r"|\[\s{0,3}/?\s{0,3}(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\w+|ARGS|CALL_ID|THINK|PREFIX|SUFFIX|MIDDLE)\s{0,3}\]",
    re.IGNORECASE,
)
_HARMLESS = str.maketrans("<＜﹤>＞﹥[]", "‹‹‹›››()")
# What a person does not see and a model reads: control characters, what has no width, what turns the direction of writing, and
# tags and variation selectors, in which whole texts can be hidden. Joiners stay where scripts and pictures need them.
_UNSEEN = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
    "|[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}|[\u200c\u200d]{2,}|(?<=[ -~])[\u200c\u200d]|[\u200c\u200d](?=[ -~])"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def as_data(name: str, text: str) -> str:
    """A tool's result between marks, without anything in it that ends them or speaks as somebody else; nor in the name, which
    an application or a history file may have made up."""
    return prompts.TOOL_RESULT.format(name=" ".join(cleaned(name).split()), result=cleaned(text))


def cleaned(text: str) -> str:
    """`text` as valid Unicode, without tokens by which chat templates part the speakers and without what nobody sees."""
    seen = _CONTROLS.sub(" ", _UNSEEN.sub("", readable(text.replace("\r\n", "\n"))))
    return _CONTROL.sub(lambda m: m[0].translate(_HARMLESS), seen)
