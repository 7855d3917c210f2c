"""Logs and configurations of a real Kubernetes, against what is known of each request there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.ingress import IngressFacts, Listener, Problem
from probe.ingress import read_ingress

CLUSTER = "kubernetes-1.36-proxy-iptables"
FLOWS = (
    "lb-9001-plain",
    "lb-9002-v2",
    "lb-9004-v2-to-plain",
    "lb-9005-none-to-proxy",
    "hairpin-pod-node1-to-clustervip-proxy",
    "rollout",
)


@pytest.fixture(scope="module")
def cluster(evidence: Path) -> Path:
    return evidence / CLUSTER


def read(cluster: Path, flow: str, remarks: list[str] | None = None) -> IngressFacts:
    logs = [*sorted((cluster / flow).glob("log-*.txt")), cluster / flow / "haproxy.log"]
    note = (remarks if remarks is not None else []).append
    return IngressFacts(read_ingress([cluster / "nginx.conf", cluster / "haproxy.cfg"], logs, note))


@pytest.mark.parametrize("flow", FLOWS)
def test_every_line_of_every_log_is_understood(cluster: Path, flow: str) -> None:
    remarks: list[str] = []
    facts = read(cluster, flow, remarks)
    assert facts.record.entries
    assert not [remark for remark in remarks if not remark.endswith("is empty")]


@pytest.mark.parametrize("flow", FLOWS[:-1])
def test_every_request_is_found_where_its_servers_logged_it(cluster: Path, flow: str) -> None:
    """From the client's socket to the balancer's line, and from the balancer's own socket to nginx' line."""
    facts = read(cluster, flow)
    for request in _requests(cluster, flow):
        span = request["t_start"], request["t_end"]
        if request["haproxy_log"]:
            (balancer,) = facts.entries_about(f"{request['client_ip']}:{request['client_port']}", *span)
            assert balancer.local == f"{request['dst_ip']}:{request['dst_port']}"
            assert balancer.outgoing == request["peer_at_nginx"]
            assert facts.entries_opening(request["peer_at_nginx"], *span) == (balancer,)
        told = request["nginx_log_line"]
        if told:
            lines = facts.entries_about(request["peer_at_nginx"], *span, port=int(told["server_port"]))
            assert told["request_id"] in {each.request_id for each in lines}
            assert {each.client for each in lines} <= {told["remote_addr"], None}
            assert facts.entries_for_request(told["request_id"])[0].peer == request["peer_at_nginx"]


def test_in_a_rollout_ports_come_again_and_no_line_is_mistaken(cluster: Path) -> None:
    """800 requests in 40 s: some of the balancer's ports are used twice, by connections to different nodes."""
    facts = read(cluster, "rollout")
    answered = [each for each in _requests(cluster, "rollout") if each["outcome"] == "ok"]
    ports = [each["lb_src_port"] for each in answered]
    assert len(set(ports)) < len(ports), "the story needs a port that came again"
    for request in answered:
        span = request["t_start"], request["t_end"]
        (balancer,) = facts.entries_about(f"172.30.0.101:{request['local_port']}", *span, port=9002)
        assert balancer.outgoing == f"172.30.0.150:{request['lb_src_port']}"
        (nginx,) = facts.entries_about(balancer.outgoing, *span, port=8081)
        assert nginx.request_id == request["x_request_id"]
        assert nginx.client == request["client_host"]
        assert nginx.server == request["served_by_pod"]


def _requests(cluster: Path, flow: str) -> list[dict[str, Any]]:
    found = json.loads((cluster / flow / "truth.json").read_text())
    assert isinstance(found, list)
    return found


def test_the_header_that_was_missing(cluster: Path) -> None:
    facts = read(cluster, "lb-9005-none-to-proxy")
    listener = facts.listener_at("10.244.2.6", 8081)
    assert listener is not None
    assert listener.proxy_protocol is True
    for request in _requests(cluster, "lb-9005-none-to-proxy"):
        entries = facts.entries_about(request["peer_at_nginx"], request["t_start"], port=8081)
        assert {each.problem for each in entries} == {Problem.HEADER_MISSING}


def test_the_header_that_was_not_expected(cluster: Path) -> None:
    facts = read(cluster, "lb-9004-v2-to-plain")
    for request in _requests(cluster, "lb-9004-v2-to-plain"):
        entries = facts.entries_about(request["peer_at_nginx"], request["t_start"], port=8080)
        assert {each.problem for each in entries} == {Problem.HEADER_UNEXPECTED}
        assert len(entries) == 2, "the access line and the error line of the connection belong together"


def test_the_short_circuit_is_seen_from_the_node(cluster: Path) -> None:
    flow = "hairpin-pod-node1-to-clustervip-proxy"
    facts = read(cluster, flow)
    for request in _requests(cluster, flow):
        entries = facts.entries_about(request["peer_at_nginx"], request["t_start"], port=8081)
        assert {each.problem for each in entries} == {Problem.HEADER_MISSING}
        assert {each.peer for each in entries} == {"172.30.0.11"}


def test_the_balancer_says_where_it_sends_which_header(cluster: Path) -> None:
    facts = read(cluster, "lb-9001-plain")
    sends = {
        port: {each.sends for each in _listener(facts, port).upstreams}
        for port in (9001, 9002, 9003, 9004, 9005)
    }
    assert sends == {9001: {0}, 9002: {2}, 9003: {1}, 9004: {2}, 9005: {0}}
    assert {each.check for each in _listener(facts, 9002).upstreams} == {32190}


def _listener(facts: IngressFacts, port: int) -> Listener:
    found = facts.listener_at("172.30.0.150", port)
    assert found is not None
    return found


def test_the_objects_hold_the_same_configuration(cluster: Path) -> None:
    from_objects = read_ingress([cluster / "objects.json"], [])
    from_file = read_ingress([cluster / "nginx.conf"], [])
    assert from_objects.ingresses[0].listeners == from_file.ingresses[0].listeners
