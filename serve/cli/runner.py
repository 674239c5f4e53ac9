"""How a command runs: shared options, one event loop, signals, errors as one line and an exit code.

0 done   1 partly failed, or an error nobody foresaw   2 an error that says what to do   130 interrupted
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_type_hints

import typer

from personaagent.errors import PersonaAgentError
from serve.cli.output import Output
from serve.cli.shared_options import Options

if TYPE_CHECKING:
    from personaagent.settings import Settings
    from serve.runtime.system import System

__all__ = ["Assignments", "Command", "Config", "Home", "Json", "Model", "Run", "Verbose", "command"]

T = TypeVar("T")
EXIT_ERROR, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


def _shared(*flags: str, help: str, **more: Any) -> Any:
    return typer.Option(*flags, help=help, rich_help_panel="Shared", **more)


Config = Annotated[Path | None, _shared("--config", metavar="FILE", help="Settings in YAML.")]
Home = Annotated[Path | None, _shared("--home", metavar="DIR", help="Folder of the stores.")]
Model = Annotated[str | None, _shared("--model", help="`embedded`, a Hugging Face id or a path.")]
Assignments = Annotated[list[str] | None, _shared("--set", metavar="KEY.PATH=VALUE", help="Any setting; repeatable.")]
Verbose = Annotated[bool, _shared("--verbose", help="Logs of Ray and vLLM, and tracebacks.")]

SHARED: dict[str, tuple[Any, Any]] = {
    "config": (Config, None),
    "home": (Home, None),
    "model": (Model, None),
    "assignments": (Assignments, None),
    "verbose": (Verbose, False),
}


class Run:
    """One run of a command: its options, its output, and the system it works on."""

    def __init__(self, options: Options, output: Output) -> None:
        self.options = options
        self.output = output
        self._task: asyncio.Task[Any] | None = None
        self._closing = False
        self._signals = 0
        self._stopped: asyncio.Event | None = None

    def settings(self, **flags: Any) -> Settings:
        """The settings in force; `flags` come from the command's own options."""
        return self.options.settings(**flags)

    @asynccontextmanager
    async def system(self, settings: Settings, *, llm: bool = True, http: bool = False) -> AsyncIterator[System]:
        """A started system, closed whatever happens; joins a running server of the same home.

        Args:
            settings: in force.
            llm: False for commands that only need memory and the embedder; they start faster.
            http: also serve HTTP.
        """
        self.output.divert()
        # After closing, a thread of ours that still waits for Ray must not start another one by calling it.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        with self.output.stage("starting" if llm or http else "opening the memory") as told:
            from serve.runtime.system import System

            system = await System.start(settings, llm=llm, http=http, verbose=self.options.verbose, on_stage=told)
        self._arm()  # Ray installs a handler of its own for SIGTERM
        try:
            yield system
        finally:
            self._closing = True
            with self.output.stage("closing"):
                await self._finish(system.close())

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run something that blocks. When cancelled, it is left behind and does not keep the process alive."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.done():  # cancelled meanwhile
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(cast(T, result))

        def work() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as e:  # noqa: BLE001 - it is raised where the future is awaited
                error = e
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=work, daemon=True).start()
        return await done

    def interruptible(self, work: Coroutine[Any, Any, int | None]) -> int:
        """Run a command's work; SIGINT and SIGTERM cancel it, so that what it started is closed. Its exit code."""

        async def supervised() -> int:
            self._task = asyncio.current_task()
            self._arm()
            return await work or 0

        return asyncio.run(supervised())

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)

    async def until_stopped(self) -> None:
        """Wait for SIGINT or SIGTERM as the normal end of a command that runs for ever."""
        self._stopped = asyncio.Event()
        await self._stopped.wait()

    def _interrupt(self) -> None:
        self._signals += 1
        if self._stopped is not None:
            self._stopped.set()
        if self._closing or self._signals == 2:  # a second one must not cut short what the first one set off
            self.output.note("closing already; a moment please")
        elif self._stopped is None and self._task is not None:
            if self._signals == 1:
                self.output.note("interrupted; closing what was started")
            self._task.cancel()

    @staticmethod
    async def _finish(work: Awaitable[None]) -> None:
        """Await something to its end, also when cancelled meanwhile."""
        task = asyncio.ensure_future(work)
        cancelled = False
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.done():
                    raise
                cancelled = True
        task.result()
        if cancelled:
            raise asyncio.CancelledError


Command = Callable[..., Coroutine[Any, Any, int | None]]


def command(app: typer.Typer, name: str) -> Callable[[Command], Command]:
    """Register `async def f(run: Run, <Typer parameters>) -> exit code or None` as a command with the shared options."""

    def register(function: Command) -> Command:
        hints = get_type_hints(function, include_extras=True)
        own = [
            p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for p in list(inspect.signature(function).parameters.values())[1:]
        ]

        @functools.wraps(function)
        def entry(ctx: typer.Context, **given: Any) -> None:
            later = Options(
                **{name: given.pop(name) for name in SHARED if name != "assignments"},
                assignments=given.pop("assignments") or [],
            )
            options = (ctx.obj or Options()).merged(later)
            output = Output(json=bool(given.get("json", False)), verbose=options.verbose)
            code = _guarded(Run(options, output), function, given)
            raise typer.Exit(code)

        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in SHARED.items()
        ]
        parameters = [context, *own, *shared]
        del entry.__wrapped__  # Typer would read the inner function's signature
        entry.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        entry.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(entry)
        return function

    return register


def _guarded(run: Run, function: Command, given: dict[str, Any]) -> int:
    """Run a command and turn whatever it raises into one line and an exit code."""
    failed = True
    try:
        code = run.interruptible(function(run, **given))
        failed = False
    except PersonaAgentError as e:
        if run.options.verbose:
            traceback.print_exc(file=sys.stderr)
        run.output.fail(e.message)
        code = EXIT_INPUT
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = EXIT_INTERRUPTED
        failed = False
    except BrokenPipeError:  # whoever read our output has seen enough
        code = 0
    except Exception as e:  # noqa: BLE001 - the program's edge: one line instead of a traceback
        if run.options.verbose:
            traceback.print_exc(file=sys.stderr)
        run.output.fail(f"{type(e).__name__}: {e} (--verbose shows the traceback)")
        code = EXIT_ERROR
    run.output.finish(failed)
    return code
