"""What a client of ours asked, and what it was answered: the two ends of a journey in the parties' own words.

A request that the probe sends itself is known from its socket (no translation can have touched that address yet)
to the application's answer. Such words are claims of the same standing as a server's log: they name the addresses
that nobody had to infer.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["answered", "timeout", "refused", "reset", "empty", "error"]

#: The request header that carries the token of one request from hop to hop, lower case.
TOKEN_HEADER = "x-probe-token"  # noqa: S105 - no password


class Asked(msgspec.Struct, frozen=True):
    """One request of ours.

    `source` and `destination` are the socket's own, "ip:port" or "[ip]:port". Times are seconds since the epoch.
    `saw` is the address that the application says its client has, None where it did not say. `forged` are the
    claims about the client that we invented: header fields, or ("proxy", "ip:port") for a PROXY header.
    """

    source: str
    destination: str
    started: float
    ended: float
    outcome: Outcome
    token: str = ""
    status: int | None = None
    saw: str | None = None
    forged: tuple[tuple[str, str], ...] = ()
    detail: str = ""  # what went wrong, for people
