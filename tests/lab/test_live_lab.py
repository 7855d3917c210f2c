"""The lab with real packets: without privileges, and with knobs that the shipped scenarios leave alone."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from probe.lab import PIPE, Lab, ProxyMode, load_scenario
from probe.lab.scenario import parse_scenario
from tests.lab.here import REPOSITORY

pytestmark = pytest.mark.lab

MODES: list[ProxyMode] = ["iptables", "nftables"]

#: What an unprivileged user must be able to play as well: each kind of network and of server once.
UNPRIVILEGED = [
    "cluster-remote",
    "overlay-vxlan",
    "proxy-v2-ok",
    "lb-l4-snat",
    "ipv6",
    "svclb-masquerade",
    "proxy-chain",
    "proxy-split",
    "proxy-tls-unexpected",
    "xff-keepalive",
]

PLAY = """
import sys
from probe.lab import Lab, load_scenario
with Lab.start(load_scenario(sys.argv[1]), sys.argv[2]) as lab:
    answers = lab.send()
for answer in answers:
    print(answer.result.outcome, *answer.wrong)
sys.exit(any(answer.wrong for answer in answers) or not answers)
"""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", UNPRIVILEGED)
def test_no_privilege_is_needed(name: str, mode: ProxyMode, as_nobody: list[str]) -> None:
    played = subprocess.run(
        [*as_nobody, "-c", PLAY, name, mode],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=60,
        check=False,
    )
    assert played.returncode == 0, played.stdout + played.stderr


def test_requests_of_different_clients_share_connections() -> None:
    with Lab.start(load_scenario("xff-keepalive")) as lab:
        answers = lab.send()
    assert [answer.wrong for answer in answers if answer.wrong] == []
    upstream: dict[int | None, set[str]] = {}
    for answer in answers:
        upstream.setdefault(answer.result.peer_port, set()).add(answer.place)
    assert {"client1", "client2"} in upstream.values(), "one of the balancer's connections carried both"
    assert len(upstream) < len(answers)


SLOW = """
title = "Connections that take their time"
story = "Half a PROXY header waits for the other half, so that each takes longer than the rhythm in which others begin."
[balancer]
kind = "relay"
targets = ["node2"]
send_proxy = "v1"
split = 20
[service]
type = "LoadBalancer"
external_policy = "Local"
[[pods]]
name = "web-1"
node = "node2"
server = "gunicorn"
proxy_protocol = true
[[requests]]
to = "balancer"
{rhythm}
[requests.expect]
verdict = "preserved"
seen = "client"
peer = "balancer"
"""


@pytest.mark.parametrize(("rhythm", "overlap"), [("", False), ("every = 0.01", True)])
def test_a_connection_waits_for_those_before_it_unless_it_has_a_rhythm(rhythm: str, overlap: bool) -> None:
    with Lab.start(parse_scenario(SLOW.format(rhythm=rhythm), "slow.toml")) as lab:
        answers = lab.send()
    assert [answer.wrong for answer in answers if answer.wrong] == []
    told = sorted((answer.result.started, answer.result.ended) for answer in answers)
    assert [second[0] < first[1] for first, second in pairwise(told)] == [overlap] * 2


FAMILIES = """
title = "Everything that names an address, in both families"
story = "Trust lists, balancers and upstreams are written for IPv6 as well."
[cluster]
families = ["{first}", "{second}"]
[balancer]
kind = "haproxy"
targets = ["node1"]
send_proxy = "v2"
[[balancer.frontends]]
port = 81
mode = "http"
send_proxy = "v1"
[service]
type = "LoadBalancer"
external_policy = "Local"
[[pods]]
name = "ingress-1"
node = "node1"
role = "ingress"
proxy_protocol = true
nginx = {{ real_ip_from = ["balancer", "nodes", "pods"] }}
[[pods]]
name = "app-1"
node = "node1"
role = "app"
[[requests]]
to = "balancer"
[requests.expect]
verdict = "preserved"
seen = "client"
peer = "balancer"
[[requests]]
to = "balancer"
port = 81
[requests.expect]
verdict = "preserved"
seen = "client"
peer = "balancer"
"""


@pytest.mark.parametrize("families", [("ipv6", "ipv4"), ("ipv4", "ipv6")])
def test_the_chain_of_servers_works_in_both_families(families: tuple[str, str]) -> None:
    text = FAMILIES.format(first=families[0], second=families[1])
    with Lab.start(parse_scenario(text, "families.toml")) as lab:
        answers = lab.send()
    assert [answer.wrong for answer in answers if answer.wrong] == []


HAIRPIN = """
title = "A pod calls a Service that its own node serves"
story = "Without bridge netfilter the answer must still pass the node's NAT."
[cluster]
bridge_netfilter = {netfilter}
families = ["ipv4", "ipv6"]
[[pods]]
name = "web-1"
node = "node1"
[[pods]]
name = "caller"
node = "node1"
role = "client"
[[requests]]
from = "caller"
to = "cluster-ip"
family = "{family}"
[requests.expect]
verdict = "preserved"
seen = "client"
"""


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("netfilter", ["true", "false"])
def test_pods_of_one_node_reach_each_other_through_a_service(netfilter: str, family: str) -> None:
    scenario = parse_scenario(HAIRPIN.format(netfilter=netfilter, family=family), "hairpin.toml")
    with Lab.start(scenario) as lab:
        answers = lab.send()
    assert [answer.wrong for answer in answers if answer.wrong] == []


LIMITED = """
title = "Only some sources may come"
story = "The Service's source ranges let client2 in and keep client1 out."
[cluster]
clients = 2
[service]
type = "LoadBalancer"
external_policy = "Local"
vip = true
source_ranges = ["172.30.0.102/32"]
[[pods]]
name = "web-1"
node = "node1"
[[requests]]
from = "client1"
to = "vip"
count = 1
patience = 0.5
outcome = "timeout"
[requests.expect]
verdict = "blackholed"
[[requests]]
from = "client2"
to = "vip"
[requests.expect]
verdict = "preserved"
seen = "client"
"""


@pytest.mark.parametrize("mode", MODES)
def test_source_ranges_keep_others_out(mode: ProxyMode) -> None:
    with Lab.start(parse_scenario(LIMITED, "limited.toml"), mode) as lab:
        answers = lab.send()
    assert [answer.wrong for answer in answers if answer.wrong] == []


STICKY = """
title = "A client stays with its endpoint"
story = "Session affinity sends all of a client's connections to one of two pods."
[service]
session_affinity = "ClientIP"
[[pods]]
name = "web-1"
node = "node2"
[[pods]]
name = "web-2"
node = "node2"
[[requests]]
to = "node1"
count = 8
[requests.expect]
verdict = "lost"
seen = "node:node1"
snat = "node1"
"""


@pytest.mark.parametrize("mode", MODES)
def test_session_affinity_holds(mode: ProxyMode) -> None:
    with Lab.start(parse_scenario(STICKY, "sticky.toml"), mode) as lab:
        answers = lab.send()
    assert [answer.wrong for answer in answers if answer.wrong] == []
    assert len({answer.result.pod for answer in answers}) == 1


@pytest.mark.parametrize("nodes", [1, 9])
def test_any_number_of_nodes(nodes: int) -> None:
    text = STICKY.replace("[service]", f"[cluster]\nnodes = {nodes}\n[service]")
    text = text.replace("node2", f"node{nodes}").replace(
        "node:node1", "bridge:node1" if nodes == 1 else "node:node1"
    )
    with Lab.start(parse_scenario(text, "many.toml")) as lab:
        assert [place.name for place in lab.places() if place.role == "node"][-1] == f"node{nodes}"
        answers = lab.send()
    assert [answer.wrong for answer in answers if answer.wrong] == []


@pytest.mark.parametrize("mode", MODES)
def test_the_health_check_node_port_counts_ready_endpoints_only(mode: ProxyMode) -> None:
    ask = (
        "import http.client, sys\n"
        "for node in ('172.30.0.11', '172.30.0.12', '172.30.0.13'):\n"
        "    for port in (32100, 10256):\n"
        "        connection = http.client.HTTPConnection(node, port, timeout=5)\n"
        "        connection.request('GET', '/')\n"
        "        answer = connection.getresponse()\n"
        "        print(answer.status, answer.headers.get('X-Load-Balancing-Endpoint-Weight'), answer.read()[-80:])\n"
    )
    with Lab.start(load_scenario("local-draining"), mode) as lab:
        asker = lab.spawn("client1", [sys.executable, "-c", ask], stdout=PIPE)
        assert asker.stdout is not None
        with asker.stdout:
            lines = asker.stdout.read().decode().splitlines()
        assert asker.wait() == 0
    assert [line.split()[:2] for line in lines] == [
        ["503", "0"],  # the node's only pod is draining
        ["200", "None"],
        ["200", "1"],
        ["200", "None"],
        ["503", "0"],
        ["200", "None"],
    ]
    assert '"localEndpoints": 0' in lines[0]


def test_whoever_waits_for_a_program_is_told_how_it_ended() -> None:
    with Lab.start(load_scenario("cluster-remote")) as lab, ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            program = lab.spawn("node1", ["/bin/sh", "-c", "read line; exit 3"], stdin=PIPE)
            waiting = [threads.submit(program.wait, 30) for _ in range(8)]
            assert program.stdin is not None
            program.stdin.close()
            assert {each.result() for each in waiting} == {3}
