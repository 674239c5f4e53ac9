"""Prompts of chat programs for titles, tags and the like: told from questions, kept out of memory, found by the doctor."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from actors.upkeep.doctor import doctor
from personaagent.agent.client_prompts import Housekeeping
from personaagent.settings import MemorySettings, ServeSettings, Settings
from personaagent.types import Message, user_key
from tests.actors.upkeep.test_store_upkeep import stores
from tests.support.api_world import World
from tests.support.store_contract import make_row

HISTORY = "<chat_history>\nUSER: What goes with figs?\nASSISTANT: Cheese.\n</chat_history>"
ASKED_BY_PROGRAMS = [
    f"### Task:\nGenerate a concise title summarizing the chat history.\n### Guidelines:\n- Short.\n{HISTORY}",
    f"### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n{HISTORY}",
    f"### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history.\n{HISTORY}",
    f"\n### Task:\nSuggest 3-5 relevant follow-up questions that the user might ask next.\n{HISTORY}",
    f"### Task:\nAnalyze the chat history to determine the necessity of generating search queries.\n{HISTORY}",
    f"### Task:\nYou are an autocompletion system. Continue the text in `<text>`.\n### Context:\n{HISTORY}\n<text>f</text>",
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only return the title"
    " itself.\n\nConversation:\nUser: figs\nAI: cheese",
    "Please generate a concise, 5-word-or-less title for the conversation, using its same language.",
    "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A concise title",
    "Please generate a four to five word title summarizing our conversation without any lead-in",
]
ASKED_BY_PEOPLE = [
    "Generate a concise title for my essay on figs.",
    "### Task:\nGenerate a title for my blog post.",
    "Please suggest 3-5 follow-up questions for my interview.",
    # Open WebUI's prompt for answering from documents, which carries the question.
    "### Task:\nRespond to the user query using the provided context.\n<context>\n<source>figs</source>\n</context>\n\nfigs?",
    "What does <chat_history> mean in a prompt?",
    "My colleague wrote: Provide a concise, 5-word-or-less title for the conversation. What is that for?",
    "",
]


@pytest.mark.parametrize("text", ASKED_BY_PROGRAMS)
async def test_what_programs_ask_is_answered_and_forgotten(text: str) -> None:
    world = World()
    response = await world.chat("ann", text)
    assert response.json()["choices"][0]["message"]["content"].startswith("you said")
    assert response.headers["X-PersonaAgent-Remembered"] == "false"
    assert await world.memory.latest("ann", 5) == ()


@pytest.mark.parametrize("text", ASKED_BY_PEOPLE)
def test_what_people_ask_is_no_housekeeping(text: str) -> None:
    assert not Housekeeping().says(text)


def test_system_messages_may_say_it_too() -> None:
    asked = Message(role="user", content="What goes with figs?")
    title = "\n\n    - you will generate a short title based on the first message a user begins a conversation with"
    for system in ("You are a title generator. You output ONLY a thread title. Nothing else.", title):
        assert Housekeeping().asks([Message(role="system", content=system), asked])
    assert not Housekeeping().asks([Message(role="system", content="You are a helpful cook."), asked])


async def test_the_settings_say_what_becomes_of_it() -> None:
    keeping = World(housekeeping_prompts="remember")
    await keeping.chat("ann", ASKED_BY_PROGRAMS[0])
    assert len(await keeping.memory.latest("ann", 5)) == 1
    own = World(housekeeping_patterns=["(?i)name this chat"])
    await own.chat("ann", "Please name this chat: figs")
    assert await own.memory.latest("ann", 5) == ()
    asked = await own.chat(
        "ann", "Please name this chat: figs", personaagent={"remember": True}
    )  # the application knows
    assert asked.headers["X-PersonaAgent-Remembered"] == "true"
    with pytest.raises(ValidationError, match="no regular expression"):
        ServeSettings(housekeeping_patterns=["("])  # type: ignore[arg-type]


def test_the_doctor_names_those_stored_before(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, memory=MemorySettings(shards=1), serve=ServeSettings(housekeeping_patterns=("^name it",))
    )
    queries = [*ASKED_BY_PROGRAMS[:2], "What goes with figs?", "name it: figs"]
    with stores(settings) as [store]:
        store.put([make_row("ann", str(n), text, None, arrived=n + 1, minute=n) for n, text in enumerate(queries)])
        store.put([make_row("bob", "0", "tea?", "yes", arrived=1, minute=1)])
    found = doctor(settings)
    [finding] = [f for f in found["findings"] if f["check"] == "housekeeping"]
    assert (finding["user"], finding["count"], finding["problem"]) in [("ann", 3, False), (user_key("ann"), 3, False)]
    assert found["remaining"] == 0
    assert "figs" not in str(found)
