"""What operators and probes ask: whether this process answers, takes requests, and keeps up with alignment."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from serve.http.dependencies import AppServices, AppShared
from serve.http.middleware import JsonRoute

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get("/v1/alignment", response_model=None)
async def alignment(services: AppServices) -> JSONResponse:
    """Online alignment: its queue and what it has done; 503 if work waits and nothing is done."""
    if services.online is None:
        return JSONResponse({"every": 0, "healthy": True})
    status = await services.online.status()
    return JSONResponse(status, 200 if status["healthy"] else 503)


@router.get("/readyz", response_model=None)
async def readyz(shared: AppShared) -> JSONResponse:
    """Whether this replica takes requests: 503 while it is being ended. Beside it what is known of the parts behind it.

    `parts` are from looks in the background, `age_s` seconds ago: a part that hangs or has too much to do holds up no probe.
    `mcp` says which MCP servers are connected. Nobody is asked for that, either.
    """
    parts, ages = await shared.health.report()
    servers = [status.model_dump() for status in shared.services.tool_servers()]
    report = {"parts": parts, "age_s": ages, "load": shared.load.report(), "mcp": servers}
    if shared.health.closing:
        return JSONResponse({"status": "closing", **report}, 503)
    return JSONResponse({"status": "ready", **report})
