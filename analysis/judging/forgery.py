"""Which forged claims became an application's truth: told by requests of ours that lied on purpose.

Rules:

1. Only the application's own idea of its client counts, never that a value of ours came back.
2. A match proves something only where nothing else could have brought the address: one that the client really
   has, that an honest request was answered with, or that another claim of the request names, proves nothing.
3. A claim was refused where its request failed in a way that an honest one to the same place did not. Everything
   else that was not answered is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address

from analysis.asked import Asked
from analysis.report import Forged, Forgery

#: Claims that are PROXY headers, of version 1 and 2. All others are header fields, in lower case.
PROXY_CLAIMS = ("proxy", "proxy-v2")

#: How a server ends a connection whose beginning it does not take.
_REFUSALS = frozenset({"reset", "empty"})

_EVIDENCE = 3  # requests that are told of for each claim

_FOR = re.compile(r"for\s*=\s*(\"[^\"]*\"|[^;,\s]*)", re.IGNORECASE)  # RFC 7239 §4
_PORT = re.compile(r"\d{1,5}\Z")


def plain_address(text: str) -> str | None:
    """The address that a text is, with or without brackets, quotes and a port; None where it is anything else.

    An IPv4 address that an IPv6 socket shows (RFC 4291 §2.5.5.2) is the IPv4 address; a zone is left away.
    """
    text = text.strip().strip("\"'")
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        if port and not _PORT.match(port.removeprefix(":")):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _PORT.match(port):
            return None
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def claimed_addresses(name: str, value: str) -> tuple[str, ...]:
    """The addresses that a claim names, in its order; none where it names nobody that could be recognised."""
    if name in PROXY_CLAIMS:
        words: Iterable[str] = (value,)
    elif name == "forwarded":
        words = _FOR.findall(value)
    else:
        words = value.split(",")
    found = (plain_address(word) for word in words)
    return tuple(dict.fromkeys(address for address in found if address is not None))


def forgeries_of(asked: Sequence[Asked]) -> tuple[Forgery, ...]:
    """What became of each forged claim, in the order in which they were made first."""
    honest = [each for each in asked if not each.forged]
    made: dict[tuple[str, str], list[Asked]] = {}
    for each in asked:
        for claim in each.forged:
            made.setdefault(claim, []).append(each)
    return tuple(_forgery(*claim, requests, honest) for claim, requests in made.items())


def _forgery(name: str, value: str, requests: Sequence[Asked], honest: Sequence[Asked]) -> Forgery:
    told = [(_outcome(name, value, request, honest), request) for request in requests]
    outcomes = {outcome for outcome, _ in told}
    # One that got through is enough; and one of which nothing is known might have.
    order: tuple[Forged, ...] = (Forged.REACHED, Forged.UNKNOWN, Forged.NOT_REACHED)
    outcome = next(each for each in order if each in outcomes)
    witnesses = [_witness(request) for each, request in told if each is outcome]
    return Forgery(
        claim=name,
        value=value,
        outcome=outcome,
        requests=len(requests),
        reached=sum(each is Forged.REACHED for each, _ in told),
        evidence=tuple(witnesses[:_EVIDENCE]),
    )


def _outcome(name: str, value: str, request: Asked, honest: Sequence[Asked]) -> Forged:
    like = [each for each in honest if each.destination == request.destination]
    saw = plain_address(request.saw or "")
    if saw is None:
        return Forged.NOT_REACHED if _refused(name, request, like) else Forged.UNKNOWN
    if saw not in claimed_addresses(name, value):
        return Forged.NOT_REACHED
    others = [claim for claim in request.forged if claim != (name, value)]
    elsewhere: set[str | None] = {address for claim in others for address in claimed_addresses(*claim)}
    elsewhere |= {plain_address(request.source)} | {plain_address(each.saw) for each in like if each.saw}
    return Forged.UNKNOWN if saw in elsewhere else Forged.REACHED


def _refused(name: str, request: Asked, like: Sequence[Asked]) -> bool:
    """Whether the request failed for its claim, as an honest one to the same place did not."""
    if not any(each.outcome == "answered" and each.status is not None and each.status < 400 for each in like):
        return False
    bad_request = request.outcome == "answered" and request.status == 400
    return bad_request or (name in PROXY_CLAIMS and request.outcome in _REFUSALS)


def _witness(request: Asked) -> str:
    if request.outcome != "answered":
        said = {"empty": "closed without an answer"}.get(request.outcome, request.outcome)
        said += f" ({request.detail})" if request.outcome == "error" and request.detail else ""
    elif request.saw is not None:
        said = f"the application saw {request.saw}"
    else:
        said = f"status {request.status}"
        said += ", and no word of whom the application saw" if request.status and request.status < 300 else ""
    return f"{request.source} → {request.destination}: {said}"
