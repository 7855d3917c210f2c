"""Claims about the client that are not true: `--spoof`, and the bytes that carry them.

A default value is an address of a range for documentation, drawn anew for each run. Nobody has such an address,
so an application that takes it for its client's has it from us.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import msgspec

from analysis.asked import TOKEN_HEADER
from analysis.judging.forgery import PROXY_CLAIMS
from probe.errors import UsageError
from probe.sending.target import is_address

#: Every claim that `--spoof all` makes, each alone.
CLAIMS = (
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-client-ip",
    *PROXY_CLAIMS,
)
ALL = "all"

#: RFC 5737 §3 (TEST-NET-3) and RFC 3849 §2.
DOCUMENTATION_4 = IPv4Network("203.0.113.0/24")
DOCUMENTATION_6 = IPv6Network("2001:db8::/32")

#: Header fields on which the exchange itself rests: forging them would be another request, not another claim.
_OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "upgrade", TOKEN_HEADER})

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}\Z")  # RFC 9110 §5.6.2
_VALUE_LENGTH = 16_000  # more than most servers take, less than what one argument may have

#: The port of a client that does not exist.
_INVENTED_PORT = 40404

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # proxy-protocol.txt §2.2


class Claim(msgspec.Struct, frozen=True):
    """One forged claim: the header field's name in lower case, or one of PROXY_CLAIMS with "ip:port"."""

    name: str
    value: str

    @property
    def in_front(self) -> bool:
        """Whether it stands in front of the request (and of TLS), as a PROXY header."""
        return self.name in PROXY_CLAIMS


def claims_of(wishes: Sequence[str], *, ipv6: bool, chance: random.Random) -> tuple[Claim, ...]:
    """The claims that `--spoof HEADER[=VALUE]` asks for, in its order. Raises UsageError.

    `ipv6` says which family default values are of; `chance` draws them, each another one.
    """
    values = _values(ipv6, chance)
    claims: dict[Claim, None] = {}
    parted = [_parted(wish) for wish in wishes]
    named = {name for name, _ in parted}
    for name, value in parted:
        if name == ALL:
            for each in CLAIMS:
                if each not in named:
                    claims[_invented(each, next(values))] = None
        elif value is None:
            claims[_invented(name, next(values))] = None
        else:
            claims[_given(name, value)] = None
    return tuple(claims)


def check_spoof(wishes: Sequence[str]) -> None:
    """Raise UsageError where one of them cannot be made; nothing is drawn yet."""
    claims_of(wishes, ipv6=False, chance=random.Random(0))  # noqa: S311 - nothing secret, and thrown away


def _parted(wish: str) -> tuple[str, str | None]:
    name, given, value = wish.partition("=")
    name = name.strip().lower()
    if name == ALL and given:
        raise UsageError("--spoof all takes no value; give one to a single claim: --spoof HEADER=VALUE")
    if not _TOKEN.match(name):
        raise UsageError(
            f"--spoof {_short(wish)}: {_short(name)} is no name of a header field (RFC 9110 §5.6.2); "
            f"give HEADER[=VALUE], or one of {', '.join((*CLAIMS, ALL))}"
        )
    if name in _OURS:
        raise UsageError(
            f"--spoof {name}: the exchange itself rests on that field; forge one that tells of the client, "
            f"such as {', '.join(CLAIMS[:3])}"
        )
    return name, value if given else None


def _values(ipv6: bool, chance: random.Random) -> Iterator[str]:
    """Addresses for documentation, none of them twice in a row of 250."""
    while True:
        if ipv6:
            for host in chance.sample(range(1 << 32, 1 << 63), 250):
                yield str(DOCUMENTATION_6[host])
        else:
            yield from (str(DOCUMENTATION_4[host]) for host in chance.sample(range(1, 255), 250))


def _invented(name: str, address: str) -> Claim:
    """A claim with an address of ours, in the form that its field has."""
    if name in PROXY_CLAIMS:
        return Claim(name, endpoint(address, _INVENTED_PORT))
    if name == "forwarded":  # RFC 7239 §6: an IPv6 address is quoted and in brackets
        return Claim(name, f'for="[{address}]"' if ":" in address else f"for={address}")
    return Claim(name, address)


def _given(name: str, value: str) -> Claim:
    """A claim with a person's own value: whatever can be sent without becoming more than one field."""
    if name in PROXY_CLAIMS:
        parted = address_and_port(value)
        if parted is None:
            raise UsageError(
                f"--spoof {name}={_short(value)}: a PROXY header names an address; give ADDRESS, ADDRESS:PORT "
                "or [ADDRESS]:PORT"
            )
        address, port = parted
        return Claim(name, endpoint(address, _INVENTED_PORT if port is None else port))
    if bad := next((character for character in value if character in "\r\n\0"), None):
        raise UsageError(
            f"--spoof {name}: the value has {bad!a} in it, which would end the field; leave it out"
        )
    if any(
        "\ud800" <= character <= "\udfff" for character in value
    ):  # bytes that the shell passed as they were
        raise UsageError(f"--spoof {name}: the value is not valid UTF-8; give text")
    if len(value) > _VALUE_LENGTH:
        raise UsageError(f"--spoof {name}: the value is longer than {_VALUE_LENGTH:,} characters; shorten it")
    return Claim(name, value)


def endpoint(address: str, port: int) -> str:
    """`ip:port`, or `[ip]:port`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def address_and_port(text: str) -> tuple[str, int | None] | None:
    """From ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT; None for anything else."""
    if is_address(text):
        return (text, None) if "%" not in text else None
    host, _, port = text.rpartition(":")
    address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bracketed = address != host
    if not is_address(address) or "%" in address or bracketed != (":" in address):
        return None
    if not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        return None
    return address, int(port)


def proxy_header(claim: Claim, destination: str) -> bytes:
    """The PROXY header of a claim about a connection to `destination`, "ip:port" (proxy-protocol.txt §2.1, §2.2).

    Both addresses of a header are of one family. Where the connection's is the other one, the destination is an
    address for documentation too.
    """
    source, source_port = _parsed(claim.value)
    target, port = _parsed(destination)
    if source.version != target.version:
        target = DOCUMENTATION_4[0] if source.version == 4 else DOCUMENTATION_6[0]
    if claim.name == "proxy":
        return f"PROXY TCP{source.version} {source} {target} {source_port} {port}\r\n".encode()
    addresses = source.packed + target.packed + struct.pack("!HH", source_port, port)
    family = 0x11 if source.version == 4 else 0x21  # AF_INET or AF_INET6, STREAM
    return _SIGNATURE + struct.pack("!BBH", 0x21, family, len(addresses)) + addresses


def _parsed(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    parted = address_and_port(text)
    if parted is None:
        raise ValueError(f"{text!a} is no address with a port")
    return ip_address(parted[0]), parted[1] or 0


def _short(text: str) -> str:
    return ascii(text[:80]) + ("" if len(text) <= 80 else "...")
