from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personaagent.tools import text_files as module
from personaagent.tools.text_files import TextFile, Unusable, read_text, text_files


def listed(folder: Path) -> tuple[list[str], dict[str, str]]:
    missed: dict[str, str] = {}
    return [f.name for f in text_files(folder, missed.__setitem__)], missed


def said_of(file: TextFile) -> str:
    try:
        return read_text(file)
    except Unusable as e:
        return str(e)


def test_text_files_are_found_and_nothing_outside_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.txt").write_text("key")
    folder = tmp_path / "docs"
    (folder / "b" / ".git").mkdir(parents=True)
    for name in ("z.md", "b/a.TXT", "b/c.rst", "b/d.html", "b/e.pdf", "b/.git/x.txt", ".hidden.md", "noend"):
        (folder / name).write_text("x")
    (folder / "out.txt").symlink_to(tmp_path / "secret" / "key.txt")
    (folder / "outside").symlink_to(tmp_path / "secret", target_is_directory=True)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "in.txt").symlink_to(folder / "z.md")
    os.mkfifo(folder / "pipe.txt")
    names, missed = listed(folder)
    assert names == ["in.txt", "z.md", "b/a.TXT", "b/c.rst", "b/d.html"]
    assert missed == {"out.txt": "links to another place", "self.txt": "cannot be found", "pipe.txt": "no file"}


def test_a_volume_of_kubernetes_is_read(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "faq.md").write_text("x")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "faq.md").symlink_to("..data/faq.md")
    assert listed(tmp_path) == (["faq.md"], {})


def test_a_link_put_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key")
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    (file,) = text_files(folder, lambda *_: None)
    file.path.unlink()
    file.path.symlink_to(tmp_path / "key")
    with pytest.raises(Unusable, match="cannot be read"):
        read_text(file)


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ("Zoë".encode(), "Zoë"),
        ("Zoë".encode("utf-8-sig"), "Zoë"),
        ("Zoë".encode("utf-16"), "Zoë"),
        ("Zoë".encode("latin-1"), "not UTF-8"),
        (b"\x00\x01binary", "binary"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"x" * 101, "larger than"),
    ],
)
def test_what_is_no_text_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, read: str
) -> None:
    monkeypatch.setattr(module, "LARGEST", 100)
    (tmp_path / "a.txt").write_bytes(content)
    (file,) = text_files(tmp_path, lambda *_: None)
    assert said_of(file).startswith(read)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["a.txt", "a.md", "a.html"]))
def test_whatever_a_file_holds_it_is_text_or_told_apart(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    for file in text_files(tmp_path, lambda *_: None):
        assert isinstance(said_of(file), str)
