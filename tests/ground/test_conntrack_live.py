"""The kernel's table and its events, with real NAT, as root and as nobody."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agent.scene import Scene, python_path, scene, why_not

REASON = why_not() or (
    "" if shutil.which("conntrack") and shutil.which("nft") else "conntrack or nft is not installed"
)
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

RULES = """
table inet nat {
  chain output {
    type nat hook output priority -100
    ip daddr 10.9.9.9 tcp dport 80 dnat ip to 127.0.0.1:8080
    ip6 daddr fd09::9 tcp dport 80 dnat ip6 to [::1]:8080
  }
  chain postrouting {
    type nat hook postrouting priority 100
    ip daddr 127.0.0.1 tcp dport 8080 snat ip to 127.0.0.1:5000-5999
  }
}
"""
REPLY, ASSURED, SNAT, DNAT = 2, 4, 16, 32


@pytest.fixture(params=[False, True], ids=["root", "nobody"])
def node(request: pytest.FixtureRequest) -> Iterator[Scene]:
    if request.param and os.geteuid() != 0:
        pytest.skip("already not root")
    with scene(as_nobody=request.param) as made:
        made.ip("link set lo up", "addr add 10.9.9.9/32 dev lo", "addr add fd09::9/128 dev lo nodad")
        made.run("nft", RULES)
        yield made


def ask(node: Scene, what: str, *before: str) -> Any:
    path = f"PYTHONPATH={python_path()['PYTHONPATH']}"
    command = [*before, "env", path, node.python, "-m", "tests.ground.kernel_records", what]
    return json.loads(node.run(*command))


def test_a_connections_life_in_events(node: Scene) -> None:
    said = ask(node, "events")
    kinds = [event[0] for event in said["events"]]
    assert kinds == ["NEW", "DESTROY"]
    originals = {event[1] for event in said["events"]}
    assert originals == {f"10.9.9.9:{said['port']} > 10.9.9.9:80"}
    first, last = said["events"]
    assert first[2].startswith("127.0.0.1:8080 > 127.0.0.1:5"), "SNAT shows in the reply's destination"
    assert first[3] == SNAT | DNAT
    assert last[2] == first[2]
    assert last[3] & (SNAT | DNAT) == SNAT | DNAT
    assert said["quiet"]


def test_dump_filter_and_tools_agree(node: Scene) -> None:
    said = ask(node, "table")
    dump = sorted(said["dump"])
    assert [record[0] for record in dump] == ["DUMP", "DUMP"]
    four, six = dump
    assert (four[1].rpartition(" > ")[2], four[3]) == ("10.9.9.9:80", SNAT | DNAT | REPLY | ASSURED)
    assert (six[1].rpartition(" > ")[2], six[3]) == ("[fd09::9]:80", DNAT | REPLY | ASSURED)
    assert sorted(said["filtered"]) == dump
    assert said["others"] == []
    assert sorted(said["sifted"]) == dump, "of many ports, all are dumped and sifted here"
    assert said["nobodys"] == []
    assert said["skipped"] == []
    for listing in said["tools"]:
        assert sorted(listing) == dump
    rows, gap = said["capped"]
    assert rows == 1
    assert "more than 1 records" in gap


def test_an_overrun_is_a_gap_and_not_silence(node: Scene) -> None:
    assert ask(node, "overrun") == {
        "gap": "the kernel dropped events (receive buffer full)", "rows": True, "then": True,
    }  # fmt: skip


def test_counters_are_those_of_the_tool(node: Scene) -> None:
    said = ask(node, "counters")
    assert said["cpus"][0] == said["cpus"][1] > 0
    assert said["entries"] == [0, 2, 2]
    assert said["maximum"][0] == said["maximum"][1] > 0
    assert said["ours"] == said["tool's"]
    assert said["between"] == [0, 0]


def test_without_the_capability_the_error_names_it(node: Scene) -> None:
    drop = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    said = ask(node, "refused", *drop)["said"]
    assert said == ["conntrack cannot be read: it needs the capability NET_ADMIN"] * 3
