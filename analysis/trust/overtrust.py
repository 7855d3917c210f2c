"""Who may decide the client's address that should not: found by trying, with the product's own rules.

A stranger is somebody whose address no list of the settings holds, unless a list holds every address. He connects to
the listener himself, or through `in_front` proxies that append to X-Forwarded-For and Forwarded and overwrite every
other field about the client. Every way in which he makes the server take an invented address for the client is an
opening, and carries the request that proves it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from analysis.trust.fields import FORWARDED_FOR
from analysis.trust.inspection import cause, deepest, fields_read, lists
from analysis.trust.model import Arrival, Claim, Fields, Hypercorn, Settings
from analysis.trust.products import resolved
from analysis.trust.ranges import Ranges, address, plain

#: What the stranger claims to be, by family (RFC 5737, RFC 3849).
FORGED = {4: "203.0.113.99", 6: "2001:db8:f::99"}

#: Where strangers are looked for.
_CANDIDATES = {
    4: ("198.51.100.66", "192.0.2.66", "9.9.9.9", "240.0.0.66", "101.0.0.66", "10.66.66.66"),
    6: ("2001:db8:5::66", "2620:fe::9", "fd00:66::66", "4000::66"),
}
_PROXIES = {4: "10.99.0.{}", 6: "fd00:99::{}"}
_LISTS = {FORWARDED_FOR.lower(), "forwarded"}


@dataclass(frozen=True, slots=True)
class Opening:
    """One way for a stranger to decide the client: by which claim, why that is believed, and a request that does it."""

    claim: Claim
    field: str
    reason: str
    source: str
    forged: Arrival


def overtrust(settings: Settings, in_front: int = 0) -> tuple[Opening, ...]:
    """Every opening, none where only those who are meant to be trusted decide.

    `in_front` is the number of proxies that every request passes before it reaches this listener; with 0 it can be
    reached directly. Raises TrustError for settings that no server would start with.
    """
    return _found(settings, in_front)


@functools.lru_cache(maxsize=256)
def _found(settings: Settings, in_front: int) -> tuple[Opening, ...]:
    openings: dict[tuple[Claim, str], Opening] = {}
    for arrival in attacks(settings, in_front):
        found = resolved(settings, arrival)
        if found.client in FORGED.values():
            reason = f"{_by(found.by, found.field)}: {cause(settings, found.by, in_front)}"
            opening = Opening(found.by, found.field, reason, found.source, arrival)
            openings.setdefault((found.by, found.field.lower()), opening)
    return tuple(openings.values())


def _by(claim: Claim, field: str) -> str:
    if claim is Claim.PROXY:
        return "whoever connects may name the client in a PROXY header"
    return f"whoever connects may name the client in {field}"


def attacks(settings: Settings, in_front: int = 0) -> Iterator[Arrival]:
    """The requests that a stranger would try; short ones first."""
    held = lists(settings)
    for version in FORGED:
        stranger = _stranger(held, version)
        if stranger is None:
            continue
        truth = _truth(held, version, in_front) if in_front else ()
        # A list of one family may let the other through, so strangers claim to be of either.
        for fields in (made for forged in FORGED.values() for made in _forgeries(settings, forged, truth)):
            if in_front:
                last = _proxies(held, version, in_front)[-1]
                yield Arrival(last, None, fields)
                yield Arrival(last, last, fields)
            else:
                for source in (None, *FORGED.values(), "", *_samples(held)):
                    yield Arrival(stranger, source, fields)


def _forgeries(settings: Settings, forged: str, truth: tuple[str, ...]) -> Iterator[Fields]:
    """Fields with the invented address in them, followed by what the proxies in front append."""
    names = fields_read(settings)
    yield ()
    for deep in dict.fromkeys((1, deepest(settings))):
        made = tuple((name, _value(settings, name, [forged] * deep, truth)) for name in names)
        yield from ((one,) for one in made)
        if len(made) > 1:
            yield made


def _value(settings: Settings, name: str, forged: list[str], truth: tuple[str, ...]) -> str:
    """The field as it arrives: lists are appended to by the proxies in front, all others overwritten."""
    entries = [*forged, *truth] if name.lower() in _LISTS or not truth else [truth[0]]
    if name.lower() == "forwarded" and isinstance(settings, Hypercorn):
        entries = [f"for={entry}" for entry in entries]  # others would read it as a list of addresses
    return ", ".join(entries)


def _truth(held: tuple[Ranges, ...], version: int, in_front: int) -> tuple[str, ...]:
    """What the proxies append: the stranger's own address, then each proxy's but the last."""
    stranger = _stranger(held, version)
    return (stranger or "", *_proxies(held, version, in_front)[:-1])


def _proxies(held: tuple[Ranges, ...], version: int, in_front: int) -> tuple[str, ...]:
    """Addresses of the proxies in front: out of a list where there is one, as it should be."""
    trusted = [sample for sample in _samples(held) if (":" in sample) == (version == 6)]
    if trusted:
        return (trusted[0],) * in_front
    return tuple(_PROXIES[version].format(number + 1) for number in range(in_front))


def _samples(held: tuple[Ranges, ...]) -> tuple[str, ...]:
    return tuple(str(one.networks[0].network_address) for one in held if one.networks)


def _stranger(held: tuple[Ranges, ...], version: int) -> str | None:
    """An address of that family that no list holds, lists of everybody left aside."""
    narrow = [one for one in held if not one.whole(version)]
    edges = []
    for one in narrow:
        for part in one.networks:
            if part.version == version:
                edges += [int(part.network_address) - 1, int(part.broadcast_address) + 1]
    last = (1 << (32 if version == 4 else 128)) - 1
    near = [_numbered(number, version) for number in edges if 0 <= number <= last]
    for candidate in (*_CANDIDATES[version], *near):
        found = address(candidate)
        held_by = found is None or any(one.holds(plain(found)) for one in narrow)
        if not held_by and candidate not in FORGED.values():
            return candidate
    return None


def _numbered(number: int, version: int) -> str:
    return str(IPv4Address(number) if version == 4 else IPv6Address(number))
