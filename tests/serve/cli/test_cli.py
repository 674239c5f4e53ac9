from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import types
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

from personaagent.agent.agent import Agent
from personaagent.claims import Claim, ClaimKind, Exemplar
from personaagent.errors import InvalidInput, UnavailableError
from personaagent.evidence.commons import SIZE, Population, packed
from personaagent.memory.local import LocalMemory
from personaagent.persona.persona import made
from personaagent.settings import Settings
from personaagent.tool_settings import ToolSettings
from personaagent.tools.tool import ToolSpec
from personaagent.tools.toolbox import Toolbox
from personaagent.types import Decision, Interaction, Origin
from serve.cli import app
from serve.cli.output import Output
from serve.cli.shared_options import parse_assignment
from serve.cli.stdin_lines import _split
from tests.support.doubles import HashEmbedder
from tests.support.eval_doubles import history_file
from tests.support.fake_llm import FakeLLM
from tests.support.fake_tool import FakeTool

Invoke = Callable[..., Result]


def line(user: str, n: int, **more: Any) -> str:
    return json.dumps({"user": user, "query": f"question {n}", "truth": f"truth {n}", "time": 1_700_000_000 + n} | more)


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    for name in [n for n in os.environ if n.startswith("PERSONAAGENT_")]:
        monkeypatch.delenv(name)
    runner = CliRunner()
    return lambda *args, **kwargs: runner.invoke(app, ["--home", str(tmp_path / "home"), *map(str, args)], **kwargs)


class FakeSystem:
    """The system as the commands see it, over one memory that outlives them. Counts what is open."""

    memory: ClassVar[LocalMemory]
    open: ClassVar[int] = 0
    started: ClassVar[list[dict[str, Any]]]
    answer: ClassVar[str] = "soup"
    toolbox: ClassVar[Toolbox | None] = None
    leaning: ClassVar[dict[str, float]]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.embedder = HashEmbedder()
        self.llm = FakeLLM(self.answer)
        self.llm.choice = (lambda _: self.leaning) if self.leaning else None
        self.agent = Agent(self.llm, self.memory, settings.agent, toolbox=self.toolbox)
        self.url = "http://127.0.0.1:8000"

    @classmethod
    async def start(cls, settings: Settings, **parts: Any) -> FakeSystem:
        cls.started.append(parts)
        FakeSystem.open += 1
        return cls(settings)

    async def close(self) -> None:
        FakeSystem.open -= 1


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeSystem]]:
    FakeSystem.memory = LocalMemory(HashEmbedder())
    FakeSystem.started = []
    FakeSystem.open = 0
    FakeSystem.answer = "soup"
    FakeSystem.toolbox = None
    FakeSystem.leaning = {}
    module = types.ModuleType("serve.runtime.system")
    module.System = FakeSystem  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "serve.runtime.system", module)
    yield FakeSystem
    assert FakeSystem.open == 0, "a command left its system open"


def one_line(text: str) -> str:
    lines = [row for row in text.splitlines() if row.strip()]
    assert len(lines) == 1, text
    return lines[0]


# Start-up and settings


def test_help_loads_neither_ray_nor_models() -> None:
    heavy = "{'ray', 'torch', 'transformers', 'vllm', 'pymilvus', 'pandas', 'numpy'}"
    code = f"import sys, serve.cli; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_help_names_every_command(invoke: Invoke) -> None:
    text = invoke("--help").stdout
    for name in [
        "serve",
        "import",
        "chat",
        "explain",
        "align",
        "persona",
        "export",
        "forget",
        "mcp",
        "users",
        "population",
        "settings",
        "eval",
        "eval-personas",
        "bench",
        "demo",
    ]:
        assert f" {name} " in text


def test_shared_options_work_before_and_after_the_command(invoke: Invoke) -> None:
    result = invoke("--set", "memory.shards=3", "settings", "--set", "memory.tenant=t", "--model", "a/b", "--json")
    tree = json.loads(result.stdout)
    assert (tree["memory"]["shards"], tree["memory"]["tenant"], tree["llm"]["model"]) == (3, "t", "a/b")


def test_later_options_win(invoke: Invoke, tmp_path: Path) -> None:
    tree = json.loads(invoke("settings", "--json", "--home", tmp_path / "other").stdout)
    assert tree["home"] == str(tmp_path / "other")


def test_settings_mask_secrets_and_print_yaml(invoke: Invoke) -> None:
    result = invoke("settings", "--set", "llm.api_key=hunter2", "--set", "memory.token=hunter2")
    assert "hunter2" not in result.output
    assert yaml.safe_load(result.stdout)["memory"]["shards"] == Settings().memory.shards


def test_config_file_is_below_flags(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("memory: {shards: 5, tenant: file}\n")
    args = ("--config", tmp_path / "c.yaml", "settings", "--json", "--set", "memory.shards=6")
    tree = json.loads(invoke(*args).stdout)
    assert (tree["memory"]["shards"], tree["memory"]["tenant"]) == (6, "file")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["settings", "--set", "memory.shard=3"], "memory.shard"),
        (["settings", "--set", "memory.shards=many"], "memory.shards"),
        (["settings", "--set", "memory"], "key.path=value"),
        (["settings", "--set", "llm.engine_kwargs={"], "YAML"),
        (["settings", "--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["import", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["import", "/nowhere.zip", "--format", "movielens"], "/nowhere.zip"),
        (["eval", "pahf", "--methods", "magic"], "magic"),
        (["eval", "pahf", "--data", "/nowhere"], "/nowhere"),
        (["eval", "actions", "--users", "1"], "two users"),
        (["eval", "actions", "--users", "13"], "from 1 to 12"),
        (["eval", "actions", "--noise", "0.5"], "leave --noise out"),
        (["eval", "actions", "--methods", "none"], "leave --methods out"),
        (["eval", "actions", "--no-controls"], "leave --no-controls out"),
        (["eval", "actions-develop", "--report", "/nowhere/page.html"], "/nowhere"),
        (["eval-personas", "actions"], "personaagent eval actions"),
        (["eval-personas", "pahf", "--data", "/nowhere"], "/nowhere"),
        (["eval-personas", "retrieval"], "recall alone"),
        (["eval-personas", "sample", "--report", "/nowhere/page.html"], "/nowhere"),
        (["eval-personas", "sample", "--set", "alignment.paper=true"], "no gate"),
        (["forget", "anna"], "--yes"),
        (["forget", "anna", "--interaction", "1", "--json"], "--yes"),
        (["mcp"], "--user"),
        (["mcp", "--user", "u" * 300], "256"),
        (["mcp", "--http", "0", "--set", "serve.host=0.0.0.0"], "api_key"),
        (["chat", "anna", "hello", "--choice", "only"], "two different"),
        (["chat", "u" * 300, "hello"], "256"),
        (["chat", "anna", "--json"], "MESSAGE"),
        (["chat", "anna", "--why"], "MESSAGE"),
        (["explain", "anna", "which?"], "two different"),
        (["explain", "anna", "which?", "--choice", "only"], "two different"),
        (["explain", "anna", "which?", "--choice", "a", "--choice", "a"], "two different"),
        (["explain", "anna", "", "--choice", "a", "--choice", "b"], "QUERY"),
        (["explain", "u" * 300, "which?", "--choice", "a", "--choice", "b"], "256"),
        (["persona", "anna", "rollback", "x"], "number of a version"),
        (["persona", "anna", "set"], "new text"),
        (["persona", "anna", "set", "@/nowhere.txt"], "/nowhere.txt"),
        (["persona", "anna", "show", "3"], "no value"),
        (["persona", "anna", "add"], "new text"),
        (["persona", "anna", "add", "  "], "empty"),
        (["persona", "anna", "set", "x", "--kind", "prefers"], "--kind"),
        (["persona", "anna", "strike"], "number of a claim"),
        (["persona", "anna", "strike", "-"], "number of a claim"),
        (["persona", "anna", "pin", "x"], "number of a claim"),
        (["persona", "anna", "why", "1.5"], "number of a claim"),
        (["export", "anna", "-o", "/nowhere/file"], "folder"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(
    invoke: Invoke, system: type[FakeSystem], args: list[str], said: str
) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert one_line(result.stderr).startswith("error: ")
    assert said in result.stderr
    assert result.stdout == ""
    assert system.started == []


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("llm.model=7", {"llm": {"model": "7"}}),
        ("memory.uri=null", {"memory": {"uri": None}}),
        ("llm.engine_kwargs.seed=7", {"llm": {"engine_kwargs": {"seed": 7}}}),
        ("llm.engine_kwargs={seed: 7}", {"llm": {"engine_kwargs": {"seed": 7}}}),
        ("llm.base_url=http://a=b", {"llm": {"base_url": "http://a=b"}}),
        ("serve.api_key=", {"serve": {"api_key": ""}}),
    ],
)
def test_assignments(text: str, tree: dict[str, Any]) -> None:
    assert parse_assignment(text) == tree


@pytest.mark.parametrize("text", ["", "=1", "a..b=1", "memory.shards"])
def test_broken_assignments(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_assignment(text)


def test_an_unforeseen_error_is_one_line_unless_verbose(
    invoke: Invoke, system: type[FakeSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: object) -> None:
        raise RuntimeError("the roof\nis on fire")

    monkeypatch.setattr(LocalMemory, "users", broken)
    result = invoke("users")
    assert result.exit_code == 1
    assert one_line(result.stderr.replace("opening the memory ...", "").replace("closing ...", "")).startswith(
        "error: "
    )
    assert "Traceback" in invoke("users", "--verbose").stderr


def test_a_start_that_fails_is_one_line(
    invoke: Invoke, system: type[FakeSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(settings: Settings, **parts: Any) -> FakeSystem:
        raise InvalidInput("port 8000 is in use; choose another with --port")

    monkeypatch.setattr(system, "start", refused)
    result = invoke("serve")
    assert result.exit_code == 2
    assert "error: port 8000 is in use" in result.stderr


# Import, export, forget


def test_import_reports_bad_lines_and_takes_the_rest(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    file.write_text("\n".join([line("anna", 1), "{broken", line("bob", 2), '{"user": "anna"}']) + "\n")
    result = invoke("import", file, "--json")
    assert result.exit_code == 1
    done = json.loads(result.stdout)
    assert (done["added"], done["users"], done["failed"]) == (2, 2, 2)
    assert [e["line"] for e in done["errors"]] == [2, 4]
    assert f"{file}:2: " in result.stderr
    assert "2 lines could not be imported" in result.stderr

    file.write_text("\n".join([line("anna", 1), line("anna", 3), line("bob", 2), line("anna", 4)]) + "\n")
    again = invoke("import", file, "--json")
    assert again.exit_code == 0
    done = json.loads(again.stdout)
    assert (done["added"], done["repeated"]) == (2, 2)


def test_import_of_nothing_readable_starts_nothing(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text("nothing\n")
    result = invoke("import", tmp_path / "h.jsonl")
    assert result.exit_code == 1
    assert system.started == []


def test_import_needs_no_model(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(line("anna", 1))
    assert invoke("import", tmp_path / "h.jsonl").exit_code == 0
    assert [parts["llm"] for parts in system.started] == [False]


def test_import_in_chunks_keeps_order_and_limits_users(
    invoke: Invoke, system: type[FakeSystem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.cli.importing.CHUNK", 3)
    file = tmp_path / "h.jsonl"
    file.write_text("\n".join(line(user, n) for n in range(10) for user in ("anna", "bob", "cid")))
    done = json.loads(invoke("import", file, "--users", 2, "--json").stdout)
    assert (done["added"], done["users"]) == (20, 2)
    users = json.loads(invoke("users", "--json").stdout)
    assert [(u["user"], u["interactions"]) for u in users["users"]] == [("anna", 10), ("bob", 10)]


def test_export_reads_back_to_an_equal_store(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text("\n".join(line(user, n) for n in range(3) for user in ("anna", 'b"o/b')))
    invoke("import", tmp_path / "h.jsonl")
    invoke("persona", "anna", "set", "likes soup")
    exports = {user: invoke("export", user).stdout for user in ("anna", 'b"o/b')}
    (tmp_path / "all.jsonl").write_text("".join(exports.values()))

    system.memory = LocalMemory(HashEmbedder())
    done = json.loads(invoke("import", tmp_path / "all.jsonl", "--json").stdout)
    assert (done["added"], done["users"], done["failed"]) == (6, 2, 0)
    assert {user: invoke("export", user).stdout for user in exports} == exports
    again = json.loads(invoke("import", tmp_path / "all.jsonl", "--json").stdout)
    assert (again["added"], again["repeated"], again["failed"]) == (0, 6, 0)


def test_import_of_a_damaged_export(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text("\n".join(line(user, n) for n in range(3) for user in ("anna", "bob")))
    invoke("import", tmp_path / "h.jsonl")
    invoke("persona", "bob", "set", "likes soup")
    anna, bob = (invoke("export", user).stdout.splitlines() for user in ("anna", "bob"))
    anna[2] = "{}"
    bob[4] = bob[4].replace('"number":1', '"number":"one"')
    (tmp_path / "all.jsonl").write_text("\n".join([*anna, *bob]) + "\n")

    system.memory = LocalMemory(HashEmbedder())
    result = invoke("import", tmp_path / "all.jsonl", "--json")
    done = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (done["added"], done["users"]) == (2, 1)
    assert [e["line"] for e in done["errors"]] == [3, 5, 9]
    assert json.loads(invoke("users", "--json").stdout)["count"] == 1


@pytest.mark.slow
def test_what_stands_behind_a_broken_beginning_is_nobody_elses(
    invoke: Invoke, system: type[FakeSystem], tmp_path: Path
) -> None:
    (tmp_path / "h.jsonl").write_text("\n".join(line(user, n) for n in range(2) for user in ("anna", "bob")))
    invoke("import", tmp_path / "h.jsonl")
    invoke("persona", "bob", "set", "likes soup")
    anna, bob = (invoke("export", user).stdout.splitlines() for user in ("anna", "bob"))
    for broken in ([*anna, bob[0][:-5], *bob[1:]], [*anna, *bob[1:]], [*anna, bob[0][:-5], bob[-1]]):
        (tmp_path / "all.jsonl").write_text("\n".join(broken) + "\n")
        system.memory = LocalMemory(HashEmbedder())
        assert invoke("import", tmp_path / "all.jsonl").exit_code == 1
        assert json.loads(invoke("users", "--json").stdout)["count"] == 0
    for user in (None, 5, "", "\ud800"):
        bob[0] = json.dumps({"type": "user", "user": user, "version": 1})
        (tmp_path / "all.jsonl").write_text("\n".join([*bob, *anna]) + "\n")
        system.memory = LocalMemory(HashEmbedder())
        result = invoke("import", tmp_path / "all.jsonl")
        assert "user" in result.stderr
        assert [u["user"] for u in json.loads(invoke("users", "--json").stdout)["users"]] == ["anna"]


def test_lines_of_an_export_that_cannot_be_read_cost_no_others(
    invoke: Invoke, system: type[FakeSystem], tmp_path: Path
) -> None:
    (tmp_path / "h.jsonl").write_text("\n".join(line("anna", n) for n in range(8)))
    invoke("import", tmp_path / "h.jsonl")
    anna = invoke("export", "anna").stdout.splitlines()
    anna[2] = anna[2].replace('"metadata":{', '"metadata":{"x":' + '{"a":' * 3000 + "1" + "}" * 3000 + ",")
    anna[3] = json.dumps({**json.loads(anna[3]), "arrived": 10**400})
    anna[4] = json.dumps({n: v for n, v in json.loads(anna[4]).items() if n != "arrived"})
    anna[5] = json.dumps({**json.loads(anna[5]), "arrived": 0})
    anna[7] = json.dumps({**json.loads(anna[7]), "id": json.loads(anna[6])["id"]})
    (tmp_path / "all.jsonl").write_text("\n".join([*anna[:8], anna[8][:60]]) + "\n")
    system.memory = LocalMemory(HashEmbedder())
    done = json.loads(invoke("import", tmp_path / "all.jsonl", "--json").stdout)
    assert [e["line"] for e in done["errors"]] == [3, 4, 5, 8, 9]
    assert not any("Error" in e["reason"] or len(e["reason"]) > 150 for e in done["errors"])
    assert done["added"] == 3
    assert len(invoke("export", "anna").stdout.splitlines()) == 4  # also what arrived at 0


def test_export_to_a_file(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(line("anna", 1))
    invoke("import", tmp_path / "h.jsonl")
    result = invoke("export", "anna", "-o", tmp_path / "out.jsonl", "--json")
    assert json.loads(result.stdout)["lines"] == 2
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_what_users_have_in_common_is_shown_and_dropped(invoke: Invoke, system: type[FakeSystem]) -> None:
    assert "nothing was learned" in invoke("population").stdout
    learned = Population(number=4, users=12, time=datetime(2024, 5, 1, tzinfo=UTC), choices=packed(np.ones(SIZE)))
    asyncio.run(system.memory.commit_population(learned))
    shown = json.loads(invoke("population", "--json").stdout)
    assert (shown["number"], shown["users"], shown["choices"], shown["ratings"]) == (4, 12, True, False)
    assert "of 12 users" in invoke("population").stdout
    assert json.loads(invoke("population", "--forget", "--json").stdout)["forgotten"]
    assert json.loads(invoke("population", "--json").stdout)["users"] == 0
    assert not json.loads(invoke("population", "--forget", "--json").stdout)["forgotten"]


def test_forget_gives_a_receipt(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text("\n".join(line(user, 1) for user in ("anna", "bob")))
    invoke("import", tmp_path / "h.jsonl")
    result = invoke("forget", "anna", "--yes", "--json")
    receipt = json.loads(result.stdout)
    assert (result.exit_code, receipt["interactions"], receipt["remaining"]) == (0, 1, 0)
    assert [u["user"] for u in json.loads(invoke("users", "--json").stdout)["users"]] == ["bob"]
    assert invoke("forget", "anna", "--yes").exit_code == 2


def test_forget_takes_single_interactions(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text("\n".join(line("anna", n, id=f"i{n}") for n in range(3)))
    invoke("import", tmp_path / "h.jsonl")
    result = invoke("forget", "anna", "--interaction", "i0", "--interaction", "i2", "--yes", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"user": "anna", "deleted": 2, "missing": 0})
    result = invoke("forget", "anna", "--interaction", "i0", "--interaction", "i1", "--yes")
    assert (result.exit_code, result.stdout) == (1, "removed 1 interactions; 1 were not there\n")
    assert json.loads(invoke("users", "--json").stdout)["count"] == 0


# Personas and chat


def test_persona_history_rollback_and_pin(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    unknown = invoke("persona", "anna")
    assert unknown.exit_code == 2
    assert "`personaagent users` lists those there are" in unknown.stderr
    assert json.loads(invoke("persona", "anna", "set", "likes soup", "--json").stdout)["number"] == 1
    (tmp_path / "p.txt").write_text("likes salad\n")
    invoke("persona", "anna", "set", f"@{tmp_path / 'p.txt'}")
    invoke("persona", "anna", "set", "-", input="likes stew")
    assert json.loads(invoke("persona", "anna", "rollback", 1, "--json").stdout)["text"] == "likes soup"
    assert json.loads(invoke("persona", "anna", "pin", "--json").stdout)["pinned"]
    assert json.loads(invoke("persona", "anna", "pin", "--json").stdout)["number"] == 5
    history = json.loads(invoke("persona", "anna", "--history", "--json").stdout)
    assert [(v["number"], v["origin"], v["pinned"]) for v in history["versions"]] == [
        (1, "manual", False),
        (2, "manual", False),
        (3, "manual", False),
        (4, "rollback", False),
        (5, "manual", True),
    ]
    shown = invoke("persona", "anna", "--history").stdout
    assert "-likes soup" in shown
    assert "+likes salad" in shown
    assert invoke("persona", "anna", "rollback", 9).exit_code == 2


def test_a_persona_is_read_and_changed_claim_by_claim(invoke: Invoke, system: type[FakeSystem]) -> None:
    asyncio.run(settle(system))
    shown = invoke("persona", "anna").stdout
    assert " 1. [prefers] prefers green tea" in shown
    assert "since 2026-01-01, on 2 interactions, +.12 nats per token (± .03)" in shown
    assert " 2. [fact] lives in Rome\n    pinned, written by the model, on 1 interaction\n" in shown
    assert 'in the user\'s own words:\n  "drink 0" -> "green tea"' in shown
    assert "memory: 3 similar requests shown as exchanges; choices by memory and the model (weight 0.1)" in shown
    assert '"drink 1" -> "green tea"' not in shown
    assert '"drink 1" -> "green tea"' in invoke("persona", "anna", "--why").stdout
    why = json.loads(invoke("persona", "anna", "why", 1, "--json").stdout)
    assert (why["number"], why["text"], [i["id"] for i in why["interactions"]]) == (1, "prefers green tea", ["0", "1"])

    added = json.loads(invoke("persona", "anna", "add", "is called Anna", "--kind", "rule", "--json").stdout)
    assert [(c["text"], c["origin"]) for c in added["claims"]][-1] == ("is called Anna", "person")
    assert added["text"] == "This user prefers green tea.\n- lives in Rome\n- is called Anna"
    again = invoke("persona", "anna", "add", "Is called Anna.")
    assert again.exit_code == 2
    assert "claim 3 says that already" in again.stderr
    gone = invoke("persona", "anna", "strike", 1)
    assert "struck: prefers green tea" in gone.stdout
    assert "green tea" not in json.loads(invoke("persona", "anna", "--json").stdout)["text"]
    unpinned = json.loads(invoke("persona", "anna", "unpin", 1, "--json").stdout)
    assert [c["pinned"] for c in unpinned["claims"]] == [False, False]
    assert not unpinned["pinned"]
    missing = invoke("persona", "anna", "pin", 7)
    assert (missing.exit_code, "there is no claim 7; there are 2" in missing.stderr) == (2, True)
    back = json.loads(invoke("persona", "anna", "rollback", 2, "--json").stdout)
    assert [c["text"] for c in back["claims"]] == ["prefers green tea", "lives in Rome", "is called Anna"]
    assert (len(back["exemplars"]), back["struck"]) == (1, [])
    whole = json.loads(invoke("persona", "anna", "set", "likes soup", "--json").stdout)
    assert ([c["text"] for c in whole["claims"]], len(whole["exemplars"])) == (["likes soup"], 1)
    history = invoke("persona", "anna", "--history").stdout
    assert "unpinned: lives in Rome\n" in history
    assert "pinned: lives in Rome\n" in history.split("unpinned: lives in Rome\n")[1]  # by going back
    assert "exemplars:" not in history  # they are the same in all versions


async def settle(system: type[FakeSystem]) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    drinks = [Interaction(id=str(n), user="anna", time=start, query=f"drink {n}", truth="green tea") for n in range(3)]
    await system.memory.append("anna", drinks)
    claims = [
        Claim(text="lives in Rome", sources=("2",), origin="model", pinned=True),
        Claim(
            text="prefers green tea",
            kind=ClaimKind.PREFERS,
            sources=("0", "1"),
            since=start,
            gain=0.12,
            error=0.03,
        ),
    ]
    exemplar = Exemplar(source="0", query="drink 0", truth="green tea")
    draft = made(claims, Decision(), Origin.ALIGNED, exemplars=[exemplar], budget=100)
    await system.memory.commit_persona("anna", draft, None)


def test_persona_of_a_user_who_was_only_imported(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(line("anna", 1))
    invoke("import", tmp_path / "h.jsonl")
    assert json.loads(invoke("persona", "anna", "--json").stdout)["origin"] == "initial"


def test_what_users_wrote_is_shown_as_it_is(invoke: Invoke, system: type[FakeSystem]) -> None:
    text = "likes [bold]brackets[/bold] :smile: and 日本語"
    invoke("persona", "anna", "set", text)
    assert text in invoke("persona", "anna").stdout


def test_chat_answers_and_remembers(invoke: Invoke, system: type[FakeSystem]) -> None:
    result = invoke("chat", "anna", "what is for dinner?")
    assert result.stdout == "soup\n"
    reply = json.loads(invoke("chat", "anna", "which one?", "--choice", "soup", "--choice", "salad", "--json").stdout)
    assert reply["text"] in ("soup", "salad")
    assert set(reply["scores"]) == {"soup", "salad"}
    assert "why" not in reply
    assert reply["saw"] is None
    assert json.loads(invoke("users", "--json").stdout)["users"][0]["interactions"] == 2


def drinks(invoke: Invoke, tmp_path: Path, user: str = "anna") -> None:
    options = ["green tea", "black coffee"]
    told = [
        line(user, n, id=f"{user}{n}", query=f"drink\x1b[31m {n}? " + "x" * 90, choices=options, truth="green tea")
        for n in range(3)
    ]
    (tmp_path / "h.jsonl").write_text("\n".join(told))
    assert invoke("import", tmp_path / "h.jsonl").exit_code == 0


CHOICES = ("--choice", "black coffee", "--choice", "green tea")


def test_chat_says_why(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    drinks(invoke, tmp_path)
    text = invoke("chat", "anna", "drink?", *CHOICES, "--why").stdout
    assert text.startswith("green tea\n")
    assert re.search(r"green tea +│ +\d+\.\d %", text)
    assert re.search(r'because of "green.*" \(\+\d+\.\d\), from 3 requests:', text)
    assert '  "drink\\x1b[31m 2? xxx' in text
    assert '..." -> "green tea"\n' in text
    assert "\x1b" not in text
    reply = json.loads(invoke("chat", "anna", "drink?", *CHOICES, "--why", "--json").stdout)
    assert sum(reply["scores"].values()) == pytest.approx(1)
    assert {i for reason in reply["why"] for i in reason["interactions"]} == {i["id"] for i in reply["interactions"]}
    assert all(i["truth"] == "green tea" for i in reply["interactions"])
    prose = invoke("chat", "anna", "drink?", "--why").stdout
    assert prose.startswith("soup\nit saw these requests:\n")
    assert json.loads(invoke("chat", "anna", "drink?", "--why", "--json").stdout)["why"] is None


def test_chat_says_which_tools_it_called(invoke: Invoke, system: type[FakeSystem]) -> None:
    clock = FakeTool(ToolSpec(name="clock", description="The time."), answer="noon\nsharp")
    system.toolbox = Toolbox(ToolSettings(model_weight=1), [clock])
    system.leaning = {"c": -0.1, "a": -3.0}
    text = invoke("chat", "anna", "what time is it?", "--why").stdout
    assert "it called clock {} -> noon sharp\n" in text
    reply = json.loads(invoke("chat", "anna", "what time is it?", "--why", "--json").stdout)
    assert (reply["trace"][0]["tool"], reply["trace"][0]["result"]) == ("clock", "noon\nsharp")
    assert json.loads(invoke("chat", "anna", "what time is it?", "--json").stdout)["trace"] is None


def test_chat_says_how_an_answer_was_chosen_and_what_it_repeats(
    invoke: Invoke, system: type[FakeSystem], tmp_path: Path
) -> None:
    told = line("anna", 1, query="Noor cooks for me.", truth="Noor, soup again?")
    (tmp_path / "h.jsonl").write_text(told)
    invoke("import", tmp_path / "h.jsonl")
    note = invoke("--set", "agent.samples=4", "chat", "anna", "dinner?").stderr
    assert "does not tell likelihoods, so one answer was made instead of 4" in note
    system.answer = "Soup again? Noor"
    note = invoke("chat", "anna", "dinner?", "--why").stderr
    assert "longest run of an old answer: 2 words; names or numbers of old answers: noor" in note


def test_explain_needs_no_model(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    drinks(invoke, tmp_path)
    found = json.loads(invoke("explain", "anna", "drink?", *CHOICES, "--json").stdout)
    assert set(found) == {"answer", "probabilities", "expected", "why", "interactions"}
    assert found["answer"] == "green tea"
    assert 'because of "green' in invoke("explain", "anna", "drink?", *CHOICES).stdout
    grades = [f"--choice={n}" for n in range(1, 6)]
    rated = invoke("explain", "nobody", "how nice?", *grades).stdout
    assert "expected 3.00" in rated
    assert "memory has nothing to say about it" in rated
    assert [parts["llm"] for parts in system.started] == [False] * 4
    assert json.loads(invoke("users", "--json").stdout)["count"] == 1


# Evaluation


@pytest.mark.slow
def test_an_evaluation_goes_on_where_it_stopped(
    invoke: Invoke, system: type[FakeSystem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("eval", "history", "--data", history_file(tmp_path), "--methods", "none,rag", "--json")
    wanted = {"failing": 5}
    answer = FakeLLM.chat

    async def chat(self: FakeLLM, request: Any) -> Any:
        if wanted["failing"]:
            wanted["failing"] -= 1
            raise UnavailableError("did not answer in time")
        return await answer(self, request)

    monkeypatch.setattr(FakeLLM, "chat", chat)
    first = invoke(*args)
    assert first.exit_code == 1
    missing = json.loads(first.stdout)["missing"]
    assert sum(missing.values()) == 5
    assert "32 answers, kept in" in first.stderr
    named = ", ".join(f"{name} {count}" for name, count in missing.items())
    assert f"answers missing, counted as wrong: {named}; the same command tries them again" in first.stderr

    second = invoke(*args)
    assert second.exit_code == 0, second.stderr
    assert "going on: 27 of 32 answers are there" in second.stderr
    assert json.loads(second.stdout)["missing"] == {}
    assert len(system.started) == 2

    third = invoke(*args)
    assert len(system.started) == 2
    assert "--restart runs it again" in one_line(third.stderr)
    assert third.stdout == second.stdout
    with monkeypatch.context() as patched:
        patched.setattr("alignment.evaluation.run.code_digest", lambda: "other")
        assert "the program has changed" in invoke(*args).stderr

    assert "32 answers, kept in" in invoke(*args, "--restart").stderr
    assert len(system.started) == 3
    folder = next((tmp_path / "home" / "evaluations").iterdir())
    refused = invoke(*args, "--seed", 7, "--run-folder", folder)
    assert refused.exit_code == 2
    assert "options.seed is 0 there and 7 here" in one_line(refused.stderr)
    assert len(system.started) == 3


@pytest.mark.slow
def test_an_evaluation_without_a_model_starts_none(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    folder = tmp_path / "here"
    data = history_file(tmp_path)
    result = invoke("eval", "history", "--data", data, "--methods", "evidence", "--run-folder", folder)
    assert result.exit_code == 0, result.stderr
    assert "evidence" in result.stdout
    assert [parts["llm"] for parts in system.started] == [False]
    assert (folder / "journal.jsonl").exists()


@pytest.mark.slow
def test_personas_are_evaluated(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    data, page = history_file(tmp_path), tmp_path / "page.html"
    args = ("eval-personas", "history", "--data", data, "--shuffle", "users", "--report", page)
    shown = invoke(*args)
    assert shown.exit_code == 0, shown.stderr
    assert "aligned-other" in shown.stdout
    assert "promised by luck" in shown.stdout
    assert page.exists()
    result = json.loads(invoke(*args, "--json").stdout)
    assert (result["users"], result["shuffle"], result["missing"]) == (4, "users", {})
    assert [parts["llm"] for parts in system.started] == [True, True]


@pytest.mark.slow
def test_actions_are_evaluated(invoke: Invoke, system: type[FakeSystem], tmp_path: Path) -> None:
    pytest.importorskip("personaagent.tools.lessons")
    page = tmp_path / "page.html"
    args = ("eval", "actions-develop", "--users", "2", "--seed", "1", "--report", page)
    shown = invoke(*args)
    assert shown.exit_code == 0, shown.stderr
    assert "right tool" in shown.stdout
    assert page.exists()
    result = json.loads(invoke(*args, "--json").stdout)
    assert (result["world"], result["users"], result["seed"], result["missing"]) == ("develop", 2, 1, {})
    assert set(result["right_tool"]["own"]) >= {"value", "low", "high"}
    assert [parts["llm"] for parts in system.started] == [True, True]


def test_gepa_must_be_installed(invoke: Invoke, system: type[FakeSystem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.rival_gepa.importlib.util.find_spec", lambda name: None)
    result = invoke("eval-personas", "sample", "--search", "gepa")
    assert result.exit_code == 2
    assert "pip install gepa" in one_line(result.stderr)
    assert system.started == []


class Command:
    """A command in a process of its own, with the scripted engine; knows whether anything of it is left."""

    def __init__(self, home: Path, temporary: Path, *args: str) -> None:
        self.mark = uuid.uuid4().hex
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PERSONAAGENT_")},
            "RAYLLM_VLLM_ENGINE_CLS": "tests.support.scripted_engine.ScriptedEngine",
            "CLI_TEST_MARK": self.mark,
            "TMPDIR": str(temporary),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serve.cli", "--home", str(home), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).resolve().parents[3],
            start_new_session=True,
        )

    def wait(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr; nothing may be left running."""
        out, err = self.process.communicate(timeout=240)
        assert self.left() == [], err
        return self.process.returncode, out, err

    def interrupt(self, number: signal.Signals) -> None:
        """As it is usually done: Ctrl-C reaches the whole group, `kill` the process alone."""
        if number is signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def left(self) -> list[str]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().decode())
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.interrupt(signal.SIGTERM)
            self.process.communicate(timeout=120)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder with a short name: Ray's sockets are below it, and paths of sockets are short."""
    with tempfile.TemporaryDirectory(prefix="pa-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def start(tmp_path: Path, temporary: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def run(*args: object) -> Command:
        started.append(Command(tmp_path / "home", temporary, *map(str, args)))
        return started[-1]

    yield run
    for command in reversed(started):
        command.close()


@pytest.mark.cluster
def test_a_command_on_its_own(start: Callable[..., Command], tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "h.jsonl").write_text("\n".join([line("anna", 1), "{broken", line("bob", 2)]) + "\n")
    code, out, err = start("import", tmp_path / "h.jsonl", "--json").wait()
    assert code == 1, err
    done = json.loads(out)
    assert (done["added"], done["failed"]) == (2, 1)
    assert f"{tmp_path / 'h.jsonl'}:2: " in err
    assert "Traceback" not in err
    assert list(temporary.glob("personaagent-*")) == []


@pytest.mark.cluster
def test_commands_join_a_running_server(start: Callable[..., Command], tmp_path: Path) -> None:
    server = start("serve", "--port", 0)
    assert server.process.stdout is not None
    ready = server.process.stdout.readline()
    assert re.fullmatch(r"ready: http://127\.0\.0\.1:\d+/v1\n", ready)

    file = tmp_path / "h.jsonl"
    file.write_text(
        "\n".join([*(line("anna", n, choices=["soup", f"truth {n}"]) for n in range(8)), "{", line("bob", 1)])
    )
    code, out, err = start("import", file, "--json").wait()
    assert (code, json.loads(out)["added"]) == (1, 9), err
    file.write_text("\n".join([*(line("anna", n, choices=["soup", f"truth {n}"]) for n in range(9)), line("bob", 1)]))
    code, out, err = start("import", file, "--json").wait()
    assert (code, json.loads(out)["added"], json.loads(out)["repeated"]) == (0, 1, 9), err

    code, out, err = start("chat", "anna", "soup or salad?", "--choice", "soup", "--choice", "salad", "--json").wait()
    assert json.loads(out)["text"] in ("soup", "salad"), err
    code, out, err = start("align", "--all", "--run-id", "first", "--json").wait()
    aligned = json.loads(out)
    assert (code, aligned["users"], aligned["failed"]) == (0, 2, 0), err
    assert {r["user"] for r in aligned["results"]} == {"anna", "bob"}

    _, exported, _ = start("export", "anna").wait()
    code, out, err = start("forget", "anna", "--yes", "--json").wait()
    assert (code, json.loads(out)["remaining"], json.loads(out)["interactions"]) == (0, 0, 10), err
    (tmp_path / "anna.jsonl").write_text(exported)
    assert start("import", tmp_path / "anna.jsonl").wait()[0] == 0
    assert start("export", "anna").wait()[1] == exported

    server.interrupt(signal.SIGTERM)
    code, _, err = server.wait()
    assert code == 0, err


@pytest.mark.cluster
def test_demo_tells_what_it_did(start: Callable[..., Command], tmp_path: Path) -> None:
    code, out, err = start("demo", "--json", "--report", tmp_path / "report.html").wait()
    done = json.loads(out)
    assert code == 0, err
    assert set(done) == {
        "model", "users", "accepted", "own_minus_other", "text_gain", "factor", "score_before", "score_after", "llm_calls",
        "prefill_tokens", "seconds",
    }  # fmt: skip
    assert set(done["text_gain"]) == {"mean", "se", "n"}
    assert done["own_minus_other"]["n"] == 48
    assert done["users"] == 12
    assert "bruno" in (tmp_path / "report.html").read_text()


@pytest.mark.cluster
def test_demo_interrupted_leaves_nothing(start: Callable[..., Command], tmp_path: Path, temporary: Path) -> None:
    demo = start("demo", "--report", tmp_path / "report.html")
    assert demo.process.stdout is not None
    assert demo.process.stdout.readline().startswith("imported 240 interactions")
    demo.interrupt(signal.SIGINT)
    code, _, err = demo.wait()
    assert code == 130, err
    assert "Traceback" not in err
    assert not (tmp_path / "report.html").exists()
    assert list(temporary.glob("personaagent-*")) == []


def test_lines_from_chunks() -> None:
    text = "one\nзвёзды\nthree".encode()
    assert list(_split(iter([text[:7], text[7:]]))) == ["one", "звёзды", "three"]


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(json=True).progress("aligning", 500) as tell:
        for done in range(1, 501):
            tell("aligning", done, 500, "3.0 users/s" if done > 1 else "")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["aligning 1/500", "aligning 500/500 3.0 users/s"]


def test_a_stage_that_goes_on_or_stays_whole_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(json=True).progress() as tell:
        tell("none", 12, 16, "12 of 32 answers")
        for _ in range(3):
            tell("none", 16, 16, "16 of 32 answers")
        tell("rag", 0, 16, "16 of 32 answers")
    assert capsys.readouterr().err.splitlines() == [
        "none 12/16 12 of 32 answers",
        "none 16/16 16 of 32 answers",
        "rag 0/16 16 of 32 answers",
    ]


def test_progress_in_a_terminal_keeps_one_bar_below_the_stages_that_are_done() -> None:
    output = Output()
    output.err = Console(file=io.StringIO(), force_terminal=True, width=120, height=10)
    with output.progress() as tell:
        for stage in range(30):  # more than the terminal has lines
            tell(f"stage {stage}", 3, 8, "")
            tell(f"stage {stage}", 8, 8, f"{stage} of 30 answers")
    shown = output.err.file.getvalue()  # type: ignore[attr-defined]
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    assert [line.strip() for line in lines if re.fullmatch(r"stage \d+ 8/8 *", line)] == [
        f"stage {n} 8/8" for n in range(29)
    ]
    assert "29 of 30 answers" in [line for line in lines if line.strip()][-1]
