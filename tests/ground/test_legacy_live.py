"""Rules of iptables-legacy as the kernel hands them out, held against iptables-legacy's own tool; nothing is placed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemonset.observation import RuleCounts
from tests.agent.scene import Scene, python_path, scene, why_not

REASON = why_not() or (
    ""
    if shutil.which("iptables-legacy-restore") and os.geteuid() == 0
    else "needs root and iptables-legacy, whose tables the kernel shows to root alone"
)
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

FOUR = """
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-EXT-X - [0:0]
:EMPTY - [0:0]
-A PREROUTING -i eth0 -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j KUBE-EXT-X
-A OUTPUT -d 10.9.9.9/32 -p tcp -m comment --comment "shop/web:http" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A OUTPUT -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:8080
-A OUTPUT ! -o cali+ -p tcp -m conntrack --ctstate RELATED,NEW -m multiport --dports 1,3:5 -g KUBE-MARK-MASQ
-A OUTPUT ! -s 192.0.2.0/24 -p udp -m udp --sport 5:6 ! --dport 53 -j REDIRECT --to-ports 99
-A OUTPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN
-A KUBE-EXT-X -m addrtype ! --src-type LOCAL -j RETURN
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A POSTROUTING -o lo -j SNAT --to-source 127.0.0.1
COMMIT
*filter
:INPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m state --state INVALID -j DROP
-A INPUT -p udp -m udp --dport 53 -j REJECT --reject-with icmp-port-unreachable
COMMIT
*mangle
-A PREROUTING -p tcp -m tcp --sport 1024:65535 -m multiport ! --ports 22 -j ACCEPT
COMMIT
"""
SIX = """
*nat
:FAR - [0:0]
-A OUTPUT -d fd00::/64 -p tcp -m tcp --dport 80 -j DNAT --to-destination [fd09::9]:8080
-A OUTPUT ! -s fd00::1/128 -o lo -p tcp -g FAR
-A FAR -d fd09::9/128 -j MARK --set-xmark 0x1/0xffffffff
COMMIT
"""

#: What iptables says of a target besides what is kept of it here.
BEYOND = re.compile(r" --(?:reject-with|to-ports) \S+| --random-fully")


@pytest.fixture
def node() -> Iterator[Scene]:
    with scene() as made:
        made.ip("link set lo up", "addr add 10.9.9.9/32 dev lo")
        yield made


def load(node: Scene, text: str, family: str = "ip") -> None:
    command = [*node.inside(), f"{family}tables-legacy-restore", "--noflush"]
    subprocess.run(command, input=text, text=True, check=True)


def ask(node: Scene, *what: str, before: tuple[str, ...] = ()) -> Any:
    path = f"PYTHONPATH={python_path()['PYTHONPATH']}"
    said = node.run(*before, "env", path, node.python, "-m", "tests.ground.legacy_records", *what)
    return json.loads(said)


def saved(node: Scene, family: str) -> dict[str, list[list[Any]]]:
    """What the tool itself writes: rules, comments and counters, by table."""
    found: dict[str, list[list[Any]]] = {}
    table = ""
    for line in node.run(f"{family}tables-legacy-save", "-c").splitlines():
        if line.startswith("*"):
            table = f"{family} {line[1:]}"
        elif (rule := re.fullmatch(r"\[(\d+):\d+\] (-A .*)", line)) is not None:
            comment = re.search(r' -m comment --comment (?:"([^"]*)"|(\S+))', rule[2])
            words = rule[2].replace(comment[0], "") if comment else rule[2]
            said = (comment[1] or comment[2]) if comment else ""
            found.setdefault(table, []).append([BEYOND.sub("", words), said, int(rule[1])])
    return found


def test_every_rule_reads_as_the_tool_writes_it(node: Scene) -> None:
    load(node, FOUR)
    load(node, SIX, "ip6")
    told = ask(node, "saved")["rules"]
    wanted = saved(node, "ip") | saved(node, "ip6")
    assert told.keys() == wanted.keys()
    for table, rules in wanted.items():
        assert sorted(told[table]) == sorted(rules)


@pytest.mark.parametrize("name", ["node1", "node2", "node3"])
def test_so_does_what_a_real_kube_proxy_wrote(node: Scene, evidence: Path, name: str) -> None:
    """Rules of Kubernetes 1.36, loaded with the other iptables; without their counters of another kind (nfacct)."""
    rules = (evidence / "kubernetes-1.36-iptables" / f"{name}.iptables-save").read_text()
    load(node, re.sub(r" -m nfacct --nfacct-name +\S+", "", rules))
    told, wanted = ask(node, "saved")["rules"], saved(node, "ip")
    assert told.keys() == wanted.keys()
    assert sum(map(len, wanted.values())) > 50
    for table in wanted:
        assert sorted(told[table]) == sorted(wanted[table])


def test_the_rules_that_a_connection_met_count_and_no_others(node: Scene) -> None:
    load(node, FOUR)
    counts = ask(node, "count", "10.9.9.9,80", "10.9.9.9,80")["counts"]
    assert counts["tables"] == ["ip filter", "ip mangle", "ip nat"]
    met = {
        (chain["table"], chain["chain"], rule["number"]): rule["packets"]
        for chain in counts["chains"]
        for rule in chain["rules"]
        if chain["table"] == "nat"
    }
    assert met == {
        ("nat", "OUTPUT", 1): 2,
        ("nat", "KUBE-MARK-MASQ", 1): 2,
        ("nat", "OUTPUT", 2): 2,
        ("nat", "POSTROUTING", 2): 2,
    }
    assert not any(chain["changed"] for chain in counts["chains"])


def test_looking_makes_no_table(node: Scene) -> None:
    assert ask(node, "saved") == {"rules": {}, "tables": False}
    assert node.run("cat", "/proc/net/ip_tables_names") == ""
    load(node, SIX, "ip6")
    ask(node, "saved")
    assert node.run("cat", "/proc/net/ip_tables_names") == ""
    assert node.run("cat", "/proc/net/ip6_tables_names") == "nat\n"


@pytest.mark.parametrize(
    ("command", "chains"),
    [
        ("-A KUBE-MARK-MASQ -j ACCEPT", {"KUBE-MARK-MASQ"}),
        ("-Z KUBE-MARK-MASQ", {"KUBE-MARK-MASQ"}),
        ("-D OUTPUT 1", {"OUTPUT"}),
        ("-N ANOTHER", {"ANOTHER"}),
        ("-I PREROUTING 1 -j KUBE-MARK-MASQ", {"PREROUTING"}),
        ("-X EMPTY", set()),
    ],
)
def test_chains_that_are_written_anew_are_known_by_it_and_others_still_count(
    node: Scene, command: str, chains: set[str]
) -> None:
    load(node, FOUR)
    ask(node, "count", "10.9.9.9,80")  # counters that can be set back
    held = node.module(
        "tests.ground.legacy_records", "changed", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdin is not None
    assert held.stdout is not None
    assert json.loads(held.stdout.readline())["step"] == "counting"
    node.run("iptables-legacy", "-t", "nat", *command.split())
    held.stdin.write(b"\n")
    held.stdin.flush()
    counts = json.loads(held.stdout.readline())["counts"]
    assert {chain["chain"] for chain in counts["chains"] if chain["changed"]} == chains
    held.stdin.close()
    held.wait(10)
    held.stdout.close()


@pytest.mark.parametrize("stop", ["before", "counting", "counted"])
def test_killed_at_any_step_nothing_of_ours_is_there(node: Scene, stop: str) -> None:
    load(node, FOUR)
    before = node.run("iptables-legacy-save")
    held = node.module(
        "tests.ground.legacy_records", "hold", stop, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdin is not None
    assert held.stdout is not None
    reached = ""
    while reached != stop:
        reached = json.loads(held.stdout.readline())["step"]
    held.kill()  # SIGKILL: nothing of ours runs any more
    held.wait(10)
    held.stdin.close()
    held.stdout.close()
    rules = re.compile(r"(?m)^#.*\n|\[\d+:\d+\]")
    assert rules.sub("", node.run("iptables-legacy-save")) == rules.sub("", before)


def test_without_the_capability_the_refusal_names_it(node: Scene) -> None:
    load(node, FOUR)
    drop = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    said = ask(node, "refused", before=drop)["said"]
    assert said == "rules of iptables-legacy cannot be read: it needs the capability NET_ADMIN"


def test_where_the_kernel_does_not_show_the_tables_none_is_asked_for(node: Scene) -> None:
    """A network namespace that was made before its user namespace had a root."""
    with scene(as_nobody=True) as theirs:
        assert ask(theirs, "refused")["said"] == (
            "the kernel does not show here which tables of iptables-legacy there are"
        )


def test_a_pods_rules_are_counted_beside_the_nodes_and_told_when_it_goes(node: Scene) -> None:
    """Two namespaces: the second is a pod's, whose counts are told as soon as the pod is no longer there."""
    load(node, FOUR)
    pod = node.add("pod")
    node.ip("link set lo up", "addr add 10.9.9.9/32 dev lo", name="pod")
    command = [*node.inside("pod"), "iptables-legacy-restore"]
    subprocess.run(command, input=FOUR.replace("KUBE-EXT-X", "OF-THE-POD"), text=True, check=True)
    told = [msgspec.convert(each, RuleCounts) for each in ask(node, "pods", str(pod))["counts"]]
    assert [bool(each.namespace) for each in told] == [True, False], "the pod's first, since it went"
    names = [{chain.chain for chain in each.chains if chain.rules} for each in told]
    assert "KUBE-MARK-MASQ" in names[0]
    assert "KUBE-MARK-MASQ" not in names[1], "nothing was sent on the node itself"
