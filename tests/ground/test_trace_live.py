"""The kernel names the rules, as root and as nobody; and whatever happens to us, nothing of ours stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agent.scene import Scene, python_path, scene, why_not

REASON = why_not() or (
    "" if shutil.which("iptables-nft-restore") and shutil.which("nft") else "iptables or nft is not installed"
)
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

NFT = """
table ip shop {
  chain marked {
    meta mark set meta mark or 0x4000
  }
  chain services {
    ip daddr 10.9.9.9 tcp dport 80 jump marked comment "to the shop"
    tcp dport 80 dnat to 127.0.0.1:8080
  }
  chain output {
    type nat hook output priority -100
    jump services
  }
  chain postrouting {
    type nat hook postrouting priority 100
    meta mark and 0x4000 == 0x4000 oifname "lo" ip daddr 127.0.0.0/8 snat to 127.0.0.1
  }
}
table ip6 fw {
  set ports { type inet_service; elements = { 80 }; }
  chain input {
    type filter hook input priority 0; policy drop
    udp dport 53 reject
    tcp dport @ports ct state established,related accept
  }
}
"""
IPTABLES = """
*nat
:KUBE-MARK-MASQ - [0:0]
-A OUTPUT -d 10.9.9.9/32 -p tcp -m comment --comment "shop/web:http" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A OUTPUT -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:8080
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j SNAT --to-source 127.0.0.1
COMMIT
*filter
-A INPUT -p udp -m udp --dport 53 -j REJECT
COMMIT
"""


@pytest.fixture(params=[False, True], ids=["root", "nobody"])
def node(request: pytest.FixtureRequest) -> Iterator[Scene]:
    if request.param and os.geteuid() != 0:
        pytest.skip("already not root")
    with scene(as_nobody=request.param) as made:
        made.ip("link set lo up", "addr add 10.9.9.9/32 dev lo", "addr add fd09::9/128 dev lo nodad")
        yield made


def load(node: Scene, tool: str, text: str) -> None:
    command = [*node.inside(), *(["nft", "-f", "-"] if tool == "nft" else [tool])]
    subprocess.run(command, input=text, text=True, check=True)


def ask(node: Scene, *what: str, before: tuple[str, ...] = ()) -> Any:
    path = f"PYTHONPATH={python_path()['PYTHONPATH']}"
    return json.loads(node.run(*before, "env", path, node.python, "-m", "tests.ground.trace_records", *what))


def told(said: Any) -> list[tuple[str, str, str, str]]:
    """For each hit: chain, action of the rule, verdict, and the destination that the packet had there."""
    rules = {(rule["table"], rule["handle"]): rule for rule in said["rules"]}
    return [
        (
            hit["chain"],
            rules[hit["table"], hit["handle"]]["action"] if hit["handle"] else "policy",
            hit["verdict"],
            hit["destination"],
        )
        for hit in said["hits"]
    ]


def test_rules_of_nftables_are_named_with_what_they_do(node: Scene) -> None:
    load(node, "nft", NFT)
    said = ask(node, "trace", "tcp,10.9.9.9,80")
    assert told(said) == [
        ("output", "jump", "jump", "10.9.9.9:80"),
        ("services", "jump", "jump", "10.9.9.9:80"),
        ("marked", "mark", "continue", "10.9.9.9:80"),
        ("services", "dnat", "accept", "10.9.9.9:80"),
        ("postrouting", "snat", "accept", "127.0.0.1:8080"),
    ]
    texts = {rule["chain"]: rule for rule in said["rules"] if rule["action"] in {"mark", "snat", "dnat"}}
    assert texts["marked"]["text"] == "meta mark set meta mark or 0x4000"
    assert texts["services"]["text"] == "meta l4proto tcp dport 80 dnat to 127.0.0.1:8080"
    assert texts["postrouting"]["text"] == (
        'meta mark 0x4000/0x4000 meta oifname "lo" ip daddr 127.0.0.0/8 snat to 127.0.0.1'
    )
    assert "to the shop" in {rule["comment"] for rule in said["rules"]}
    assert len({hit["seq"] for hit in said["hits"]} - {0}) == 1


def test_drops_are_named_whether_a_rule_or_a_policy_decides(node: Scene) -> None:
    load(node, "nft", NFT)
    said = ask(node, "trace", "tcp,fd09::9,80", "udp,fd09::9,53")
    assert told(said) == [
        ("input", "policy", "drop", "[fd09::9]:80"),
        ("input", "reject", "drop", "[fd09::9]:53"),
    ]
    assert {hit["protocol"] for hit in said["hits"]} == {6, 17}


def test_rules_of_iptables_nft_are_named_alike(node: Scene) -> None:
    load(node, "iptables-nft-restore", IPTABLES)
    said = ask(node, "trace", "tcp,10.9.9.9,80", "udp,10.9.9.9,53")
    assert told(said) == [
        ("OUTPUT", "jump", "jump", "10.9.9.9:80"),
        ("KUBE-MARK-MASQ", "mark", "continue", "10.9.9.9:80"),
        ("OUTPUT", "dnat", "accept", "10.9.9.9:80"),
        ("POSTROUTING", "snat", "accept", "127.0.0.1:8080"),
        ("INPUT", "reject", "drop", "10.9.9.9:53"),
    ]
    rules = {rule["chain"]: rule for rule in said["rules"]}
    assert rules["KUBE-MARK-MASQ"]["text"] == "-j MARK --set-xmark 0x4000/0x4000"
    assert "shop/web:http" in {rule["comment"] for rule in said["rules"]}
    assert rules["POSTROUTING"]["text"].endswith("-j SNAT --to-source 127.0.0.1")


def test_after_so_many_packets_the_kernel_tells_of_no_more(node: Scene) -> None:
    load(node, "nft", "table ip shop { chain o { type filter hook output priority 0; counter; }; }")
    # What the loopback interface brings back is marked still, and counts again.
    node.ip("link add away type veth peer name there", "link set away up", "link set there up")
    node.ip("route add 192.0.2.0/24 dev away")
    said = ask(node, "bound", "5")
    assert said == {"packets": 5, "quiet": True}


@pytest.mark.parametrize("stop", ["before", "placed", "traced"])
def test_killed_at_any_step_nothing_stays(node: Scene, stop: str) -> None:
    load(node, "nft", "table ip shop { chain o { type filter hook output priority 0; counter; }; }")
    before = node.run("nft", "list", "tables")
    held = node.module(
        "tests.ground.trace_records", "hold", stop, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdin is not None
    assert held.stdout is not None
    reached = ""
    while reached != stop:
        reached = json.loads(held.stdout.readline())["step"]
    assert ("client-ip-probe" in node.run("nft", "list", "tables")) == (stop != "before")
    held.kill()  # SIGKILL: nothing of ours runs any more
    held.wait(10)
    held.stdin.close()
    held.stdout.close()
    assert node.run("nft", "list", "tables") == before


@pytest.mark.skipif(shutil.which("iptables-legacy") is None, reason="iptables-legacy is not installed")
def test_tables_of_iptables_legacy_are_known_to_be_unheard(node: Scene) -> None:
    if node.prefix or os.geteuid() != 0:
        pytest.skip("the kernel shows their names to root alone")
    load(node, "nft", NFT)
    assert ask(node, "trace", "tcp,10.9.9.9,80")["state"]["unheard"] == []
    node.run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
    assert ask(node, "trace", "tcp,10.9.9.9,80")["state"]["unheard"] == ["nat"]


def test_another_session_is_not_joined_by_a_second_one(node: Scene) -> None:
    held = node.module(
        "tests.ground.trace_records", "hold", "placed", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdin is not None
    assert held.stdout is not None
    assert [json.loads(held.stdout.readline())["step"] for _ in range(2)] == ["before", "placed"]
    assert ask(node, "refused")["said"] == (
        "another program listens to the kernel's packet traces: end it first"
    )
    held.kill()
    held.wait(10)
    held.stdin.close()
    held.stdout.close()
    assert ask(node, "refused")["said"] is None


@pytest.mark.parametrize("tool", ["nft", "iptables-nft-restore"])
def test_where_rules_mark_packets_already_nothing_is_placed(node: Scene, tool: str) -> None:
    nft = tool == "nft"
    table = "table ip raw { chain OUTPUT { type filter hook output priority -300; meta nftrace set 1; }; }"
    load(node, tool, table if nft else "*raw\n-A OUTPUT -p tcp -j TRACE\nCOMMIT\n")
    assert ask(node, "refused")["said"] == (
        "a rule marks packets for tracing already: table ip raw, chain OUTPUT; remove it first"
    )
    assert "client-ip-probe" not in node.run("nft", "list", "tables")


def test_without_the_capability_the_refusal_names_it(node: Scene) -> None:
    drop = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    said = ask(node, "refused", before=drop)["said"]
    assert said == "nftables refuses: it needs the capability NET_ADMIN"
