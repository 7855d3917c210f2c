"""Requests of our own from the machine that we run on, wherever the URL leads from there."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Sequence

from analysis.asked import Asked
from probe.errors import UnavailableError
from probe.sending.claims import claims_of
from probe.sending.exchange import send
from probe.sending.orders import Order, make_orders, told
from probe.sending.target import Target


def orders_from_here(target: Target, count: int, spoof: Sequence[str]) -> list[Order]:
    """`count` honest requests and as many with each forged claim. Raises UnavailableError where the name is unknown."""
    port = target.port or target.default_port
    try:
        # One address for all: what is compared must have gone the same way.
        family, *_, where = socket.getaddrinfo(target.host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnavailableError(
            f"--send {target.url}: {target.host} is not found: {reason}; give an address"
        ) from error
    claims = claims_of(spoof, ipv6=family == socket.AF_INET6, chance=random.SystemRandom())
    return make_orders(target, str(where[0]), port, count=count, claims=claims)


def ask_from_here(
    orders: Sequence[Order], progress: Callable[[str], None], take: Callable[[Asked], None]
) -> None:
    """Send one after the other; each is told of, and taken, as it ends."""
    for number, order in enumerate(orders, start=1):
        asked = send(order)
        progress(told(number, len(orders), asked))
        take(asked)
