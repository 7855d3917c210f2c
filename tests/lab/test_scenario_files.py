"""Scenario files: what they may say, and how a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.lab import ScenarioError, list_scenarios, load_scenario
from probe.lab.kube_objects import objects
from probe.lab.plan import make_plan
from probe.lab.scenario import parse_scenario
from probe.lab.servers import configurations
from probe.objects import facts_from_objects

GOOD = """
title = "A title"
story = "A story."
[cluster]
nodes = 2
[service]
external_policy = "Local"
[[pods]]
name = "web-1"
node = "node1"
[[requests]]
to = "node1"
[requests.expect]
verdict = "preserved"
seen = "client"
"""

#: Every scenario that the lab must be able to play.
CATALOGUE = {
    "cluster-remote",
    "cluster-same-node",
    "local-preserved",
    "local-no-endpoint",
    "no-endpoints-at-all",
    "local-draining",
    "hairpin-lb-ip",
    "overlay-vxlan",
    "cni-masquerade",
    "svclb-masquerade",
    "masquerade-all",
    "hostnetwork-daemonset",
    "lb-vip-dsr",
    "external-ip",
    "lb-l4-snat",
    "lb-tcp-no-proxy",
    "proxy-v1-ok",
    "proxy-v2-ok",
    "ipv6",
    "dual-stack",
    "udp-dns",
    "proxy-v2-tlv",
    "proxy-unexpected",
    "proxy-missing",
    "proxy-tls-unexpected",
    "proxy-version",
    "proxy-split",
    "proxy-twice",
    "proxy-spoof",
    "proxy-healthcheck",
    "proxy-plus-cluster",
    "xff-appended",
    "xff-overwritten",
    "xff-untrusted",
    "xff-overtrusted",
    "xff-spoof",
    "xff-keepalive",
    "xff-pipelined",
    "app-ok",
    "app-untrusted",
    "app-overtrusted",
    "h2c-prior-knowledge",
    "proxy-unused",
    "proxy-unknown",
    "proxy-malformed",
    "proxy-wrong-source",
    "proxy-stranger",
    "proxy-behind-http",
    "proxy-chain",
    "proxy-family",
    "config-open",
    "config-not-running",
}


def complaint(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, "some/file.toml")
    message = str(caught.value)
    assert message.startswith("some/file.toml: ")
    assert "\n" not in message
    return message


def test_the_whole_catalogue_is_there() -> None:
    assert set(list_scenarios()) >= CATALOGUE


@pytest.mark.parametrize("name", list_scenarios())
def test_a_shipped_scenario_makes_sense(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.title
    assert not scenario.title.endswith(".")
    assert scenario.story.strip().endswith(".")
    plan = make_plan(scenario, "iptables")
    for request in scenario.requests:
        plan.target_of(request)
        for who in filter(None, (request.expect.seen, request.expect.peer)):
            assert plan.resolve(who, request)
        answered = request.outcome == "answered" and request.status == 200
        assert answered == bool(request.expect.seen), "who answers says whom it saw"
        assert (request.expect.verdict == "preserved") == (request.expect.seen == "client")


@pytest.mark.parametrize("name", list_scenarios())
def test_a_shipped_scenarios_objects_are_understood(name: str) -> None:
    plan = make_plan(load_scenario(name), "nftables")
    facts = facts_from_objects(objects(plan))
    assert facts.proxy_mode == "nftables"
    assert len(facts.nodes) == len(plan.nodes)
    assert len(facts.pods) == len(plan.pods)
    service = next(service for service in facts.services if service.name == "web")
    assert len(service.endpoints) == len(plan.endpoints()) * len(plan.families)
    assert set(service.cluster_ips) == set(plan.cluster_ip.values())


@pytest.mark.parametrize(
    ("line", "instead", "key"),
    [
        ("nodes = 2", "nodez = 2", "nodez"),
        ('external_policy = "Local"', 'externalPolicy = "Local"', "externalPolicy"),
        ('node = "node1"', 'node = "node1"\nrol = "app"', "rol"),
        ('to = "node1"', 'to = "node1"\nkount = 3', "kount"),
        ('seen = "client"', 'seen = "client"\nsaw = "x"', "saw"),
        ('title = "A title"', 'title = "A title"\nname = "x"', "name"),
    ],
)
def test_an_unknown_key_is_named_at_every_level(line: str, instead: str, key: str) -> None:
    assert f"unknown key `{key}`" in complaint(GOOD.replace(line, instead))


@pytest.mark.parametrize(
    ("line", "instead", "words"),
    [
        ("nodes = 2", "nodes = 0", "cluster.nodes is 0"),
        ("nodes = 2", "nodes = 2000", "cluster.nodes is 2000"),
        ("nodes = 2", 'nodes = "two"', "Expected `int`"),
        ("nodes = 2", "families = []", "families is empty"),
        ('node = "node1"', 'node = "node7"', "web-1 is on unknown node7"),
        ('to = "node1"', 'to = "vip"', "vip is none of"),
        ('to = "node1"', 'from = "client9"', "unknown client client9"),
        ('to = "node1"', 'family = "ipv6"', "the cluster has no ipv6"),
        ('verdict = "preserved"', 'verdict = "perhaps"', "perhaps"),
        ("[[requests]]", "[[pods]]\nname = 'web-1'\nnode = 'node2'\n[[requests]]", "same name"),
        ("[cluster]", "[balancer]\nkind = 'haproxy'\ntargets = ['node9']\n[cluster]", "unknown node9"),
        (
            "[[requests]]",
            "".join(f"[[pods]]\nname='{name}'\nnode='node2'\nhost_network=true\n" for name in "ab")
            + "[[requests]]",
            "the same port",
        ),
        ('name = "web-1"', 'name = "../../etc"', "matching regex"),
        ('name = "web-1"', 'name = "node2"', "taken by a host"),
        ("[service]", '[service]\nsource_ranges = ["1.2.3.4/99"]', "is no address range"),
        ("[service]", "[service]\nnode_port = 70000", "<= 65535"),
        ("[cluster]", "[cluster", "not TOML"),
        ('node = "node1"', 'node = "node1"\nserver = "haproxy"\nrole = "ingress"', "for echo pods"),
        ('node = "node1"', 'node = "node1"\nserver = "gunicorn"\ntls = true', "without TLS"),
        ('node = "node1"', 'node = "node1"\nnginx = {apps = ["x"]}', "x is no app pod"),
        ('node = "node1"', 'node = "node1"\nnginx = {real_ip_from = ["balancer"]}', "balancer is no place"),
        ('node = "node1"', 'node = "node1"\nnginx = {real_ip_header = "A; B"}', "matching regex"),
        ('node = "node1"', 'node = "node1"\napp = {forwarded_allow_ips = "{pod:x}"}', "{pod:x} is no place"),
        (
            "[[requests]]",
            "[[pods]]\nname = 'b'\nnode = 'node2'\nproxy_protocol = true\n[[requests]]",
            "one target port",
        ),
        (
            "[cluster]",
            "[balancer]\nkind = 'haproxy'\ntargets = ['node1']\nsplit = 3\n[cluster]",
            "kind relay",
        ),
        (
            "[cluster]",
            "[balancer]\nkind = 'snat'\ntargets = ['node1']\nmode = 'http'\n[cluster]",
            "kind haproxy",
        ),
        (
            "[cluster]",
            "[balancer]\nkind = 'haproxy'\ntargets = ['node1']\n[[balancer.frontends]]\n[cluster]",
            "the same port",
        ),
        ("[cluster]", "[edge]\nkind = 'haproxy'\ntargets = ['balancer']\n[cluster]", "unknown balancer"),
        ('to = "node1"', 'to = "edge"', "edge is none of"),
        ('to = "node1"', 'to = "app-cluster-ip"', "app-cluster-ip is none of"),
        ('to = "node1"', 'proxy = {source = "nobody"}', "nobody is no address"),
        ('to = "node1"', 'proxy = {source = "2001:db8::1"}', "not of the family"),
        ('to = "node1"', "h2c = true\nper_connection = 2", "one request a connection"),
        ('to = "node1"', 'headers = {X-A = "b\\r\\nX-C: d"}', "printable ASCII"),
        ('to = "node1"', 'headers = {"X A" = "b"}', "matching regex"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(line: str, instead: str, words: str) -> None:
    assert words in complaint(GOOD.replace(line, instead))


def test_an_unknown_scenario_names_the_known_ones() -> None:
    with pytest.raises(ScenarioError, match="cluster-remote"):
        load_scenario("cluster-romote")


def test_a_scenario_of_ones_own_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_scenario(str(path)).name == "mine"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="cannot read"):
        load_scenario(str(path))


def test_every_server_tells_what_it_was_told() -> None:
    told = configurations(make_plan(load_scenario("app-untrusted"), "iptables"))
    assert set(told) == {"ingress-1", "ingress-2", "ingress-3", "app-1", "app-2", "app-3"}
    assert "server 10.244.1.3:8000;" in told["ingress-1"]
    assert "--no-proxy-headers" in told["app-1"]
    assert "--forwarded-allow-ips=127.0.0.1,172.30.0.12" in told["app-2"]
    assert told["app-3"].endswith("""'--forwarded-allow-ips='"'"'10.244.3.2'"'"''"""), "quotes that stay"
