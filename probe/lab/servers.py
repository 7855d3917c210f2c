"""Which programs serve in the lab: their command lines, files and expected ports. Pure.

Every server keeps its files in a folder of its own under /run/lab, which only the lab can see.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import msgspec

from probe.lab.complaints import PLACES
from probe.lab.haproxy import balancer_config, section_name, server_config
from probe.lab.nginx import nginx_config, nginx_ports
from probe.lab.plan import Host, Plan, PlannedPod, host_and_port
from probe.lab.scenario import Balancer

FOLDER = Path("/run/lab")

#: A certificate and its key, for every server that speaks TLS.
CERTIFICATE = FOLDER / "tls.pem"


class Server(msgspec.Struct, frozen=True):
    """A program to run in a namespace: its command line, its files, and the ports on which it will listen.

    `told` is how its command line would be written by hand, where that differs.
    """

    name: str
    namespace: str
    argv: tuple[str, ...]
    files: dict[str, str] = {}
    tcp_ports: tuple[int, ...] = ()
    udp_ports: tuple[int, ...] = ()
    told: str = ""

    @property
    def ports(self) -> dict[str, tuple[int, ...]]:
        """By protocol."""
        return {"tcp": self.tcp_ports, "udp": self.udp_ports}

    @property
    def configuration(self) -> str:
        """What it was told: its configuration files, or its command line where it has none."""
        return "\n".join(self.files.values()) or self.told or shlex.join(self.argv)


def pod_servers(plan: Plan) -> list[Server]:
    """The servers in pods, the slowest to start first."""
    apps = [_application(plan, pod) for pod in plan.apps()]
    makers = {"gunicorn": _gunicorn, "haproxy": _haproxy, "nginx": _nginx}
    return apps + [
        makers[pod.pod.server](plan, pod) for pod in plan.pods if pod.pod.role in {"echo", "ingress"}
    ]


def needs_certificate(plan: Plan) -> bool:
    """Whether anybody in the lab ends TLS."""
    balancers = [each for each in (plan.scenario.balancer, plan.scenario.edge) if each]
    frontends = [frontend for each in balancers for frontend in each.all_frontends()]
    return any(frontend.tls for frontend in frontends) or any(pod.pod.tls for pod in plan.pods)


def _application(plan: Plan, pod: PlannedPod) -> Server:
    options = [] if pod.pod.app.proxy_headers else ["--no-proxy-headers"]
    options.append(f"--forwarded-allow-ips={_allowed(plan, pod)}")
    return Server(
        pod.name,
        pod.namespace,
        (sys.executable, "-m", "probe.lab.application", pod.name, str(pod.port), *options),
        tcp_ports=(pod.port,),
        told=shlex.join(
            ["uvicorn", "main:app", "--host", _everywhere(plan), "--port", str(pod.port), *options]
        ),
    )


def _everywhere(plan: Plan) -> str:
    """The address of a listener that takes connections to every address of its pod."""
    return "0.0.0.0" if plan.families == ("ipv4",) else "::"  # noqa: S104 - as servers in pods do


def _allowed(plan: Plan, pod: PlannedPod) -> str:
    """The value of --forwarded-allow-ips, with addresses in the place of names."""
    text = pod.pod.app.forwarded_allow_ips
    if text is None:
        ingresses = [entry for entry in plan.pods if entry.pod.role == "ingress"]
        return ",".join(address for entry in ingresses for address in entry.addresses.values())
    return PLACES.sub(lambda match: plan.address(match[1], plan.families[0]), text)


def _gunicorn(plan: Plan, pod: PlannedPod) -> Server:
    options = ["--bind", host_and_port(_everywhere(plan), pod.port), "--workers", "1"]
    if pod.pod.proxy_protocol:
        options += ["--proxy-protocol", "--proxy-allow-from=*"]
    argv = (sys.executable, "-m", "gunicorn", "--worker-tmp-dir", str(FOLDER / pod.name), *options)
    return Server(
        pod.name,
        pod.namespace,
        (*argv, f"probe.lab.wsgi:named('{pod.name}')"),
        tcp_ports=(pod.port,),
        told=shlex.join(["gunicorn", *options, "main:app"]),
    )


def _haproxy(plan: Plan, pod: PlannedPod) -> Server:
    argv = ("haproxy", "-db", "-f", str(FOLDER / pod.name / "haproxy.cfg"))
    files = {"haproxy.cfg": server_config(plan, pod, CERTIFICATE)}
    return Server(pod.name, pod.namespace, argv, files, (pod.port,))


def _nginx(plan: Plan, pod: PlannedPod) -> Server:
    folder = FOLDER / pod.name
    argv = ("nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf"))
    files = {"nginx.conf": nginx_config(plan, pod, folder, CERTIFICATE)}
    return Server(pod.name, pod.namespace, argv, files, nginx_ports(pod))


def balancers(plan: Plan) -> list[Server]:
    """The balancers before the cluster that are programs."""
    found: list[tuple[Host | None, Balancer | None]] = [
        (plan.lb, plan.scenario.balancer),
        (plan.edge, plan.scenario.edge),
    ]
    return [
        _balancer(plan, host, balancer)
        for host, balancer in found
        if host and balancer and balancer.ends_connections
    ]


def broken_sections(plan: Plan) -> frozenset[str]:
    """The sections of HAProxy whose checks cannot succeed, as the scenario wants it."""
    balancer, host = plan.scenario.balancer, plan.lb
    if balancer is None or host is None:
        return frozenset()
    frontends = enumerate(balancer.all_frontends())
    return frozenset(section_name(plan, host, each, number) for number, each in frontends if each.broken)


def _balancer(plan: Plan, host: Host, balancer: Balancer) -> Server:
    ports = tuple(frontend.port for frontend in balancer.all_frontends())
    if balancer.kind == "relay":
        return Server(host.name, host.name, _relay(plan, balancer), tcp_ports=ports)
    argv = ("haproxy", "-db", "-f", str(FOLDER / host.name / "haproxy.cfg"))
    text = balancer_config(plan, host, balancer, FOLDER / host.name, CERTIFICATE)
    return Server(host.name, host.name, argv, {"haproxy.cfg": text}, ports)


def _relay(plan: Plan, balancer: Balancer) -> tuple[str, ...]:
    family, argv = plan.families[0], [sys.executable, "-m", "probe.lab.relay"]
    for frontend in balancer.all_frontends():
        target = plan.node(frontend.targets[0]).host.addresses[family]
        node_port = plan.scenario.service.node_port
        text = frontend.proxy_text.encode("latin-1").hex()
        argv.append(f"{frontend.port},{target},{node_port},{frontend.send_proxy},{frontend.split},{text}")
    return tuple(argv)


def configurations(plan: Plan) -> dict[str, str]:
    """What every server is told, by the name of its pod or host."""
    return {program.name: program.configuration for program in (*pod_servers(plan), *balancers(plan))}


def haproxy_socket(host: str) -> Path:
    """Where the HAProxy of a balancer answers questions about itself."""
    return FOLDER / host / "haproxy.sock"
