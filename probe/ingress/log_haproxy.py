"""Lines of HAProxy: tcplog, httplog, what it says of connections that failed early, and log-formats of KEY=VALUE.

Keys are the names of HAProxy's own variables (configuration manual, section 8.2.6): ci/cp client, fi/fp where it
arrived, bi/bp HAProxy's own end towards the server, si/sp the server. Behind accept-proxy or set-src the client is
whom HAProxy was told, not the peer, and no line says which of them it names: only the configuration does.
"""

from __future__ import annotations

import re

from analysis.ingress import Kind, Problem, port_of
from probe.ingress.entries import Said, address, endpoint, entry, port_number, status_code, told
from probe.ingress.lines import Line
from probe.ingress.times import Moment, moment

_START = r"(?P<client>\[?[0-9A-Fa-f.:]{2,45}\]?):(?P<port>\d{1,5}) \[(?P<time>[^\]]{20,40})\] "
_SERVER = r"(?P<front>\S+) (?P<back>[^/\s]+)/(?P<server>\S+) [+\d/-]+ "
_HTTP = re.compile(
    rf"{_START}{_SERVER}"
    r"(?P<status>-?\d+) \+?\d+ \S+ \S+ (?P<state>[A-Za-z-]{4}) [+\d/]+ [\d/]+ "
    r'(?:\{.*\} )?"(?P<request>[^"]*)"?.*',
    re.ASCII,
)
_TCP = re.compile(rf"{_START}{_SERVER}\+?\d+ (?P<state>[A-Za-z-]{{2}}) [+\d/]+ [\d/]+", re.ASCII)
_FAILED = re.compile(_START + r"(?P<front>[^\s/]+)/(?P<bind>[^:]+): (?P<what>.*)", re.ASCII)
_KEYS = re.compile(r"(?:^|[\s{,])(?P<key>[A-Za-z_]{1,12})=(?P<value>\"[^\"]*\"|[^\s,}]*)")

#: conn_err_code_str() of HAProxy's src/connection.c, by their beginning.
_ERRORS = (
    ("Received something which does not look like a PROXY", Problem.HEADER_MISSING),
    ("Connection closed while waiting for PROXY", Problem.HEADER_EMPTY),
    ("Connection error while waiting for PROXY", Problem.HEADER_EMPTY),
    ("Timeout while waiting for PROXY", Problem.HEADER_LATE),
    ("Timeout while waiting for the PROXY", Problem.HEADER_LATE),
    ("Truncated PROXY protocol header", Problem.HEADER_MALFORMED),
    ("Received an invalid PROXY protocol header", Problem.HEADER_MALFORMED),
    ("Received an unhandled protocol in the PROXY", Problem.HEADER_FAMILY),
)
_TLS_FAILED = re.compile(r"(?:SSL|TLS) handshake failure|SSL client|SSL handshake", re.ASCII)

#: What it says on stderr and of its servers: about no connection of a client.
_ABOUT_ITSELF = re.compile(
    r"\[(?:NOTICE|WARNING|ALERT|DIAG)\]|Health check for |Server \S+ is |Proxy \S+ (?:started|stopped)|"
    r"(?:Stopping|Pausing|Resuming|Stopped) |backend \S+ has no server|(?:New )?[Ww]orker|Connect from |Loading success"
)


def read(line: Line) -> Said | None:
    """What a line says; None where it is none of HAProxy's."""
    text = line.text
    if _ABOUT_ITSELF.match(text):
        return Said()
    if found := _FAILED.fullmatch(text):
        said = _failed(line, found)
    elif found := _HTTP.fullmatch(text):
        said = _http(line, found)
    elif found := _TCP.match(text):
        said = _tcp(line, found)
    else:
        said = _pairs(line)
    return said


def _failed(line: Line, found: re.Match[str]) -> Said | None:
    """A connection that never became a session: its address is the peer's, since nothing else was read."""
    what = found["what"]
    problem = next((each for beginning, each in _ERRORS if what.startswith(beginning)), None)
    if problem is None and _TLS_FAILED.match(what):
        plain = "wrong version number" in what or "http request" in what
        problem = Problem.PLAIN_ON_TLS if plain else Problem.TLS_FAILED
    peer = endpoint(found["client"], found["port"])
    if peer is None:
        return None
    about_header = problem is not None and problem.startswith("header-")
    host = address(found["client"])
    return entry(
        line,
        Kind.HAPROXY,
        moment(found["time"]),
        peer=peer if about_header else None,
        client=None if about_header else host,
        client_port=None if about_header else port_number(found["port"]),
        problem=problem,
        listener=found["front"].rstrip("~"),
    )


def _http(line: Line, found: re.Match[str]) -> Said | None:
    status, state = status_code(found["status"]), found["state"]
    request = found["request"]
    bad = request == "<BADREQ>"
    problem = Problem.REQUEST_INVALID if bad and state.startswith("PR") else None
    if state[:2] in {"SC", "sC", "sH", "SH", "PH"}:
        problem = Problem.UPSTREAM_FAILED
    return _session(line, found, status=status, request=None if bad else request, problem=problem)


def _tcp(line: Line, found: re.Match[str]) -> Said | None:
    problem = Problem.UPSTREAM_FAILED if found["state"] in {"SC", "sC"} else None
    return _session(line, found, problem=problem)


def _session(line: Line, found: re.Match[str], **values: object) -> Said | None:
    host = address(found["client"])
    if host is None:
        return None
    return entry(
        line,
        Kind.HAPROXY,
        moment(found["time"]),
        client=host,
        client_port=port_number(found["port"]),
        upstream=None if found["server"].startswith("<") else f"{found['back']}/{found['server']}",
        listener=found["front"].rstrip("~"),  # the mark of a listener with TLS
        **values,
    )


def _pairs(line: Line) -> Said | None:
    """A log-format of KEY=VALUE, known by its ci= or bi=. A key that stands there twice is nobody's."""
    if "ci=" not in line.text:
        return None
    pairs: dict[str, str | None] = {}
    for found in _KEYS.finditer(line.text):
        key = found["key"].lower()
        pairs[key] = None if key in pairs else found["value"].strip('"')
    client = address(pairs.get("ci"))
    if client is None:
        return None
    state, status = pairs.get("ts") or pairs.get("tsc") or "", status_code(pairs.get("st"))
    return entry(
        line,
        Kind.HAPROXY,
        _accepted(pairs.get("t")),
        client=client,
        client_port=port_number(pairs.get("cp")),
        local=_known(endpoint(pairs.get("fi"), pairs.get("fp"))),
        outgoing=_known(endpoint(pairs.get("bi"), pairs.get("bp"))),
        upstream=_known(endpoint(pairs.get("si"), pairs.get("sp"))) or told(pairs.get("srv")),
        status=status,
        request_id=told(pairs.get("id")),
        listener=(told(pairs.get("fe")) or "").rstrip("~"),
        problem=Problem.UPSTREAM_FAILED if state[:2] in {"SC", "sC"} else None,
    )


def _accepted(text: str | None) -> Moment | None:
    """When the connection was accepted, as `%Ts.%ms` or any other form."""
    return moment(text) if text else None


def _known(place: str | None) -> str | None:
    """An endpoint with a port; HAProxy writes - or 0 where there was no connection."""
    return place if place and port_of(place) else None
