"""Which web sites may speak to this server. A page in somebody's browser reaches every address that the browser reaches.

A page can do three things, and each has its answer: point a name of its own at our address (DNS rebinding), which shows in
`Host`; send a request from another site, which shows in `Origin` and `Sec-Fetch-Site`; and send what browsers send anywhere
without asking (a form, a request without a body), which lacks what `deliberate` looks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from personaagent.errors import InvalidInput
from personaagent.settings import ServeSettings

__all__ = ["EVERYWHERE", "Sites", "check_exposure", "is_local"]

EVERYWHERE = "0.0.0.0"  # all addresses of the machine
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MARK = b"x-personaagent"  # a header that a page of another site cannot send without asking us first
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(\d{0,5}))?", re.ASCII)


def is_local(name: str) -> bool:
    """Whether a host name or address means this machine, for everybody."""
    name = name.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name.split("%", 1)[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def check_exposure(config: ServeSettings) -> None:
    """Refuse to serve users' memories to a network without asking for a key.

    Raises:
        InvalidInput: the server would listen elsewhere than on loopback, without a key.
    """
    if not config.api_key and not is_local(config.host) and not config.allow_no_key:
        raise InvalidInput(
            f"listening on {config.host or 'every address'} without a key would open every user's memory to the network; "
            "set serve.api_key (PERSONAAGENT_SERVE__API_KEY), or serve.allow_no_key=true on a network that you trust"
        )


class Sites:
    """The hosts this server answers as, and the origins it answers to."""

    def __init__(self, config: ServeSettings) -> None:
        """Args:
        config: where it listens, and what is allowed besides.
        """
        self._names = frozenset(name.lower().removesuffix(".") for name in (config.host, *(config.allowed_hosts or ())))
        self._local = is_local(config.host)
        # With a key, a page that gets here under a name of its own still lacks the key; and an ingress or a probe may use
        # any name. Without, only names that nobody else can point here.
        self._any = config.allowed_hosts is None and bool(config.api_key) and not self._local
        self._origins = frozenset(origin.lower().rstrip("/") for origin in config.allowed_origins)

    def host_fault(self, host: bytes | None) -> str | None:
        """Why a request for this host is refused; None if it is not."""
        name = _split(host.decode("latin-1"), 80)[0] if host else None
        if name and (self._any or is_local(name) or name in self._names or (not self._local and _is_address(name))):
            return None
        shown = ascii(name)[:80] if name else "without a Host"
        return f"this server does not answer as {shown}; add the name to serve.allowed_hosts if it is yours"

    def allowed_origin(self, origin: bytes | None) -> str | None:
        """The origin, if it is one of another site that the settings allow."""
        text = origin.decode("latin-1") if origin else ""
        return text if text.lower() in self._origins else None

    def origin_fault(self, method: str, headers: Mapping[bytes, bytes]) -> str | None:
        """Why a request that a page of another site has sent is refused; None if it is not, or is no such request."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", b"none").lower()
        if self.allowed_origin(origin) is not None:
            return None
        refused = "requests of pages from other sites are refused; add the page's origin to serve.allowed_origins"
        if origin is not None:
            return None if _same(origin, headers.get(b"host", b"")) else refused
        if site not in (b"cross-site", b"same-site"):
            return None
        # Following a link to here shows the answer to the person alone, and no GET changes anything.
        followed = method in SAFE_METHODS and headers.get(b"sec-fetch-mode", b"").lower() == b"navigate"
        return None if followed else refused


def deliberate(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request changes nothing, or says in a header that a browser would not send by itself that it means it."""
    if method in SAFE_METHODS or MARK in headers:
        return True
    if headers.get(b"authorization", b"").lower().startswith(b"bearer "):
        return True
    return media_type(headers) == b"application/json"


def media_type(headers: Mapping[bytes, bytes]) -> bytes:
    """What a request's body is said to be; empty if it does not say."""
    return headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()


def vary(existing: Iterable[bytes]) -> bytes:
    """A `Vary` header that names the origin too."""
    return b", ".join([*(value for value in existing if value), b"Origin"])


def _split(host: str, port: int) -> tuple[str | None, int]:
    """Name and port of a `Host` header, with the port that stands for an absent one; None if it is not one."""
    found = _HOST.fullmatch(host)
    if found is None or int(found[2] or 0) > 65_535:
        return None, port
    name = found[1].lower().strip("[]").removesuffix(".")
    if ":" in name:
        try:
            name = ip_address(name).compressed
        except ValueError:
            return None, port
    return name or None, int(found[2] or port)


def _same(origin: bytes, host: bytes) -> bool:
    """Whether a page of this origin was loaded from this host. A proxy may have taken TLS off, so the scheme does not tell."""
    parts = origin.decode("latin-1").split("://", 1)
    if len(parts) != 2 or parts[0].lower() not in _PORTS:
        return False
    port = _PORTS[parts[0].lower()]
    ours = _split(host.decode("latin-1"), port)
    return ours[0] is not None and _split(parts[1], port) == ours


def _is_address(name: str) -> bool:
    """Whether it is an IP address, which no name server can point elsewhere."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
