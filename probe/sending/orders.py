"""What is to be sent: one order for each request, honest ones first, then each forged claim alone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated

import msgspec

from analysis.asked import Asked
from probe.sending.claims import Claim
from probe.sending.target import Target

#: Seconds for one request, from the first SYN to the end of the answer: three SYNs (RFC 6298 §2.1 and §5.5), and
#: some time for the application.
PATIENCE = 5.0

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Order(msgspec.Struct, frozen=True):
    """One request to send.

    `address` and `port` are where the connection goes; `host` is the URL's, for TLS, and `authority` what the Host
    field says. `source` and `source_port` are what the socket is bound to; "" and 0 leave it to the kernel.
    """

    address: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    host: str
    authority: str
    path: str = "/"
    tls: bool = False
    token: str = ""
    claim: Claim | None = None
    source: str = ""
    source_port: Port = 0
    patience: Annotated[float, msgspec.Meta(gt=0, le=600)] = PATIENCE


def make_orders(
    target: Target,
    address: str,
    port: int,
    *,
    count: int = 1,
    claims: Sequence[Claim] = (),
    source: str = "",
) -> list[Order]:
    """`count` honest requests, then as many with each claim; each has a token of its own."""
    return [
        Order(
            address=address,
            port=port,
            host=target.host,
            authority=target.authority,
            path=target.path,
            tls=target.scheme == "https",
            token=secrets.token_hex(8),
            claim=claim,
            source=source,
        )
        for claim in (None, *claims)
        for _ in range(count)
    ]


def told(number: int, total: int, asked: Asked) -> str:
    """One line about one request that is over, for people."""
    forged = ", ".join(f"{name}: {value}" for name, value in asked.forged)
    with_claim = f" with {forged}" if forged else ""
    if asked.outcome == "answered":
        said = str(asked.status)
        said += f", the application saw {asked.saw}" if asked.saw else ""
        said += f" ({asked.detail})" if asked.detail else ""
    else:
        said = asked.outcome + (f": {asked.detail}" if asked.detail else "")
    return f"request {number} of {total} from {asked.source}{with_claim}: {said}"
