from __future__ import annotations

import pytest

from cluster import render, submit


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "error: missing: command"),
        (["servce", "a.yaml"], "error: no such command 'servce'; did you mean 'service'?"),
        (["align", "a.yaml"], "error: missing: --run-id"),
        (["align", "a.yaml", "--run-id", "r", "--runid", "x"], "error: no such option --runid; did you mean --run-id?"),
        (["align", "a.yaml", "--run", "r", "--run-id", "r"], "error: no such option --run; did you mean --run-id?"),
        (["nightly", "a.yaml", "--min-new", "few"], "error: argument --min-new: invalid int value: 'few'"),
        (["service", "a.yaml", "b.yaml"], "error: one argument too many: 'b.yaml'"),
        (["service"], "error: missing: file"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        render.main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{told}; `python -m cluster.render")
    assert err.count("\n") == 1


def test_so_it_is_where_a_run_is_submitted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        submit.main(["--adress", "http://x", "--run-id", "r"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: missing: --address; `python -m cluster.submit --help` tells more\n"
