"""What alignment is doing at the moment, so that who measures it can tell what a call of the model was for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

__all__ = ["OTHER", "current_stage", "stage"]

P = ParamSpec("P")
T = TypeVar("T")

OTHER = "other"
_STAGE: ContextVar[str] = ContextVar("stage", default=OTHER)


def current_stage() -> str:
    """The innermost stage that the running task is in; `OTHER` outside of all."""
    return _STAGE.get()


def stage(name: str) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Marks a coroutine function as a stage of alignment: it, and the tasks it starts, are in that stage while it runs."""

    def mark(work: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @wraps(work)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            token = _STAGE.set(name)
            try:
                return await work(*args, **kwargs)
            finally:
                _STAGE.reset(token)

        return run

    return mark
