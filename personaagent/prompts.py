"""Every prompt of the project, in the order in which they enter a conversation.

The prompt's parts are joined in a fixed order with byte-stable texts, so that vLLM's prefix cache serves what requests
have in common: instructions and tools (all users), persona (one user), recalled episodes, the turn.
"""

from __future__ import annotations

__all__ = [
    "ALIGN_SYSTEM",
    "ANSWER_NOW",
    "CHOOSE",
    "EDIT",
    "EPISODES_HEADING",
    "INSTRUCTIONS",
    "JUDGE",
    "LOSS",
    "NEW_USER",
    "NO_CLAIMS",
    "NO_PERSONA",
    "OPTIONS",
    "PERSONA_HEADING",
    "PROFILE_BUILD",
    "PROFILE_SYSTEM",
    "TOOLS",
    "TOOL_RESULT",
    "UPDATE",
]

# --- answering ---------------------------------------------------------------------------------------------------------

INSTRUCTIONS = (
    "You are a personal assistant to one particular user. Answer the way this user would want: follow what is said about "
    "them below and how they settled similar requests before. Keep answers short and in the user's own style."
)

TOOLS = """\
If you need to know more about the user before answering, reply with one line and nothing else:
<tool_call>{"name": "search_episodes", "arguments": {"query": "what to look for"}}</tool_call> to find similar past requests, or
<tool_call>{"name": "read_profile", "arguments": {}}</tool_call> to read what is known about the user.
Otherwise answer directly."""

PERSONA_HEADING = "About this user:"

NEW_USER = "Nothing is known about this user yet. Be helpful and friendly, and do not guess at their tastes."

EPISODES_HEADING = "Similar requests of this user, and what they wanted:"

EPISODE_LINE = "- Asked: {query} Wanted: {truth}"

OPTIONS = "{query}\nOptions: {choices}"

TOOL_RESULT = "Result of {name}: {result}"

ANSWER_NOW = "Answer the request now, without looking up anything else."

# --- semantic memory ---------------------------------------------------------------------------------------------------

PROFILE_SYSTEM = "You note what a person's past choices say about them. You never invent anything."

PROFILE_BUILD = """\
Below are numbered requests of one person, each with what the person wanted.
{episodes}

Write at most {count} lines about lasting preferences or habits that these show. Each line ends with the numbers it rests on,
like: - prefers strong black coffee in the morning [2, 5]
Lines:
"""

# --- alignment ---------------------------------------------------------------------------------------------------------
# Short, one task each, the task last: the smallest models lose a task that stands far from the end.

ALIGN_SYSTEM = "You keep short notes about one person, so that an assistant can answer the way this person wants."

LOSS = """\
Notes about the person:
{persona}

The person asked: {query}
With these notes the assistant answered: {answer}
What the person really wanted: {truth}

In one or two sentences, say what the notes get wrong or leave out about this person."""

UPDATE = """\
Notes about the person:
{persona}

What the notes get wrong or leave out:
{losses}

Write better notes about this person. Keep what is right, correct what is wrong and add what is left out. Use at most \
{words} words. Write only the notes."""

EDIT = """\
Notes about the person:
{claims}

The person asked: {query}
With these notes the assistant answered: {answer}
What the person really wanted: {truth}

Which one change of the notes would have led to the right answer, and to right answers to similar requests? Add a note, \
replace a note that is wrong, or strike one. A note says in one short sentence what this person prefers, avoids, is, or how \
they write; it says nothing about this single request. Answer in JSON: "loss" (one sentence: what the notes get wrong or leave \
out), "action" (add, replace or strike), "number" (of the note to replace or strike, else 0), "kind" (writes, prefers, avoids, \
fact or rule), "text" (the new note)."""

NO_CLAIMS = "(none yet)"

JUDGE = """\
A person asked: {query}
The answer this person wanted: {truth}
The answer of an assistant: {answer}

How close is the assistant's answer to the wanted one in content and style? Answer with one digit from 1 (unlike it) to 5 \
(as good as the same)."""

# --- evaluation --------------------------------------------------------------------------------------------------------

NO_PERSONA = "There are no notes about this user. Go by the request, and by earlier requests where there are any."

CHOOSE = "Now answer the request with one of its options and nothing else: {choices}"
