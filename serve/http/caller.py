"""Who is asking: the many ways in which clients name the user of a chat request, in one order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from personaagent.errors import UnsupportedError
from personaagent.settings import ServeSettings
from personaagent.types import UserId
from serve.http.chat_fields import is_blank

__all__ = ["Identity", "identify"]

_USER: TypeAdapter[str] = TypeAdapter(UserId)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, and how the request named them: `user`, `metadata.user_id`, `safety_identifier`, `header:NAME` or `default`."""

    user: str
    source: str


def identify(
    user: str | None,
    metadata_user: Any,
    safety_identifier: str | None,
    headers: Iterable[tuple[bytes, bytes]],
    settings: ServeSettings,
) -> Identity:
    """The user of a request: the first of the arguments that says one, or the settings' default.

    `prompt_cache_key` is no identity: clients share one among users, and change it at will.

    Args:
        user: the body's `user`. What is null, blank or not there says nobody, as for the other two.
        metadata_user: the body's `metadata.user_id`.
        safety_identifier: the body's.
        headers: of the request, raw.
        settings: which headers name users, and whose requests are those that name nobody.

    Raises:
        UnsupportedError: nobody is named, or by something that cannot be a user id.
    """
    for value, source in (
        (user, "user"),
        (metadata_user, "metadata.user_id"),
        (safety_identifier, "safety_identifier"),
    ):
        if not is_blank(value):
            return Identity(_checked(value, source), source)
    if settings.user_headers:
        sent: dict[str, list[bytes]] = {}
        for raw, content in headers:
            sent.setdefault(raw.decode("latin-1").lower(), []).append(content.strip())
        for name in settings.user_headers:
            texts = [_text(content, name) for content in sent.get(name.lower(), [])]
            # Proxies join headers of one name with commas, also such as are empty.
            values = {text for text in texts if not is_blank(text.replace(",", " "))}
            if len(values) > 1:
                raise UnsupportedError(f"the header {name} is there more than once and names different users", name)
            if values:
                return Identity(_checked(values.pop(), f"header:{name}"), f"header:{name}")
    if settings.default_user is not None:
        return Identity(settings.default_user, "default")
    headers_say = f" or the header {' or '.join(settings.user_headers)}," if settings.user_headers else ""
    settings_may = "" if settings.user_headers else "headers that say it (serve.user_headers), or "
    raise UnsupportedError(
        f"nobody says who is asking: send user, metadata.user_id or safety_identifier in the body,{headers_say} or let the"
        f" settings name {settings_may}a default user, if the server is one person's (serve.default_user)",
        "user",
        "missing_required_parameter",
    )


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as e:
        raise UnsupportedError(f"the header {name} is not UTF-8", name, "invalid_value") from e


def _checked(value: Any, source: str) -> str:
    try:
        return _USER.validate_python(value, strict=True)
    except ValidationError as e:
        reason = str(e.errors()[0]["msg"]).removeprefix("Value error, ")
        raise UnsupportedError(f"{source}: {reason}", source, "invalid_value") from e
