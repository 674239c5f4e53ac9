"""Errors that cross a boundary: each says what went wrong and what to do, and maps to one HTTP status and exit code."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BudgetExceeded",
    "ConflictError",
    "ContextLengthExceeded",
    "DeadlineExceeded",
    "ForgottenError",
    "FutureTimeError",
    "InvalidInput",
    "LLMError",
    "NotFoundError",
    "OverloadedError",
    "PersonaAgentError",
    "RequestRefused",
    "StoreError",
    "TooLarge",
    "UnavailableError",
    "UnknownUserError",
    "UnsupportedError",
]


class PersonaAgentError(Exception):
    """Base of the errors a user or operator can act on.

    `status` is the HTTP status, `code` the machine-readable code in OpenAI's error shape.
    """

    status: int = 500
    code: str = "internal_error"
    type: str = "server_error"

    @property
    def message(self) -> str:
        """The one-line message shown to the caller."""
        return str(self.args[0]) if self.args else self.code

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error as OpenAI's JSON error object."""
        return {"error": {"message": self.message, "type": self.type, "param": None, "code": self.code}}

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Errors travel between Ray processes, so they pickle by their arguments."""
        return (self.__class__, self.args)


class InvalidInput(PersonaAgentError):
    """The caller sent something that cannot be used as it is."""

    status = 422
    code = "invalid_input"
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidInput):
    """The prompt does not fit the model's context even without any recalled episode or exemplar."""

    status = 400
    code = "context_length_exceeded"


class UnsupportedError(InvalidInput):
    """A field of a request asks for what is not done here; `param` names the field, by OpenAI's codes."""

    status = 400

    def __init__(self, message: str, param: str | None = None, code: str = "unsupported_value") -> None:
        super().__init__(message, param, code)
        self.param = param
        self.code = code

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error as OpenAI's JSON error object, with the field it is about."""
        return {"error": {**super().body()["error"], "param": self.param}}


class FutureTimeError(InvalidInput):
    """A time lies further in the future than clocks are off."""

    status = 400
    code = "time_in_future"


class TooLarge(InvalidInput):
    """Something is larger than a setting of `memory.limits` allows, which the message names."""

    status = 413
    code = "too_large"


class NotFoundError(PersonaAgentError):
    """The user, persona version or interaction does not exist."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class UnknownUserError(NotFoundError):
    """Nothing is stored of this user."""


class ConflictError(PersonaAgentError):
    """Somebody else replaced the persona or profile first (compare-and-set failed), or an id is taken by something else."""

    status = 409
    code = "conflict"
    type = "invalid_request_error"


class ForgottenError(ConflictError):
    """The user was forgotten after this work had begun, so nothing of it is stored."""

    code = "forgotten"


class StoreError(PersonaAgentError):
    """The store cannot be opened or written: wrong folder, lock held, full disk, other vector size."""

    status = 503
    code = "store_error"


class UnavailableError(PersonaAgentError):
    """A part of the system is down or overloaded; the same call may work later."""

    status = 503
    code = "unavailable"


class OverloadedError(UnavailableError):
    """There is more work under way than this part takes; the same call may work in a few seconds.

    To OpenAI's clients this is a rate limit, which they wait for and try again.

    Attributes:
        after_s: seconds after which to come again, where the part that refuses knows it.
    """

    after_s: int | None = None

    status = 429
    code = "rate_limit_exceeded"
    type = "requests"


class DeadlineExceeded(UnavailableError):
    """The request was not answered within the time it has (`serve.request_timeout_s`); what was done for it has ended."""

    status = 504
    code = "timeout"

    @property
    def message(self) -> str:
        """The one-line message shown to the caller."""
        return (
            str(self.args[0]) if self.args else "the request took longer than it may; ask for less, or try again later"
        )


class LLMError(PersonaAgentError):
    """The model answered with an error, or with nothing usable."""

    status = 502
    code = "llm_error"


class RequestRefused(LLMError):
    """The engine refused the request as the caller made it, such as an option that the model does not support."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class BudgetExceeded(PersonaAgentError):
    """An alignment budget of calls or tokens is used up."""

    status = 429
    code = "budget_exceeded"
