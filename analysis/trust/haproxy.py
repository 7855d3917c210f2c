"""HAProxy: the PROXY header, `http-request` rules in their order, then `option forwardfor` (confirmed with 2.6)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from analysis.trust.fields import values, with_one, without
from analysis.trust.model import UNIX_PEER, Arrival, Claim, Fields, HaproxyRule, HaproxyTrust, Resolution
from analysis.trust.ranges import Address, address, strict_ranges
from analysis.trust.rule import Rule, believe, refuse, unknown

_MANUAL = "https://docs.haproxy.org/2.6/configuration.html"

PEER = Rule(
    "haproxy-peer", "nothing replaces the connection's source, so src is the peer", f"{_MANUAL}#7.3.3-src"
)
FROM_PROXY = Rule(
    "haproxy-proxy",
    "a PROXY header is required of this peer and its source replaces src",
    f"{_MANUAL}#5.1-accept-proxy",
)
NAMELESS = Rule(
    "haproxy-proxy-nobody",
    "the PROXY header names nobody (LOCAL, UNKNOWN), so src is the peer",
    f"{_MANUAL}#5.1-accept-proxy",
)
EXPECTED = Rule(
    "haproxy-expected",
    "accept-proxy, or expect-proxy for this peer, closes connections without a PROXY header",
    f"{_MANUAL}#5.1-accept-proxy",
)
UNEXPECTED = Rule(
    "haproxy-unexpected",
    "without accept-proxy a PROXY header is a malformed request (400)",
    f"{_MANUAL}#5.1-accept-proxy",
)
AS_DATA = Rule(
    "haproxy-as-data",
    "in mode tcp without accept-proxy a PROXY header is data and reaches the server as it came",
    f"{_MANUAL}#4.2-mode",
)
SET_SRC = Rule(
    "haproxy-set-src",
    "http-request set-src replaces src by an address out of a header field",
    f"{_MANUAL}#4.2-http-request%20set-src",
)
CONDITION = Rule(
    "haproxy-condition",
    "http-request set-src stands under a condition that the configuration alone does not decide",
    f"{_MANUAL}#7",
)

RULES = (PEER, FROM_PROXY, NAMELESS, EXPECTED, UNEXPECTED, AS_DATA, SET_SRC, CONDITION)

_SAMPLE = re.compile(r"%\[([^\]]*)\]|%(ci)\b")
_HDR = re.compile(r"(?:req\.)?hdr\(([^,)]+)\)\Z")


@dataclass(slots=True)
class _State:
    """What the rules work on: src, the fields, and which fields have become unknowable (lower case)."""

    found: Resolution
    fields: Fields
    doubtful: set[str] = field(default_factory=set)


def resolve(settings: HaproxyTrust, arrival: Arrival) -> Resolution:
    """What src is when the request leaves, and what the server is sent."""
    started = _connection(settings, arrival)
    if started.refused and settings.mode == "tcp" and arrival.proxy_source is not None:
        return _as_data(settings, arrival)
    if started.refused:
        return started
    if settings.mode == "tcp":
        return replace(started, onward=arrival.fields, onward_proxy=_proxy_line(settings, started, arrival))
    state = _State(started, arrival.fields)
    for rule in settings.rules:
        _apply(rule, state, arrival)
    _forward_for(settings, state)
    onward = None if state.doubtful else state.fields
    return replace(state.found, onward=onward, onward_proxy=_proxy_line(settings, state.found, arrival))


def _connection(settings: HaproxyTrust, arrival: Arrival) -> Resolution:
    sources = strict_ranges(settings.expect_proxy_from, "expect-proxy layer4 if { src … }")
    if settings.accept_proxy or sources.admits(arrival.peer):
        if arrival.proxy_source is None:
            return refuse(EXPECTED)
        if not arrival.proxy_source:
            return believe(NAMELESS, Claim.PEER, arrival.peer)
        return believe(FROM_PROXY, Claim.PROXY, _normal(arrival.proxy_source))
    if arrival.proxy_source is not None:
        return refuse(UNEXPECTED)
    return believe(PEER, Claim.PEER, arrival.peer)


def _as_data(settings: HaproxyTrust, arrival: Arrival) -> Resolution:
    """A PROXY header in front of a TCP proxy that expects none: one more header in front of it is one too many."""
    if settings.sends_proxy:
        return believe(AS_DATA, Claim.PEER, arrival.peer, None)
    return believe(AS_DATA, Claim.PEER, arrival.peer, arrival.fields, onward_proxy=arrival.proxy_source)


def _normal(source: str) -> str:
    found = address(source)
    return _text(found) if found is not None else source


def _apply(rule: HaproxyRule, state: _State, arrival: Arrival) -> None:
    admitted = _admitted(rule, state)
    if admitted is False:
        return
    if rule.action == "set-src":
        _set_src(rule, state, certain=admitted is True)
    elif admitted is None:
        state.doubtful.add(rule.name.lower())
    elif rule.action == "del-header":
        state.fields = without(state.fields, rule.name)
        state.doubtful.discard(rule.name.lower())
    else:
        _set_header(rule, state, arrival)


def _admitted(rule: HaproxyRule, state: _State) -> bool | None:
    """Whether the rule applies; None where that cannot be told."""
    if rule.conditional:
        return None
    if rule.sources is None:
        return True
    if state.found.client is None:
        return None
    return strict_ranges(rule.sources, "if { src … }").admits(state.found.client)


def _set_src(rule: HaproxyRule, state: _State, *, certain: bool) -> None:
    doubtful = rule.name.lower() in state.doubtful
    found = parsed(_occurrence(hdr(state.fields, rule.name), rule.occurrence))
    if found is None and not doubtful:
        return  # set-src leaves src alone when the expression gives no address
    if found is None or doubtful or not certain:
        state.found = unknown(CONDITION, field=rule.name)
        return
    state.found = believe(SET_SRC, Claim.FIELD, _text(found), field=rule.name)


def _set_header(rule: HaproxyRule, state: _State, arrival: Arrival) -> None:
    value = _expand(rule.value, state, arrival)
    if value is None:
        state.doubtful.add(rule.name.lower())
    elif rule.action == "add-header":
        state.fields = (*state.fields, (rule.name, value))
    else:
        state.fields = with_one(state.fields, rule.name, value)
        state.doubtful.discard(rule.name.lower())


def _expand(expression: str, state: _State, arrival: Arrival) -> str | None:
    """A log format with its samples put in; None where it has a sample that is not known here."""
    parts, end = [], 0
    for match in _SAMPLE.finditer(expression):
        value = _sample(match[1] if match[1] is not None else "src", state, arrival)
        if value is None:
            return None
        parts += [expression[end : match.start()], value]
        end = match.end()
    rest = expression[end:]
    return None if "%" in rest else "".join([*parts, rest])


def _sample(name: str, state: _State, arrival: Arrival) -> str | None:
    if name == "src":
        client = state.found.client
        return "" if client == UNIX_PEER else client
    if name == "fc_src":
        return "" if arrival.peer == UNIX_PEER else arrival.peer
    match = _HDR.match(name)
    if match is None or match[1].lower() in state.doubtful:
        return None
    return _escaped(_occurrence(hdr(state.fields, match[1]), -1))


def _escaped(text: str) -> str:
    """Control characters leave a log format as %XX; a tab and bytes above ASCII do not."""
    return "".join(
        f"%{ord(one):02X}" if ord(one) == 127 or (ord(one) < 32 and one != "\t") else one for one in text
    )


def _forward_for(settings: HaproxyTrust, state: _State) -> None:
    """`option forwardfor`: a field of its own at the end, with src as it is after all rules."""
    if not settings.forward_for:
        return
    client, name = state.found.client, settings.forward_for_header
    if settings.forward_for_if_none and name.lower() not in state.doubtful and values(state.fields, name):
        return
    if client is None or (settings.forward_for_if_none and name.lower() in state.doubtful):
        state.doubtful.add(name.lower())
        return
    excepted = strict_ranges(settings.forward_for_except, "option forwardfor except")
    if client == UNIX_PEER or excepted.admits(client):
        return
    state.fields = (*state.fields, (name, client))


def _proxy_line(settings: HaproxyTrust, found: Resolution, arrival: Arrival) -> str | None:
    """The source in the header of send-proxy: both addresses are of one family, IPv4 is put inside IPv6."""
    if not settings.sends_proxy:
        return None
    client = address(found.client or "")
    if client is None:
        return "" if found.client == UNIX_PEER else None
    destination = address(arrival.proxy_source or arrival.peer)
    if client.version == 4 and destination is not None and destination.version == 6:
        return f"::ffff:{client}"
    return _text(client)


def fields_read(settings: HaproxyTrust) -> tuple[str, ...]:
    """The fields that some rule reads, each once."""
    if settings.mode == "tcp":
        return ()
    names = [rule.name for rule in settings.rules if rule.action == "set-src"]
    for rule in settings.rules:
        samples = (match[1] or "" for match in _SAMPLE.finditer(rule.value))
        names += [match[1] for match in map(_HDR.match, samples) if match is not None]
    return tuple(dict.fromkeys(names))


def hdr(fields: Fields, name: str) -> tuple[str, ...]:
    """The values that hdr() counts: divided at commas outside quotes."""
    return tuple(part.strip(" \t") for line in values(fields, name) for part in _divided(line))


def _divided(line: str) -> list[str]:
    parts, start, quoted, escaped = [], 0, False, False
    for place, letter in enumerate(line):
        if escaped:
            escaped = False
        elif quoted and letter == "\\":
            escaped = True
        elif letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            parts.append(line[start:place])
            start = place + 1
    return [*parts, line[start:]]


def _occurrence(found: tuple[str, ...], number: int) -> str:
    """The value with that number, from 1 on, or from -1 backwards; "" where there is none."""
    place = number - 1 if number > 0 else len(found) + (number or -1)
    return found[place] if 0 <= place < len(found) else ""


def parsed(text: str) -> Address | None:
    """An address as HAProxy casts one from text: four decimals, whatever follows them; or IPv6 and nothing else."""
    return _four(text) or _six(text)


def _four(text: str) -> IPv4Address | None:
    octets: list[int] = []
    digits = False
    for letter in text:
        if letter.isascii() and letter.isdigit():
            octets = [*octets[:-1], octets[-1] * 10 + int(letter)] if digits else [*octets, int(letter)]
            digits = True
            if octets[-1] > 255 or len(octets) > 4:
                return None
        elif letter == ".":
            if not digits or len(octets) == 4:
                return None
            digits = False
        else:
            break
    return IPv4Address(bytes(octets)) if len(octets) == 4 else None


def _six(text: str) -> Address | None:
    found = address(text)
    return found if found is not None and found.version == 6 else None


def _text(found: Address) -> str:
    mapped = found.ipv4_mapped if found.version == 6 else None
    return f"::ffff:{mapped}" if mapped is not None else str(found)
