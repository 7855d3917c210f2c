"""Connections told packet by packet, and the verdict that follows from how they are told."""

from __future__ import annotations

import pytest

from analysis.report import Verdict
from daemonset.observation import TcpFlag, Tunnel
from tests.analysis.story import CLIENT, HTTP, NODES, PODS, Story, cluster

C = f"{CLIENT}:40000"
N1, N2 = NODES["node1"], NODES["node2"]
POD = f"{PODS['node2']}:8080"
NODE_PORT = f"{N1}:30080"
MASQUERADED = f"{N1}:61000"

#: Policy Cluster, endpoint on another node: masqueraded on the way out of node1.
REMOTE = [
    ("nic:node1/eth0", C, NODE_PORT),
    ("nic:node1/eth0", MASQUERADED, POD),
    ("nic:node2/eth0", MASQUERADED, POD),
    ("bridge:node2/cni0", MASQUERADED, POD),
    ("pod:node2/web", MASQUERADED, POD),
]
#: Policy Local, endpoint on the node that is asked.
LOCAL = [
    ("nic:node2/eth0", C, f"{N2}:30080"),
    ("bridge:node2/cni0", C, POD),
    ("pod:node2/web", C, POD),
]


def test_a_masqueraded_connection_is_lost_at_the_node_that_was_asked() -> None:
    journey = Story(cluster()).connection(REMOTE).journey()
    assert journey.verdict is Verdict.LOST
    assert journey.snat[0].node == "node1"
    assert journey.snat[0].from_ == C
    assert journey.snat[0].to == MASQUERADED
    assert journey.seen_by_app == N1
    assert journey.cross_node is not None
    assert (journey.cross_node.from_, journey.cross_node.to, journey.cross_node.via) == (
        "node1",
        "node2",
        "routed",
    )
    assert journey.findings == ("SIP101", "SIP401")


def test_an_untouched_connection_is_preserved() -> None:
    journey = Story(cluster("Local")).connection(LOCAL).journey()
    assert journey.verdict is Verdict.PRESERVED
    assert journey.seen_by_app == CLIENT
    assert journey.snat == ()
    assert journey.findings == ()


@pytest.mark.parametrize("shift", [-7.0, -2.5, 3.0, 40.0])
def test_clocks_that_differ_by_seconds_change_nothing(shift: float) -> None:
    journey = Story(cluster(), clocks={"node2": shift}).connection(REMOTE).journey()
    assert journey.verdict is Verdict.LOST
    assert [hop.node for hop in journey.hops] == ["node1", "node1", "node2", "node2", "node2"]


def test_a_retransmitted_syn_is_the_same_leg() -> None:
    story = Story(cluster()).syn(REMOTE[:1], isn=7_000, tsval=1_000).wait(1)
    journey = story.connection(REMOTE, isn=7_000, tsval=2_030).journey()
    assert journey.verdict is Verdict.LOST


def test_a_packet_that_a_tap_shows_twice_is_one_packet() -> None:
    doubled = [REMOTE[0], *REMOTE]
    journey = Story(cluster()).connection(doubled).journey()
    assert journey.verdict is Verdict.LOST
    assert len(journey.hops) == len(REMOTE)


def test_a_port_that_is_used_again_is_another_journey() -> None:
    story = Story(cluster()).connection(REMOTE, isn=7_000, tsval=1_000)
    report = story.wait(40).connection(REMOTE, isn=900_000, tsval=41_000).report()
    assert [journey.verdict for journey in report.journeys] == [Verdict.LOST, Verdict.LOST]


def test_the_kernels_record_belongs_to_the_later_user_of_a_port() -> None:
    story = Story(cluster()).connection(REMOTE, isn=7_000).wait(40)
    other = [(tap, src.replace("61000", "61999"), dst) for tap, src, dst in REMOTE]
    story.connection(other, isn=900_000, tsval=41_000).wait(1)
    story.conntrack("node1", (C, NODE_PORT), (f"{N1}:61999", POD))
    first, second = story.report().journeys
    assert "conntrack" not in {hop.evidence for hop in first.hops}
    assert "conntrack" in {hop.evidence for hop in second.hops}


@pytest.mark.parametrize("tsval", [1_000, 0])
def test_two_clients_with_one_sequence_number_are_told_apart_by_conntrack(tsval: int) -> None:
    other = "198.51.100.7:40001"
    second = [(tap, src.replace(C, other).replace("61000", "61001"), dst) for tap, src, dst in REMOTE]
    story = Story(cluster())
    for client, path, port in ((C, REMOTE, 61000), (other, second, 61001)):
        story.connection(path, isn=7_000, tsval=tsval)
        story.conntrack("node1", (client, NODE_PORT), (f"{N1}:{port}", POD))
    report = story.report()
    assert {(j.client.address, j.client.port) for j in report.journeys if j.client} == {
        (CLIENT, 40000),
        ("198.51.100.7", 40001),
    }
    assert {verdict for journey in report.journeys for verdict in [journey.verdict]} <= {
        Verdict.LOST,
        Verdict.INCONCLUSIVE,
    }


def test_two_clients_with_one_sequence_number_and_nothing_else_are_inconclusive() -> None:
    other = "198.51.100.7:40001"
    second = [(tap, src.replace(C, other).replace("61000", "61001"), dst) for tap, src, dst in REMOTE]
    report = Story(cluster()).connection(REMOTE, tsval=0).connection(second, tsval=0).report()
    assert len(report.journeys) == 2
    for journey in report.journeys:
        assert journey.verdict is Verdict.INCONCLUSIVE
        assert "SIP905" in journey.findings


def test_two_clients_with_one_sequence_number_and_timestamps_far_apart_are_two_legs() -> None:
    other = "198.51.100.7:40001"
    second = [(tap, src.replace(C, other).replace("61000", "61001"), dst) for tap, src, dst in REMOTE]
    report = Story(cluster()).connection(REMOTE, tsval=1_000).connection(second, tsval=3_000_000_000).report()
    assert [journey.verdict for journey in report.journeys] == [Verdict.LOST, Verdict.LOST]
    assert {journey.snat[0].to for journey in report.journeys} == {f"{N1}:61000", f"{N1}:61001"}


def test_a_connection_that_began_before_the_capture_is_no_journey() -> None:
    story = Story(cluster())
    for tap, src, dst in REMOTE:
        story.packet(tap, src, dst, flags=TcpFlag.ACK | TcpFlag.PSH, seq=5, ack=9, payload=HTTP)
    assert story.report().journeys == ()


def test_a_kubelet_that_asks_its_pod_is_no_journey() -> None:
    probe = [("bridge:node2/cni0", "10.244.2.1:50000", POD), ("pod:node2/web", "10.244.2.1:50000", POD)]
    assert Story(cluster()).connection(probe).report().journeys == ()


def test_silence_at_a_node_without_endpoint_is_a_blackhole() -> None:
    story = Story(cluster("Local")).watch("bridge:node1/cni0")
    for attempt in range(3):
        story.syn([("nic:node1/eth0", C, NODE_PORT)], isn=7_000, tsval=1_000 + attempt * 1_000).wait(1)
    journey = story.journey()
    assert journey.verdict is Verdict.BLACKHOLED
    assert journey.findings == ("SIP201",)


def test_one_unanswered_attempt_is_too_early_to_call() -> None:
    story = (
        Story(cluster("Local")).watch("bridge:node1/cni0").syn([("nic:node1/eth0", C, NODE_PORT)], isn=7_000)
    )
    assert story.journey().verdict is Verdict.INCONCLUSIVE


def test_silence_that_nothing_calls_for_is_not_called_a_blackhole() -> None:
    story = Story(cluster("Cluster")).watch("bridge:node1/cni0")
    for attempt in range(3):
        story.syn([("nic:node1/eth0", C, NODE_PORT)], isn=7_000, tsval=1_000 + attempt * 1_000).wait(1)
    journey = story.journey()
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert journey.findings == ("SIP203",)


def test_a_service_without_endpoints_rejects() -> None:
    story = (
        Story(cluster(endpoints=()))
        .watch("bridge:node1/cni0")
        .syn([("nic:node1/eth0", C, NODE_PORT)], isn=7_000)
    )
    story.packet("nic:node1/eth0", C, NODE_PORT, seq=7_000, icmp=3 << 8 | 3, sender=N1)
    journey = story.journey()
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert journey.findings == ("SIP202",)


def test_an_endpoint_that_refuses_is_named() -> None:
    story = Story(cluster("Local")).syn(LOCAL, isn=7_000)
    for tap, src, dst in reversed(LOCAL):
        story.packet(tap, dst, src, flags=TcpFlag.RST | TcpFlag.ACK, ack=7_001)
    assert "SIP204" in story.journey().findings


def test_a_pod_that_asks_a_node_port_is_masqueraded() -> None:
    path = [
        ("pod:node1/tool", "10.244.1.9:41000", NODE_PORT),
        ("bridge:node1/cni0", "10.244.1.9:41000", NODE_PORT),
        ("nic:node1/eth0", MASQUERADED, POD),
        ("nic:node2/eth0", MASQUERADED, POD),
        ("pod:node2/web", MASQUERADED, POD),
    ]
    journey = Story(cluster()).connection(path).journey()
    assert journey.verdict is Verdict.LOST
    assert [hop.point for hop in journey.hops][:3] == ["client", "client", "dnat"]
    assert journey.client is not None
    assert journey.client.address == "10.244.1.9"


def test_a_pod_that_asks_the_cluster_ip_keeps_its_address() -> None:
    path = [
        ("pod:node1/tool", "10.244.1.9:41000", "10.96.0.80:80"),
        ("nic:node1/eth0", "10.244.1.9:41000", POD),
        ("nic:node2/eth0", "10.244.1.9:41000", POD),
        ("pod:node2/web", "10.244.1.9:41000", POD),
    ]
    journey = Story(cluster()).connection(path).journey()
    assert journey.verdict is Verdict.PRESERVED
    assert journey.cross_node is not None


def test_a_pod_that_reaches_itself_is_masqueraded_and_told_so() -> None:
    path = [
        ("pod:node2/web", f"{PODS['node2']}:41000", "10.96.0.80:80"),
        ("bridge:node2/cni0", f"{PODS['node2']}:41000", "10.96.0.80:80"),
        ("pod:node2/web", "10.244.2.1:61000", POD),
    ]
    journey = Story(cluster()).connection(path).journey()
    assert journey.verdict is Verdict.LOST
    assert "SIP109" in journey.findings


def test_a_process_of_the_node_is_known_from_the_kernels_record_alone() -> None:
    path = [
        ("nic:node1/eth0", MASQUERADED, POD),
        ("nic:node2/eth0", MASQUERADED, POD),
        ("pod:node2/web", MASQUERADED, POD),
    ]
    story = Story(cluster()).connection(path)
    story.conntrack("node1", ("127.0.0.1:50000", "127.0.0.1:30080"), (MASQUERADED, POD))
    journey = story.journey()
    assert journey.verdict is Verdict.LOST
    assert journey.client is not None
    assert journey.client.address == "127.0.0.1"


def test_the_same_without_the_record_is_inconclusive() -> None:
    path = [("nic:node2/eth0", MASQUERADED, POD), ("pod:node2/web", MASQUERADED, POD)]
    journey = Story(cluster()).connection(path).journey()
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert journey.client is None


def test_masquerade_under_policy_local_is_blamed_on_the_cni() -> None:
    path = [("nic:node2/eth0", C, f"{N2}:30080"), ("pod:node2/web", "10.244.2.1:61000", POD)]
    journey = Story(cluster("Local")).connection(path).journey()
    assert journey.verdict is Verdict.LOST
    assert journey.findings == ("SIP102",)


def test_masquerade_all_is_blamed_by_its_name() -> None:
    path = [("nic:node2/eth0", C, f"{N2}:30080"), ("pod:node2/web", "10.244.2.1:61000", POD)]
    journey = Story(cluster("Local", masquerade_all=True)).connection(path).journey()
    assert journey.findings == ("SIP106",)


def test_an_external_ip_in_ipvs_mode_is_masqueraded_despite_local() -> None:
    facts = cluster("Local", external_ip="192.0.2.80", proxy_mode="ipvs")
    path = [("nic:node2/eth0", C, "192.0.2.80:80"), ("pod:node2/web", "10.244.2.1:61000", POD)]
    journey = Story(facts).connection(path).journey()
    assert journey.verdict is Verdict.LOST
    assert journey.findings == ("SIP108",)


def test_a_datapath_with_direct_server_return_preserves_under_policy_cluster() -> None:
    story = Story(cluster("Cluster", vip="192.0.2.10", proxy_mode="ebpf"))
    path = [
        ("nic:node1/eth0", C, "192.0.2.10:80"),
        ("nic:node1/eth0", C, POD),
        ("nic:node2/eth0", C, POD),
        ("pod:node2/web", C, POD),
    ]
    story.syn(path, isn=7_000)
    # The answer leaves from the endpoint's own node, with the address that the client asked.
    story.packet("pod:node2/web", POD, C, flags=TcpFlag.SYN | TcpFlag.ACK, seq=50, ack=7_001, tsecr=1_000)
    story.packet(
        "nic:node2/eth0", "192.0.2.10:80", C, flags=TcpFlag.SYN | TcpFlag.ACK, seq=50, ack=7_001, tsecr=1_000
    )
    for tap, src, dst in path:
        story.packet(tap, src, dst, flags=TcpFlag.ACK | TcpFlag.PSH, seq=7_001, ack=51, payload=HTTP)
    journey = story.journey()
    assert journey.verdict is Verdict.PRESERVED
    assert "SIP403" in journey.findings
    assert journey.cross_node is not None
    assert (journey.cross_node.from_, journey.cross_node.to) == ("node1", "node2")


@pytest.mark.parametrize(
    ("tunnel", "via"),
    [(Tunnel.VXLAN, "vxlan"), (Tunnel.GENEVE, "geneve"), (Tunnel.IPIP, "ipip"), (Tunnel.GRE, "gre")],
)
def test_a_tunnel_between_nodes_is_named(tunnel: Tunnel, via: str) -> None:
    story = Story(cluster())
    story.syn(REMOTE[:1], isn=7_000).syn([("nic:node1/eth0", MASQUERADED, POD)], isn=7_000, tunnel=tunnel)
    story.syn([("nic:node2/eth0", MASQUERADED, POD)], isn=7_000, tunnel=tunnel)
    journey = story.connection([REMOTE[0], REMOTE[-1]], isn=7_000).journey()
    assert journey.cross_node is not None
    assert journey.cross_node.via == via
    assert journey.verdict is Verdict.LOST


def test_an_encrypted_tunnel_is_seen_at_its_devices() -> None:
    path = [
        REMOTE[0],
        ("tunnel:node1/wg0", MASQUERADED, POD),
        ("tunnel:node2/wg0", MASQUERADED, POD),
        REMOTE[-1],
    ]
    journey = Story(cluster()).connection(path).journey()
    assert journey.cross_node is not None
    assert journey.cross_node.via == "encrypted"


LB = "172.30.0.150"
BEHIND = [
    ("nic:node2/eth0", f"{LB}:50000", f"{N2}:30080"),
    ("bridge:node2/cni0", f"{LB}:50000", POD),
    ("pod:node2/web", f"{LB}:50000", POD),
]


def v1(source: str) -> bytes:
    address, _, port = source.rpartition(":")
    return f"PROXY TCP4 {address} {LB} {port} 443\r\n".encode()


def test_a_balancer_without_a_header_loses_the_client() -> None:
    journey = Story(cluster("Local", balancer=LB)).connection(BEHIND).journey()
    assert journey.verdict is Verdict.LOST
    assert journey.client is None
    assert "SIP104" in journey.findings


def test_a_balancers_header_preserves_the_client() -> None:
    journey = Story(cluster("Local", balancer=LB)).connection(BEHIND, data=v1(C) + HTTP).journey()
    assert journey.verdict is Verdict.PRESERVED
    assert journey.seen_by_app == CLIENT
    assert journey.hops[-1].point == "proxy-header"


def test_a_header_over_a_masquerade_needs_a_server_that_is_seen_to_believe_it() -> None:
    path = [(tap, src.replace(C, f"{LB}:50000"), dst) for tap, src, dst in REMOTE]
    story = Story(cluster("Cluster", balancer=LB)).connection(path, data=v1(C) + HTTP, response=b"")
    request = HTTP.replace(b"\r\n\r\n", f"\r\nX-Forwarded-For: {CLIENT}\r\n\r\n".encode())
    onward = [("pod:node2/web", f"{PODS['node2']}:33000", "10.244.3.7:8000")]
    told = Story(story.facts, rows=list(story.rows), taps=dict(story.taps), now=story.now)
    told.connection(onward, isn=50, tsval=50, data=request)
    for one in (story, told):
        for tap, src, dst in reversed(path):
            one.packet(
                tap,
                dst,
                src,
                flags=TcpFlag.ACK,
                seq=(7_000 ^ 0x5555_5555) + 1,
                payload=b"HTTP/1.1 200 OK\r\n\r\n",
            )
    assert story.journey().verdict is Verdict.INCONCLUSIVE
    journey = told.journey()
    assert journey.verdict is Verdict.PRESERVED
    assert "SIP101" not in journey.findings


def test_a_header_from_nobody_knows_whom_proves_nothing() -> None:
    path = [(tap, src.replace(LB, "198.51.100.66"), dst) for tap, src, dst in BEHIND]
    journey = Story(cluster("Local")).connection(path, data=v1(C) + HTTP).journey()
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert "SIP304" in journey.findings


def test_a_client_that_forges_a_header_is_not_believed() -> None:
    liar = "198.51.100.66:50000"
    path = [("client:c/eth0", liar, f"{N2}:30080")]
    path += [(tap, src.replace(f"{LB}:50000", liar), dst) for tap, src, dst in BEHIND]
    journey = Story(cluster("Local")).connection(path, data=v1(C) + HTTP).journey()
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert "SIP305" in journey.findings


def test_a_balancer_that_only_checks_is_no_journey() -> None:
    story = Story(cluster("Local", balancer=LB)).connection(BEHIND, data=b"", response=b"")
    story.connection(
        BEHIND, isn=99, tsval=5, data=bytes.fromhex("0d0a0d0a000d0a515549540a20000000"), response=b""
    )
    report = story.report()
    assert report.journeys == ()
    assert report.capture.health_checks == 2


def test_without_the_first_bytes_a_header_cannot_be_excluded() -> None:
    journey = Story(cluster()).connection(REMOTE, data=b"", response=b"").journey()
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert "PROXY header cannot be excluded" in journey.reason


def test_udp_is_followed_by_its_payload() -> None:
    story = Story(cluster())
    query, answer = b"\x12\x34query-of-client", b"\x12\x34answer"
    path = [(tap, src, dst.replace(":30080", ":30053").replace(":8080", ":5353")) for tap, src, dst in REMOTE]
    for tap, src, dst in path:
        story.packet(tap, src, dst, protocol=17, payload=query)
    for tap, src, dst in reversed(path):
        story.packet(tap, dst, src, protocol=17, payload=answer)
    journey = story.journey()
    assert journey.protocol == "udp"
    assert journey.verdict is Verdict.LOST
    assert journey.confidence != "high"
    assert journey.seen_by_app == N1


def test_without_facts_nothing_is_called_preserved_that_no_client_tap_has_seen() -> None:
    from analysis.facts import Facts

    nobody = Facts(known=False)
    assert Story(nobody).connection(LOCAL).journey().verdict is Verdict.INCONCLUSIVE
    watched = [("client:c/eth0", C, f"{N2}:30080"), *LOCAL]
    assert Story(nobody).connection(watched).journey().verdict is Verdict.PRESERVED


def test_a_node_without_a_tap_is_a_reason() -> None:
    report = Story(cluster("Local")).connection(LOCAL).report()
    assert not report.capture.complete
    assert set(report.capture.reasons) == {"node1 has no tap", "node3 has no tap"}
    assert "SIP902" in {finding.code for finding in report.findings}


def test_a_person_who_asks_the_health_port_is_no_balancer() -> None:
    path = [(tap, src.replace(LB, "198.51.100.66"), dst) for tap, src, dst in BEHIND]
    story = Story(cluster("Local")).connection([("nic:node2/eth0", "198.51.100.66:1", f"{N2}:32100")], isn=5)
    journey = story.connection(path).journey()
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert "health-check" in journey.reason
    forged = Story(cluster("Local")).connection([("nic:node2/eth0", "198.51.100.66:1", f"{N2}:32100")], isn=5)
    journey = forged.connection(path, data=v1(C) + HTTP).journey()
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert "SIP304" in journey.findings


def test_an_operator_can_name_the_balancer() -> None:
    path = [(tap, src.replace(LB, "198.51.100.66"), dst) for tap, src, dst in BEHIND]
    facts = cluster("Local", balancers=("198.51.100.0/24",))
    assert Story(facts).connection(path, data=v1(C) + HTTP).journey().verdict is Verdict.PRESERVED
    assert Story(facts).connection(path).journey().verdict is Verdict.LOST


def test_a_header_that_names_what_nat_left_of_a_pod_has_lost_it() -> None:
    tool, masked = "10.244.1.9:41000", f"{N1}:61000"
    front = [
        ("bridge:node1/cni0", tool, f"{LB}:443"),
        ("nic:node1/eth0", masked, f"{LB}:443"),
        ("lb:lb/eth0", masked, f"{LB}:443"),
    ]
    behind = [("lb:lb/eth0", f"{LB}:50000", f"{N2}:30080"), *BEHIND]
    story = Story(cluster("Local", balancer=LB)).connection(front, isn=5, tsval=5)
    journey = story.connection(behind, data=v1(masked) + HTTP).journey()
    assert journey.verdict is Verdict.LOST
    assert journey.client is not None
    assert journey.client.address == "10.244.1.9"
    assert journey.snat[0].mechanism == "CNI masquerade"
    alone = Story(cluster("Local", balancer=LB)).connection(BEHIND, data=v1(masked) + HTTP).journey()
    assert alone.verdict is Verdict.INCONCLUSIVE
    assert alone.client is None


def test_a_sibling_that_shares_the_endpoints_keeps_its_own_connections() -> None:
    import msgspec

    facts = cluster("Local")
    sibling = msgspec.structs.replace(
        facts.services[0], name="other", cluster_ips=("10.96.0.81",), ports=(), health_check_node_port=0
    )
    facts = msgspec.structs.replace(facts, services=(sibling, *facts.services))
    story = Story(facts).connection(LOCAL)
    assert story.report(service="shop/other").journeys == ()
    assert story.journey(service="shop/web").service == "shop/web"


def test_a_node_port_of_a_host_network_endpoint_ends_at_the_node() -> None:
    import msgspec

    from analysis.facts import Endpoint

    facts = cluster("Local")
    here = (Endpoint(N2, 8080, "tcp", "http", "node2", "web-node2"),)
    facts = msgspec.structs.replace(
        facts, services=(msgspec.structs.replace(facts.services[0], endpoints=here),)
    )
    story = Story(facts).connection([("nic:node2/eth0", C, f"{N2}:30080")])
    story.conntrack("node2", (C, f"{N2}:30080"), (C, f"{N2}:8080"))
    assert story.journey().verdict is Verdict.PRESERVED


def test_a_tap_on_any_interface_shows_the_whole_node() -> None:
    path = [
        ("nic:node2/any", C, f"{N2}:30080"),
        ("nic:node2/any", "10.244.2.1:61000", POD),
    ]
    story = Story(cluster()).connection(path)
    # A reply on the bridge, translated back by half.
    story.packet(
        "nic:node2/any",
        POD,
        C,
        flags=TcpFlag.SYN | TcpFlag.ACK,
        seq=7_000 ^ 0x5555_5555,
        ack=7_001,
        tsecr=1000,
    )
    journey = story.journey()
    assert journey.verdict is Verdict.LOST
    assert len(journey.snat) == 1
    assert journey.seen_by_app == "10.244.2.1"


def test_a_half_translated_frame_that_comes_late_is_still_between() -> None:
    own = f"{PODS['node2']}:41000"
    story = Story(cluster()).connection(
        [
            ("pod:node2/web", own, "10.96.0.80:80"),
            ("veth:node2/v0", "10.244.2.1:61000", POD),
            ("bridge:node2/cni0", own, POD),
            ("pod:node2/web", "10.244.2.1:61000", POD),
        ]
    )
    journey = story.journey()
    assert journey.verdict is Verdict.LOST
    assert len(journey.snat) == 1
    assert journey.seen_by_app == "10.244.2.1"


def at_balancer(client: str, back: str) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    front = [("client:c/eth0", client, f"{LB}:80"), ("lb:lb/eth0", client, f"{LB}:80")]
    behind = [("lb:lb/eth0", f"{LB}:{back}", f"{N2}:30080")]
    behind += [(tap, src.replace("50000", back), dst) for tap, src, dst in BEHIND]
    return front, behind


def test_requests_one_after_the_other_are_tied_through_the_balancer() -> None:
    story = Story(cluster("Local", balancer=LB))
    for number in range(3):
        front, behind = at_balancer(f"{CLIENT}:{40001 + number}", str(50001 + number))
        story.connection(front, isn=100 + number, tsval=5).connection(behind, isn=200 + number, tsval=5).wait(
            1
        )
    clients = [journey.client for journey in story.report().journeys]
    assert [client.port for client in clients if client] == [40001, 40002, 40003]


def test_equal_requests_at_the_same_time_are_not_taken_for_one_another() -> None:
    story = Story(cluster("Local", balancer=LB))
    pairs = [at_balancer(f"203.0.113.{number}:40000", str(50000 + number)) for number in (1, 2)]
    for number, (front, _) in enumerate(pairs):
        story.connection(front, isn=100 + number, tsval=5)
    for number, (_, behind) in enumerate(pairs):
        story.connection(behind, isn=200 + number, tsval=5)
    for journey in story.report().journeys:
        if journey.verdict is Verdict.LOST:
            assert journey.client is None


def test_a_connection_that_comes_back_to_its_node_is_told_in_the_order_of_its_translations() -> None:
    """A pod of node1 asks node2, which forwards to an endpoint on node1: the way passes node1 twice."""
    endpoint = f"{PODS['node1']}:8080"
    tool, out, masked = "10.244.1.9:41000", f"{N1}:61000", f"{N2}:62000"
    story = Story(cluster(endpoints=("node1",))).connection(
        [
            ("pod:node1/tool", tool, f"{N2}:30080"),
            ("nic:node1/eth0", out, f"{N2}:30080"),
            ("nic:node2/eth0", out, f"{N2}:30080"),
            ("nic:node2/eth0", masked, endpoint),
            ("nic:node1/eth0", masked, endpoint),
            ("pod:node1/web", masked, endpoint),
        ]
    )
    journey = story.journey()
    assert [(snat.node, snat.to) for snat in journey.snat] == [("node1", out), ("node2", masked)]
    assert [hop.node for hop in journey.hops] == ["node1", "node1", "node2", "node2", "node1", "node1"]
    assert journey.seen_by_app == N2


def test_a_header_seen_at_the_entry_alone_leaves_open_what_the_server_makes_of_it() -> None:
    # Beyond that node policy Cluster replaces the balancer's address, and a server may not believe a node.
    entry = [("nic:node1/eth0", f"{LB}:50000", NODE_PORT)]
    story = Story(cluster("Cluster", balancer=LB)).connection(entry, data=v1(C) + HTTP)
    (journey,) = story.report().journeys
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert "not seen at its endpoint" in (journey.reason or "")
    assert journey.seen_by_app is None


def test_a_pod_that_the_objects_do_not_know_was_reached_all_the_same() -> None:
    """As where pods came and went after the objects were fetched: that nobody saw it arrive would not be true."""
    new = "10.244.1.77:8080"
    way = [
        ("nic:node1/eth0", f"{LB}:50000", NODE_PORT),
        ("bridge:node1/cni0", f"{LB}:50000", new),
        ("pod:node1/web-new", f"{LB}:50000", new),
    ]
    story = Story(cluster("Cluster", balancer=LB)).connection(way, data=v1(C) + HTTP)
    (journey,) = story.report().journeys
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert "the pod at which the connection was last seen is no endpoint in the objects" in (
        journey.reason or ""
    )
