"""One reading of an interaction: an import and the API agree on every line, and say the same of what they refuse."""

from __future__ import annotations

import gzip
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from personaagent.errors import FutureTimeError, InvalidInput
from personaagent.memory.incoming import resolved
from personaagent.memory.local import LocalMemory
from personaagent.readers import read
from personaagent.types import Interaction
from serve.http.interaction_bodies import InteractionsBody
from tests.support.doubles import HashEmbedder

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**13), 10**13),
    st.floats(),
    st.sampled_from(
        ["", " ", "B", "(b)", "2.", "a", "tea", "caf\u00e9", "cafe\u0301", "\u202e", "\0", "\x1b[31m", "\ud800"]
    ),
    st.sampled_from(["2025-03-01", "2025-03-01 08:30:00+00:00", "1740818400", "9999-12-31T23:59:59-05:00", "now"]),
    st.lists(st.sampled_from(["tea", "ale", "rum", "", "A) tea"]), max_size=4),
    st.dictionaries(st.sampled_from(["x", "source"]), st.none() | st.floats() | st.text(max_size=3), max_size=2),
)
names = st.sampled_from(
    ["query", "time", "response", "truth", "choices", "metadata", "id", "type", "arrived", "truth_arrived", "qurey"]
)
rows = st.dictionaries(names, odd, max_size=7) | st.fixed_dictionaries(
    {"query": st.sampled_from(["tea or ale?", "q"])},
    optional={
        "time": odd,
        "truth": odd,
        "choices": st.none() | st.lists(st.sampled_from(["tea", "ale", "rum", "B) x"]), max_size=3),
        "metadata": odd,
        "response": odd,
        "id": odd,
    },
)


def imported(path: Path, row: dict[str, Any]) -> tuple[Interaction | None, str]:
    path.write_text(json.dumps({"user": "ann", **row}) + "\n", encoding="utf-8")
    result = read("history", path)
    got = list(result)
    return (got[0], "") if got else (None, result.errors[0].reason)


def posted(row: dict[str, Any]) -> tuple[Interaction | None, str]:
    try:
        return InteractionsBody.model_validate([json.loads(json.dumps(row))]).of("ann")[0][0], ""
    except FutureTimeError as e:
        return None, e.message.removeprefix("interactions.0.")
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])).removeprefix("interactions.0").removeprefix(".")
        reason = " ".join(str(first["msg"]).removeprefix("Value error, ").split())
        return None, f"{where}: {reason}" if where else reason


@pytest.mark.slow
@given(rows)
@settings(max_examples=300, deadline=None)
def test_both_doors_read_a_line_alike(tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]) -> None:
    if row.get("type") not in (None, "interaction"):
        return  # an import also reads the other lines of an export
    line, reason = imported(tmp_path_factory.mktemp("h") / "h.jsonl", row)
    item, told = posted(row)
    assert reason == told
    if line is None or item is None:
        assert line is item
        return
    assert line.id == item.id
    if row.get("time") is None:  # of now
        assert abs((line.time - item.time).total_seconds()) < 60
        line = line.model_copy(update={"time": item.time})
    assert line == item


@pytest.mark.parametrize(
    ("truth", "choices", "means"),
    [
        ("B", ("tea", "ale"), "ale"),
        ("b)", ("tea", "ale"), "ale"),
        ("(B)", ("tea", "ale"), "ale"),
        ("2.", ("tea", "ale"), "ale"),
        ("A", ("B) ale", "A) tea"), "A) tea"),
        ("B", ("B", "A"), "B"),
        ("b)", ("A", "B"), "B"),
        ("(c)", ("C", "Python"), "C"),
        ("(2)", ("1", "2", "3"), "2"),
        ("a", ("A", "a b"), "A"),
        ("(a)", ("A", "a"), "(a)"),  # two of them
        ("2", ("1", "2", "3"), "2"),
        ("2.0", ("1", "2", "3"), "2.0"),
        ("something else", ("tea", "ale"), "something else"),
        ("B", None, "B"),
        ("1", ("0", "I do not know"), "1"),
    ],
)
def test_an_options_letter_means_the_option(truth: str, choices: tuple[str, ...] | None, means: str) -> None:
    assert resolved(truth, choices) == means


@pytest.mark.parametrize(
    ("truth", "choices"), [("D", ("tea", "ale")), ("0", ("tea", "ale")), ("A", ("B negative", "A positive"))]
)
def test_a_letter_that_is_no_options_or_two_is_reported(truth: str, choices: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="letter or number"):
        resolved(truth, choices)


async def test_feedback_reads_a_letter_as_an_append_does() -> None:
    memory = LocalMemory(HashEmbedder())
    asked = Interaction(id="1", user="ann", time=datetime(2025, 1, 1, tzinfo=UTC), query="q", choices=("tea", "ale"))
    await memory.append("ann", [asked])
    assert (await memory.feedback("ann", "1", "b)")).truth == "ale"
    for nothing in ("", "  ", "C"):
        with pytest.raises(InvalidInput, match="truth"):
            await memory.feedback("ann", "1", nothing)


def test_ids_are_those_of_older_versions(tmp_path: Path) -> None:
    row = {"query": "tea or ale?", "time": "2025-03-01T09:30:00+01:00", "truth": "B", "choices": ["tea", "ale"]}
    line, _ = imported(tmp_path / "h.jsonl", row)
    assert line is not None
    assert (line.id, line.truth) == ("e6988c9f84af3ba5052396e4", "ale")


def test_a_line_without_a_time_keeps_its_place_or_is_of_now(tmp_path: Path) -> None:
    texts = [{"user": "u", "query": "1"}, {"user": "u", "query": "2", "time": 5}, {"user": "v", "query": "3"}]
    path = tmp_path / "h.jsonl"
    path.write_text("\n".join(map(json.dumps, texts)))
    one, two, three = read("history", path)
    assert (two.time - one.time).total_seconds() == pytest.approx(1e-6)
    assert abs((datetime.now(UTC) - three.time).total_seconds()) < 60


CSV = "user,query,truth\n" + "ann,tea?,yes\n" * 3000
LINE = '{"user": "ann", "query": "q"}\n'


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (CSV.encode(), "CSV"),
        (CSV.replace(",", "\t").encode(), "tab-separated"),
        (json.dumps([json.loads(LINE)] * 3).encode(), "JSON array"),
        (json.dumps([json.loads(LINE)] * 3, indent=1).encode(), "JSON array"),
        (json.dumps(json.loads(LINE), indent=1).encode(), "several lines"),
        ((LINE * 9).encode("utf-16"), "UTF-16"),
        ((LINE * 9).encode("utf-16-le"), "UTF-16LE"),
        ((LINE * 9).encode("utf-16-be"), "UTF-16BE"),
        ((LINE * 9).encode("utf-32"), "UTF-32"),
        (gzip.compress(LINE.encode(), mtime=0), "gzip"),
        (b"PK\x03\x04rest", "zip"),
        (b"PAR1rest", "Parquet"),
        (b"", "empty"),
        (b"\xef\xbb\xbf \n\n", "empty"),
        ((LINE.strip() + ",\n").encode() * 3000, "comma"),
        (("[" + LINE.strip() + ",\n" + LINE.strip() + "]").encode(), "JSON array"),
        ((LINE.strip() * 3000).encode(), "several objects in a line"),
        ((LINE.strip() + "\r").encode() * 3000, "several objects in a line"),
        (b'{"user": "u",\n "query": "q"}\n' * 3000, "several lines"),
        ('{"user": "ann", "query": "caf\u00e9"}\n'.encode("latin-1") * 3000, "another encoding"),
        (b"user,query\n" + b'ann,"one\ntwo"\n' * 3000, "CSV"),
        (b"- user: ann\n  query: q\n" * 3000, "none of its first lines"),
    ],
)
def test_a_file_of_another_kind_is_named_in_one_line(tmp_path: Path, raw: bytes, kind: str) -> None:
    path = tmp_path / "history"
    path.write_bytes(raw)
    with pytest.raises(InvalidInput, match=kind) as caught:
        read("history", path)
    assert "\n" not in caught.value.message
    assert "JSON Lines" in caught.value.message


def test_a_pipe_is_not_said_to_be_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="write it into a file first"):
        read("history", tmp_path / "pipe")


@pytest.mark.parametrize(
    "time", ["2025-03-01T08:30:00Z", "2025-03-01t08:30:00z", "2025-03-01 08:30:00+00:00", 1740817800]
)
def test_a_time_is_the_same_however_it_is_written(tmp_path: Path, time: object) -> None:
    line, _ = imported(tmp_path / "h.jsonl", {"query": "q", "time": time})
    assert line is not None
    assert line.time == datetime(2025, 3, 1, 8, 30, tzinfo=UTC)
