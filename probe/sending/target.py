"""Whom to ask: one URL, as a person wrote it."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Literal
from urllib.parse import quote, urlsplit

import msgspec

from probe.errors import UsageError

Scheme = Literal["http", "https"]

_FORM = "give a URL such as http://192.0.2.10:30080/debug/ip"
_LENGTH = 4000

_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?\Z", re.IGNORECASE
)  # RFC 1035 §2.3.4

#: What stands in a path and a query as it is: RFC 3986 §3.3 and §3.4, and escapes that are there already.
_PATH = "/%:@!$&'()*+,;=~-._"
_QUERY = _PATH + "?"


class Target(msgspec.Struct, frozen=True):
    """A URL taken apart. `port` is None where it was not written; `host` has no brackets."""

    scheme: Scheme
    host: str
    port: int | None
    path: str  # with the query, as it stands in the request line
    url: str

    @property
    def default_port(self) -> int:
        """The port of the scheme (RFC 9110 §4.2)."""
        return 443 if self.scheme == "https" else 80

    @property
    def authority(self) -> str:
        """What stands in the Host field (RFC 9110 §7.2)."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def literal(self) -> bool:
        """Whether the host is an address, and no name."""
        return is_address(self.host)


def parse_url(text: str) -> Target:
    """Raises UsageError where it is no URL that can be asked."""
    # urlsplit silently drops line breaks and tabs; what is sent must be what was written.
    if len(text) > _LENGTH or any(character.isspace() or not character.isprintable() for character in text):
        raise UsageError(f"--send {_short(text)}: no URL has spaces or control characters in it; {_FORM}")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise UsageError(f"--send {_short(text)}: {error}; {_FORM}") from error
    scheme = parts.scheme.lower()
    if scheme not in {"http", "https"} or not host or port == 0:
        raise UsageError(f"--send {_short(text)}: that cannot be asked over HTTP; {_FORM}")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"--send {_short(text)}: a URL with a user name is not taken; leave it out")
    path = quote(parts.path or "/", safe=_PATH) + (
        f"?{quote(parts.query, safe=_QUERY)}" if parts.query else ""
    )
    return Target("https" if scheme == "https" else "http", _wire_host(text, host), port, path, text)


def _wire_host(text: str, host: str) -> str:
    """The host as it goes over the wire; names in other scripts are written as RFC 3490 §4 says."""
    if is_address(host):
        return host
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    if not is_name(name):
        raise UsageError(f"--send {_short(text)}: {_short(host)} is no name of a host; {_FORM}")
    return name


def is_name(text: str) -> bool:
    """Whether a text can be the name of a host."""
    return _NAME.match(text) is not None and not is_address(text)


def is_address(text: str) -> bool:
    """Whether a text is one IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _short(text: str) -> str:
    return ascii(text[:80]) + ("" if len(text) <= 80 else "...")
