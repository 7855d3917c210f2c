"""What a client of the lab is told to send, and what it tells of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from analysis.asked import TOKEN_HEADER
from probe.lab.plan import host_and_port
from probe.lab.scenario import Outcome


class Errand(msgspec.Struct, frozen=True):
    """One connection to make. `index` counts requests of the scenario, `number` repetitions of one of them.

    It begins `after` seconds after the one before it began; None: when all before it have ended. It carries `requests`
    requests, numbered from `number` on: one after the other's answer, or all at once where `pipelined`. `proxy` are
    bytes to send before all else, before TLS too. `headers` are further fields, `token` the beginning of each
    request's token; "" for none.
    """

    index: int
    number: int
    protocol: Literal["tcp", "udp"]
    source: str
    target: str
    port: int
    path: str
    patience: float
    after: float | None = None
    requests: int = 1
    pipelined: bool = False
    headers: dict[str, str] = {}
    proxy: bytes = b""
    tls: bool = False
    h2c: bool = False
    token: str = ""

    def token_of(self, number: int) -> str:
        """The token of the request of that number."""
        return f"{self.token}-{number}" if self.token else ""

    def fields(self, number: int) -> dict[str, str]:
        """Header fields of the request of that number, besides those that every request has."""
        token = self.token_of(number)
        return self.headers | ({TOKEN_HEADER: token} if token else {})

    @property
    def authority(self) -> str:
        """The server's name in a request."""
        return host_and_port(self.target, self.port)


class Result(msgspec.Struct, frozen=True):
    """What the client saw of one request. Addresses are those of its own socket; times are seconds since the epoch."""

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
    token: str = ""
