"""The scripted engine's model of single words, for computing by hand what it tells of an answer."""

from __future__ import annotations

import math
from typing import Any

END = "<end>"  # of a turn
VOCABULARY = 1000  # words that might come


def script(messages: list[dict[str, Any]]) -> str:
    """The text of a conversation, without the invitation to answer."""
    return "".join(f"{m['role']}: {m['content']} {END} " for m in messages)


def unigram(before: list[str], word: str) -> float:
    """The log-probability of a word, given those before it."""
    return math.log((before.count(word) + 1) / (len(before) + VOCABULARY))
