"""HAProxy's configuration: as the external balancer, as the edge before it, as a server in a pod. Pure text."""

from __future__ import annotations

from pathlib import Path

from probe.lab.plan import HEALTHZ_PORT, PEER_HEADER, POD_HEADER, Host, Plan, PlannedPod
from probe.lab.scenario import Balancer, Family, Frontend

_SEND: dict[str, str] = {"none": "", "v1": " send-proxy", "v2": " send-proxy-v2"}


def balancer_config(plan: Plan, host: Host, balancer: Balancer, folder: Path, certificate: Path) -> str:
    """haproxy.cfg of a balancer: one `listen` section for each frontend. `certificate` holds a key as well."""
    sections = "".join(
        _frontend(plan, host, frontend, certificate, number)
        for number, frontend in enumerate(balancer.all_frontends())
    )
    return f"""global
  stats socket {folder}/haproxy.sock mode 600
  nbthread 1
defaults
  timeout connect 3s
  timeout client 30s
  timeout server 30s
  timeout check 10s
  retries 1
  default-server rise 1
{sections}"""


def _frontend(plan: Plan, host: Host, frontend: Frontend, certificate: Path, number: int) -> str:
    family = plan.families[0]
    lines = [f"mode {frontend.mode}", f"bind {_bind(frontend, family, certificate)}"]
    if frontend.mode == "http":
        lines += ["option forwardfor", "http-reuse always"]
    if "unique-id" in frontend.proxy_options:
        lines.append("unique-id-format %{+X}o%ci:%cp_%fi:%fp_%Ts_%rt:%pid")
    lines += [f"balance {frontend.balance}", *_check(plan, frontend)]
    lines += [f"server {target} {_server(plan, target, frontend)}" for target in frontend.targets]
    name = section_name(plan, host, frontend, number)
    return "".join([f"listen {name}\n", *(f"  {line}\n" for line in lines)])


def section_name(plan: Plan, host: Host, frontend: Frontend, number: int) -> str:
    """What HAProxy calls a frontend: the balancer's first is called as the Service is."""
    return plan.scenario.service.name if host is plan.lb and not number else f"{host.name}-{frontend.port}"


def _bind(frontend: Frontend, family: Family, certificate: Path) -> str:
    text = f"{'*' if family == 'ipv4' else '::'}:{frontend.port}"
    text += " accept-proxy" if frontend.accept_proxy else ""
    return text + (f" ssl crt {certificate}" if frontend.tls else "")


def _check(plan: Plan, frontend: Frontend) -> list[str]:
    if frontend.check == "healthz":
        return ["option httpchk GET /healthz"]
    if frontend.check != "kube-proxy" or frontend.targets == ("balancer",):
        return []
    return [f"option httpchk GET {'/' if plan.health_check_node_port() else '/healthz'}"]


def _server(plan: Plan, target: str, frontend: Frontend) -> str:
    family = plan.families[0]
    header = _SEND[frontend.send_proxy]
    if frontend.proxy_options:
        header += f" proxy-v2-options {','.join(frontend.proxy_options)}"
    if target == "balancer" and plan.scenario.balancer:
        return f"{plan.address(target, family)}:{plan.scenario.balancer.port}{header}"
    address = f"{plan.node(target).host.addresses[family]}:{plan.scenario.service.node_port}"
    header += f" inter {frontend.check_interval} fall {frontend.check_fall}"
    header += " check-send-proxy" if frontend.check_header else ""
    if frontend.check == "healthz":
        return f"{address} check port {HEALTHZ_PORT}{header}"
    if frontend.check == "kube-proxy":
        return f"{address} check port {plan.health_check_node_port() or HEALTHZ_PORT}{header}"
    return f"{address} check{' check-send-proxy' if frontend.check == 'proxy' else ''}{header}"


def server_config(plan: Plan, pod: PlannedPod, certificate: Path) -> str:
    """haproxy.cfg of a pod that answers by itself who it saw."""
    accept = " accept-proxy" if pod.pod.proxy_protocol else ""
    tls = f" ssl crt {certificate}" if pod.pod.tls else ""
    binds = "".join(
        f"  bind {'*' if family == 'ipv4' else '::'}:{pod.port}{accept}{tls}\n" for family in plan.families
    )
    said = f'{{\\"client_host\\":\\"%[src]\\",\\"client_port\\":%[src_port],\\"pod\\":\\"{pod.name}\\"}}'
    return f"""global
  nbthread 1
defaults
  timeout connect 3s
  timeout client 30s
  timeout server 30s
frontend {pod.name}
  mode http
{binds}  http-request return status 200 content-type application/json hdr {PEER_HEADER} "%[fc_src] %[fc_src_port]" \
hdr {POD_HEADER} {pod.name} lf-string "{said}"
"""
