"""The application graph, for `serve.run` on a laptop and for a Serve config file (RayService) on a cluster alike.

In a config file: `import_path: serve.app:build`, with the settings tree under `args`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from personaagent.errors import InvalidInput
from personaagent.models.files import context_length
from personaagent.settings import Settings, load_settings
from serve.embedder import embedder_deployment
from serve.http.sites import EVERYWHERE, check_exposure
from serve.names import EMBEDDER, LLM, ONLINE, ROUTER
from serve.online_alignment import online_deployment
from serve.router import router_deployment

__all__ = ["build", "build_app", "load_engine"]


def build_app(settings: Settings) -> Any:
    """The Serve application: router over engine, embedder and, if it is on, online alignment. Ray must be connected.

    With `llm.base_url` there is no engine; the router calls that server.

    Raises:
        InvalidInput: a model that cannot be found.
    """
    llm = load_engine().llm_deployment(settings, LLM) if settings.llm.base_url is None else None
    embedder = embedder_deployment(settings, EMBEDDER)
    length = context_length(settings)
    online = online_deployment(settings, ONLINE, embedder, llm, length)
    return router_deployment(settings, ROUTER, embedder, llm, length, online)


def load_engine() -> ModuleType:
    """The module of the engine's deployment. Its first import takes seconds, for it imports vLLM.

    Raises:
        InvalidInput: vLLM, or what it needs, is not installed.
    """
    try:
        with _root_logger_kept():
            from serve.engine import deployment as engine
    except ImportError as e:
        reason = str(e).splitlines()[0]
        raise InvalidInput(
            f"vLLM cannot be imported ({reason}): run `make setup` with EXTRA=cpu or EXTRA=gpu, or set llm.base_url"
        ) from e
    return engine


def build(args: dict[str, Any]) -> Any:
    """The application for a Serve config file; `args` is the settings tree, over PERSONAAGENT_CONFIG and environment.

    Where it listens is said in the rest of that file, which is not seen here, so it counts as open to a network.

    Raises:
        InvalidInput: unknown settings, no key (see `serve.allow_no_key`), or a model that cannot be found.
    """
    settings = load_settings(**args)
    serving = settings.serve.model_copy(update={"host": EVERYWHERE})
    check_exposure(serving)
    return build_app(settings.model_copy(update={"serve": serving}))


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Importing ray.llm takes the root logger over and shows everybody's INFO lines on the terminal."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
