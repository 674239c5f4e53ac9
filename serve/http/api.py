"""The HTTP API over an agent and its memory: one router per resource, the errors and what stands in front of them.

Endpoints translate; the agent, the memory and the aligner do the work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from personaagent import __version__
from serve.http import (
    alignment_routes,
    chat_routes,
    health_routes,
    interaction_routes,
    model_routes,
    persona_routes,
    user_routes,
)
from serve.http.admission import Admission
from serve.http.dependencies import Shared
from serve.http.failures import install_errors
from serve.http.middleware import RequestGuard
from serve.http.openapi import describe
from serve.http.services import Services

__all__ = ["create_api"]

# In the order in which the OpenAPI document names them.
RESOURCES = (
    model_routes,
    chat_routes,
    user_routes,
    interaction_routes,
    alignment_routes,
    persona_routes,
    health_routes,
)


def create_api(services: Services) -> FastAPI:
    """The application."""
    config = services.settings.serve
    shared = Shared.of(services)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        shared.health.refresh()
        yield
        shared.health.close()
        await services.close()

    app = FastAPI(title="PersonaAgent on Ray", version=__version__, redirect_slashes=False, lifespan=life)
    app.state.shared = shared
    install_errors(app)
    for resource in RESOURCES:
        app.include_router(resource.router)
    describe(app, keyed=bool(config.api_key))
    app.add_middleware(Admission, load=shared.load, settings=config)
    app.add_middleware(RequestGuard, config=config)
    return app
