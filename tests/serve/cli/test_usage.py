"""Every kind of mistake with every command: one line that says what is wrong and the nearest right thing, and exit code 2."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.main import get_command

from personaagent import __version__
from serve.cli import app

GROUP: Any = get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
OWN_TEXTS = ("Error", "Usage:", "Try '", "No such", "Invalid value", "Missing", "Input should")  # of Typer and pydantic


@pytest.fixture(autouse=True)
def _no_settings_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith("PERSONAAGENT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr. The command line is built once for them all, which takes most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        GROUP.main(list(arguments), prog_name="personaagent")
    return int(end.value.code or 0), out.getvalue(), err.getvalue()


def said(*arguments: str) -> str:
    """The one line about a mistake."""
    code, out, err = run(*arguments)
    lines = err.splitlines()
    assert (code, out, len(lines)) == (2, "", 1), (arguments, out, err)
    assert lines[0].startswith("error: "), lines[0]
    assert not any(text in lines[0] for text in OWN_TEXTS), lines[0]
    return lines[0].removeprefix("error: ")


def options(command: Any) -> Iterator[tuple[str, TyperOption]]:
    """Every name of every option, and the option."""
    for parameter in command.params:
        if isinstance(parameter, TyperOption):
            yield from ((name, parameter) for name in (*parameter.opts, *parameter.secondary_opts))


def required(command: Any) -> list[Any]:
    return [p for p in command.params if p.required]


def valid(parameter: Any) -> str:
    """A value that a parameter takes."""
    if choices := parameter.type_descriptor.choices:
        return str(choices[0].value)
    return "5" if parameter.type_descriptor.annotation in (int, float) else "text"


def filled(command: Any, without: Any = None) -> list[str]:
    """A command's arguments and options that must be there."""
    values: list[str] = []
    for parameter in required(command):
        if parameter is not without:
            values += [*([parameter.opts[0]] if isinstance(parameter, TyperOption) else []), valid(parameter)]
    return values


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_typed_wrong(name: str) -> None:
    swapped = name[:-2] + name[-1] + name[-2]
    for wrong in (name + name[-1], name[0] + name, name[:-1], swapped, name.upper()):
        if wrong not in COMMANDS:
            assert said(wrong, "anna") == f"no such command '{wrong}'; did you mean '{name}'?"


def test_a_command_like_none_names_them_all() -> None:
    assert said("x") == f"no such command 'x'; there are {', '.join(COMMANDS)}"
    assert said("--home", "x") == f"a command is missing; there are {', '.join(COMMANDS)}"
    assert said("al\nign\x1b", "anna") == "no such command 'al ign\\x1b'; did you mean 'align'?"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_typed_wrong(name: str) -> None:
    for option, _ in options(COMMANDS[name]):
        if option.startswith("--"):
            wrong = option + option[-1]
            assert said(name, wrong) == f"no such option {wrong}; did you mean {option}?"
    assert said(name, "--qqqqqqqq", "anna") == (
        f"no such option --qqqqqqqq; `personaagent {name} --help` lists those there are"
    )
    assert said(name, "-q").startswith("no such option -q; ")


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_an_option_without_its_value_or_with_one_too_many(name: str) -> None:
    command = COMMANDS[name] if name else GROUP
    for option, parameter in options(command):
        given = [name, option] if name else [option]
        if not parameter.is_flag:
            assert said(*given) == f"{option} needs a value"
        elif option.startswith("--"):
            assert said(*given[:-1], f"{option}=x") == f"{option} takes no value"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_before_the_command_that_only_commands_have(name: str) -> None:
    shared = {option for option, _ in options(GROUP)}
    for option, _ in options(COMMANDS[name]):
        if option not in shared and option != "--help":
            line = said(option, name)
            assert line.startswith(f"no such option {option} before the command; write it after "), line
            assert f"'{name}'" in line


@pytest.mark.parametrize("name", COMMANDS)
def test_values_that_do_not_fit(name: str) -> None:
    command = COMMANDS[name]
    for parameter in command.params:
        kind = parameter.type_descriptor
        shown = parameter.opts[-1] if isinstance(parameter, TyperOption) else parameter.name

        def line(value: str, parameter: Any = parameter) -> str:
            own = [f"{parameter.opts[-1]}={value}"] if isinstance(parameter, TyperOption) else [value]
            before = [] if isinstance(parameter, TyperArgument) and parameter.required else filled(command, parameter)
            return said(name, *before, *own)

        if kind.choices:
            right = str(kind.choices[0].value)
            assert line(right + right[-1]) == f"{shown}: there is no '{right + right[-1]}'; did you mean '{right}'?"
            every = ", ".join(str(c.value) for c in kind.choices)
            assert line("0") == f"{shown}: there is no '0'; there are {every}"
        elif kind.annotation is int:
            assert line("many") == f"{shown}: 'many' is not a whole number"
            assert line("1.5") == f"{shown}: '1.5' is not a whole number"
        elif kind.annotation is float:
            assert line("many") == f"{shown}: 'many' is not a number"
        if kind.is_ranged and (least := kind.parameter_info.min) is not None and isinstance(parameter, TyperOption):
            assert line(f"{least - 1:g}") == f"{shown}: '{least - 1:g}' is too small; the least is {least:g}"
        if kind.is_ranged and (most := kind.parameter_info.max) is not None:
            assert line(f"{most + 1:g}") == f"{shown}: '{most + 1:g}' is too large; the most is {most:g}"
        if kind.is_datetime:
            assert line("soon").startswith(f"{shown}: 'soon' is not a date and time; write it like 2025-03-01")


@pytest.mark.parametrize("name", [name for name in COMMANDS if required(COMMANDS[name])])
def test_what_must_be_there_is_named(name: str) -> None:
    for parameter in required(COMMANDS[name]):
        line = said(name) if len(required(COMMANDS[name])) == 1 else said(name, *filled(COMMANDS[name])[:-1])
        if len(required(COMMANDS[name])) == 1:
            shown = parameter.opts[0] if isinstance(parameter, TyperOption) else parameter.name
            assert line.startswith(f"{parameter.param_type_name} {shown} is missing")
        assert f"usage: personaagent {name} " in line


@pytest.mark.parametrize("name", [n for n in COMMANDS if not any(p.nargs == -1 for p in COMMANDS[n].params)])
def test_arguments_for_which_there_is_no_place(name: str) -> None:
    command = COMMANDS[name]
    room = [valid(p) for p in command.params if isinstance(p, TyperArgument)]
    flags = filled(command)[1:] if any(isinstance(p, TyperOption) for p in required(command)) else []
    flags = [command.params[0].opts[0], *flags] if flags else []
    line = said(name, *room, *flags, "more", "words")
    assert line.startswith(f"there is no place for 'more words'; usage: personaagent {name} ")


def test_help_and_version_stay() -> None:
    assert isinstance(GROUP, TyperGroup)
    code, out, err = run()
    assert (code, err) == (2, "")
    assert "Usage: personaagent [OPTIONS] COMMAND" in out
    for name in COMMANDS:
        code, out, err = run(name, "--help")
        assert (code, err) == (0, "")
        assert f"Usage: personaagent {name} " in out
    assert run("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("memory.shard", "memory.shards"),
        ("memmory", "memory"),
        ("shards", "memory.shards"),
        ("alignment.teacher.modle", "alignment.teacher.model"),
        ("memory.max_model_len", "llm.max_model_len"),
        ("memory.limits.text_mb", "memory.limits.text_kb"),
    ],
)
def test_a_setting_typed_wrong(key: str, near: str, tmp_path: Path) -> None:
    line = f"setting {key}: there is no such setting; did you mean {near}?"
    assert said("settings", "--set", f"{key}=3") == line
    tree: Any = 3
    for part in reversed(key.split(".")):
        tree = {part: tree}
    (tmp_path / "s.yaml").write_text(str(tree).replace("'", ""), encoding="utf-8")
    assert said("--config", str(tmp_path / "s.yaml"), "settings") == line


def test_a_setting_like_none_and_a_value_typed_wrong() -> None:
    assert said("settings", "--set", "q=1").endswith("`personaagent settings` prints those there are")
    line = run("settings", "--set", "llm.accelerator=gpuu")[2]
    assert line == "error: setting llm.accelerator: Input should be 'auto', 'cpu' or 'gpu'; did you mean gpu?\n"


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("PERSONAAGENT_MEMORY__SHARD", "PERSONAAGENT_MEMORY__SHARDS"),
        ("PERSONAAGENT_MEMRY__SHARDS", "PERSONAAGENT_MEMORY__SHARDS"),
        ("PERSONAAGENT_MEMORY_SHARDS", "PERSONAAGENT_MEMORY__SHARDS"),
        ("PERSONAAGENT_ALIGNMENT__TEACHER_MODEL", "PERSONAAGENT_ALIGNMENT__TEACHER__MODEL"),
        ("PERSONAAGENT_HOEM", "PERSONAAGENT_HOME"),
        ("PERSONAAGENT_CONFG", "PERSONAAGENT_CONFIG"),
    ],
)
def test_a_variable_typed_wrong(variable: str, near: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "3")
    line = said("settings")
    assert line.startswith(f"environment variable {variable}: ")
    assert line.rstrip("?").endswith(near)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PERSONAAGENT_PORT", "tcp://10.0.0.1:8000"),  # what Kubernetes says of services called like us
        ("PERSONAAGENT_SERVE_PORT", "tcp://10.0.0.1:8000"),
        ("PERSONAAGENT_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("PERSONAAGENT_SERVICE_HOST", "10.0.0.1"),
        ("PERSONAAGENT_HEAD_SVC_SERVICE_PORT_DASHBOARD", "8265"),
        ("PERSONAAGENT_EXAMPLES", "3"),
        ("PERSONAAGENT_DATA", "/data"),
        ("PERSONAAGENT_LLM__ENGINE_KWARGS__SEED", "3"),
        ("personaagent_memory__shards", "3"),
        ("PERSONAAGENT_MEMORY", '{"shards": 3}'),
    ],
)
def test_other_variables_are_nobodys_business(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    assert run("settings")[0] == 0


def test_a_method_typed_wrong() -> None:
    assert said("eval", "sample", "--methods", "none,ragg") == "unknown method 'ragg'; did you mean rag?"
    assert said("eval", "sample", "--ablate", "memmory") == "unknown ablation 'memmory'; did you mean memory?"
