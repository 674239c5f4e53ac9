"""Online alignment in the real application on a real local Ray, with a scripted engine under the real LLMServer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from personaagent.settings import load_settings
from serve.runtime.system import System

pytestmark = pytest.mark.cluster


async def test_online_alignment_goes_on_after_its_process_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLLM_VLLM_ENGINE_CLS", "tests.support.scripted_engine.ScriptedEngine")
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    settings = load_settings(
        home=tmp_path / "home",
        llm={"model": str(tmp_path / "scripted")},
        serve={"port": 0},
        alignment={"online_every": 3, "online_poll_s": 0.2},
    )
    running = await System.start(settings, http=True)
    try:
        async with httpx.AsyncClient(base_url=running.url or "", timeout=60) as http:

            async def teach(user: str) -> None:
                told = [{"id": f"{i}", "query": f"drink {i}?", "truth": "tea"} for i in range(4)]
                assert (await http.post(f"/v1/users/{user}/interactions", json=told)).json()["added"] == 4

            async def aligned(pid: int) -> int:
                """The replica that has aligned somebody and is not `pid`."""
                for _ in range(300):
                    response = await http.get("/v1/alignment")
                    state = response.json()
                    if response.status_code == 200 and state["aligned"] and state["pid"] != pid:
                        return int(state["pid"])
                    await asyncio.sleep(0.1)
                raise AssertionError(f"nobody was aligned: {response.text}")

            await teach("ann")
            first = await aligned(0)
            os.kill(first, signal.SIGKILL)
            await teach("bob")
            await aligned(first)
    finally:
        await running.close()
