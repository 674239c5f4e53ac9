"""What a terminal would obey is shown as an escape, wherever a command prints."""

from __future__ import annotations

import json

import pytest

from serve.cli.output import Output

EVIL = "eve\x1b[31m\x9b2J\u202ecba\u2028\rx\x00"


def obeyed(text: str) -> list[str]:
    return [c for c in text if c != "\n" and (not c.isprintable())]


def test_nothing_a_user_wrote_moves_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.show(EVIL)
    output.note(EVIL)
    output.fail(f"no user {EVIL}\nsecond line")
    output.table([">n", "user"], [(1, EVIL), (2, "a\nb")], title=EVIL)
    output.diff("a", EVIL)
    with output.progress(EVIL, 3) as tell:
        tell(EVIL, 1, 3, EVIL)
    with output.stage(EVIL):
        pass
    out, err = capsys.readouterr()
    assert obeyed(out + err) == []
    assert "\\x1b[31m" in out
    assert "\\u202e" in out
    assert "a\\nb" in out
    assert [line for line in err.splitlines() if line.startswith("error:")] == [
        r"error: no user eve\x1b[31m\x9b2J\u202ecba x\x00 second line"
    ]


def test_json_says_the_same_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).result({"user": EVIL})
    out = capsys.readouterr().out
    assert obeyed(out) == []
    assert json.loads(out) == {"user": EVIL}


def test_words_keep_their_joiners(capsys: pytest.CaptureFixture[str]) -> None:
    Output().show("می\u200cخواهم 👩\u200d🚀 naïve")
    assert capsys.readouterr().out == "می\u200cخواهم 👩\u200d🚀 naïve\n"
