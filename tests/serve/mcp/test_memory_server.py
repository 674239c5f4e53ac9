"""The MCP server as the official client sees it: each tool, bad input, and that nobody but the connection's user is touched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client, MCPError
from mcp.server.lowlevel.server import Server
from mcp.types import CallToolResult, TextContent

from personaagent.claims import Claim
from personaagent.errors import StoreError
from personaagent.memory.local import LocalMemory
from personaagent.persona.persona import made
from personaagent.persona.versions import PersonaVersions
from personaagent.settings import AgentSettings
from personaagent.types import ACTION, OF, Decision, Origin, UserSummary
from serve.mcp.memory_server import memory_server
from serve.mcp.user_verbs import UserVerbs
from tests.personaagent.memory.test_user_memory import interaction
from tests.support.doubles import HashEmbedder

TOOLS = ("add_memory", "search_memories", "get_memories", "delete_memory", "get_persona", "record_truth")
EMBEDDER = HashEmbedder()


def served(memory: LocalMemory, user: str = "ann", told: list[str] | None = None) -> Server[Any]:
    noted = [] if told is None else told
    verbs = UserVerbs(memory, PersonaVersions(memory, AgentSettings(), EMBEDDER), noted.append)
    return memory_server(verbs, lambda _: user)


@asynccontextmanager
async def connected(memory: LocalMemory, user: str = "ann", mode: Any = "auto") -> AsyncIterator[Client]:
    async with Client(served(memory, user), mode=mode) as client:
        yield client


def text(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def answered(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool answers as JSON; the client has compared it with the tool's own schema."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text(result)
    assert text(result)
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert result.structured_content is None
    assert "\n" not in text(result)
    return text(result)


@pytest.fixture
def memory() -> LocalMemory:
    return LocalMemory(EMBEDDER)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_tools_are_listed_with_what_they_take_give_and_do(memory: LocalMemory, mode: str) -> None:
    async with connected(memory, mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        added = await answered(client, "add_memory", text="I do not eat fish.")
    assert tuple(tools) == TOOLS
    assert added["known"] is False
    for tool in tools.values():
        assert tool.input_schema["additionalProperties"] is False
        assert not {"user", "user_id"} & set(tool.input_schema.get("properties", {}))
        assert tool.output_schema is not None
        assert tool.annotations is not None
        assert tool.annotations.open_world_hint is False
    reads = {name for name, tool in tools.items() if tool.annotations and tool.annotations.read_only_hint}
    assert reads == {"search_memories", "get_memories", "get_persona"}
    destroys = {name for name, tool in tools.items() if tool.annotations and tool.annotations.destructive_hint}
    assert destroys == {"delete_memory", "record_truth"}
    assert tools["record_truth"].input_schema["required"] == ["truth"]


async def test_a_statement_is_remembered_once_found_listed_and_deleted(memory: LocalMemory) -> None:
    async with connected(memory) as client:
        first = await answered(client, "add_memory", text="I do not eat fish.")
        again = await answered(client, "add_memory", text="I do not eat fish.")
        await answered(client, "add_memory", text="My train leaves at seven.")
        assert (first["id"], again["known"]) == (again["id"], True)
        found = await answered(client, "search_memories", query="fish to eat", limit=1)
        assert [m["query"] for m in found["memories"]] == ["I do not eat fish."]
        assert found["known"] == 2
        assert found["memories"][0]["similarity"] > 0
        (stored,) = await memory.interactions("ann", [first["id"]])
        assert (stored.user, stored.response, stored.truth) == ("ann", None, None)
        assert stored.metadata == {"source": "mcp"}
        listed = await answered(client, "get_memories")
        assert [m["query"] for m in listed["memories"]] == ["My train leaves at seven.", "I do not eat fish."]
        assert listed["next"] is None
        assert (await answered(client, "delete_memory", memory_id=first["id"])) == {"id": first["id"], "deleted": True}
        assert "there is no memory" in await refused(client, "delete_memory", memory_id=first["id"])
        found = await answered(client, "search_memories", query="fish to eat")
        assert [m["query"] for m in found["memories"]] == ["My train leaves at seven."]


async def test_memories_are_listed_in_pages_without_lessons(memory: LocalMemory) -> None:
    await memory.append("ann", [interaction(str(i), f"query {i}", minute=i) for i in range(7)])
    lesson = interaction("lesson", "query 5", minute=5, metadata={ACTION: "tool", OF: "5"}, truth="answer")
    await memory.append("ann", [lesson])
    async with connected(memory) as client:
        seen: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await answered(client, "get_memories", limit=3, **cursor)
            seen += [m["id"] for m in page["memories"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert seen == ["6", "5", "4", "3", "2", "1", "0"]
        await memory.delete("ann", [cursor["cursor"]])
        assert "begin again" in await refused(client, "get_memories", limit=3, **cursor)


async def test_a_truth_is_recorded_of_a_memory_or_of_a_new_request(memory: LocalMemory) -> None:
    told: list[str] = []
    await memory.append("ann", [interaction("1", "a drink?", choices=("tea", "coffee"))])
    async with Client(served(memory, told=told)) as client:
        noted = await answered(client, "record_truth", interaction_id="1", truth="b")  # an option's letter
        assert noted == {"id": "1", "truth": "coffee"}
        new = await answered(client, "record_truth", query="a seat?", choices=["window", "aisle"], truth="aisle")
        (stored,) = await memory.interactions("ann", [new["id"]])
        assert (stored.truth, stored.choices, stored.query) == ("aisle", ("window", "aisle"), "a seat?")
        found = await answered(client, "search_memories", query="a drink?")
        assert found["memories"][0]["truth"] == "coffee"
        assert "does not exist" in await refused(client, "record_truth", interaction_id="never", truth="x")
    assert told == ["ann", "ann"]


async def test_a_persona_says_why(memory: LocalMemory) -> None:
    await memory.append("ann", [interaction("1", "which seat?", truth="aisle"), interaction("2", "which bread?")])
    claims = [
        Claim(text="takes the aisle", sources=("1", "gone"), origin="model", gain=0.25, error=0.1, note="2 of 2 times"),
        Claim(text="speaks Danish", origin="person"),
    ]
    await memory.commit_persona("ann", made(claims, Decision(), Origin.ALIGNED, budget=None), None)
    async with connected(memory) as client:
        persona = await answered(client, "get_persona")
        told = text(await client.call_tool("get_persona", {}))
    assert persona["version"] == 1
    why = {claim["text"]: claim for claim in persona["claims"]}
    seat = why["takes the aisle"]
    assert (seat["gain"], seat["error"], seat["origin"], seat["rests_on"]) == (0.25, 0.1, "model", 2)
    assert [(s["id"], s["query"], s["truth"]) for s in seat["sources"]] == [("1", "which seat?", "aisle")]
    assert (why["speaks Danish"]["origin"], why["speaks Danish"]["sources"]) == ("person", [])
    assert [claim["number"] for claim in persona["claims"]] == [1, 2]
    assert "because of 1: which seat?" in told
    assert "+0.25 nats per token" in told


async def test_of_somebody_unknown_nothing_is_known_and_nothing_stored(memory: LocalMemory) -> None:
    async with connected(memory) as client:
        assert (await answered(client, "get_persona"))["version"] == 0
        assert await answered(client, "get_memories") == {"memories": [], "next": None}
        assert (await answered(client, "search_memories", query="x"))["memories"] == []
        await answered(client, "add_memory", text="I like plums.")
        assert (await answered(client, "get_persona"))["version"] == 1  # what they would start with
    assert await memory.persona("ann") is None


async def test_what_is_long_is_clipped_and_said_to_be(memory: LocalMemory) -> None:
    await memory.append("ann", [interaction("1", "long " * 4_000, response="r" * 9_000), interaction("2", "short")])
    async with connected(memory) as client:
        items = {m["id"]: m for m in (await answered(client, "get_memories"))["memories"]}
        assert len(text(await client.call_tool("get_memories", {}))) < 2_000
    assert (len(items["1"]["query"]), len(items["1"]["response"]), items["1"]["clipped"]) == (4_000, 4_000, True)
    assert items["2"]["clipped"] is False


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("add_memory", {}, "text"),
        ("add_memory", {"text": " \u200b"}, "empty"),
        ("add_memory", {"text": "x" * 60_001}, "60000"),
        ("add_memory", {"text": "hello", "user": "bob"}, "user"),
        ("add_memory", {"text": "hello", "user_id": "bob"}, "user_id"),
        ("search_memories", {"query": 7}, "query"),
        ("search_memories", {"query": "x", "limit": 0}, "limit"),
        ("search_memories", {"query": "x", "limit": 101}, "limit"),
        ("search_memories", {"query": "x", "filters": {"user_id": "bob"}}, "filters"),
        ("get_memories", {"cursor": "never"}, "begin again"),
        ("get_memories", {"cursor": ""}, "cursor"),
        ("delete_memory", {}, "memory_id"),
        ("delete_memory", {"memory_id": "x" * 129}, "memory_id"),
        ("get_persona", {"user": "bob"}, "user"),
        ("record_truth", {"truth": "x"}, "query"),
        ("record_truth", {"truth": "x", "query": "q", "interaction_id": "1"}, "either"),
        ("record_truth", {"truth": "x", "interaction_id": "1", "choices": ["a", "b"]}, "choices"),
        ("record_truth", {"truth": "z", "query": "q", "choices": ["tea", "coffee"]}, "letter"),
        ("record_truth", {"truth": "x", "query": "q", "choices": ["same", "same"]}, "different"),
    ],
)
async def test_bad_input_is_one_line_and_changes_nothing(
    memory: LocalMemory, tool: str, arguments: dict[str, Any], words: str
) -> None:
    async with connected(memory) as client:
        assert words in await refused(client, tool, **arguments)
    assert await memory.users() == ()


async def test_a_tool_that_is_not_there_is_named_as_that(memory: LocalMemory) -> None:
    async with connected(memory) as client:
        with pytest.raises(MCPError, match="add_memory"):
            await client.call_tool("delete_all_memories", {})


async def test_what_fails_within_says_so_without_saying_what_with(
    memory: LocalMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "-".join(("what", "a", "user", "wrote"))  # the log shows lines of code

    async def broken(*_: object) -> None:
        raise KeyError(secret)

    async def away(*_: object) -> None:
        raise StoreError("the disk is\nfull")

    async with connected(memory) as client:
        monkeypatch.setattr(memory, "recall", broken)
        assert "internal error" in await refused(client, "search_memories", query="x")
        monkeypatch.setattr(memory, "recall", away)
        assert await refused(client, "search_memories", query="x") == "the disk is full"
    assert "KeyError" in caplog.text
    assert secret not in caplog.text


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 200), st.floats(allow_nan=False), st.text(max_size=9),
    st.sampled_from(["bob", "ann", "b1", "b2", "a1", "a2", "tea", "coffee"]),
)  # fmt: skip
NAMES = st.sampled_from(
    ["text", "query", "limit", "cursor", "memory_id", "truth", "choices", "interaction_id", "user", "user_id", "ids"]
)
ASKED = st.dictionaries(NAMES, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=4)


def unlike_surrogates(asked: dict[str, Any]) -> bool:
    try:
        json.dumps(asked, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(TOOLS), ASKED.filter(unlike_surrogates)), max_size=6))
def test_whatever_is_asked_only_the_connections_user_is_read_or_changed(
    asked: list[tuple[str, dict[str, Any]]],
) -> None:
    async def play() -> None:
        memory = LocalMemory(EMBEDDER)
        for user, letter in (("ann", "a"), ("bob", "b")):
            rows = [interaction(f"{letter}{i}", f"{user}-only words {i}", user=user, minute=i) for i in (1, 2)]
            await memory.append(user, rows)
        await memory.commit_persona(
            "bob", made([Claim(text="bob-only claim", sources=("b1",))], Decision(), Origin.ALIGNED, budget=None), None
        )
        before = await memory.export("bob")
        async with connected(memory, "ann") as client:
            for tool, arguments in asked:
                result = await client.call_tool(tool, arguments)
                assert "bob-only" not in result.model_dump_json()
        assert await memory.export("bob") == before
        users: tuple[UserSummary, ...] = await memory.users()
        assert {u.user for u in users} <= {"ann", "bob"}

    asyncio.run(play())
