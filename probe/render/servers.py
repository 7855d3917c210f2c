"""Which server it was: the findings about what servers make of claims, said with the names of this journey."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.report import Journey
from probe.render.rows import application_of, bare, endpoint_of, same_address, spoken

_REFUSED = frozenset({"SIP302", "SIP308", "SIP309", "SIP312"})


def servers(journey: Journey) -> Iterator[str]:
    """One line for each finding of the journey that a server is the cause of."""
    for code in journey.findings:
        if line := _line(code, journey):
            yield line


def _line(code: str, journey: Journey) -> str | None:
    """Who it was, and what it did."""
    server = endpoint_of(journey)
    application = _application(journey)
    header, field = spoken(journey, "proxy-header"), spoken(journey, "http-header")
    told = bare(field.source) if field else None
    seen = journey.seen_by_app or told or "another address"
    client = journey.client.address if journey.client else "the client"
    match code:
        case "SIP501" if journey.seen_by_app is None:
            return f"{application}: by its configuration it does not believe what {server} tells it"
        case "SIP501":
            heard = f"{server} told it {told}, and it" if told else "it"
            return f"{application}: {heard} takes {seen} for its client, the address of {server}"
        case "SIP502":
            return f"{server}: a field of the request names {client}, and it takes its peer, {told or seen}, instead"
        case "SIP503":
            return f"{server}: a field of the request named {client}, and it wrote {told or seen} over it"
        case "SIP504":
            by_server = told is None or same_address(told, seen)
            return (
                f"{server if by_server else application}: it believed {seen}, which the client wrote itself"
            )
        case "SIP305" if header is not None:
            return f"{server}: it took the client's own PROXY header, which names {header.source}"
        case "SIP306":
            return f"{server}: it took the PROXY header, and names {told or seen} all the same"
        case "SIP307":
            return f"{server}: it closed the connection without a byte"
        case "SIP311":
            return f"{server}: it was sent more than one PROXY header"
    return f"{server}: it refused the PROXY header" if code in _REFUSED else None


def _application(journey: Journey) -> str:
    where = application_of(journey)
    return f"the application at {where}" if where else "the application"
