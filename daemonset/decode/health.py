"""The answer of a health check node port: what kube-proxy says of a Service's endpoints on its node.

    {"service": {"namespace": "default", "name": "web"}, "localEndpoints": 1, "serviceProxyHealthy": true}

with the number of endpoints once more in the field X-Load-Balancing-Endpoint-Weight (kubernetes
pkg/proxy/healthcheck/service_health.go; the weight since 1.28). Other datapaths imitate it, the body more or less.
"""

from __future__ import annotations

import json
import re

from daemonset.observation import HealthAnswer

_MARK = b'"localEndpoints"'
_LIMIT = 4096  # bytes of a body that are read
_MOST = 1_000_000  # endpoints on one node; more is no count
_NAME_LIMIT = 127  # namespace and name, each a DNS label
_weight = re.compile(
    rb"\r\nx-load-balancing-endpoint-weight:[ \t]*([0-9]{1,6})[ \t]*\r\n", re.IGNORECASE
).search


def read_health(response: bytes) -> HealthAnswer | None:
    """What the HTTP response that `response` begins with says of local endpoints; None where it says nothing.

    A capture may hold the head and not the body; a body that is cut is not read.
    """
    end = response.find(b"\r\n\r\n")
    weight = _weight(response[: end + 2] if end >= 0 else response)
    whole = end >= 0 and _MARK in response
    body = _object(response[end + 4 : end + 4 + _LIMIT]) if whole else {}
    count, healthy = body.get("localEndpoints"), body.get("serviceProxyHealthy")
    endpoints = (
        count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= _MOST else None
    )
    if endpoints is None and weight is None:
        return None
    return HealthAnswer(
        local_endpoints=endpoints,
        healthy=healthy if isinstance(healthy, bool) else None,
        service=_service(body.get("service")),
        weight=int(weight[1]) if weight else None,
    )


def _object(body: bytes) -> dict[str, object]:
    begin = body.find(b"{")
    if begin < 0:
        return {}
    try:
        value, _ = json.JSONDecoder().raw_decode(body[begin:].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _service(named: object) -> str:
    if not isinstance(named, dict):
        return ""
    parts = [named.get("namespace"), named.get("name")]
    return "/".join(part for part in parts if isinstance(part, str))[:_NAME_LIMIT]


def read_eligible(response: bytes) -> bool | None:
    """What kube-proxy's own health says of its node: whether it may be sent to at all (KEP-3836); None: nothing.

    {"lastUpdated": "…", "currentTime": "…", "nodeEligible": true}
    """
    end = response.find(b"\r\n\r\n")
    if end < 0:
        return None
    eligible = _object(response[end + 4 : end + 4 + _LIMIT]).get("nodeEligible")
    return eligible if isinstance(eligible, bool) else None
