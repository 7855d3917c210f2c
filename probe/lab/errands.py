"""What a client of the lab is told to send, and what it tells of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from probe.lab.scenario import Outcome

PAUSE = 0.03  # seconds from one request to the next: apart enough to be told apart in a listing


class Errand(msgspec.Struct, frozen=True):
    """One request to send. `index` counts requests of the scenario, `number` repetitions of one of them."""

    index: int
    number: int
    protocol: Literal["tcp", "udp"]
    source: str
    target: str
    port: int
    path: str
    patience: float
    delay: float = 0.0


class Result(msgspec.Struct, frozen=True):
    """What the client saw of it. Addresses are those of its own socket; times are seconds since the epoch."""

    index: int
    number: int
    source: str
    source_port: int
    target: str
    target_port: int
    protocol: str
    outcome: Outcome
    started: float
    ended: float
    status: int | None = None
    error: str | None = None
    seen: str | None = None  # the client's address according to the application
    seen_port: int | None = None
    peer: str | None = None  # the client's address on the endpoint's own socket, where it told
    peer_port: int | None = None
    pod: str | None = None
    answer: dict[str, object] = {}
