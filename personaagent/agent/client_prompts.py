"""Prompts by which chat programs keep their own house: titles, tags, follow-up questions, autocompletion, search queries.

Nobody asked these, so they must not become what memory knows of a user. They are told by how they begin, and only by wordings
that a person does not write; an operator adds those of other programs (`serve.housekeeping_patterns`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from personaagent.types import Message

__all__ = ["Housekeeping"]

_BEGINNINGS = (
    # Open WebUI: title, tags, follow-ups, autocompletion, search queries, image prompts; emoji; mixture of agents. Its prompt
    # for answering from documents begins "### Task:" too, but that one carries the user's own question and no history.
    r"#+\s*Task:\s*(?:Generate|Suggest|Analy[sz]e|You are an autocompletion system)\b.*<chat_history>",
    r"Your task is to reflect the speaker's likely facial expression through a fitting emoji",
    r"You have been provided with a set of responses from various models to the latest user query",
    # LibreChat: titles, of its present and older versions
    r"(?:Please )?(?:Provide|Generate|Write) a concise, 5-word-or-less title for the conversation",
    r"Analyze this conversation and provide:\s*1\. The detected language",
    r"Detect user language and write in the same language an extremely concise title",
    # NextChat: titles, and the summary that it sends instead of older messages
    r"Please generate a four to five word title summarizing our conversation",
    r"使用四到五个字直接返回这句话的简要主题",
    r"Summarize the discussion briefly in 200 words or less to use as a prompt for future context",
    # Chatbox
    r"Based on the chat history, give this conversation a name",
    # Programs that say it in the system message, before what the user wrote: OpenCode, Vercel's chatbot
    r"You are a title generator\. You output ONLY",
    r"\W*You will generate a short title based on the first message",
)


class Housekeeping:
    """Recognises such prompts."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """`patterns`: regular expressions, looked for anywhere in a text, of further prompts. Raises re.error for bad ones."""
        self._beginning = re.compile("|".join(f"(?:{p})" for p in _BEGINNINGS), re.IGNORECASE | re.DOTALL)
        self._patterns = [re.compile(pattern) for pattern in patterns]

    def says(self, text: str) -> bool:
        """Whether a text is such a prompt."""
        return self._beginning.match(text.lstrip()) is not None or any(p.search(text) for p in self._patterns)

    def asks(self, messages: Sequence[Message]) -> bool:
        """Whether a request is: by its last user message, or by what its system messages say."""
        last = next((m.text for m in reversed(messages) if m.role == "user"), "")
        return self.says(last) or any(self.says(m.text) for m in messages if m.role in ("system", "developer"))
