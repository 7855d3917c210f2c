"""nginx's configuration in a pod: an ingress in front of the app pods, or a server that says who it saw. Pure text."""

from __future__ import annotations

from pathlib import Path

from probe.lab.plan import (
    ECHO_PORT,
    PEER_HEADER,
    POD_HEADER,
    PROXY_PORT,
    TLS_PORT,
    Plan,
    PlannedPod,
    host_and_port,
)
from probe.lab.scenario import Family, Nginx

_FORWARDED: dict[str, str] = {
    "append": "$proxy_add_x_forwarded_for",
    "overwrite": "$remote_addr",
    "pass": "$http_x_forwarded_for",
}


def nginx_ports(pod: PlannedPod) -> tuple[int, ...]:
    """Where it listens: the port on trial, and of plain HTTP and HTTP behind a PROXY header the other one too."""
    if pod.pod.host_network:
        return (pod.port,)
    return (ECHO_PORT, PROXY_PORT, TLS_PORT) if pod.pod.tls else (ECHO_PORT, PROXY_PORT)


def nginx_config(plan: Plan, pod: PlannedPod, folder: Path, certificate: Path) -> str:
    """nginx.conf. `certificate` holds a certificate and its key.

    One process without a master: in a user namespace of one user there is nobody to drop privileges to.
    """
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    servers = "\n".join(
        _server(plan, pod, port, family, certificate) for port in nginx_ports(pod) for family in plan.families
    )
    return f"""user root root;
daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
{temporary}
  log_format words escape=json '{{"time":"$msec","remote_addr":"$remote_addr","remote_port":"$remote_port",'
    '"peer":"$realip_remote_addr","peer_port":"$realip_remote_port","proxy_protocol_addr":"$proxy_protocol_addr",'
    '"x_forwarded_for":"$http_x_forwarded_for","status":"$status","upstream_addr":"$upstream_addr"}}';
  access_log {folder}/access.log words;
  default_type application/json;
  add_header {PEER_HEADER} "$realip_remote_addr $realip_remote_port" always;
  add_header {POD_HEADER} "{pod.name}" always;
{_upstream(plan, pod)}{servers}
}}
"""


def _upstream(plan: Plan, pod: PlannedPod) -> str:
    nginx, family = pod.pod.nginx, plan.families[0]
    apps = [app for app in plan.apps() if not nginx.apps or app.name in nginx.apps]
    if not apps or pod.pod.role != "ingress":
        return ""
    lines = [f"server {host_and_port(app.addresses[family], app.port)};" for app in apps]
    lines += ["keepalive 8;"] if nginx.keepalive else []
    return "\n".join(["  upstream apps {", *(f"    {line}" for line in lines), "  }"]) + "\n"


def _server(plan: Plan, pod: PlannedPod, port: int, family: Family, certificate: Path) -> str:
    expects_header = pod.pod.proxy_protocol if port == pod.port else port == PROXY_PORT
    listen = f"0.0.0.0:{port}" if family == "ipv4" else f"[::]:{port} ipv6only=on"
    listen += " http2" if pod.pod.nginx.h2c else ""
    listen += " proxy_protocol" if expects_header else ""
    lines = [f"listen {listen}{' ssl' if port == TLS_PORT else ''};"]
    if port == TLS_PORT:
        lines += [f"ssl_certificate {certificate};", f"ssl_certificate_key {certificate};"]
    lines += _trust(plan, pod.pod.nginx, expects_header)
    lines += ["location / {", *(f"  {line}" for line in _answer(pod)), "}"]
    return "\n".join(["  server {", *(f"    {line}" for line in lines), "  }"])


def _trust(plan: Plan, nginx: Nginx, expects_header: bool) -> list[str]:
    """Whom to believe, and what (ngx_http_realip_module)."""
    wanted = nginx.real_ip_from
    if wanted is None:
        wanted = ("balancer",) if expects_header and plan.lb else ()
    if not wanted:
        return []
    header = nginx.real_ip_header or ("proxy_protocol" if expects_header else "X-Forwarded-For")
    lines = [f"set_real_ip_from {each};" for each in plan.trusted(wanted)] + [f"real_ip_header {header};"]
    return lines + (["real_ip_recursive on;"] if nginx.recursive else [])


def _answer(pod: PlannedPod) -> list[str]:
    if pod.pod.role != "ingress":
        said = (
            '{"client_host":"$remote_addr","client_port":"$remote_port",'
            '"peer":"$realip_remote_addr $realip_remote_port","pod":"' + pod.name + '"}'
        )
        return [f"return 200 '{said}\\n';"]
    nginx = pod.pod.nginx
    return [
        "proxy_pass http://apps;",
        "proxy_http_version 1.1;",
        "proxy_connect_timeout 2s;",
        "proxy_set_header Host $host;",
        'proxy_set_header Connection "";' if nginx.keepalive else "proxy_set_header Connection close;",
        "proxy_set_header X-Real-IP $remote_addr;",
        f"proxy_set_header X-Forwarded-For {_FORWARDED[nginx.forwarded]};",
        "proxy_set_header X-Forwarded-Proto $scheme;",
        f"proxy_hide_header {PEER_HEADER};",
        f"proxy_hide_header {POD_HEADER};",
    ]
