"""An HTTP tool's URL with arguments put in. Whatever these are, it goes to the same server and to the place that was meant."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import httpx

from personaagent.base import readable
from personaagent.errors import InvalidInput

__all__ = ["UrlTemplate"]

LONGEST = 8_000  # characters of a URL; servers take no longer ones
_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_STEPS = re.compile(r"[/\\]")


class UrlTemplate:
    """A URL with `{name}` in its path or query, for arguments."""

    def __init__(self, url: str, where: str) -> None:
        """Args:
        url: the template.
        where: what it is of, for messages.

        Raises:
            InvalidInput: it is no http or https URL, or an argument could choose the server.
        """
        try:
            parts = urlsplit(url)
            _ = parts.port
            whole = httpx.URL(_FIELD.sub("x", url))
        except (ValueError, httpx.InvalidURL) as e:
            raise InvalidInput(f"{where}: its URL is none: {e}") from e
        shown = url.partition("?")[0]  # keys may stand in the query
        if parts.scheme not in ("http", "https") or not whole.host:
            raise InvalidInput(f"{where}: {shown!r} is no URL of a server; write it as https://host/path")
        if parts.username is not None or parts.password is not None:
            raise InvalidInput(f"{where}: its URL holds credentials; put them into headers")
        if "{" in parts.netloc or "}" in parts.netloc or parts.fragment:
            raise InvalidInput(
                f"{where}: an argument may stand in the path and the query of a URL alone, not elsewhere in {shown!r}"
            )
        if {"{", "}"} & set(_FIELD.sub("", parts.path + parts.query)):
            raise InvalidInput(f"{where}: in its URL stand brackets that are no {{argument}}")
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._path = parts.path or "/"
        self._query = parts.query
        self._where = where
        self.fields = tuple(dict.fromkeys(_FIELD.findall(self._path + "?" + self._query)))
        self.fixed = frozenset(name for name, _ in parse_qsl(self._query, keep_blank_values=True))

    def filled(self, arguments: Mapping[str, Any], further: Mapping[str, Any]) -> httpx.URL:
        """The URL of a call.

        Args:
            arguments: by the names in the URL, one for each.
            further: arguments that follow in the query; lists are said once per item, null is left out.

        Raises:
            InvalidInput: an argument is missing or no single value, would lead to another place, or the URL gets too long.
        """
        path = "/".join(self._segment(part, arguments) for part in self._path.split("/"))
        query = _FIELD.sub(lambda m: quote(_plain(m[1], arguments.get(m[1])), safe=""), self._query)
        pairs = [f"{quote(name, safe='')}={quote(text, safe='')}" for name, text in _pairs(further)]
        query = "&".join([*([query] if query else []), *pairs])
        url = f"{self.origin}{path}{'?' if query else ''}{query}"
        if len(url) > LONGEST:
            raise InvalidInput(f"the arguments make a URL of {len(url)} characters, more than {LONGEST}; shorten them")
        return httpx.URL(url)

    def _segment(self, part: str, arguments: Mapping[str, Any]) -> str:
        fields = _FIELD.findall(part)
        if not fields:
            return part
        filled = _FIELD.sub(lambda m: quote(_plain(m[1], arguments.get(m[1])), safe=""), part)
        # Some servers read %2F as a slash: then too, no step may lead up.
        meant = unquote(filled)
        steps = [step.partition(";")[0] for step in _STEPS.split(meant)]
        if _CONTROL.search(meant) or any(step in ("", ".", "..") for step in steps):
            raise InvalidInput(f"{', '.join(fields)}: this is no name that can stand in a path")
        return filled


def _plain(name: str, value: Any) -> str:
    """A single value as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    raise InvalidInput(f"{name}: a text or a number is needed")


def _pairs(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in arguments.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                said = json.dumps(item) if isinstance(item, dict | list) else _plain(name, item)
                found.append((readable(name), said))
    return found
