"""Lines of uvicorn and of Envoy.

uvicorn's access line names the client that the application sees: the peer, or whom a trusted peer named in
X-Forwarded-For, and then the port is 0 unless that peer wrote one (uvicorn/middleware/proxy_headers.py).
Envoy's default access log names no address but X-Forwarded-For; Istio's has the connections' own behind it.
"""

from __future__ import annotations

import re

from analysis.ingress import Kind, Problem
from probe.ingress.entries import Said, address, entry, joined, port_number, status_code, told
from probe.ingress.lines import Line
from probe.ingress.times import moment

_UVICORN = re.compile(
    r"(?:INFO: +)?(?P<client>\[?[0-9A-Fa-f.:]{2,45}\]?):(?P<port>\d{1,5}) - "
    r'"(?P<request>.*)" (?P<status>\d{3})(?: [A-Za-z \'-]*)?',
    re.ASCII,
)
_LEVELS = re.compile(r"(?:\x1b\[\d+m)?(?:TRACE|DEBUG|INFO|WARNING|ERROR|CRITICAL)(?:\x1b\[0m)?: ")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# No quote may stand in a quoted value or behind the last one: Envoy writes a client's quotes as they came, and a line
# with more of them than its format has is one whose values cannot be told apart.
_ENVOY = re.compile(
    r"\[(?P<time>[^\]]{20,40})\] "
    r'"(?P<request>[^"]*)" (?P<status>\d{1,3}) [^\s"]+ (?:[^\s"]+ [^\s"]+ "[^"]*" )?\d+ \d+ (?:\d+|-) (?:\d+|-) '
    r'"(?P<forwarded>[^"]*)" "[^"]*" "(?P<id>[^"]*)" "[^"]*" "(?P<upstream>[^"]*)"(?P<more>[^"]*)',
    re.ASCII,
)
_ENVOY_ITSELF = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\]\[\d+\]\[[a-z]+\]\[[a-z0-9_ -]+\] ")
_STAT = re.compile(r"(?P<name>[A-Za-z0-9_][\w.:\[\]|;/@-]{2,400}): (?P<value>\d{1,20})", re.ASCII)
_STAT_PROXY = re.compile(r"listener\.(?P<place>.+)\.downstream_cx_proxy_proto_error")
_PROMETHEUS = re.compile(r"envoy_\w+(?:\{(?P<labels>[^}]*)\})? (?P<value>[0-9.e+]+)", re.ASCII)
_LISTENER = re.compile(r'envoy_listener_address="(?P<place>[^"]*)"')


def uvicorn(line: Line) -> Said | None:
    """A line of uvicorn; None where it is none."""
    text = _COLOUR.sub("", line.text) if "\x1b" in line.text else line.text
    found = _UVICORN.fullmatch(text)
    client = address(found["client"]) if found else None
    if found is not None and client is not None:
        port = port_number(found["port"])
        return entry(
            line,
            Kind.UVICORN,
            client=client,
            client_port=port,
            request=found["request"],
            status=status_code(found["status"]),
        )
    if not _LEVELS.match(line.text):
        return None
    if "Invalid HTTP request received" in text:
        return entry(line, Kind.UVICORN, problem=Problem.REQUEST_INVALID)
    return Said()


def envoy(line: Line) -> Said | None:
    """A line of Envoy's access log or statistics; None where it is none."""
    if found := _ENVOY.fullmatch(line.text):
        return _envoy_access(line, found)
    if _ENVOY_ITSELF.match(line.text):
        return Said()
    place: str | None = None
    if found := _STAT.fullmatch(line.text):
        listener = _STAT_PROXY.fullmatch(found["name"])
        place = listener["place"] if listener else None
    elif (found := _PROMETHEUS.fullmatch(line.text)) and "downstream_cx_proxy_proto_error" in line.text:
        listener = _LISTENER.search(found["labels"] or "")
        place = listener["place"] if listener else None
    elif not found:
        return None
    if place is None or not float(found["value"]):
        return Said()
    return entry(line, Kind.ENVOY, local=_listener(place), problem=Problem.HEADER_REFUSED)


def _envoy_access(line: Line, found: re.Match[str]) -> Said | None:
    stamp = moment(found["time"])
    if stamp is None:
        return None
    # Istio: upstream cluster, upstream local, downstream local, downstream remote, requested server name, route.
    more = found["more"].split()
    client = joined(more[3]) if len(more) >= 4 else None
    host, port = (client.rpartition(":")[::2]) if client and address(client) is None else (client, None)
    return entry(
        line,
        Kind.ENVOY,
        stamp,
        client=address(host),
        client_port=port_number(port),
        local=joined(more[2]) if len(more) >= 4 else None,
        outgoing=joined(more[1]) if len(more) >= 4 else None,
        forwarded=told(found["forwarded"]),
        upstream=told(found["upstream"]),
        request=told(found["request"]),
        request_id=told(found["id"]),
        status=status_code(found["status"]),
    )


def _listener(place: str) -> str | None:
    """ "ip:port" of a listener's name in statistics, where "_" stands for ":" (0.0.0.0_8081, [__]_8081)."""
    host, _, port = place.rpartition("_")
    if not port_number(port):
        return None
    return joined(f"{host.replace('_', ':')}:{port}") or f":{port}"
