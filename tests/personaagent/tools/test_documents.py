from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personaagent import deadline
from personaagent.errors import DeadlineExceeded, InvalidInput, UnavailableError
from personaagent.protocols import Matrix
from personaagent.tool_settings import DocumentsSettings, ToolSettings
from personaagent.tools import documents as module
from personaagent.tools.arguments import check_schema
from personaagent.tools.documents import DocumentSearch, FolderExcerpts
from personaagent.tools.tool import Effect, Sees, ToolContext
from personaagent.tools.toolbox import Toolbox
from personaagent.types import ToolCall
from tests.support.doubles import HashEmbedder

CONTEXT = ToolContext(user="ada", interaction="now")


@pytest.fixture(autouse=True)
def always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trains.md").write_text(
        "# Trains\n\nThe night train to Ulm leaves at nine.\n\n# Fares\n\nDogs ride free."
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "lake.html").write_text("<p>The lake is <b>cold</b> in spring.<script>no()</script>")
    return tmp_path


def tool(folder: Path, k: int = 2, budget: int = 600) -> DocumentSearch:
    given_settings = DocumentsSettings(description="Trains and lakes", folder=folder, k=k)
    return DocumentSearch(given_settings, FolderExcerpts(folder, HashEmbedder(64)), budget)


async def test_passages_come_with_their_document(folder: Path) -> None:
    search = tool(folder, k=1)
    check_schema(search.spec.parameters, "search_documents")
    assert (search.spec.effect, search.spec.sees) == (Effect.READS, Sees.ARGUMENTS)
    assert (await search.call({"query": "when does the train to Ulm leave"}, CONTEXT)).text == (
        "[trains.md, passage 1]\n# Trains\n\nThe night train to Ulm leaves at nine."
    )
    assert (await search.call({"query": "dogs"}, CONTEXT)).text.startswith("[trains.md, passage 2]")
    assert (await search.call({"query": "a cold lake"}, CONTEXT)).text == (
        "[more/lake.html, passage 1]\nThe lake is cold in spring."
    )


async def test_a_result_stays_within_its_tokens(tmp_path: Path) -> None:
    for n in range(6):
        (tmp_path / f"{'long' * 40}{n}.txt").write_text(f"word {n} " * 100)
    found = (await tool(tmp_path, k=6, budget=120).call({"query": "word"}, CONTEXT)).text
    assert len(found) <= 120 * 4 + 40
    assert found.count("[long") == 6


async def test_equal_passages_are_told_once_and_an_empty_folder_has_none(tmp_path: Path) -> None:
    search = tool(tmp_path, k=5)
    assert (await search.call({"query": "tea"}, CONTEXT)).text == "nothing found"
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("Green tea.")
    assert (await search.call({"query": "tea"}, CONTEXT)).text == "[a.txt, passage 1]\nGreen tea."


def test_a_folder_that_does_not_exist_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        FolderExcerpts(tmp_path / "none", HashEmbedder())


async def test_what_changes_is_read_again_and_nothing_else(folder: Path) -> None:
    embedder = HashEmbedder(64)
    excerpts = FolderExcerpts(folder, embedder)
    await excerpts.search("x", 9)
    await excerpts.search("x", 9)
    assert embedder.texts == 3 + 2  # passages, and the queries
    (folder / "new.txt").write_text("Bicycles may ride along.")
    assert (await excerpts.search("bicycles", 1))[0].document == "new.txt"
    assert embedder.texts == 5 + 2
    (folder / "new.txt").write_text("Sledges may ride along!!")
    os.utime(folder / "new.txt", ns=(1, 1))
    assert (await excerpts.search("sledges", 1))[0].text == "Sledges may ride along!!"
    (folder / "new.txt").unlink()
    assert "new.txt" not in {e.document for e in await excerpts.search("sledges", 9)}
    await excerpts.close()


async def test_files_that_are_no_text_are_named_in_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "bin.md").write_bytes(b"a\0b")
    excerpts = FolderExcerpts(folder, HashEmbedder(64))
    with caplog.at_level(logging.WARNING):
        assert len(await excerpts.search("x", 9)) == 3
        await excerpts.search("x", 9)
    (line,) = [r.getMessage() for r in caplog.records]
    assert "bad.txt (not UTF-8), bin.md (binary)" in line


async def test_a_folder_is_read_up_to_a_bound(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    excerpts = FolderExcerpts(folder, HashEmbedder(64))
    assert {e.document for e in await excerpts.search("x", 9)} == {"trains.md"}
    assert "more/lake.html (beyond 2 passages" in caplog.text


async def test_a_folder_that_goes_away_is_told(folder: Path) -> None:
    excerpts = FolderExcerpts(folder, HashEmbedder(64))
    assert await excerpts.search("x", 1)
    moved = folder.with_name("elsewhere")
    shutil.move(folder, moved)
    with pytest.raises(UnavailableError, match="not there now"):
        await excerpts.search("x", 1)
    shutil.move(moved, folder)
    assert await excerpts.search("x", 1)


class SlowEmbedder(HashEmbedder):
    def __init__(self) -> None:
        super().__init__(64)
        self.go = asyncio.Event()
        self.broken = False

    async def embed(self, texts: Sequence[str]) -> Matrix:
        await self.go.wait()
        if self.broken:
            raise UnavailableError("the embedder is down")
        return await super().embed(texts)


async def test_reading_goes_on_when_a_call_is_given_up(folder: Path) -> None:
    embedder = SlowEmbedder()
    search = DocumentSearch(DocumentsSettings(description="d", folder=folder), FolderExcerpts(folder, embedder), 600)
    toolbox = await Toolbox(ToolSettings(timeout_s=0.05), [search]).open()
    call = ToolCall(name="search_documents", arguments={"query": "dogs"})
    assert (await toolbox.call(call, CONTEXT)).text == "error: it took too long"
    with deadline.until(0.05), pytest.raises(DeadlineExceeded):
        await toolbox.call(call, CONTEXT)
    embedder.go.set()
    for _ in range(500):
        if embedder.texts:
            break
        await asyncio.sleep(0.01)
    assert embedder.texts == 3  # read once, for nobody who still waits
    found = await (await Toolbox(ToolSettings(), [search]).open()).call(call, CONTEXT)
    assert "Dogs ride free" in found.text
    assert embedder.texts == 4


async def test_a_search_waits_for_changes_only_so_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = SlowEmbedder()
    embedder.go.set()
    excerpts = FolderExcerpts(folder, embedder)
    await excerpts.search("x", 1)
    (folder / "new.txt").write_text("Sledges")
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    embedder.go.clear()
    waiting = asyncio.create_task(excerpts.search("sledges", 9))
    await asyncio.sleep(0.3)
    embedder.go.set()
    assert "new.txt" not in {e.document for e in await waiting}
    monkeypatch.setattr(module, "PATIENCE_S", 60.0)
    assert (await excerpts.search("sledges", 1))[0].document == "new.txt"


async def test_a_failed_reading_is_told_and_tried_again(folder: Path) -> None:
    embedder = SlowEmbedder()
    embedder.broken = True
    embedder.go.set()
    excerpts = FolderExcerpts(folder, embedder)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="embedder is down"):
            await excerpts.search("x", 1)
    embedder.broken = False
    assert len(await excerpts.search("x", 9)) == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=60), max_size=4), st.text(max_size=20))
async def test_whatever_files_hold_a_search_has_an_answer(tmp_path: Path, contents: list[bytes], query: str) -> None:
    for n in range(4):
        for suffix in ("txt", "html"):
            (tmp_path / f"{n}.{suffix}").unlink(missing_ok=True)
            if n < len(contents):
                (tmp_path / f"{n}.{suffix}").write_bytes(contents[n])
    output = await tool(tmp_path).call({"query": query or "x"}, CONTEXT)
    assert output.text
