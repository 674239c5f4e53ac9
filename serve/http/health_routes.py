"""What operators and probes ask: whether this process answers, takes requests, and keeps up with alignment."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from serve.http.dependencies import AppServices, AppShared
from serve.http.middleware import KNOWN, JsonRoute

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
async def readyz(request: Request, shared: AppShared) -> JSONResponse:
    """Whether this replica takes requests: 503 while it is being ended. Beside it what is known of the parts behind it.

    `parts` are from looks in the background, `age_s` seconds ago: a part that hangs or has too much to do holds up no probe.
    `mcp` says which MCP servers are connected. Nobody is asked for that, either. Their names and tools, and what is wrong with
    them, tell how a company works: who needs a key and has none learns only how many there are, and how many are connected.
    """
    parts, ages = await shared.health.report()
    shown = None if request.scope[KNOWN] else {"connected"}
    servers = [status.model_dump(include=shown) for status in shared.services.tool_servers()]
    report = {"parts": parts, "age_s": ages, "load": shared.load.report(), "mcp": servers}
    if shared.health.closing:
        return JSONResponse({"status": "closing", **report}, 503)
    return JSONResponse({"status": "ready", **report})
