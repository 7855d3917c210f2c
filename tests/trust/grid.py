"""The grid of things that can arrive: what clients and proxies write, and what people write to confuse them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from analysis.trust.model import Arrival, Fields, Settings, TrustError
from analysis.trust.overtrust import attacks, overtrust

T = TypeVar("T")

#: Values of one X-Forwarded-For field, from the ordinary to the hostile.
VALUES = (
    "203.0.113.5",
    "203.0.113.5, 10.1.1.1",
    "6.6.6.6, 203.0.113.5, 10.1.1.1",
    "10.2.2.2, 10.1.1.1",
    "203.0.113.5,10.1.1.1,127.0.0.2",
    "2001:db8::5",
    "2001:DB8:0:0::5, 10.1.1.1",
    "203.0.113.5:4711",
    "[2001:db8::5]:4711",
    "[2001:db8::5]",
    "::ffff:203.0.113.5",
    "203.0.113.5, ::ffff:10.1.1.1",
    "unknown",
    "unknown, 10.1.1.1",
    "203.0.113.5, unknown",
    "_hidden, 203.0.113.5",
    "",
    ",",
    ", ,",
    "203.0.113.5,",
    "203.0.113.5, , 10.1.1.1",
    ",203.0.113.5",
    "203.0.113.5 10.1.1.1",
    '"203.0.113.5"',
    '"6.6.6.6,203.0.113.5"',
    "203.0.113.005",
    "203.0.113.256",
    "203.0.113",
    "203.0.113.5.",
    "203.0.113.5:x",
    "203.0.113.5:0",
    "203.0.113.5:65536",
    "203.0.113.5/24",
    "203.0.113.5;proto=https",
    "fe80::1%eth0",
    "0.0.0.0",
    "255.255.255.255",
    "10.1.1.1",
    "127.0.0.2",
    "\x1b[31m203.0.113.5",
    "<script>, 10.1.1.1",
    "203.0.113.5\t",
    "\xe9\xff, 10.1.1.1",
    "unix:",
    "203.0.113.5, 10.1.1.1:80",
    "[2001:db8::5]x",
    "[2001:db8::5",
    "1",
)


def lists(name: str = "X-Forwarded-For") -> Iterator[Fields]:
    """No such field, each value alone, and repeated fields."""
    yield ()
    for value in VALUES:
        yield ((name, value),)
    for pair in (
        ("203.0.113.5", "10.1.1.1"),
        ("6.6.6.6, 203.0.113.5", "10.1.1.1, 10.2.2.2"),
        ("203.0.113.5", ""),
        ("", "203.0.113.5"),
        ("unknown", "10.1.1.1"),
        ("203.0.113.5", "unknown, 10.1.1.1"),
    ):
        yield tuple((name, value) for value in pair)
    yield ((name.lower(), "6.6.6.6"), ("X-Other", "text"), (name.upper(), "203.0.113.5"), (name, "10.1.1.1"))


def some(cases: Iterable[T], most: int, seed: int = 7) -> list[T]:
    """At most so many of the cases, the same ones each time."""
    every = list(cases)
    if len(every) <= most:
        return every
    return random.Random(seed).sample(every, most)


def attempts(settings: Settings) -> list[Arrival]:
    """What a stranger of IPv4 would try against these settings, from an address of the loopback that no list holds."""
    return [dataclasses.replace(one, peer="127.0.0.200") for one in attacks(settings) if ":" not in one.peer]


def opened(settings: Settings) -> bool:
    """Whether the rules say that a stranger of IPv4 can decide the client."""
    return any(":" not in opening.forged.peer for opening in overtrust(settings))


def refusal(read: Callable[[], object]) -> str:
    """What the TrustError says that a call raises; "" where it raises none."""
    try:
        read()
    except TrustError as error:
        return str(error)
    return ""
