"""Models, of which there is one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from serve.http.dependencies import AppServices
from serve.http.failures import error_response
from serve.http.middleware import JsonRoute, decoded

__all__ = ["router", "unknown_model"]

router = APIRouter(route_class=JsonRoute)


@router.get("/v1/models")
async def list_models(services: AppServices) -> dict[str, Any]:
    """The one model."""
    return {"object": "list", "data": [_card(services.model)]}


@router.get("/v1/models/{model:path}", response_model=None)
async def get_model(model: str, services: AppServices) -> dict[str, Any] | JSONResponse:
    """The model by its name."""
    name = decoded(model)
    return _card(name) if name == services.model else unknown_model(name)


def _card(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "personaagent"}


def unknown_model(name: str) -> JSONResponse:
    """The answer to a request for another model."""
    message = f"the model {name[:200]!r} does not exist; GET /v1/models names the one that does"
    return error_response(404, message, "model_not_found", "model")
