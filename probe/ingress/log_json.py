"""Access logs in JSON: nginx's, whose keys follow its variables by custom, and Envoy's, whose keys Istio's follow.

The names of keys are each operator's own; those here are the variables' names and the spellings that are common. A
value that names an address is taken only where the key says whose address it is: `remote_addr` is whom real_ip took
for the client, `realip_remote_addr` is the peer (ngx_http_realip_module).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from analysis.ingress import Kind
from probe.ingress.entries import (
    Said,
    address,
    endpoint,
    entry,
    joined,
    port_number,
    problem_of_request,
    status_code,
    told,
)
from probe.ingress.lines import Line
from probe.ingress.times import Moment, moment

_TIMES = (
    "msec",
    "time",
    "time_iso8601",
    "time_local",
    "@timestamp",
    "timestamp",
    "ts",
    "start_time",
    "StartUTC",
)
_IDS = ("request_id", "req_id", "x_request_id", "http_x_request_id", "requestID")
_FORWARDED = ("http_x_forwarded_for", "x_forwarded_for", "xff")
_STATUS = ("status", "response_code", "status_code")
_POD = ("pod", "hostname", "pod_name")

#: nginx without escape=json writes bytes so, which JSON does not know.
_HEX = re.compile(r"\\x([0-9A-Fa-f]{2})")


def access(line: Line) -> Said | None:
    """A line that is a JSON object of an access log; None where it is none."""
    if not line.text.startswith("{"):
        return None
    values = _object(line.text)
    if values is None:
        return None
    if "downstream_remote_address" in values or "upstream_host" in values:
        return _envoy(line, values)
    if not {"remote_addr", "realip_remote_addr", "peer", "status", "request"} & values.keys():
        return None
    return _nginx(line, values)


def _object(text: str) -> Mapping[str, str] | None:
    """The object's own values as texts. One with a key twice is refused: a client may have written the second."""
    for attempt in (text, _HEX.sub(r"\\u00\1", text)):
        try:
            found = json.loads(attempt, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, str]:
    values = {key: str(value) for key, value in pairs if isinstance(value, str | int | float)}
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands there twice")
    return values


def _first(values: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    return next((found for key in keys if (found := told(values.get(key))) is not None), None)


def _time(values: Mapping[str, str]) -> Moment | None:
    return next(
        (found for key in _TIMES if key in values and (found := moment(values[key])) is not None), None
    )


def _nginx(line: Line, values: Mapping[str, str]) -> Said:
    def pair(*names: tuple[str, str]) -> str | None:
        return next(
            (found for host, port in names if (found := endpoint(values.get(host), values.get(port)))), None
        )

    request = told(values.get("request"))
    if request is None and "request_method" in values and "request_uri" in values:
        request = (
            f"{values['request_method']} {values['request_uri']} {values.get('server_protocol', '')}".rstrip()
        )
    status = status_code(_first(values, _STATUS))
    return entry(
        line,
        Kind.NGINX,
        _time(values),
        peer=pair(("realip_remote_addr", "realip_remote_port"), ("peer", "peer_port")),
        client=address(values.get("remote_addr")),
        client_port=port_number(values.get("remote_port")),
        proxied=pair(("proxy_protocol_addr", "proxy_protocol_port")),
        forwarded=_first(values, _FORWARDED),
        local=pair(("server_addr", "server_port")) or _port_alone(values.get("server_port")),
        upstream=told(values.get("upstream_addr")),
        request=request,
        request_id=_first(values, _IDS),
        status=status,
        problem=problem_of_request(request, status),
        connection=told(values.get("connection")),
        server=_first(values, _POD) or "",
    )


def _port_alone(text: str | None) -> str | None:
    port = port_number(text)
    return f":{port}" if port else None


def _envoy(line: Line, values: Mapping[str, str]) -> Said:
    """`downstream_direct_remote_address` is the peer; without "direct" it is whom Envoy took for the client."""
    client = joined(values.get("downstream_remote_address"))
    host, _, port = (
        (client or "").rpartition(":")
        if client and port_number(client.rpartition(":")[2])
        else (client, "", "")
    )
    method, path = values.get("method"), values.get("path") or values.get("x_envoy_original_path")
    return entry(
        line,
        Kind.ENVOY,
        _time(values),
        peer=joined(values.get("downstream_direct_remote_address")),
        client=address(host),
        client_port=port_number(port),
        forwarded=_first(values, _FORWARDED),
        local=joined(values.get("downstream_local_address")),
        upstream=told(values.get("upstream_host")),
        outgoing=joined(values.get("upstream_local_address")),
        request=f"{method} {path} {values.get('protocol', '')}".rstrip() if method and path else None,
        request_id=_first(values, _IDS),
        status=status_code(_first(values, _STATUS)),
    )
