"""Lines of nginx: the error log, and access logs in the formats that are common (and ingress-nginx's own).

Whose address stands in the error log after "client:" depends on when the line was written: up to reading the request
line it is the peer's, later it is whom real_ip took for the client (ngx_http_realip_module replaces it in between).

nginx before 1.23.2 writes the first 107 bytes of what came instead of a PROXY header as they are, line feeds too. A
client can put lines of its own there. So what follows an open header belongs to it, up to that many characters, and
of several ends within them the last one counts: it alone cannot be the client's.
"""

from __future__ import annotations

import re

from analysis.ingress import Kind, Problem, port_of
from probe.ingress.entries import (
    Said,
    address,
    entry,
    joined,
    problem_of_request,
    status_code,
    told,
)
from probe.ingress.lines import Line
from probe.ingress.times import moment

#: NGX_PROXY_PROTOCOL_MAX_HEADER of the versions that log more than one line of it.
HEADER_LIMIT = 107

_ERROR = re.compile(
    r"(?P<time>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) \[[a-z]+\] \d+#\d+: (?:\*(?P<connection>\d+) )?(?P<message>.*)",
    re.ASCII | re.DOTALL,
)
_BROKEN = 'broken header: "'
_HEADER_END = re.compile(
    r'" while reading PROXY protocol, client: (?P<peer>[^\s,]+), server: (?P<local>[^\s,]+)'
)

_PROXY_V1 = "PROXY "
_PROXY_V2 = ("\r\n\r\n\0", "\n\n\0")  # the second as lines without their ends

#: What the fixed texts of an error mean, by their beginning; ngx_proxy_protocol.c, ngx_http_request.c,
#: ngx_http_upstream.c, ngx_event_openssl.c.
_MESSAGES: tuple[tuple[str, Problem], ...] = (
    ("unknown PROXY protocol version", Problem.HEADER_VERSION),
    ("PROXY protocol v2 unsupported command", Problem.HEADER_VERSION),
    ("unsupported PROXY protocol command", Problem.HEADER_VERSION),
    ("PROXY protocol v2 unsupported transport", Problem.HEADER_FAMILY),
    ("PROXY protocol v2 unsupported address family", Problem.HEADER_FAMILY),
    ("client sent plain HTTP request to HTTPS port", Problem.PLAIN_ON_TLS),
    ("no live upstreams while", Problem.UPSTREAM_FAILED),
    ("upstream timed out", Problem.UPSTREAM_FAILED),
    ("upstream prematurely closed connection", Problem.UPSTREAM_FAILED),
    ("upstream sent no valid HTTP", Problem.UPSTREAM_FAILED),
    ("upstream sent invalid header", Problem.UPSTREAM_FAILED),
)
_AS_PEER = re.compile(
    r" while (?:reading PROXY protocol|waiting for request|reading client request (?:line|headers)|SSL handshaking), "
)
_REFUSED = re.compile(r"client sent (?:invalid|too|CONNECT|HTTP/1\.1 request without|no )")
_WHERE = re.compile(r", client: (?P<client>[^\s,]+), server: (?P<server>[^,]*)")
_REQUEST = ', request: "'
_REQUEST_END = re.compile(r'"(?:, (?:upstream|host|referrer|subrequest|bytes from)|$)')
_UPSTREAM = re.compile(r', upstream: "(?:[a-z]+://)?(?P<upstream>[^"/]*)')

_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_ACCESS = re.compile(
    r"(?P<client>\S+) - (?:\[(?P<shown>[^\]\s]*)\] - )?(?P<user>.{0,200}?) \[(?P<time>[^\]]{10,40})\] "
    rf"{_QUOTED} (?P<status>\d{{3}}) (?P<bytes>\d+|-)(?: {_QUOTED} {_QUOTED})?(?P<more>.*)",
    re.ASCII,
)
_INGRESS_NGINX = re.compile(
    r" \d+ [\d.]+ \[[^\]]*\] \[[^\]]*\] (?P<upstream>[^\s,]+(?:(?:,| :) [^\s,]+)*) .* (?P<id>[0-9a-f]{32})\s*"
)
_FORWARDED = re.compile(rf" {_QUOTED}\s*")


class NginxErrors:
    """Error log lines; keeps, by server, the header that is being logged over several lines."""

    def __init__(self) -> None:
        self._open: dict[str, _Header] = {}

    def read(self, line: Line) -> Said | None:
        """What a line says; None where it is not of an error log."""
        found = _ERROR.fullmatch(line.text)
        message = found["message"] if found else ""
        if found is not None and found["connection"] and message.startswith(_BROKEN):
            begun = _Header(line, found, message)
            self._begin(line.server, begun)
            return begun.said() if begun.ended else Said()
        header = self._open.get(line.server)
        said = header.goes_on(line) if header else None
        if said is not None:
            return said
        return _error(line, found, message) if found else None

    def _begin(self, server: str, header: _Header) -> None:
        if len(self._open) >= 1000:  # more servers than one file has
            self._open.clear()
        self._open[server] = header

    def unfinished(self) -> list[int]:
        """Lines that began a header whose end never came."""
        return [header.line for header in self._open.values() if not header.ended]


class _Header:
    """What came in place of a PROXY header, from the line that begins it on."""

    def __init__(self, line: Line, found: re.Match[str], message: str) -> None:
        self._first = line
        self._found = found
        self._message = message
        self._apart: list[
            int
        ] = []  # lines after an end: they count by themselves, unless a later end follows

    @property
    def line(self) -> int:
        return self._first.number

    @property
    def ended(self) -> bool:
        return _HEADER_END.search(self._message) is not None

    def goes_on(self, line: Line) -> Said | None:
        """Take a further line as part of it; None where it cannot be, or need not be."""
        message = f"{self._message}\n{line.text}"
        ends = _HEADER_END.search(line.text)
        content = message[len(_BROKEN) : len(self._message) + 1 + ends.start() if ends else None]
        if len(content) > HEADER_LIMIT:
            return None
        ended, self._message = self.ended, message
        if ends:
            return self.said()
        if not ended:
            return Said()
        self._apart.append(line.number)
        return None

    def said(self) -> Said:
        """The entry, by the last of all ends so far."""
        *_, end = _HEADER_END.finditer(self._message)
        content = self._message[len(_BROKEN) : end.start()]
        said = entry(
            self._first._replace(text=self._message[: end.end()]),
            Kind.NGINX,
            moment(self._found["time"]),
            peer=address(end["peer"]),
            local=_local(end["local"]),
            problem=_not_a_header(content),
            request=content or None,
            connection=self._found["connection"],
        )
        return Said(said.entry, tuple(self._apart))


def _not_a_header(content: str) -> Problem:
    if not content:
        return Problem.HEADER_EMPTY
    looks_like_one = content.startswith((_PROXY_V1, *_PROXY_V2)) or _PROXY_V1.startswith(content)
    return Problem.HEADER_MALFORMED if looks_like_one else Problem.HEADER_MISSING


def _error(line: Line, found: re.Match[str], message: str) -> Said:
    """A line with one of the texts that are known; all others are about no connection, or about its contents."""
    where = _WHERE.search(message)
    problem = _problem(message[: where.start()] if where else message)
    if problem is None or where is None:
        return Said()
    before = _AS_PEER.search(message[: where.start() + 2])
    whom = address(where["client"])
    text = _request(message, where.end())
    if problem is Problem.REQUEST_INVALID:
        problem = problem_of_request(text, 400) or problem
    # Client's text may hold what looks like the name of an upstream: it is taken only where there is one.
    upstreams = _UPSTREAM.findall(message)
    return entry(
        line,
        Kind.NGINX,
        moment(found["time"]),
        peer=whom if before else None,
        client=None if before else whom,
        local=_local(where["server"]),
        problem=problem,
        request=told(text),
        upstream=upstreams[0] if len(upstreams) == 1 else None,
        connection=found["connection"],
    )


def _request(message: str, start: int) -> str | None:
    """The request line that an error is about; its text is the client's, and not escaped."""
    begin = message.find(_REQUEST, start)
    end = _REQUEST_END.search(message, begin + len(_REQUEST)) if begin >= 0 else None
    return message[begin + len(_REQUEST) : end.start()] if end else None


def _problem(message: str) -> Problem | None:
    for beginning, problem in _MESSAGES:
        if message.startswith(beginning):
            return problem
    if "SSL_do_handshake() failed" in message:
        if message.endswith("to upstream"):
            return Problem.UPSTREAM_FAILED
        plain = "http request" in message or "wrong version number" in message
        return Problem.PLAIN_ON_TLS if plain else Problem.TLS_FAILED
    if message.endswith("while reading PROXY protocol"):
        if message.startswith("client timed out"):
            return Problem.HEADER_LATE
        nothing = message.startswith(("client closed connection", "recv() failed"))
        return Problem.HEADER_EMPTY if nothing else Problem.HEADER_REFUSED
    if message.endswith(("while connecting to upstream", "from upstream")):
        return Problem.UPSTREAM_FAILED
    return Problem.REQUEST_INVALID if _REFUSED.match(message) else None


def _local(text: str) -> str | None:
    """The listener, where a line names that and not the server's name."""
    place = joined(text)
    return place if place and port_of(place) else None


def access(line: Line) -> Said | None:
    """A line of an access log: combined, with $http_x_forwarded_for behind it, or ingress-nginx's own format.

    Such a line names the client that the server took, never the peer.
    """
    found = _ACCESS.fullmatch(line.text)
    client = address(found["client"]) if found else None
    stamp = moment(found["time"]) if found else None
    if found is None or client is None or stamp is None:
        return None
    request, status = found[5], status_code(found["status"])
    ingress = _INGRESS_NGINX.fullmatch(found["more"])
    forwarded = _FORWARDED.fullmatch(found["more"])
    return entry(
        line,
        Kind.NGINX,
        stamp,
        client=client,
        request=told(request),
        status=status,
        forwarded=told(forwarded[1]) if forwarded else None,
        upstream=told(ingress["upstream"]) if ingress else None,
        request_id=ingress["id"] if ingress else None,
        problem=problem_of_request(request, status),
    )
