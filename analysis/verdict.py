"""The verdict: one pure function over what is known of a journey.

A wrong verdict is the worst thing this program can do, so each conclusion asks for positive evidence of every step it
rests on, and anything that could be explained by a packet that was not seen is inconclusive. The cases, in order:

1. Packets of two connections cannot be told apart: inconclusive.
2. The address was replaced on the way to a balancer: lost. Else a PROXY header that names the client: preserved
   when the server is seen to take it from a known balancer; otherwise inconclusive.
3. Nothing was forwarded: rejected or refused is inconclusive (no application, no address); silence is blackholed
   only if the client was seen to repeat itself, nothing left the node, and the facts call for a drop.
4. The first bytes are unknown although they could have been a PROXY header: inconclusive.
5. The source was replaced, or is a balancer's: lost.
6. The same source from a certain origin to the endpoint: preserved.
7. Anything else: inconclusive, naming what is missing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from analysis.report import Verdict


class Header(enum.Enum):
    """What is known of a PROXY header in front of the client's data."""

    UNKNOWN = "the first bytes were not seen"
    ABSENT = "the first bytes are something else"
    TRANSLATED = "it names an address that NAT in the cluster can have produced"
    TAKEN = "it names the client and the server went on"
    REFUSED = "it names the client and the server refused"
    UNANSWERED = "it names the client, and what the server made of it was not seen"
    FORGEABLE = "it names somebody, the server took it, and its sender is not known to be a balancer"
    NO_CLIENT = "it names nobody (LOCAL or UNKNOWN)"
    BROKEN = "it begins like one and is not a valid one"


class Silence(enum.Enum):
    """What is known of a connection that nothing was forwarded of."""

    NONE = "it was forwarded or answered"
    EXPECTED = "repeated, unanswered, not forwarded; the facts call for a drop here"
    UNEXPLAINED = "repeated, unanswered, not forwarded; the facts do not call for a drop"
    TOO_SHORT = "asked once and not seen again"
    BLIND = "a place where it could have gone on was not watched"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a journey's last leg (and, for `proxied`, of what came before it)."""

    mixed: bool = False
    header: Header = Header.ABSENT
    forwarded: bool = True  # a packet towards an endpoint was seen, or the kernel's record of one
    rejected: bool = False  # the node answered with RST or an ICMP error
    silence: Silence = Silence.NONE
    replaced: bool = False  # the source address changed on the way
    proxied: bool = False  # the source is a balancer's own address
    believed: bool | None = None  # whether the server named the header's client to the application behind it
    suspected: bool = False  # the source behaves as a balancer would
    replaced_before: bool = False  # the source address changed before it reached the balancer
    origin_certain: bool = True
    delivered: bool = True  # seen where only the endpoint itself can follow


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, how sure it is, and why, in one sentence without names."""

    verdict: Verdict
    confidence: str
    reason: str


def judge(known: Known) -> Judgement:
    """The verdict for what is known; see the numbered cases of this module."""
    if known.mixed:
        return _unsure("packets of another connection with the same sequence number cannot be told apart")
    if known.replaced_before:
        return Judgement(
            Verdict.LOST, "high", "the source address was replaced before the load balancer saw it"
        )
    if known.header is Header.TAKEN:
        return _taken(known)
    if known.header in _HEADER_CASES:
        return _HEADER_CASES[known.header]
    if not known.forwarded:
        return _not_forwarded(known)
    if known.header is Header.UNKNOWN:
        return _unsure("the client's first bytes were not seen, so a PROXY header cannot be excluded")
    if known.replaced:
        return Judgement(Verdict.LOST, "high", "the source address was replaced on the way")
    if known.proxied:
        return Judgement(
            Verdict.LOST,
            "high",
            "the connection is the load balancer's own, and no PROXY header names the client",
        )
    if known.suspected:
        return _unsure(
            "the source also asks the nodes' health-check ports and may be an unknown load balancer"
        )
    if not known.origin_certain:
        return _unsure(
            "where the connection entered was not seen, and its source may already be a translated one"
        )
    if not known.delivered:
        return _unsure("the connection was not seen at its endpoint")
    return Judgement(Verdict.PRESERVED, "high", "the endpoint was reached with the client's own address")


def _unsure(reason: str) -> Judgement:
    return Judgement(Verdict.INCONCLUSIVE, "none", reason)


def _taken(known: Known) -> Judgement:
    """A server may take a header and still not believe it; from a translated peer that is likely."""
    if known.believed is False:
        return Judgement(
            Verdict.LOST,
            "high",
            "the server took the PROXY header and named another address to the application",
        )
    if known.believed is None and known.replaced:
        return _unsure(
            "a PROXY header carries the client's address, its sender's was replaced on the way, and whether the server "
            "believes a header from there was not seen"
        )
    sure = "high" if known.believed else "medium"
    return Judgement(
        Verdict.PRESERVED, sure, "a PROXY header carries the client's address to the server, which took it"
    )


def _not_forwarded(known: Known) -> Judgement:
    if known.rejected:
        return _unsure("the connection was rejected before any application could see an address")
    return _SILENCE_CASES[known.silence]


_HEADER_CASES = {
    Header.REFUSED: _unsure(
        "a PROXY header carries the client's address, and the server refused the connection"
    ),
    Header.UNANSWERED: _unsure(
        "a PROXY header carries the client's address, but what the server made of it was not seen"
    ),
    Header.FORGEABLE: _unsure(
        "a PROXY header names a client, but its sender is not known to be a load balancer and may claim anybody"
    ),
    Header.TRANSLATED: _unsure(
        "a PROXY header names a node's address, and where that connection came from was not seen"
    ),
    Header.NO_CLIENT: _unsure("a PROXY header arrived that names no client (LOCAL or UNKNOWN)"),
    Header.BROKEN: _unsure("the connection begins like a PROXY header that is not a valid one"),
}

_SILENCE_CASES = {
    Silence.NONE: _unsure("the connection was not seen beyond the node where it entered"),
    Silence.EXPECTED: Judgement(
        Verdict.BLACKHOLED,
        "high",
        "the node that was asked has no endpoint to forward to and drops in silence",
    ),
    Silence.UNEXPLAINED: _unsure(
        "the connection got no answer and was not seen beyond the node, although nothing calls for a drop there"
    ),
    Silence.TOO_SHORT: _unsure("only one attempt was seen, and nothing that followed it"),
    Silence.BLIND: _unsure(
        "the connection got no answer, and a place where it could have gone on was not watched"
    ),
}
