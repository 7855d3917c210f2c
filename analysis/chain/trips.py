"""The values that journeys are made of: a leg with its path, the legs before it, and what was said after it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from analysis.asked import Asked
from analysis.chain.claims import Claims, address_in
from analysis.engine.legs import Leg
from analysis.engine.streams import Said
from analysis.hops.addresses import Owner, OwnerKind, Target
from analysis.hops.steps import Change, Step
from daemonset.observation import HttpHead, Payload, ProxyHeader, TapKind

PROXY_PAYLOADS = frozenset({Payload.PROXY_V1, Payload.PROXY_V2})


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request of a leg: the segment that it begins in, and which of that segment's requests it is."""

    said: Said
    head: HttpHead
    claims: Claims
    index: int  # among the requests of the leg

    @property
    def line(self) -> tuple[str, ...]:
        """Method and target."""
        return tuple(self.head.start.split(" ")[:2])


@dataclass(frozen=True)
class Trip:
    """One leg with its path, and what is known of it as a connection to a Service."""

    leg: Leg
    steps: tuple[Step, ...]
    changes: tuple[Change, ...]
    mixed: bool
    target: Target | None  # the way into the Service that the client asked for; None without facts
    disputed: bool = False  # the kernel's NAT record says otherwise than the packets
    part: int = 0  # which of the connections that share the leg's number

    @property
    def source(self) -> int:
        """The source address where the leg was first seen."""
        return self.steps[0].addresses.src

    @property
    def headers(self) -> tuple[ProxyHeader, ...]:
        """The PROXY headers in front of the data, the outermost first, whatever segments they came in."""
        found: list[ProxyHeader] = []
        reached = 0
        for said in self.leg.stream.requests or ():
            if said.offset != reached or said.payload not in PROXY_PAYLOADS or said.head is None:
                break
            found += said.head.proxy
            reached += said.length
        if not found:
            first = self.leg.first_bytes
            return first.head.proxy if first and first.head else ()
        return tuple(found)

    @property
    def header(self) -> ProxyHeader | None:
        """The first PROXY header in front of the data."""
        first = self.leg.first_bytes
        if first is None or first.head is None:
            return None
        if first.head.proxy:
            return first.head.proxy[0]
        headers = self.headers if not first.head.proxy_complete else ()
        return headers[0] if headers else None

    @property
    def named(self) -> int | None:
        """The source address that the first PROXY header names."""
        header = self.header
        return address_in(header.source) if header is not None and header.source is not None else None

    @property
    def from_client_tap(self) -> bool:
        """Whether the client itself was watched opening it."""
        return self.steps[0].kind is TapKind.CLIENT

    @property
    def circular(self) -> bool:
        """Whether it seems to come from an address that it came to before, so that where it began is not known.

        A pod that takes a connection and passes it on in its own name seems to have begun it where a clock was put
        right meanwhile: the client's packets come after its own. An endpoint that reaches itself is none of this.
        """
        if self.from_client_tap:
            return False
        begun = self.steps[0].addresses.src
        back = [source for source, _ in groupby(step.addresses.src for step in self.steps)].count(begun) > 1
        return back or any(
            step.addresses.dst == begun != step.addresses.src and not step.at_endpoint for step in self.steps
        )

    @property
    def reached(self) -> Step | None:
        """The last step at which the connection was on its way to one endpoint; without facts, where a pod saw it."""
        last = self.steps[-1]
        arrived = last if last.target is None and last.kind is TapKind.POD else None
        return next((step for step in reversed(self.steps) if step.at_endpoint), arrived)

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        """The requests that could be read, in order."""
        found: list[Request] = []
        for said in self.leg.stream.requests:
            if said.head is None:
                continue
            for head in ([said.head.http] if said.head.http else []) + list(said.head.more):
                if not head.start.startswith("HTTP/"):
                    found.append(Request(said, head, Claims.of(head), len(found)))
        return tuple(found)

    @property
    def unplaced_claims(self) -> tuple[Claims, ...]:
        """What a first request claimed that by a clock put right came before the handshake: none of `requests`."""
        first = self.leg.first_bytes
        if self.requests or first is None or first.head is None:
            return ()
        heads = [head for head in (first.head.http, *first.head.more) if head is not None]
        return tuple(claims for head in heads if (claims := Claims.of(head)))

    @property
    def unreadable(self) -> str | None:
        """What hides the requests: "TLS" or "HTTP/2"; None where nothing does."""
        kinds = {said.payload for said in self.leg.stream.requests}
        heads = [said.head for said in self.leg.stream.requests if said.head is not None]
        first = self.leg.first_bytes
        if first is not None:
            kinds.add(first.payload)
            heads += [first.head] if first.head is not None else []
        if Payload.H2_PREFACE in kinds or any(head.h2 for head in heads):
            return "HTTP/2"
        if kinds & {Payload.TLS_CLIENT_HELLO, Payload.TLS_OTHER} or any(head.tls for head in heads):
            return "TLS"
        return None

    @property
    def hello(self) -> bytes | None:
        """The random of the client's TLS hello, which names the connection on both sides of an L4 proxy."""
        for said in self.leg.stream.requests:
            if said.head is not None and said.head.tls is not None:
                return said.head.tls.random
        first = self.leg.first_bytes
        return first.head.tls.random if first and first.head and first.head.tls else None


@dataclass(frozen=True, slots=True)
class Link:
    """The leg before, and by what it was tied to this one."""

    trip: Trip
    by: str


@dataclass(frozen=True, slots=True)
class Word:
    """Whom a server, further on than the packets go, took for the client, and how it is known.

    `point` is "http-header" (what it told the server behind it), "app" (what it answered) or "log".
    """

    addresses: tuple[str, ...]  # more than one where it names several in different fields
    point: str
    by: str
    place: str | None = None
    time: int = 0  # ns
    onward: Trip | None = None  # the connection in which it said so
    request: Request | None = None  # the request in which it said so


@dataclass(frozen=True, slots=True)
class Connection:
    """One journey: a leg into the Service, the legs before it where proxies made new ones, what was said after it."""

    trip: Trip
    chain: tuple[Link, ...]  # the client's own leg first
    owner: Owner  # of the source where the leg began
    requests: tuple[Request, ...] = ()  # those of the leg that belong to this journey
    word: Word | None = None  # of the ingress, to the server behind it
    asked: Asked | None = None  # the client's own record of it
    told: Word | None = None  # of the application, to the client or into a log
    part: int = 0  # which of the journeys of the leg
    passed_on: bool = False  # its PROXY header is no balancer's: a balancer passed on what somebody wrote
    last: bool = False  # its endpoint is known to have asked nobody behind it
    attempts: tuple[
        Trip, ...
    ] = ()  # further connections of the balancer for the same client that nobody answered

    @property
    def last_word(self) -> Word | None:
        """The word of the server furthest on."""
        return self.told or self.word

    @property
    def claims(self) -> tuple[Claims, ...]:
        """What the requests claimed when they reached the endpoint."""
        placed = tuple(request.claims for request in self.requests if request.claims)
        return placed + self.trip.unplaced_claims

    @property
    def names_others(self) -> bool:
        """Whether an outsider names other clients in its requests, as a proxy does that nobody told us of."""
        if self.trip.from_client_tap or self.asked is not None or self.chain:
            return False
        return self.owner.kind is OwnerKind.EXTERNAL and bool(self.claims)
