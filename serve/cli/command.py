"""The application that `personaagent` runs."""

from __future__ import annotations

from typing import Annotated

import typer

from personaagent import __version__
from serve.cli import aligning, demo, eval_personas, evaluating, explaining, importing, mcp_serving, personas, serving
from serve.cli import upkeep as maintenance
from serve.cli import users as memory
from serve.cli.runner import Assignments, Config, Home, Model, Verbose
from serve.cli.shared_options import Options
from serve.cli.usage import CommandLine

__all__ = ["app", "main"]

app = typer.Typer(
    name="personaagent",
    cls=CommandLine,
    help="Personal agents for every user: memory, personas and their alignment, on Ray and vLLM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _shared(
    ctx: typer.Context,
    config: Config = None,
    home: Home = None,
    model: Model = None,
    assignments: Assignments = None,
    verbose: Verbose = False,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    ctx.obj = Options(config, home, model, assignments or [], verbose)


for module in (
    serving,
    explaining,
    importing,
    memory,
    mcp_serving,
    personas,
    maintenance,
    aligning,
    evaluating,
    eval_personas,
    demo,
):
    module.register(app)


def main() -> None:
    """The console script."""
    app()
