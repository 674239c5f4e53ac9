"""What is said of a command line that cannot be understood: one line with the nearest right thing.

Typer keeps the errors of its parser in a private module, so they are told apart by the names of their classes. This was
written for Typer 0.29; tests/serve/cli/test_usage.py makes every kind of mistake and fails when a text is not ours.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup, TyperOption
from typer.exceptions import TyperException

from personaagent.errors import InvalidInput
from personaagent.nearest import likely, nearest
from serve.cli.output import Output
from serve.cli.runner import EXIT_ERROR, EXIT_INPUT

__all__ = ["CommandLine", "told"]

QUOTE = "'"
COMPLETION = ("--install-completion", "--show-completion")
# What pydantic says of a number, a date and a bound, in fewer words. `{...}` is filled from what the error carries.
_VALUES = {
    "int_parsing": "is not a whole number",
    "float_parsing": "is not a number",
    "greater_than_equal": "is too small; the least is {ge:g}",
    "less_than_equal": "is too large; the most is {le:g}",
    "datetime_from_date_parsing": "is not a date and time; write it like 2025-03-01 or 2025-03-01T08:30:00",
    "datetime_parsing": "is not a date and time; write it like 2025-03-01 or 2025-03-01T08:30:00",
}


class CommandLine(TyperGroup):
    """The command group whose mistakes in use are one line on stderr, with exit code 2."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names. Raises InvalidInput with the nearest one if there is none."""
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            raise InvalidInput(f"no such command '{name}'{likely(name, self.commands, quote=QUOTE)}")
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line. It ends the process unless `standalone_mode` is False."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        given = sys.argv[1:] if args is None else list(args)
        if given[:1] and given[0] in COMPLETION and (reason := _no_shell(given[0])):
            Output().fail(reason)
            sys.exit(EXIT_INPUT)
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except InvalidInput as e:
            Output().fail(e.message)
            sys.exit(EXIT_INPUT)
        except TyperException as e:
            if (said := told(e)) is not None:
                Output().fail(said)
            sys.exit(e.exit_code)
        except typer.Abort:
            Output().note("Aborted.", style="red")
            sys.exit(EXIT_ERROR)
        sys.exit(code or 0)


def told(error: TyperException) -> str | None:
    """What is wrong and the nearest right thing, in one line; None where the parser has shown the help instead."""
    ctx: Any = getattr(error, "ctx", None)
    param: Any = getattr(error, "param", None)
    group = ctx.command if ctx is not None and isinstance(ctx.command, TyperGroup) else None
    match type(error).__name__:
        case "NoArgsIsHelpError":
            return None
        case "NoSuchOption":
            return _unknown_option(error, ctx)
        case "MissingParameter" if param is not None:
            return f"{param.param_type_name} {_name(param)} is missing{_choices(param)}; {_usage(ctx)}"
        case "BadParameter" if param is not None:
            return f"{_name(param)}: {_value(error, param)}"
    if found := re.fullmatch(r"Got unexpected extra argument\(s\) \((.*)\)", error.message, re.DOTALL):
        return f"there is no place for '{found[1]}'; {_usage(ctx)}"
    if found := re.fullmatch(r"Option '(.*)' requires an argument\.", error.message, re.DOTALL):
        return f"{found[1]} needs a value"
    if found := re.fullmatch(r"Option '(.*)' does not take a value\.", error.message, re.DOTALL):
        return f"{found[1]} takes no value"
    if group is not None and error.message == "Missing command.":
        return f"a command is missing; there are {', '.join(group.commands)}"
    said = error.format_message()
    return said[:1].lower() + said[1:].rstrip(".")


def _unknown_option(error: Any, ctx: typer.Context | None) -> str:
    name = error.option_name
    if ctx is None:
        return f"no such option {name}"
    command = ctx.command
    known = _options(command)
    if isinstance(command, TyperGroup):
        # Options before the command's name are those that all commands share; this may be one of a command's own.
        having = [own for own, other in command.commands.items() if name in _options(other)]
        if having and name not in known:
            return f"no such option {name} before the command; write it after {_either(having)}"
    near = nearest(name.removeprefix("--"), [k.removeprefix("--") for k in known if k.startswith("--")])
    hint = f"did you mean --{near}?" if near is not None else f"`{ctx.command_path} --help` lists those there are"
    return f"no such option {name}; {hint}"


def _either(words: Sequence[str]) -> str:
    quoted = [f"'{word}'" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _options(command: Any) -> list[str]:
    found = [name for p in command.params if isinstance(p, TyperOption) for name in (*p.opts, *p.secondary_opts)]
    return [*found, "--help", "-h"]


def _value(error: TyperException, param: Any) -> str:
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return error.message.rstrip(".")
    first = cause.errors()[0]
    given = first["input"]
    if isinstance(given, str) and (names := _names(param)):
        return f"there is no '{given}'{likely(given, names, quote=QUOTE)}"
    shown = f"'{given}'" if isinstance(given, str) else f"{given}"
    if first["type"] in _VALUES:
        return f"{shown} {_VALUES[first['type']].format(**first.get('ctx', {}))}"
    reason = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{shown} does not fit: {reason[:1].lower()}{reason[1:]}"


def _names(param: Any) -> list[str]:
    return [str(getattr(choice, "value", choice)) for choice in param.type_descriptor.choices or ()]


def _choices(param: Any) -> str:
    names = _names(param)
    return f": one of {', '.join(names)}" if names else ""


def _name(param: Any) -> str:
    """An option as one types it, an argument by its name."""
    return str(max(param.opts, key=len) if isinstance(param, TyperOption) else param.name)


def _usage(ctx: typer.Context | None) -> str:
    said = " ".join(ctx.get_usage().split()) if ctx is not None else ""
    return said[:1].lower() + said[1:]


def _no_shell(option: str) -> str | None:
    """Why completion cannot be set up here, and what to do; None if the shell is known."""
    import shellingham

    try:
        shellingham.detect_shell()
    except shellingham.ShellDetectionFailure:
        return (
            f"{option} cannot tell which shell this is; `_PERSONAAGENT_COMPLETE=source_bash personaagent` prints the lines for"
            " bash (source_zsh and source_fish those for others), which belong into its start-up file"
        )
    return None
