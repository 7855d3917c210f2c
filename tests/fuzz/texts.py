"""Texts that the search begins with: files, logs, and answers as people and servers write them."""

from __future__ import annotations

import msgspec

SCENARIO = b"""
title = "One node"
[cluster]
nodes = 2
[service]
external_traffic_policy = "Local"
[[requests]]
"""
KUBECONFIG = b"""{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: c, user: u,
 namespace: d}}], clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443"}}], users: [{name: u, user: {}}]}"""
NGINX = b"""http { proxy_protocol on; upstream a { server 10.0.0.1:80; }
 server { listen 80 proxy_protocol; listen [::]:443 ssl; set_real_ip_from 10.0.0.0/8; real_ip_header proxy_protocol;
  real_ip_recursive on; location / { proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_pass http://a; } include a.conf; } }
"""
HAPROXY = b"""global
defaults
  option forwardfor except 10.0.0.0/8
frontend f
  bind :80,:::443 accept-proxy ssl
  acl lb src 192.0.2.0/24
  tcp-request connection expect-proxy layer4 if lb
  http-request set-src hdr(x-real-ip) if lb
  default_backend b
backend b
  server s1 10.0.0.1:80 send-proxy-v2 check
"""
CONFIGMAP = b"""apiVersion: v1
kind: ConfigMap
metadata: {name: ingress-nginx-controller, namespace: ingress-nginx}
data: {use-proxy-protocol: "true", proxy-real-ip-cidr: 10.0.0.0/8, use-forwarded-headers: "false"}
"""
DUMP = (
    b"# configuration file /etc/nginx/nginx.conf:\nhttp { include b.conf; }\n"
    b"# configuration file /etc/nginx/b.conf:\nserver { listen 80; }\n"
)
LOGS = {
    "nginx": b'192.0.2.1 - - [30/Nov/2026:10:00:00 +0000] "GET /a HTTP/1.1" 200 12 "-" "curl" 1 0.1 [d-a-80] [] '
    b"10.0.0.1:80 3 0.1 200 0123456789abcdef0123456789abcdef\n",
    "nginx-error": b'2026/11/30 10:00:00 [error] 7#7: *3 broken header: "GET / HTTP/1.1\r\nHost: a\r\n\r\n" while '
    b"reading PROXY protocol, client: 192.0.2.1, server: 0.0.0.0:80\n",
    "haproxy": b"Nov 30 10:00:00 lb haproxy[7]: 192.0.2.1:5000 [30/Nov/2026:10:00:00.123] f b/s1 0/0/1/2/3 200 12 - - "
    b'---- 1/1/0/0/0 0/0 "GET / HTTP/1.1"\n',
    "haproxy-error": b"192.0.2.1:5000 [30/Nov/2026:10:00:00.123] f/1: Received something which does not look like a "
    b"PROXY protocol header\n",
    "uvicorn": b'INFO:     192.0.2.1:5000 - "GET /a HTTP/1.1" 200 OK\n'
    b"2026-11-30T10:00:00Z WARNING:  Invalid HTTP request received.\n",
    "envoy": b'[2026-11-30T10:00:00.123Z] "GET / HTTP/1.1" 200 - via_upstream - "-" 0 12 1 0 "192.0.2.1" "curl" "id" '
    b'"a" "10.0.0.1:80" outbound|80||a 10.0.0.3:1 10.0.0.2:80 192.0.2.1:5000 - default\n',
    "json": b'{"remote_addr":"192.0.2.1","realip_remote_addr":"10.0.0.1","time_iso8601":"2026-11-30T10:00:00+00:00",'
    b'"status":200,"request":"GET / HTTP/1.1","request_id":"a","http_x_forwarded_for":"1.2.3.4"}\n',
    "envoy-json": b'{"start_time":"2026-11-30T10:00:00.1Z","downstream_remote_address":"192.0.2.1:1",'
    b'"response_code":200,"upstream_host":"10.0.0.1:80","method":"GET","path":"/"}\n',
    "docker": b'{"log":"192.0.2.1 - - [30/Nov/2026:10:00:00 +0000] \\"GET / HTTP/1.1\\" 200 1\\n","stream":"stdout",'
    b'"time":"2026-11-30T10:00:00.1Z"}\n',
    "kubectl": b"[pod/a/b] 2026-11-30T10:00:00.1Z stdout F 192.0.2.1 - - [30/Nov/2026:10:00:00 +0000] "
    b'"GET /" 200 1 "-" "-"\n',
}
SLICE = {"kind": "EndpointSlice", "metadata": {
    "name": "s-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "s"},
    "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-30T10:00:00Z"}},
    "endpoints": [{"addresses": ["10.0.0.2"], "nodeName": "n",
                   "conditions": {"ready": False, "serving": True, "terminating": True}}]}  # fmt: skip
EVENTS = (
    msgspec.json.encode({"t": 1700000000.5, "type": "MODIFIED", "object": SLICE})
    + b"\n" + msgspec.json.encode({"type": "DELETED", "object": SLICE}) + b"\n"
)  # fmt: skip
HEALTH = b'{"service": {"namespace": "d", "name": "s"}, "localEndpoints": 1, "serviceProxyHealthy": true}'
ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nX-Load-Balancing-Endpoint-Weight: 1\r\n\r\n"
STATUS = {
    "kind": "Status", "status": "Failure", "message": "pods is forbidden", "reason": "Forbidden", "code": 403,
    "details": {"name": "p", "causes": [{"reason": "ExitCode", "message": "137"}]},
}  # fmt: skip
LIST = {"kind": "PodList", "metadata": {"continue": "x", "resourceVersion": "7"}, "items": [{"metadata": {}}]}
