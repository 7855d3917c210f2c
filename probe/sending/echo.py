"""Whom does the application take for its client? Read from the body of an echo, of whoever's making.

Rules:

1. Only what the application says of its client counts. That a header of ours comes back says nothing, so nested
   objects, and what stands below a request line or a heading "headers", are not looked at.
2. Nor is a field looked at that has the name of a header that we forged: it might be the header.
3. Where it cannot be told, the answer is None, with the reason for people.

Pure: bytes in, a value out.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from analysis.judging.forgery import plain_address

#: Fields by which echoes name the client, the one that says most about it first; without case, "_", "-", " ".
FIELDS = (
    "clienthost",
    "clientip",
    "clientaddress",
    "clientaddr",
    "client",
    "origin",  # httpbin and its kin
    "ip",
    "yourip",
    "address",
    "remoteip",
    "remoteaddress",
    "remoteaddr",
)
_PLACE = {name: number for number, name in enumerate(FIELDS)}

#: Where echoes in text begin to repeat the request.
_REPEATS = re.compile(r"\s*(?:[A-Z]{3,10} \S* HTTP/\d|(?:request |http )?headers\b)", re.IGNORECASE)
_LINE = re.compile(r"\s*([A-Za-z][A-Za-z _-]{0,30}?)\s*[=:]\s*(\S.*?)\s*\Z")
_SHOWN = 60


class Echo(NamedTuple):
    """The address that the application says its client has, or None; and what is to be said of that."""

    saw: str | None
    detail: str = ""


def understand(body: bytes, forged: Collection[str] = ()) -> Echo:
    """`forged` are the names of the headers that the request lied in."""
    text = body.decode("utf-8", "replace").strip()
    if not text:
        return Echo(None, "the answer has no body")
    alone = plain_address(text)
    if alone is not None:
        return Echo(alone)
    suspects = frozenset(map(_bare, forged))
    if text[0] in "{[":
        return _from_json(body, suspects)
    return _from_lines(text, suspects)


def _bare(name: str) -> str:
    return re.sub(r"[_\- ]", "", name).lower()


def _from_json(body: bytes, suspects: frozenset[str]) -> Echo:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Echo(None, "the answer looks like JSON and is none")
    if not isinstance(value, dict):
        return Echo(None, "the answer is JSON without fields")
    return _chosen([(_bare(name), name, _inner(item)) for name, item in value.items()], suspects)


def _inner(item: Any) -> str | None:
    """The text of a field; some write the client as [host, port] or as an object."""
    if isinstance(item, list) and 1 <= len(item) <= 2 and isinstance(item[-1], int):
        item = item[0]
    if isinstance(item, dict):
        item = item.get("host") or item.get("ip") or item.get("address")
    return item if isinstance(item, str) else None


def _from_lines(text: str, suspects: frozenset[str]) -> Echo:
    """`client_address=1.2.3.4`, `RemoteAddr: 1.2.3.4:567`, one field a line."""
    fields = []
    for line in text.splitlines():
        if _REPEATS.match(line):
            break
        if found := _LINE.match(line):
            name, value = found.groups()
            # "IP" in text is what servers call their own addresses (traefik/whoami has a line for each of them).
            if _bare(name) != "ip":
                fields.append((_bare(name), name, value))
    return _chosen(fields, suspects)


def _chosen(fields: list[tuple[str, str, str | None]], suspects: frozenset[str]) -> Echo:
    """The field that says most, as long as it says one thing."""
    known = sorted((each for each in fields if each[0] in _PLACE), key=lambda each: _PLACE[each[0]])
    doubt = ""
    for bare, name, value in known:
        if value is None:
            continue
        if bare in suspects:
            doubt = doubt or f"its {name!a} may be the header that was forged"
            continue
        said = {text for other, _, text in known if other == bare and text is not None}
        if len(said) > 1:
            return Echo(None, f"the answer has more than one {name!a}")
        return _address_in(name, value)
    return Echo(None, doubt or "the answer does not say whom the application saw")


def _address_in(name: str, value: str) -> Echo:
    alone = plain_address(value)
    if alone is not None:
        return Echo(alone)
    # httpbin's "origin" may be a whole X-Forwarded-For; by convention the client is its first.
    parts = [plain_address(part) for part in value.split(",")]
    if len(parts) > 1 and parts[0] is not None and all(parts):
        return Echo(parts[0], f"the first of {name!a}: {_short(value)}")
    if python := re.match(r"\('([0-9A-Fa-f.:]+)', \d{1,5}\)", value):  # an address as Python prints it
        return Echo(plain_address(python.group(1)))
    return Echo(None, f"its {name!a} is {_short(value)}, which is no address")


def _short(text: str) -> str:
    return ascii(text[:_SHOWN]) + ("" if len(text) <= _SHOWN else "...")
