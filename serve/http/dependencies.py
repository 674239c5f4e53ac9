"""What endpoints ask FastAPI for: the parts that one application's endpoints share, and what a path names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import TypeAdapter

from personaagent.agent.client_prompts import Housekeeping
from personaagent.errors import UnknownUserError
from personaagent.persona.versions import PersonaVersions
from personaagent.protocols import Memory
from personaagent.types import UserId
from serve.http.admission import Load
from serve.http.alignments import Alignments
from serve.http.failures import checked
from serve.http.health import Health
from serve.http.middleware import decoded
from serve.http.services import Services

__all__ = ["AppMemory", "AppPersonas", "AppServices", "AppShared", "KnownUser", "NamedInteraction", "Shared", "User"]

_USER: TypeAdapter[str] = TypeAdapter(UserId)


@dataclass(frozen=True)
class Shared:
    """What the endpoints of one application share, kept as its `state.shared`."""

    services: Services
    load: Load
    health: Health
    housekeeping: Housekeeping
    alignments: Alignments

    @classmethod
    def of(cls, services: Services) -> Shared:
        """All of it, made from the services and their settings."""
        config = services.settings.serve
        checks = {
            "llm": services.check_llm,
            "embedder": lambda: services.embedder.embed(["ready?"]),
            "memory": services.check_memory,
        }
        return cls(
            services,
            Load.of(config, services.chats),
            Health(checks),
            Housekeeping(config.housekeeping_patterns),
            Alignments(config.max_concurrent_alignments, config.long_request_timeout_s),
        )


# All are coroutines: FastAPI would call plain functions in a thread.


async def _shared(request: Request) -> Shared:
    shared: Shared = request.app.state.shared
    return shared


AppShared = Annotated[Shared, Depends(_shared)]


async def _services(shared: AppShared) -> Services:
    return shared.services


AppServices = Annotated[Services, Depends(_services)]


async def _memory(services: AppServices) -> Memory:
    return services.memory


AppMemory = Annotated[Memory, Depends(_memory)]


async def _personas(services: AppServices) -> PersonaVersions:
    return services.agent.personas


AppPersonas = Annotated[PersonaVersions, Depends(_personas)]


async def _user(user: Annotated[str, Path(description="Percent-encoded; a slash is %2F.")]) -> str:
    with checked("path", "user"):
        return _USER.validate_python(decoded(user))


User = Annotated[str, Depends(_user)]  # that a path names, exactly


async def _known_user(user: User, memory: AppMemory) -> str:
    if await memory.summary(user) is None:
        raise UnknownUserError("this user is unknown")
    return user


KnownUser = Annotated[str, Depends(_known_user)]  # who must be there already


async def _interaction(interaction: str) -> str:
    return decoded(interaction)


NamedInteraction = Annotated[str, Depends(_interaction)]  # by its path
