"""The rules of a node as they are kept with a session: what nft and iptables were told, read back over netlink."""

from __future__ import annotations

import subprocess

import msgspec
import pytest

from daemonset.observation import Ruleset
from tests.agent.scene import Scene, scene, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

RULES = """
table ip kube {
  map services { type ipv4_addr . inet_proto . inet_service : verdict
    elements = { 10.96.0.80 . tcp . 80 : goto web, 10.96.0.81 . udp . 53 : drop } }
  set ours { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.1.1 } }
  map ends { type ipv4_addr : ipv4_addr . inet_service; elements = { 192.0.2.4 : 10.244.1.2 . 8080 } }
  chain web { meta l4proto tcp dnat to 10.244.1.2:8080; }
  chain pre {
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr . meta l4proto . th dport vmap @services
    tcp dport 443 drop comment "not here"
  }
  chain post { type nat hook postrouting priority srcnat; ip saddr @ours masquerade; }
}
table ip6 six {
  set them { type ipv6_addr; elements = { 2001:db8::1 }; }
}
"""
LOOK = "import sys, msgspec, daemonset.node.ruleset as r; {}sys.stdout.buffer.write(msgspec.json.encode(r.ruleset()))"


def look(place: Scene, before: str = "") -> Ruleset:
    """The ruleset as an agent would read it there."""
    process = place.start(place.python, "-c", LOOK.format(before), stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=30)
    return msgspec.json.decode(out, type=Ruleset)


@pytest.mark.parametrize("as_nobody", [False, True])
def test_chains_rules_and_what_they_look_into(as_nobody: bool) -> None:
    with scene(as_nobody=as_nobody) as place:
        place.run("nft", RULES)
        said = look(place)
    assert said.refused == ""
    base = {chain.chain: (chain.hook, chain.priority, chain.policy, chain.type) for chain in said.chains}
    assert base == {
        "web": ("", 0, "", ""),
        "pre": ("prerouting", -100, "accept", "nat"),
        "post": ("postrouting", 100, "accept", "nat"),
    }
    by_chain = {rule.chain: rule.action for rule in said.rules}
    assert by_chain == {"web": "dnat", "pre": "drop", "post": "masquerade"}
    assert "not here" in {rule.comment for rule in said.rules}
    sets = {each.name: set(each.elements) for each in said.sets}
    assert sets["services"] == {"10.96.0.80 . tcp . 80 : goto web", "10.96.0.81 . udp . 53 : drop"}
    assert sets["ends"] == {"192.0.2.4 : 10.244.1.2 . 8080"}
    assert {"10.0.0.0", "< 11.0.0.0", "192.168.1.1", "< 192.168.1.2"} <= sets["ours"]
    assert sets["them"] == {"2001:db8::1"}


def test_rules_of_iptables_are_nftables_own() -> None:
    with scene() as place:
        place.run("iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-s", "10.244.0.0/16", "-j", "MASQUERADE")
        said = look(place)
    (rule,) = said.rules
    assert (rule.table, rule.chain, rule.action) == ("nat", "POSTROUTING", "masquerade")
    assert "10.244.0.0/16" in rule.text


def test_what_is_too_much_is_counted() -> None:
    with scene() as place:
        place.run("nft", RULES)
        whole = look(place)
        said = look(place, "r.MOST_RULES = 1; r.MOST_ELEMENTS = 2; ")
    assert len(said.rules) == 1
    assert sum(len(each.elements) for each in said.sets) == 2
    assert said.omitted == len(whole.rules) - 1 + sum(len(each.elements) for each in whole.sets) - 2


def test_who_may_not_look_is_told_why() -> None:
    with scene() as place:
        drop = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
        code = LOOK.format("")
        process = place.start(*drop, place.python, "-c", code, stdout=subprocess.PIPE)
        out, _ = process.communicate(timeout=30)
    assert "NET_ADMIN" in msgspec.json.decode(out, type=Ruleset).refused
