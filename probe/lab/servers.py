"""What the lab's servers are told: configuration of nginx and HAProxy, command lines, expected ports. Pure text.

Every server keeps its files in a folder of its own under /run/lab, which only the lab can see.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from probe.lab.plan import ECHO_PORT, HEALTHZ_PORT, PROXY_PORT, Plan, PlannedPod
from probe.lab.scenario import Family

FOLDER = Path("/run/lab")
HAPROXY_SOCKET = FOLDER / "lb" / "haproxy.sock"

#: Headers by which nginx says whom it spoke with and which pod it is.
PEER_HEADER = "X-Lab-Peer"
POD_HEADER = "X-Lab-Pod"


class Server(msgspec.Struct, frozen=True):
    """A program to run in a namespace: its command line, its files, and the ports on which it will listen."""

    name: str
    namespace: str
    argv: tuple[str, ...]
    files: dict[str, str] = {}
    tcp_ports: tuple[int, ...] = ()
    udp_ports: tuple[int, ...] = ()

    @property
    def ports(self) -> dict[str, tuple[int, ...]]:
        """By protocol."""
        return {"tcp": self.tcp_ports, "udp": self.udp_ports}


def pod_servers(plan: Plan) -> list[Server]:
    """The servers in pods, the slowest to start first."""
    apps = [_application(plan, pod) for pod in plan.apps()]
    return apps + [_nginx(plan, pod) for pod in plan.pods if pod.pod.role in {"echo", "ingress"}]


def _application(plan: Plan, pod: PlannedPod) -> Server:
    trusted = [
        address for entry in plan.pods if entry.pod.role == "ingress" for address in entry.addresses.values()
    ]
    argv = (sys.executable, "-m", "probe.lab.application", pod.name, str(pod.port), ",".join(trusted))
    return Server(pod.name, pod.namespace, argv, tcp_ports=(pod.port,))


def _any_address(family: Family, port: int) -> str:
    return f"0.0.0.0:{port}" if family == "ipv4" else f"[::]:{port} ipv6only=on"


def _host_and_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _nginx(plan: Plan, pod: PlannedPod) -> Server:
    folder = FOLDER / pod.name
    ports = (pod.port,) if pod.pod.host_network else (ECHO_PORT, PROXY_PORT)
    argv = ("nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf"))
    return Server(pod.name, pod.namespace, argv, {"nginx.conf": nginx_config(plan, pod, folder)}, ports)


def nginx_config(plan: Plan, pod: PlannedPod, folder: Path) -> str:
    """nginx as an ingress in front of the app pods, or answering by itself who it saw.

    One process without a master: in a user namespace of one user there is nobody to drop privileges to.
    """
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    listeners = [_any_address(family, pod.port) + ";" for family in plan.families]
    if not pod.pod.host_network:
        other, mark = (ECHO_PORT, "") if pod.pod.proxy_protocol else (PROXY_PORT, " proxy_protocol")
        own_mark = " proxy_protocol" if pod.pod.proxy_protocol else ""
        listeners = [f"{_any_address(family, pod.port)}{own_mark};" for family in plan.families]
        listeners += [f"{_any_address(family, other)}{mark};" for family in plan.families]
    servers = "\n".join(_nginx_server(plan, pod, listener) for listener in listeners)
    upstream = "\n".join(
        f"    server {_host_and_port(app.addresses[plan.families[0]], app.port)};" for app in plan.apps()
    )
    upstreams = f"  upstream apps {{\n{upstream}\n  }}\n" if upstream else ""
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
{upstreams}{servers}
}}
"""


def _nginx_server(plan: Plan, pod: PlannedPod, listener: str) -> str:
    trust = ""
    if "proxy_protocol" in listener and plan.lb:
        addresses = "".join(f"    set_real_ip_from {address};\n" for address in plan.lb.addresses.values())
        trust = f"{addresses}    real_ip_header proxy_protocol;\n"
    if pod.pod.role == "ingress":
        answer = """      proxy_pass http://apps;
      proxy_http_version 1.1;
      proxy_connect_timeout 2s;
      proxy_set_header Host $host;
      proxy_set_header Connection close;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;"""
    else:
        said = '{"client_host":"$remote_addr","client_port":$remote_port,"pod":"' + pod.name + '"}'
        answer = f"      return 200 '{said}\\n';"
    return f"""  server {{
    listen {listener}
{trust}    location / {{
{answer}
    }}
  }}"""


def haproxy(plan: Plan) -> Server | None:
    """The external balancer where it is HAProxy."""
    balancer, lb = plan.scenario.balancer, plan.lb
    if not balancer or not lb or balancer.kind != "haproxy":
        return None
    argv = ("haproxy", "-db", "-f", str(FOLDER / lb.name / "haproxy.cfg"))
    return Server(lb.name, lb.name, argv, {"haproxy.cfg": haproxy_config(plan)}, (balancer.port,))


def haproxy_config(plan: Plan) -> str:
    """HAProxy in TCP mode. It asks the health check node port, or kube-proxy's own health where there is none."""
    balancer, service = plan.scenario.balancer, plan.scenario.service
    if balancer is None:
        raise ValueError("the scenario has no balancer")
    family = plan.families[0]
    bind = "*" if family == "ipv4" else "::"
    health_port = plan.health_check_node_port()
    path = "/" if health_port else "/healthz"
    header = {"none": "", "v1": " send-proxy", "v2": " send-proxy-v2"}[balancer.send_proxy]
    servers = "\n".join(
        f"  server {target} {plan.node(target).host.addresses[family]}:{service.node_port} "
        f"check port {health_port or HEALTHZ_PORT}{header}"
        for target in balancer.targets
    )
    return f"""global
  stats socket {HAPROXY_SOCKET} mode 600
  nbthread 1
defaults
  mode tcp
  timeout connect 3s
  timeout client 30s
  timeout server 30s
  timeout check 1s
  retries 1
  balance roundrobin
  default-server inter 300ms fall 1 rise 1
listen {service.name}
  bind {bind}:{balancer.port}
  option httpchk GET {path}
{servers}
"""
