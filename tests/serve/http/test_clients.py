"""Clients as they are, over a real connection, told nothing but the base URL (and a key and a model where they insist on some).

Requests of chat programs that cannot run here are written down as their sources build them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from tests.support.api_world import World

ROOT = Path(__file__).resolve().parents[3]
HEADER = "X-OpenWebUI-User-Id"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The base URL of a server of one person, in a thread of its own."""
    config = uvicorn.Config(
        World(default_user="me", user_headers=[HEADER]).app, "127.0.0.1", 0, log_level="error", lifespan="off"
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1"
    running.should_exit = True
    thread.join()


def remembered(server: str, user: str = "me") -> list[dict[str, Any]]:
    """The user's interactions, newest first."""
    found = httpx.get(f"{server}/users/{user}/memory", params={"k": 100}).json()
    return [e["interaction"] for e in found.get("episodes", [])]


def test_openai_python(server: str) -> None:
    client = openai.OpenAI(base_url=server, api_key="none", max_retries=0)
    [model] = client.models.list()
    messages: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "py one"}]
    answer = client.chat.completions.create(model=model.id, messages=messages, store=False, reasoning_effort="low")
    assert answer.choices[0].message.content == "you said py one"
    stream = client.chat.completions.create(model=model.id, messages=messages, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "you said py one"
    with client.chat.completions.stream(model=model.id, messages=messages) as events:
        assert events.get_final_completion().choices[0].message.content == "you said py one"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=model.id, messages=messages, n=2)
    assert refused.value.param == "n"
    assert remembered(server)[0]["metadata"]["identity"] == "default"
    client.chat.completions.create(model=model.id, messages=messages, safety_identifier="py")
    assert remembered(server, "py")[0]["metadata"]["identity"] == "safety_identifier"


NODE = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[1], apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "node one" }];
const answer = await client.chat.completions.create({ model, messages });
let streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true }))
  streamed += chunk.choices[0]?.delta?.content ?? "";
const helper = client.chat.completions.stream({ model, messages });
const last = await helper.finalContent();
let refused = 0;
try { await client.chat.completions.create({ model, messages, n: 2 }); } catch (e) { refused = e.status; }
console.log(JSON.stringify([answer.choices[0].message.content, streamed, last, refused]));
"""


def test_openai_node(server: str) -> None:
    node = shutil.which("node")
    modules = Path(os.environ.get("PERSONAAGENT_NODE_MODULES", ROOT / "node_modules"))
    if node is None or not (modules / "openai").is_dir():
        pytest.skip(
            "needs node, and `npm install openai` in a folder whose node_modules PERSONAAGENT_NODE_MODULES names"
        )
    done = subprocess.run(
        [node, "--input-type=module", "-e", NODE, server],
        cwd=modules.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["you said node one"] * 3 + [400]
    assert "node one" in [i["query"] for i in remembered(server)]


@pytest.mark.slow
def test_langchain(server: str) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="needs `pip install langchain-openai`")
    model = langchain.ChatOpenAI(base_url=server, api_key="none", model="echo", max_retries=0)
    assert model.invoke("chain one").content == "you said chain one"
    assert "".join(chunk.content for chunk in model.stream("chain two")) == "you said chain two"
    assert [m.content for m in model.batch(["chain three", "chain four"])] == [
        "you said chain three",
        "you said chain four",
    ]

    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    assert model.bind_tools([weather], tool_choice="weather").invoke("chain five").content == "you said chain five"
    assert {f"chain {n}" for n in ("one", "two", "three", "four", "five")} <= {i["query"] for i in remembered(server)}


OPEN_WEBUI_HEADERS = {
    "Authorization": "Bearer none",
    HEADER: "5f1c2a9e-0000-4000-8000-000000000001",
    "X-OpenWebUI-User-Name": "Anna%20M%C3%BCller",
    "X-OpenWebUI-User-Email": "anna@example.org",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "c1",
}
OPEN_WEBUI = [
    {
        "stream": True,
        "model": "echo",
        "messages": [
            {"role": "system", "content": "Today is Monday."},
            {"role": "user", "content": "What goes with figs?"},
        ],
        "stream_options": {"include_usage": True},
        "temperature": 0.8,
        "max_tokens": 8192,
    },
    {
        "model": "echo",
        "messages": [
            {
                "role": "user",
                "content": "### Task:\nGenerate a concise title summarizing the chat history.\n### Chat History:\n"
                "<chat_history>\nUSER: What goes with figs?\nASSISTANT: Cheese.\n</chat_history>",
            }
        ],
        "stream": False,
        "max_completion_tokens": 1000,
    },
    {
        "model": "echo",
        "messages": [
            {
                "role": "user",
                "content": "### Task:\nSuggest 3-5 relevant follow-up questions or prompts.\n### Chat History:\n<chat_history>\n"
                "USER: What goes with figs?\n</chat_history>",
            }
        ],
        "stream": False,
    },
]
LIBRECHAT = [
    {
        "model": "echo",
        "user": "64f1c0ffee0000000000beef",
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What goes with figs?"}]},
            {"role": "assistant", "content": "Cheese."},
            {"role": "user", "content": "And with plums?"},
        ],
        "reasoning": {"effort": "low"},
    },
    {
        "model": "echo",
        "user": "64f1c0ffee0000000000beef",
        "stream": False,
        "n": 1,
        "messages": [
            {
                "role": "user",
                "content": "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only"
                " return the title itself.\n\nConversation:\nUser: What goes with figs?\nAI: Cheese.",
            }
        ],
    },
]


@pytest.mark.parametrize(
    ("requests", "headers", "user", "identity", "query"),
    [
        (OPEN_WEBUI, OPEN_WEBUI_HEADERS, OPEN_WEBUI_HEADERS[HEADER], f"header:{HEADER}", "What goes with figs?"),
        (LIBRECHAT, {"Authorization": "Bearer none"}, LIBRECHAT[0]["user"], "user", "And with plums?"),
    ],
    ids=["Open WebUI", "LibreChat"],
)
def test_chat_programs(
    server: str, requests: list[dict[str, Any]], headers: dict[str, str], user: str, identity: str, query: str
) -> None:
    assert httpx.get(f"{server}/models", headers=headers).json()["data"][0]["id"] == "echo"
    for request in requests:
        response = httpx.post(f"{server}/chat/completions", json=request, headers=headers)
        assert response.status_code == 200, response.text
        if request["stream"]:
            assert response.text.endswith("data: [DONE]\n\n")
            assert '"usage": {' in response.text
    [kept] = remembered(server, user)
    assert (kept["query"], kept["metadata"]["identity"]) == (query, identity)
