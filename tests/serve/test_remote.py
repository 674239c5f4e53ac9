"""The application over a model behind an OpenAI-compatible URL, and the system without any model, on real local Rays."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from personaagent.errors import UnavailableError
from personaagent.settings import load_settings
from personaagent.types import ChatRequest, Interaction, Message, utc_now
from serve.runtime.system import System
from tests.personaagent.models.test_openai_client import Server, server  # noqa: F401  # a fixture

pytestmark = pytest.mark.cluster


async def test_serving_another_servers_model_then_only_the_memory(
    tmp_path: Path,
    server: Server,  # noqa: F811
) -> None:
    llm = {"base_url": server.url, "model": "m", "api_key": SecretStr("their-key")}
    settings = load_settings(home=tmp_path, llm=llm, serve={"port": 0, "api_key": SecretStr("our-key")})
    system = await System.start(settings, http=True)
    try:
        async with httpx.AsyncClient(base_url=str(system.url), timeout=60) as client:
            assert (await client.get("/v1/models")).status_code == 401
            client.headers["Authorization"] = "Bearer our-key"
            assert [m["id"] for m in (await client.get("/v1/models")).json()["data"]] == ["m"]
            body = {"model": "m", "user": "anna", "messages": [{"role": "user", "content": "hi"}]}
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            assert answer["choices"][0]["message"]["content"] == "Hello you"
            streamed = (await client.post("/v1/chat/completions", json={**body, "stream": True})).text
            assert streamed.endswith("data: [DONE]\n\n")
            parts = (await client.get("/readyz")).json()["parts"]
            assert parts == {"llm": "ok", "embedder": "ok", "memory": "ok"}
        assert set(server.keys) == {"Bearer their-key"}
    finally:
        await system.close()

    memory_only = await System.start(load_settings(home=tmp_path), llm=False)
    try:
        assert memory_only.url is None
        assert len(await memory_only.memory.latest("anna", 10)) == 2
        new = Interaction(id="i", user="bob", time=utc_now(), query="q", truth="t")
        assert (await memory_only.memory.append("bob", [new])).added == 1
        with pytest.raises(UnavailableError, match="without a model"):
            await memory_only.llm.chat(ChatRequest(messages=(Message(role="user", content="hi"),)))
    finally:
        await memory_only.close()
