"""nginx: the real_ip module, and what proxy_set_header sends (confirmed with 1.22).

The order of things: the connection's address is the peer's. When the peer is in `set_real_ip_from` the module looks
at one place, a field or the PROXY header, and takes the last address there; with `real_ip_recursive` it goes on
leftwards as long as the address at hand is in the list. The first thing that is no address ends the search with what
was found before. After that $remote_addr is the result, everywhere, also in $proxy_add_x_forwarded_for.
"""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from analysis.trust.fields import values
from analysis.trust.model import UNIX_PEER, Arrival, Claim, Fields, NginxRealIp, Resolution, TrustError
from analysis.trust.ranges import Address, Ranges, address, network, plain
from analysis.trust.rule import Rule, believe, refuse, unknown

_REAL_IP = "https://nginx.org/en/docs/http/ngx_http_realip_module.html"
_PROXY = "https://nginx.org/en/docs/http/ngx_http_core_module.html#listen"

STRANGER = Rule(
    "nginx-stranger",
    "the peer is not in set_real_ip_from, so $remote_addr stays the peer",
    f"{_REAL_IP}#set_real_ip_from",
)
LAST = Rule(
    "nginx-last",
    "the peer is in set_real_ip_from, so the last address in the field replaces $remote_addr",
    f"{_REAL_IP}#real_ip_recursive",
)
RECURSIVE = Rule(
    "nginx-recursive",
    "the peer is in set_real_ip_from, so the last address that is not in the list (or the leftmost) replaces it",
    f"{_REAL_IP}#real_ip_recursive",
)
NOTHING = Rule(
    "nginx-nothing",
    "the peer is in set_real_ip_from, but what real_ip_header names is absent or ends in no address",
    f"{_REAL_IP}#real_ip_header",
)
FROM_PROXY = Rule(
    "nginx-proxy",
    "the peer is in set_real_ip_from and real_ip_header is proxy_protocol, so the PROXY header's source counts",
    f"{_REAL_IP}#real_ip_header",
)
OFF = Rule("nginx-off", "no set_real_ip_from, so $remote_addr is the peer", f"{_REAL_IP}#set_real_ip_from")
EXPECTED = Rule("nginx-expected", "listen … proxy_protocol closes connections without a PROXY header", _PROXY)
UNEXPECTED = Rule(
    "nginx-unexpected",
    "without `listen … proxy_protocol` a PROXY header is a malformed request (400)",
    _PROXY,
)
UNRESOLVED = Rule(
    "nginx-name",
    "set_real_ip_from names a host; nginx resolves it when it starts, and the configuration does not say to what",
    f"{_REAL_IP}#set_real_ip_from",
)

RULES = (STRANGER, LAST, RECURSIVE, NOTHING, FROM_PROXY, OFF, EXPECTED, UNEXPECTED, UNRESOLVED)

_HOST = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_VARIABLE = re.compile(r"\$\{([A-Za-z0-9_]+)\}|\$([A-Za-z0-9_]+)")
_FIELD_NAME = re.compile(r"[A-Za-z0-9-]+\Z")  # underscores_in_headers is off by default
_SEPARATORS = " ,"
_JOINS_SINCE = (
    1,
    23,
)  # before, $http_NAME joined X-Forwarded-For and Cookie alone; of others the first counts


def trusted(settings: NginxRealIp) -> Ranges:
    """set_real_ip_from as a list. Raises TrustError for what nginx would not start with."""
    networks, names, unix = [], [], False
    for text in settings.trusted:
        one = network(text.strip())
        if one is not None:
            networks.append(one)
        elif text.strip() == UNIX_PEER:
            unix = True
        elif _HOST.match(text.strip()):
            names.append(text.strip())
        else:
            raise TrustError(f"set_real_ip_from {text[:80]!r}: write an address, a range or unix:")
    return Ranges(tuple(networks), unix, tuple(names))


def resolve(settings: NginxRealIp, arrival: Arrival) -> Resolution:
    """What $remote_addr becomes, and what goes to the upstream."""
    ranges = trusted(settings)
    if settings.proxy_protocol and arrival.proxy_source is None:
        return refuse(EXPECTED)
    if not settings.proxy_protocol and arrival.proxy_source is not None:
        return refuse(UNEXPECTED)
    seen = Arrival(arrival.peer, arrival.proxy_source, accepted(arrival.fields))
    found = _address(settings, ranges, seen)
    if found.client is None:
        return found
    if settings.stream:
        proxy = found.client if settings.sends_proxy else None
        return replace(found, onward=arrival.fields, onward_proxy=proxy)
    return replace(found, onward=onward(settings, variables(seen, found.client), seen.fields))


def _address(settings: NginxRealIp, ranges: Ranges, arrival: Arrival) -> Resolution:
    if not ranges:
        return believe(OFF, Claim.PEER, arrival.peer)
    admitted = ranges.admits(arrival.peer)
    if admitted is None:
        return unknown(UNRESOLVED)
    if not admitted:
        return believe(STRANGER, Claim.PEER, arrival.peer)
    name = settings.header
    if settings.stream or name.lower() == "proxy_protocol":
        source = parsed(arrival.proxy_source or "")
        if source is None:
            return believe(NOTHING, Claim.PEER, arrival.peer)
        return believe(FROM_PROXY, Claim.PROXY, written(source))
    lines = values(arrival.fields, name)
    if name.lower() != "x-forwarded-for":
        lines = lines[:1]  # of every other field nginx reads the first alone
    try:
        found = search(lines, ranges, settings.recursive)
    except _NameError:
        return unknown(UNRESOLVED, field=name)
    if found is None:
        return believe(NOTHING, Claim.PEER, arrival.peer)
    return believe(RECURSIVE if settings.recursive else LAST, Claim.FIELD, written(found), field=name)


class _NameError(Exception):
    """A host name in the list would have to be resolved."""


def search(lines: tuple[str, ...], ranges: Ranges, recursive: bool) -> Address | None:
    """The address that the module finds in the lines of a field, read from the right; None where it finds none.

    The peer is known to be trusted.
    """
    found: Address | None = None
    for line in reversed(lines):
        end = len(line)
        while True:
            while end > 1 and line[end - 1] in _SEPARATORS:
                end -= 1
            # A separator before which nothing stands is read as part of the address.
            cut = max(line.rfind(separator, 1, end) for separator in _SEPARATORS)
            here = parsed(line[cut + 1 : end])
            if here is None or not recursive:
                return here or found
            found = here
            if not ranges.holds(plain(found)):
                if ranges.names:
                    raise _NameError
                return found
            if cut < 0:
                break
            end = cut
    return found


def parsed(text: str) -> Address | None:
    """An address with or without port, as nginx reads it: "1.2.3.4", "1.2.3.4:80", "::1", "[::1]:80"."""
    bare = text
    if text.startswith("["):
        bare, bracket, port = text[1:].partition("]")
        if not bracket or not port.startswith(":") or not _port(port[1:]):
            return None
        return address(bare) if ":" in bare else None
    if text.count(":") == 1:
        bare, _, port = text.partition(":")
        if not _port(port):
            return None
    return address(bare) if ":" in bare else _four(bare)


def _four(text: str) -> IPv4Address | None:
    """Dotted decimals; leading zeros are no octal."""
    parts = text.split(".")
    if len(parts) != 4 or len(text) > 64:
        return None
    if not all(part == "" or (part.isascii() and part.isdigit() and int(part) <= 255) for part in parts):
        return None
    found = IPv4Address(bytes(int(part or "0") for part in parts))
    return None if int(found) == 0xFFFF_FFFF else found


def _port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16 and 1 <= int(text) <= 65535


def written(found: Address) -> str:
    """An address as nginx prints it: IPv4 inside IPv6 in dotted form."""
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return f"::ffff:{found.ipv4_mapped}"
    if isinstance(found, IPv6Address) and int(found) >> 32 == 0 and int(found) >> 16:
        return f"::{IPv4Address(int(found))}"
    return str(found)


def accepted(fields: Fields) -> Fields:
    """The fields that nginx keeps: those whose names it finds valid, and X-Forwarded-For however often."""
    return tuple((name, value) for name, value in fields if _FIELD_NAME.match(name))


def variables(arrival: Arrival, client: str) -> dict[str, str]:
    """The variables that speak of the client; $http_NAME is looked up in the fields by `onward`."""
    came = ", ".join(values(arrival.fields, "X-Forwarded-For"))
    source = arrival.proxy_source or ""
    return {
        "remote_addr": client,
        "realip_remote_addr": arrival.peer,
        "proxy_protocol_addr": source,
        "proxy_add_x_forwarded_for": (
            f"{came}, {client}" if values(arrival.fields, "X-Forwarded-For") else client
        ),
    }


def onward(settings: NginxRealIp, known: dict[str, str], fields: Fields) -> Fields | None:
    """The fields for the upstream: those that are set, then all others as they came.

    None where an expression needs what the settings do not say. A field that is set to nothing is not sent.
    """
    made = []
    joins = settings.version >= _JOINS_SINCE
    for name, expression in settings.sends:
        value = expand(expression, known, fields, joins=joins)
        if value is None:
            return None
        if value:
            made.append((name, value))
    set_names = {name.lower() for name, _ in settings.sends}
    return (*made, *((name, value) for name, value in fields if name.lower() not in set_names))


def expand(expression: str, known: dict[str, str], fields: Fields, *, joins: bool) -> str | None:
    """An expression with its variables put in; None where one of them is not known."""
    parts, end = [], 0
    for match in _VARIABLE.finditer(expression):
        value = _variable((match[1] or match[2]).lower(), known, fields, joins=joins)
        if value is None:
            return None
        parts += [expression[end : match.start()], value]
        end = match.end()
    return "".join([*parts, expression[end:]])


def _variable(name: str, known: dict[str, str], fields: Fields, *, joins: bool) -> str | None:
    if name.startswith("http_"):
        lines = values(fields, name[5:].replace("_", "-"))
        return ", ".join(lines) if joins or name == "http_x_forwarded_for" else "".join(lines[:1])
    return known.get(name)
