"""`mcp`: one user's memory as an MCP server, for programs such as Claude Desktop, Cursor and VS Code."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve.cli.runner import Run, command
from serve.cli.stdin_lines import StdinLines

if TYPE_CHECKING:
    from personaagent.settings import Settings
    from serve.mcp.user_verbs import UserVerbs
    from serve.runtime.system import System

__all__ = ["register"]


async def mcp(
    run: Run,
    user: Annotated[
        str | None, typer.Option(help="Whose memory; default from the settings (serve.default_user).")
    ] = None,
    http: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, metavar="PORT", help="Listen for streamable HTTP at /mcp on this port instead; 0 is any."
        ),
    ] = None,
) -> None:
    """Serve a user's memory as an MCP server, until standard input ends or Ctrl-C.

    Programs such as Claude Desktop and Cursor start this command themselves; docs/mcp.md says what to write into their settings.
    """
    from personaagent.errors import InvalidInput
    from serve.http.sites import check_exposure

    settings = run.settings(**({} if user is None else {"serve": {"default_user": user}}))
    if http is not None:
        check_exposure(settings.serve)
    elif settings.serve.default_user is None:
        raise InvalidInput("say whose memory this is: --user NAME, or serve.default_user in the settings")
    lines = StdinLines(private=True) if http is None else None  # before anything is started that could read them
    async with run.system(settings, llm=False) as system:
        if lines is not None:
            await _until_stopped(run, _on_streams(run, system, settings, lines))
        else:
            await _until_stopped(run, _on_http(run, system, settings, http or 0))


async def _on_streams(run: Run, system: System, settings: Settings, lines: StdinLines) -> None:
    from serve.mcp.memory_server import memory_server
    from serve.mcp.standard_streams import serve_streams

    user = settings.serve.default_user
    assert user is not None
    run.output.note(f"serving the memory of {user!r} on standard input and output")
    await serve_streams(memory_server(_verbs(system), lambda _: user), lines, run.output.stream)


async def _on_http(run: Run, system: System, settings: Settings, port: int) -> None:
    from serve.mcp.memory_server import memory_server
    from serve.mcp.streamable import PATH, StreamableServer, caller_by

    config = settings.serve
    server = StreamableServer(memory_server(_verbs(system), caller_by(config)), config)
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def tell(found: asyncio.Future[int]) -> None:
        host = f"[{config.host}]" if ":" in config.host else config.host
        run.output.show(f"ready: http://{host}:{found.result()}{PATH}", style="bold green")
        if config.default_user is not None:
            run.output.note(f"requests that name nobody are those of {config.default_user!r}")
        run.output.note("Ctrl-C stops it")

    ready.add_done_callback(tell)
    await server.listen(port, ready)


def _verbs(system: System) -> UserVerbs:
    from personaagent.persona.versions import PersonaVersions
    from serve.mcp.user_verbs import SOURCE, UserVerbs

    memory = system.memory.acting_as(SOURCE)
    return UserVerbs(memory, PersonaVersions(memory, system.settings.agent, system.embedder))


async def _until_stopped(run: Run, serving: Coroutine[Any, Any, None]) -> None:
    """Serve until it ends by itself, or a signal says so; both are a normal end."""
    tasks = {asyncio.create_task(serving), asyncio.create_task(run.until_stopped())}
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in ended:
        task.result()


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "mcp")(mcp)
