"""Clusters with a balancer, an ingress and an application, in few words; and clients that lie about themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from probe.lab import DEVNULL, PIPE, Lab
from probe.lab.scenario import Scenario, parse_scenario
from tests.field.asking import run
from tests.field.talking import Spoken, Wish, hear, request, start_talking
from tests.field.watching import Watched, usual_taps

ODD_APPLICATION = Path(__file__).with_name("odd_application.py")

CLIENTS = {"client1": "172.30.0.101", "client2": "172.30.0.102", "client3": "172.30.0.103"}
BALANCER, EDGE, NODE2 = "172.30.0.150", "172.30.0.151", "172.30.0.12"
INGRESS, NODE_PORT = "10.244.2.2", 30080

#: What nginx is told where it is to believe the whole way in.
TRUSTING = 'real_ip_from = ["balancer", "nodes", "pods"], recursive = true'

_SCENARIO = """
title = "A way through proxies"
story = "Its parts are chosen by a test."
[cluster]
clients = 3
families = ["{family}"]
{edge}
[balancer]
check_interval = 30
kind = "haproxy"
mode = "{mode}"
send_proxy = "{header}"
accept_proxy = {takes_header}
tls = {balancer_tls}
targets = [{targets}]
[service]
type = "LoadBalancer"
external_policy = "{policy}"
vip = true
{pods}
[[requests]]
to = "balancer"
[requests.expect]
verdict = "preserved"
seen = "client"
"""
_INGRESS = """
[[pods]]
name = "ingress-{number}"
node = "{node}"
role = "{role}"
server = "{server}"
proxy_protocol = {expects_header}
tls = {tls}
nginx = {{ {nginx} }}
"""
_EDGE = """
[edge]
kind = "haproxy"
mode = "{mode}"
send_proxy = "{header}"
targets = ["balancer"]
"""
_APPLICATION = """
[[pods]]
name = "app-{number}"
node = "{node}"
role = "app"
app = {{ {app} }}
"""
_TOOL = """
[[pods]]
name = "tool"
node = "node1"
role = "client"
"""


def way(
    mode: str = "tcp",
    header: str = "none",
    policy: str = "Local",
    *,
    nginx: str = "",
    app: str = "",
    expects_header: bool | None = None,
    tls: bool = False,
    balancer_tls: bool = False,
    nodes: Sequence[str] = ("node2",),
    targets: Sequence[str] = ("node2",),
    apps: Sequence[str] = ("node2", "node3"),
    edge: tuple[str, str] | None = None,
    takes_header: bool = False,
    server: str = "nginx",
    family: str = "ipv4",
) -> Scenario:
    """A balancer, ingress pods on `nodes`, application pods on `apps`; without these, the ingress answers itself.

    `edge` is a balancer before the balancer: its mode and the header that it sends, which the balancer `takes_header`.
    """
    expects = header != "none" if expects_header is None else expects_header
    pods = [
        _INGRESS.format(
            number=number,
            node=node,
            nginx=nginx,
            role="ingress" if apps else "echo",
            server=server,
            expects_header=str(expects).lower(),
            tls=str(tls).lower(),
        )
        for number, node in enumerate(nodes, 1)
    ]
    pods += [_APPLICATION.format(number=number, node=node, app=app) for number, node in enumerate(apps, 1)]
    text = _SCENARIO.format(
        mode=mode,
        header=header,
        policy=policy,
        family=family,
        edge=_EDGE.format(mode=edge[0], header=edge[1]) if edge else "",
        takes_header=str(takes_header).lower(),
        balancer_tls=str(balancer_tls).lower(),
        targets=", ".join(f'"{target}"' for target in targets),
        pods="".join([*pods, _TOOL]),
    )
    return parse_scenario(text, "way.toml")


def taps(lab: Lab) -> list[Watched]:
    """The usual ones, one at the balancer before the balancer, and one in each pod that only asks."""
    asking = [pod for pod in lab.plan.pods if pod.pod.role == "client"]
    edge = [Watched("lb", "edge", "eth0", "edge")] if lab.plan.edge else []
    return usual_taps(lab) + edge + [Watched("pod", pod.pod.node, pod.name, pod.name) for pod in asking]


Fields = Callable[[str, int], Sequence[str]]
Ask = Callable[[Lab], list[Spoken]]


def honest(_client: str, _number: int) -> Sequence[str]:
    """Nothing about oneself."""
    return ()


def lying(client: str, number: int) -> Sequence[str]:
    """Every lie in turn: that it is itself, each other client of this run, the balancer, the ingress, nobody."""
    lies = [
        (),
        *[(f"X-Forwarded-For: {address}",) for address in CLIENTS.values()],
        (f"X-Forwarded-For: {BALANCER}",),
        (f"X-Forwarded-For: {INGRESS}",),
        (f"X-Real-IP: {CLIENTS['client2']}",),
        ("X-Forwarded-For: unknown",),
        ("X-Forwarded-For: 203.0.113.7", f"X-Forwarded-For: {CLIENTS['client3']}"),
        (f"X-Forwarded-For: {CLIENTS['client1']}, {BALANCER}",),
    ]
    return lies[(number + int(client[-1])) % len(lies)]


def wish(
    *fields: str,
    target: str = BALANCER,
    port: int = 80,
    path: str = "/debug/ip",
    requests: int = 1,
    **more: Any,
) -> Wish:
    """One connection with some requests."""
    texts = [
        request(target, *fields, path=path, close=number == requests) for number in range(1, requests + 1)
    ]
    return {"target": target, "port": port, "texts": texts, **more}


def crowd(
    lab: Lab,
    each: int = 8,
    fields: Fields = honest,
    *,
    target: str = BALANCER,
    family: str = "ipv4",
    **more: Any,
) -> list[Spoken]:
    """All clients at once, each with several connections at a time."""
    started = []
    for client, address in CLIENTS.items():
        wishes = [
            wish(*fields(client, number), target=in_family(target, family), at_once=True, **more)
            for number in range(each)
        ]
        started.append((start_talking(lab, client, wishes), in_family(address, family)))
    return [spoken for process, address in started for spoken in hear(process, address)]


def in_family(address: str, family: str) -> str:
    """The same host's address of this family: the lab numbers its hosts alike in both."""
    return address if family == "ipv4" else f"fd00:30::{address.rpartition('.')[2]}"


def odd_applications(lab: Lab) -> None:
    """Replace the applications by ones that behave oddly when asked to."""
    for pod in lab.plan.apps():
        listening = "ss -Hltnp 'sport = :8000'"
        stop = f"kill $({listening} | grep -o 'pid=[0-9]*' | cut -d= -f2); "
        stop += f"while {listening} | grep -q .; do sleep 0.01; done"
        run(lab, pod.name, "sh", "-c", stop)
        argv = [sys.executable, "-S", "-E", str(ODD_APPLICATION), pod.name, str(pod.port), INGRESS]
        process = lab.spawn(pod.name, argv, stdout=PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"


def reconfigure_ingress(lab: Lab, edit: str) -> None:
    """Start the ingress anew with its configuration edited by sed."""
    pod, folder = "ingress-1", "/run/lab/ingress-1"
    listening = "ss -Hltn | grep -q ':808'"
    run(
        lab,
        pod,
        "sh",
        "-c",
        f"kill $(cat {folder}/nginx.pid); sed -i '{edit}' {folder}/nginx.conf; while {listening}; do sleep 0.01; done",
    )
    argv = ["nginx", "-p", folder, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
    lab.spawn(pod, argv, stdout=DEVNULL, stderr=DEVNULL)
    run(lab, pod, "sh", "-c", f"while ! {listening}; do sleep 0.01; done")
