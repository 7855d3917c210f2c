"""The report for programs: the keys are a contract, and all formats say the same in plain ASCII."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from analysis.report import ProxyProtocol
from probe.render.machines.machine import to_json, to_jsonl, to_line, to_yaml
from tests.cli.reports import MASQUERADED, chained_journey, lost_journey, preserved_journey, report

#: The stable core; more fields may stand beside these.
REPORT = {"schemaVersion", "capture", "summary", "journeys", "findings"}
CAPTURE = {"complete", "nodes", "observations", "kernelDrops", "reasons"}
SUMMARY = {"journeys", "preserved", "lost", "blackholed", "inconclusive", "crossNode"}
JOURNEY = {"id", "protocol", "client", "verdict", "confidence", "seenByApp", "hops", "snat", "crossNode"}
JOURNEY |= {"proxyProtocol", "findings"}
HOP = {"node", "point", "interface", "source", "destination", "changed", "evidence", "time"}
SNAT = {"node", "from", "to", "mechanism", "rule"}
PROXY = {"version", "command", "source", "destination", "tlvs"}
FINDING = {"code", "severity", "title", "detail", "fix", "docs", "evidence"}


def made() -> Any:
    header = ProxyProtocol(2, "PROXY", "192.0.2.10:40112", "192.0.2.80:443")
    journey = msgspec.structs.replace(lost_journey(), proxy_protocol=header)
    return report(journey, preserved_journey(), findings=(MASQUERADED,))


def test_the_json_has_the_keys_of_the_contract() -> None:
    value = json.loads(to_json(made()))
    lost, preserved = value["journeys"]
    assert value.keys() >= REPORT
    assert value["schemaVersion"] == "1"
    assert value["capture"].keys() >= CAPTURE
    assert value["summary"].keys() >= SUMMARY
    assert lost.keys() >= JOURNEY
    assert lost["client"] == {"address": "192.0.2.10", "port": 40112}
    assert all(hop.keys() >= HOP for hop in lost["hops"])
    assert all(snat.keys() >= SNAT for snat in lost["snat"])
    assert lost["crossNode"] == {"from": "node1", "to": "node3", "via": "routed"}
    assert lost["proxyProtocol"].keys() >= PROXY
    assert preserved["crossNode"] is None
    assert preserved["proxyProtocol"] is None
    assert all(finding.keys() >= FINDING for finding in value["findings"])


def test_the_json_tells_what_rests_on_servers_words() -> None:
    value = json.loads(to_json(report(chained_journey(), findings=(MASQUERADED,))))
    [journey] = value["journeys"]
    assert journey["requests"] == 2
    assert journey["support"] == ["SIP501: the log of nginx says peer not trusted (ingress.log:3)"]
    assert journey["resolved"][0].keys() == {"server", "client", "rule", "source", "forgeable", "agrees"}
    assert value["findings"][0]["confidence"] == "high"
    points = [hop["point"] for hop in journey["hops"]]
    assert points[-2:] == ["http-header", "app"]
    assert journey["hops"][-1]["source"] == "10.244.2.3:0", "a word without a port keeps its form ip:port"
    assert next(hop["note"] for hop in journey["hops"] if hop["leg"] == 1) == "tied by PROXY header"


def test_json_lines_hold_the_same_one_object_a_line() -> None:
    lines = [json.loads(line) for line in to_jsonl(made())]
    assert [line.pop("type") for line in lines] == ["report", "journey", "journey", "finding"]
    head, *rest = lines
    assert {**head, "journeys": rest[:2], "findings": rest[2:]} == json.loads(to_json(made()))


def test_a_files_name_that_is_no_text_is_written_out() -> None:
    value = {"file": "n\udcff", "other": '"\udc80\\'}
    expected = {"file": "n\\udcff", "other": '"\\udc80\\'}
    assert (
        json.loads(to_json(value)) == json.loads(to_line(value)) == yaml.safe_load(to_yaml(value)) == expected
    )


def test_yaml_holds_the_same() -> None:
    assert yaml.safe_load(to_yaml(made())) == json.loads(to_json(made()))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_any_value_is_written_in_ascii_and_read_back_the_same(value: Any) -> None:
    for text, read in ((to_json(value), json.loads), (to_yaml(value), yaml.safe_load)):
        assert text.isascii()
        assert "\x7f" not in text
        assert "\x1b" not in text
        assert read(text) == value


@pytest.mark.parametrize(
    "name", ["yes", "no", "on", "true", "null", "y", "~", "1", "", "a: b", "- a", "#", "é"]
)
def test_yaml_keeps_names_names(name: str) -> None:
    assert yaml.safe_load(to_yaml({name: [name, {name: name}]})) == {name: [name, {name: name}]}
