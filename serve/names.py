"""The names of the Serve application and of its deployments."""

from __future__ import annotations

__all__ = ["APP", "EMBEDDER", "LLM", "ONLINE", "ROUTER"]

APP = "personaagent"  # the application
LLM, EMBEDDER, ROUTER, ONLINE = "LLM", "Embedder", "AgentRouter", "OnlineAlignment"
