"""`serve`, `chat` and `settings`."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serve.cli.explaining import (
    looked_up,
    percent,
    plain,
    show_interactions,
    show_probabilities,
    show_reasons,
    shown,
    sources,
)
from serve.cli.output import printable
from serve.cli.persona_view import show_seen
from serve.cli.runner import Json, Run, command
from serve.cli.stdin_lines import StdinLines

if TYPE_CHECKING:
    from personaagent.agent.agent import Reply
    from personaagent.types import Interaction
    from serve.runtime.system import System

__all__ = ["register"]

CHAT_HELP = "/want TEXT says what you really wanted, /good and /bad what the answer was, /new starts over, /quit ends"
THUMBS: dict[str, Literal[1, -1]] = {"/good": 1, "/bad": -1}
MAX_TURNS = 16  # messages of the conversation kept; what is older is in memory


async def serve(
    run: Run,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default from the settings.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default from the settings.")] = None,
) -> None:
    """Serve the OpenAI-compatible API until Ctrl-C."""
    flags = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = run.settings(serve=flags)
    from personaagent.models.files import model_name

    async with run.system(settings, http=True) as system:
        output = run.output
        output.show(f"ready: {system.url}/v1", style="bold green")
        key = " -H 'Authorization: Bearer <serve.api_key>'" if settings.serve.api_key else ""
        question = [{"role": "user", "content": "What should I cook tonight?"}]
        body = jsonlib.dumps({"model": model_name(settings), "user": "anna", "messages": question})
        output.show(f"  curl {system.url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'")
        if settings.serve.default_user is not None:
            output.note(f"requests that name nobody are those of {settings.serve.default_user!r} (serve.default_user)")
        output.note("Ctrl-C stops it")
        await run.until_stopped()


async def chat(
    run: Run,
    user: Annotated[str, typer.Argument(help="Who is talking.")],
    message: Annotated[str | None, typer.Argument(help="One message; without it, a conversation.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="A permitted answer; repeat it.")] = None,
    why: Annotated[
        bool,
        typer.Option(
            "--why",
            help="Say why: what the model saw, the tools it called, each option's probability, and what memory learned it "
            "from.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Talk to the agent as a user; it remembers."""
    from personaagent.errors import InvalidInput

    if message is None and (json or choice or why):
        raise InvalidInput("--json, --choice and --why need a MESSAGE")
    settings = run.settings()
    turn = _turn(user, [("user", message or "hello")], choice, why)  # refuses a bad user id before anything starts
    async with run.system(settings) as system:
        if message is None:
            await _converse(run, system, user)
            return
        reply = await system.agent.respond(turn)
        about: dict[str, Interaction] = {}
        if why:
            about = await looked_up(system, user, _behind(reply))
        run.output.result({**_reply(reply), **(plain(reply.reasons, about) if why else {})})
        run.output.show(reply.text)
        if not json:
            for line in _chosen(reply):
                run.output.note(line)
            if reply.scores and why:
                show_probabilities(run.output, reply.scores, reply.expected)
                show_reasons(run.output, reply.reasons or (), about, rating=reply.expected is not None)
                _show_seen(run, reply, about)
            elif reply.scores:
                told = ", ".join(f"{shown(option)} {percent(p)}" for option, p in reply.scores.items())
                run.output.note(f"probabilities: {told}")
            elif why:
                seen = [about[i] for i in reply.saw.episodes if i in about] if reply.saw else []
                run.output.show("it saw these requests:" if seen else "it recalled nothing")
                show_interactions(run.output, seen)
                _show_seen(run, reply, about)
                _show_calls(run, reply)
            run.output.note(
                f"persona version {reply.persona}, {len(reply.recalled)} recalled; interaction {reply.interaction_id}"
            )


def _turn(user: str, messages: list[tuple[str, str]], choices: list[str] | None = None, explain: bool = False) -> Any:
    from pydantic import ValidationError

    from personaagent.agent.agent import Turn
    from personaagent.errors import InvalidInput

    if choices is not None and (len(choices) == 1 or len(set(choices)) != len(choices) or not all(choices)):
        raise InvalidInput("give at least two different --choice options")
    try:
        return Turn.model_validate(
            {
                "user": user,
                "messages": [{"role": role, "content": text} for role, text in messages],
                "choices": choices or None,
                "explain": explain,
                "trace": explain,
            }
        )
    except ValidationError as e:
        raise InvalidInput(e.errors()[0]["msg"]) from e


def _behind(reply: Reply) -> list[str]:
    """The interactions that an answer is explained by: those of its reasons, for free text those the model saw."""
    saw = reply.saw
    seen = [*saw.exemplars, *(() if reply.reasons else saw.episodes)] if saw else []
    return list(dict.fromkeys([*sources(reply.reasons or ()), *seen]))


def _show_seen(run: Run, reply: Reply, about: Mapping[str, Interaction]) -> None:
    if reply.saw is not None:
        show_seen(run.output, reply.saw.claims, [about[i] for i in reply.saw.exemplars if i in about])


def _show_calls(run: Run, reply: Reply) -> None:
    """The tools that were called, with what came of it."""
    for call in reply.trace or ():
        arguments = jsonlib.dumps(call.call.arguments, ensure_ascii=False)
        run.output.show(f"it called {call.call.name} {shown(arguments)} -> {shown(call.text)}")


def _chosen(reply: Reply) -> list[str]:
    """How a free text was chosen, and what it repeats, as far as there is something to say."""
    lines, samples, copied = [], reply.samples, reply.copied
    if samples is not None and samples.count > 1:
        lines.append(f"chosen from {samples.count} answers, {samples.set_aside} of which repeated an old one")
    if samples is not None and samples.note:
        lines.append(samples.note)
    if copied is not None and copied.fault:
        names = f"; names or numbers of old answers: {', '.join(copied.names)}" if copied.names else ""
        lines.append(f"longest run of an old answer: {copied.words} words{names}")
    return lines


def _reply(reply: Reply) -> dict[str, Any]:
    from serve.http.chat_answers import traced

    told = reply.model_dump(mode="json", exclude={"message", "reasons", "trace"})
    return {**told, "trace": None if reply.trace is None else [traced(o) for o in reply.trace]}


async def _converse(run: Run, system: System, user: str) -> None:
    from personaagent.agent.agent import Reply
    from personaagent.errors import PersonaAgentError

    output = run.output
    output.note(CHAT_HELP)
    lines = StdinLines()
    history: list[tuple[str, str]] = []
    last: Reply | None = None
    while True:
        output.write(f"{printable(user, lines=False)}> ")
        line = await lines.next()
        if line is None or line.strip() == "/quit":
            return
        text = line.strip()
        try:
            if not text:
                continue
            if text == "/new":
                history, last = [], None
            elif text in THUMBS:
                if last is None:
                    output.note(f"ask something first, then: {text}")
                else:
                    await system.memory.feedback(user, last.interaction_id, None, rating=THUMBS[text])
                    output.note("noted")
            elif text.startswith("/want"):
                wanted = text.removeprefix("/want").strip()
                if last is None or not wanted:
                    output.note("ask something first, then: /want what you really wanted")
                else:
                    await system.memory.feedback(user, last.interaction_id, wanted)
                    output.note("noted")
            elif text.startswith("/"):
                output.note(CHAT_HELP)
            else:
                history.append(("user", text))
                async for piece in system.agent.stream(_turn(user, history)):
                    if isinstance(piece, Reply):
                        last = piece
                    else:
                        output.write(printable(piece))
                output.write("\n")
                history.append(("assistant", last.text if last else ""))
                history = history[-MAX_TURNS:]
        except PersonaAgentError as e:  # a conversation outlives one failed turn
            output.write("\n")
            output.fail(e.message)
            if history and history[-1][0] == "user":
                history.pop()


async def show_settings(run: Run, json: Json = False) -> None:
    """Print the settings in force, secrets masked."""
    import yaml

    tree = run.settings().model_dump(mode="json")
    run.output.result(tree)
    run.output.show(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip())


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "serve")(serve)
    command(app, "chat")(chat)
    command(app, "settings")(show_settings)
