"""The verdict: one pure function over what is known of a journey.

A wrong verdict is the worst thing this program can do, so each conclusion asks for positive evidence of every step it
rests on, and anything that could be explained by a packet that was not seen is inconclusive. The cases, in order:

1. Packets of two connections cannot be told apart, or it seems to begin where it has come from elsewhere: inconclusive.
2. A server further on was heard to name its client, and the client is known: preserved if it is the same, else lost.
3. The address was replaced on the way to a balancer: lost. Else a PROXY header that names the client: preserved
   when the server is seen to take it from a known balancer, and either asks nobody behind it or believes it by its
   configuration; otherwise inconclusive.
4. Nothing was forwarded: rejected or refused is inconclusive (no application, no address); silence is blackholed
   only if the client was seen to repeat itself, nothing left the node, and the facts call for a drop. That the node had
   no room for another connection is told, but which packets it dropped for that, its counters do not say.
5. The first bytes are unknown although they could have been a PROXY header: inconclusive.
6. The source was replaced, or is a balancer's: lost, unless the request itself can carry the client's address.
7. The same source from a certain origin to the endpoint: preserved.
8. Anything else: inconclusive, naming what is missing.
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
    UNBELIEVED = "it names the client, and from this peer the server was seen to take no header's word"
    UNANSWERED = "it names the client, and what the server made of it was not seen"
    FORGEABLE = "it names somebody, the server took it, and its sender is not known to be a balancer"
    NO_CLIENT = "it names nobody (LOCAL or UNKNOWN)"
    BROKEN = "it begins like one and is not a valid one"
    CUT = "it begins like one, and the first segment ends before it does"


class Silence(enum.Enum):
    """What is known of a connection that nothing was forwarded of."""

    NONE = "it was forwarded or answered"
    EXPECTED = "repeated, unanswered, not forwarded; the facts call for a drop here"
    UNEXPLAINED = "repeated, unanswered, not forwarded; the facts do not call for a drop"
    TOO_SHORT = "asked once and not seen again"
    BLIND = "a place where it could have gone on was not watched"


class Named(enum.Enum):
    """Whom the last server that was heard took for the client."""

    NOBODY = "nothing was heard"
    CLIENT = "the client"
    OTHER = "somebody else"
    AMONG = "the client among others"
    UNSURE = "an address of which it is not known whether it is the client's"


class Speaker(enum.Enum):
    """Who named the client."""

    SERVER = "the endpoint, to the server behind it"
    APPLICATION = "the application, in its answer"
    LOG = "a server, in its log"


class Carried(enum.Enum):
    """Whether the requests themselves can carry the client's address, when the packets do not."""

    NO = "they do not name the client"
    CLIENT = "a field names the client"
    SOMEBODY = "a field names somebody, and who the client is, is not known"
    HIDDEN = "they could not be read"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a journey's last leg (and, for `proxied`, of what came before it)."""

    mixed: bool = False
    circular: bool = False  # it seems to start from an address that it came to, or came back from
    header: Header = Header.ABSENT
    forwarded: bool = True  # a packet towards an endpoint was seen, or the kernel's record of one
    rejected: bool = False  # the node answered with RST or an ICMP error
    silence: Silence = Silence.NONE
    no_room: str = ""  # where nothing explains the silence: what the node's kernel counted of a full table
    replaced: bool = False  # the source address changed on the way
    proxied: bool = False  # the source is a balancer's own address
    client: int | None = None  # the true client's address, where there is proof of it
    named: Named = Named.NOBODY
    speaker: Speaker = Speaker.SERVER
    doubted: bool = False  # by its configuration the application would not believe what it was told
    carried: Carried = Carried.NO
    contested: bool = False  # a field names somebody else than the packets do
    suspected: bool = False  # the source behaves as a balancer would
    replaced_before: bool = False  # the source address changed before it reached the balancer
    origin_certain: bool = True
    delivered: bool = True  # seen where only the endpoint itself can follow
    unlisted: bool = False  # last seen at a pod that the objects do not know as an endpoint
    unheard: bool = (
        False  # the server may have named another to a server behind it, and nothing says what it believes
    )


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
    if known.circular:
        return _unsure(
            "packets of the connection also came to the address that it seems to start from, or had another source in "
            "between, so where it began is not known"
        )
    if known.named is Named.AMONG:
        return _unsure(
            "the server named the client's address among others to the application behind it, and which of them that "
            "one takes was not seen"
        )
    if known.named in {Named.CLIENT, Named.OTHER}:
        return _heard(known)
    if known.replaced_before and known.carried is Carried.NO:
        return _REPLACED_BEFORE
    if known.header is Header.TAKEN:
        return _taken(known)
    if known.header in _HEADER_CASES:
        return _HEADER_CASES[known.header]
    if not known.forwarded:
        return _not_forwarded(known)
    if known.header is Header.UNKNOWN:
        return _unsure("the client's first bytes were not seen, so a PROXY header cannot be excluded")
    if known.carried in _CARRIED_CASES:
        return _CARRIED_CASES[known.carried]
    return _by_packets(known)


def _heard(known: Known) -> Judgement:
    """A server further on said whom it takes for the client, and the client is known."""
    if known.doubted and known.speaker is not Speaker.APPLICATION:
        return _unsure(
            "by its configuration the application takes another address for its client's than it was told"
        )
    if known.named is Named.CLIENT:
        # What the application makes of what it is told, only the application knows.
        sure = "medium" if known.speaker is Speaker.SERVER else "high"
        return Judgement(Verdict.PRESERVED, sure, _SPOKEN[known.speaker].format("the client's own address"))
    if known.header is Header.ABSENT and known.carried is Carried.NO and (known.replaced or known.proxied):
        return _by_packets(known)
    return Judgement(Verdict.LOST, "high", _SPOKEN[known.speaker].format("another address than the client's"))


def _by_packets(known: Known) -> Judgement:
    """Nothing but the packets speaks of the client."""
    if known.replaced:
        return Judgement(Verdict.LOST, "high", "the source address was replaced on the way")
    if known.proxied:
        return Judgement(
            Verdict.LOST,
            "high",
            "the connection is the load balancer's own, and nothing in it names the client",
        )
    if known.suspected:
        return _unsure(
            "the source asks health-check ports or names other clients, as an unknown load balancer or proxy would"
        )
    if not known.origin_certain:
        return _unsure(
            "where the connection entered was not seen, and its source may already be a translated one"
        )
    if not known.delivered:
        return _unsure(_not_delivered(known))
    if known.contested:
        return _unsure(
            "the endpoint was reached with the client's own address, but a field of the request names another, and "
            "which of them the server believes was not seen"
        )
    return Judgement(Verdict.PRESERVED, "high", "the endpoint was reached with the client's own address")


def _not_delivered(known: Known) -> str:
    if known.unlisted:
        return "the pod at which the connection was last seen is no endpoint in the objects"
    return "the connection was not seen at its endpoint"


def _unsure(reason: str) -> Judgement:
    return Judgement(Verdict.INCONCLUSIVE, "none", reason)


def _taken(known: Known) -> Judgement:
    """A server may take a header and still not believe it; from a translated peer that is likely."""
    if known.contested:
        return _unsure(
            "a PROXY header carries the client's address to the server, but a field of the request names another, and "
            "which of them the server believes was not seen"
        )
    if known.replaced:
        return _unsure(
            "a PROXY header carries the client's address, its sender's was replaced on the way, and whether the server "
            "believes a header from there was not seen"
        )
    if not known.delivered:
        return _unsure(
            f"a PROXY header carries the client's address, but {_not_delivered(known)}, so its sender's address may "
            "have been replaced on the way, and with it the server's belief"
        )
    if known.unheard:
        return _unsure(
            "a PROXY header carries the client's address to the server, which took it and may have asked another one; "
            "whom it named to that one was not seen"
        )
    return Judgement(
        Verdict.PRESERVED,
        "medium",
        "a PROXY header carries the client's address to the server, which took it",
    )


def _not_forwarded(known: Known) -> Judgement:
    if known.rejected:
        return _unsure("the connection was rejected before any application could see an address")
    case = _SILENCE_CASES[known.silence]
    return _unsure(f"{case.reason}; {known.no_room}") if known.no_room else case


_SPOKEN = {
    Speaker.SERVER: "the server named {} to the application behind it",
    Speaker.APPLICATION: "the application answered that it sees {}",
    Speaker.LOG: "the server's log names {}",
}

_REPLACED_BEFORE = Judgement(
    Verdict.LOST, "high", "the source address was replaced before the load balancer saw it"
)

_CARRIED_CASES = {
    Carried.CLIENT: _unsure(
        "the packets do not carry the client's address but a field of the request does, and whether the server "
        "believes it was not seen"
    ),
    Carried.SOMEBODY: _unsure(
        "the connection is the load balancer's own, and whether it wrote the field that names a client was not seen"
    ),
    Carried.HIDDEN: _unsure(
        "the connection is the load balancer's own and could not be read, so a field that names the client cannot be "
        "excluded"
    ),
}

_HEADER_CASES = {
    Header.REFUSED: _unsure("a PROXY header names a client, and the server refused the connection"),
    Header.UNBELIEVED: _unsure(
        "a PROXY header carries the client's address, and the server was seen not to believe headers from this peer"
    ),
    Header.UNANSWERED: _unsure(
        "a PROXY header carries the client's address, but what the server made of it was not seen"
    ),
    Header.FORGEABLE: _unsure(
        "a PROXY header names a client, but its sender is not known to be a load balancer and may claim anybody"
    ),
    Header.TRANSLATED: _unsure(
        "a PROXY header names a node or another proxy, and where that connection came from was not seen"
    ),
    Header.NO_CLIENT: _unsure("a PROXY header arrived that names no client (LOCAL or UNKNOWN)"),
    Header.BROKEN: _unsure("the connection begins like a PROXY header that is not a valid one"),
    Header.CUT: _unsure("a PROXY header is split over segments, and its end was not decoded"),
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
