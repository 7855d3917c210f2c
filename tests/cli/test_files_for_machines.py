"""SARIF, Prometheus text, Mermaid and DOT of a report: read back by others' readers, and obeyed by nobody."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from analysis.report import Capture, Report, Verdict
from probe.render.machines import machine
from probe.render.machines.dot import to_dot
from probe.render.machines.mermaid import to_mermaid
from probe.render.machines.metrics import PREFIX, to_metrics
from probe.render.machines.sarif import to_sarif
from probe.render.machines.ways import DRAWN, ways_of
from tests import hostile
from tests.cli.helpers import Probe
from tests.cli.reports import MASQUERADED, lost_journey, report
from tests.cli.test_page import everything, tapped
from tests.cli.test_pcapng import given
from tests.cli.test_report_files import filled

attr = pytest.importorskip("attr")
sarif_om = pytest.importorskip("sarif_om")
reader = pytest.importorskip("prometheus_client.parser")

values = pytest.mark.parametrize("value", hostile.VALUES.values(), ids=hostile.VALUES.keys())

NOW = 1_760_000_100.0
DOT = shutil.which("dot")


def hostile_report(value: bytes) -> Report:
    return filled(everything(), value[:3000].decode("utf-8", "surrogateescape"))


def hostile_places(value: bytes) -> Report:
    """The same, with taps that are taps and places that differ, so that there is something to draw."""
    text, plain = value[:60].decode("utf-8", "surrogateescape"), everything()
    journeys = tuple(
        msgspec.structs.replace(
            filled(journey, text),
            hops=tuple(
                msgspec.structs.replace(
                    hop,
                    node=f"{text}{hop.node}",
                    source=f"{text}{hop.source}",
                    destination=f"{text}{hop.destination}",
                )
                for hop in journey.hops
            ),
        )
        for journey in plain.journeys
    )
    return msgspec.structs.replace(plain, journeys=journeys)


# ── SARIF ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#: Which of the standard's objects stands under which property, of those that we write.
OBJECTS: dict[tuple[type, str], type] = {
    (sarif_om.SarifLog, "runs"): sarif_om.Run,
    (sarif_om.Run, "tool"): sarif_om.Tool,
    (sarif_om.Run, "results"): sarif_om.Result,
    (sarif_om.Run, "invocations"): sarif_om.Invocation,
    (sarif_om.Tool, "driver"): sarif_om.ToolComponent,
    (sarif_om.ToolComponent, "rules"): sarif_om.ReportingDescriptor,
    (sarif_om.ReportingDescriptor, "shortDescription"): sarif_om.MultiformatMessageString,
    (sarif_om.ReportingDescriptor, "fullDescription"): sarif_om.MultiformatMessageString,
    (sarif_om.ReportingDescriptor, "help"): sarif_om.MultiformatMessageString,
    (sarif_om.ReportingDescriptor, "defaultConfiguration"): sarif_om.ReportingConfiguration,
    (sarif_om.Invocation, "toolExecutionNotifications"): sarif_om.Notification,
    (sarif_om.Notification, "message"): sarif_om.Message,
    (sarif_om.Result, "message"): sarif_om.Message,
    (sarif_om.Result, "locations"): sarif_om.Location,
    (sarif_om.Result, "suppressions"): sarif_om.Suppression,
    (sarif_om.Location, "logicalLocations"): sarif_om.LogicalLocation,
}
FREE = {"properties", "partialFingerprints"}
LEVELS = {"error", "warning", "note", "none"}


def sarif_is_valid(value: Any, kind: type = sarif_om.SarifLog) -> None:
    """Every property is one of the standard's, by the object model made from its schema, and none is missing."""
    fields = {each.metadata["schema_property_name"]: each for each in attr.fields(kind)}
    assert value.keys() <= fields.keys(), f"{kind.__name__} has no {value.keys() - fields.keys()}"
    required = {name for name, field in fields.items() if field.default is attr.NOTHING}
    assert required <= value.keys(), f"{kind.__name__} needs {required - value.keys()}"
    assert value.get("level", "none") in LEVELS
    for name, inside in value.items():
        for each in inside if isinstance(inside, list) else [inside]:
            if isinstance(each, dict) and name not in FREE:
                sarif_is_valid(each, OBJECTS[kind, name])


class TestSarif:
    def test_findings_are_results_of_rules_that_are_described(self) -> None:
        told = report(lost_journey(), findings=(MASQUERADED,))
        log = json.loads(machine.to_json(to_sarif(told)))
        sarif_is_valid(log)
        (run,) = log["runs"]
        (result,) = run["results"]
        assert (result["ruleId"], result["level"]) == ("SIP101", "error")
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "SIP101"
        assert "externalTrafficPolicy" in result["message"]["text"]
        assert run["invocations"][0]["exitCode"] == 3

    def test_what_was_not_verified_is_told_of_the_run(self) -> None:
        def said(told: Report) -> list[str]:
            log = to_sarif(told)
            sarif_is_valid(log)
            return [
                each["message"]["text"]
                for each in log["runs"][0]["invocations"][0]["toolExecutionNotifications"]
            ]

        assert said(report()) == ["no connection was seen; nothing was verified"]
        unsure = msgspec.structs.replace(lost_journey(), verdict=Verdict.INCONCLUSIVE)
        assert said(report(unsure, reasons=("node9 has no tap",))) == [
            "nothing certain can be said of 1 connection",
            "node9 has no tap",
        ]

    @values
    def test_no_value_breaks_out(self, value: bytes) -> None:
        told = filled(everything(), value[:3000].decode("utf-8", "backslashreplace"))
        text = machine.to_json(to_sarif(told))
        hostile.safe_data(text)
        sarif_is_valid(json.loads(text))

    def test_a_code_that_this_version_does_not_know_is_a_result_without_a_rule(self) -> None:
        foreign = msgspec.structs.replace(MASQUERADED, code="SIP899")
        (run,) = to_sarif(report(lost_journey(), findings=(foreign,)))["runs"]
        assert "ruleIndex" not in run["results"][0]
        assert run["tool"]["driver"]["rules"] == []


# ── Prometheus ───────────────────────────────────────────────────────────────────────────────────────────────────────


def families(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The samples of each family, as Prometheus's own client reads them."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in reader.text_string_to_metric_families(text):
        assert family.type == "gauge", family.name
        assert family.documentation, family.name
        assert family.name not in found, "a family is written once"
        samples = [(tuple(sorted(each.labels.items())), each.value) for each in family.samples]
        assert len(dict(samples)) == len(samples), f"two samples of {family.name} have the same labels"
        found[family.name.removeprefix(PREFIX)] = dict(samples)
    return found


class TestMetrics:
    def test_each_verdict_is_there_also_at_0(self) -> None:
        told = families(to_metrics(report(lost_journey(), findings=(MASQUERADED,)), NOW))
        verdicts = {dict(labels)["verdict"]: value for labels, value in told["connections"].items()}
        assert verdicts == {"preserved": 0, "lost": 1, "blackholed": 0, "inconclusive": 0}
        assert list(told["exit_code"].values()) == [3]
        assert list(told["last_capture_timestamp_seconds"].values()) == [NOW]
        (labels,) = told["source_replaced_connections"]
        assert dict(labels)["node"] == "node1"
        (labels,) = told["finding_connections"]
        assert (dict(labels)["code"], dict(labels)["severity"]) == ("SIP101", "error")

    def test_a_capture_that_missed_something_says_so(self) -> None:
        whole = report(lost_journey())
        part = msgspec.structs.replace(
            whole, capture=Capture(complete=False, nodes=(), observations=9, kernel_drops=7, reasons=())
        )
        assert list(families(to_metrics(whole, NOW))["capture_complete"].values()) == [1]
        told = families(to_metrics(part, NOW))
        assert list(told["capture_complete"].values()) == [0]
        assert list(told["capture_kernel_drops"].values()) == [7]

    @values
    def test_no_value_ends_a_label_or_a_line(self, value: bytes) -> None:
        text = to_metrics(hostile_report(value), NOW)
        hostile.safe_text(text)
        plain = to_metrics(hostile_report(b"x"), NOW)
        assert len(text.splitlines()) == len(plain.splitlines())
        assert families(text).keys() == families(plain).keys()

    def test_a_draft_is_no_file_that_a_collector_reads(self, probe: Probe, tmp_path: Path) -> None:
        """The collector takes *.prom; the file appears whole, by a rename within its folder."""
        path = tmp_path / "probe.prom"
        assert probe("analyze", *given(), "--metrics", path, "-o", "json").code == 3
        assert list(tmp_path.iterdir()) == [path]
        assert families(path.read_text())["build_info"]


# ── diagrams ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_NODE = re.compile(r'    p\d+\["[^"]*"\]')
_ARROW = re.compile(r'  p(\d+) (-->|-\.->)\|"([^"]*)"\| p(\d+)')


def shown(label: str) -> str:
    """A label as Mermaid draws it."""
    return re.sub(r"#(\d+);", lambda found: chr(int(found[1])), label)


class TestMermaid:
    def test_each_arrow_says_the_source_and_where_it_was_replaced(self) -> None:
        lines = to_mermaid(everything()).splitlines()
        assert lines[0] == "flowchart LR"
        arrows = [found for line in lines if (found := _ARROW.fullmatch(line))]
        assert len(arrows) == len(ways_of(everything()).steps)
        labels = [shown(found[3]) for found in arrows]
        assert "1: lost ×1 · 192.0.2.10" in labels
        assert "1: lost ×1 · ≠ 172.30.0.11, was 192.0.2.10" in labels

    @values
    def test_no_value_becomes_more_than_a_label(self, value: bytes) -> None:
        text = to_mermaid(hostile_places(value))
        hostile.safe_text(text)
        for line in text.splitlines()[1:]:
            assert (
                _NODE.fullmatch(line)
                or _ARROW.fullmatch(line)
                or re.fullmatch(r'  (subgraph g\d\["[A-Z][a-z ]+"\]|end|linkStyle \d+ [a-z0-9#:,-]+)', line)
            ), line
            assert not re.search(r"[<>`;]", re.sub(r"#\d+;", "", line.replace("-->", "").replace("-.->", "")))


class TestDot:
    @pytest.mark.skipif(DOT is None, reason="needs Graphviz")
    @values
    def test_graphviz_reads_it_whatever_stands_in_it(self, value: bytes) -> None:
        told = hostile_places(value)
        assert DOT is not None
        drawn = subprocess.run(
            [DOT, "-Tjson"], input=to_dot(told).encode(), capture_output=True, check=False, timeout=60
        )
        assert drawn.returncode == 0, drawn.stderr.decode()
        graph, ways = json.loads(drawn.stdout), ways_of(told)
        assert len(ways.steps) == len(ways_of(everything()).steps) > 5
        nodes = [each for each in graph["objects"] if "nodes" not in each]
        assert len(nodes) == len(ways.places)
        assert len(graph["edges"]) == len(ways.steps)

    def test_each_edge_says_the_source_and_where_it_was_replaced(self) -> None:
        text = to_dot(everything())
        assert r'[label="1: lost ×1\n≠ 172.30.0.11, was 192.0.2.10", color="#b3261e", style=dashed]' in text

    @values
    def test_no_value_ends_its_string(self, value: bytes) -> None:
        text = to_dot(hostile_places(value))
        hostile.safe_text(text)
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
        assert re.fullmatch(r'(?:[\w={};\[\],> -]|""|\n)+', bare), bare


def test_more_paths_than_can_be_drawn_are_counted() -> None:
    one = tapped(lost_journey())
    told = report(
        *(msgspec.structs.replace(one, id=f"j{number}", shape=f"s{number}") for number in range(DRAWN + 3))
    )
    assert ways_of(told).omitted == 3
    for text in (to_mermaid(told), to_dot(told)):
        assert "3 more paths" in text


def test_a_report_without_packets_is_drawn_as_that() -> None:
    assert "no packet showed a path" in to_mermaid(report())
    assert "no packet showed a path" in to_dot(report())


def test_all_files_of_one_report_at_once(probe: Probe, tmp_path: Path) -> None:
    names = {"--mermaid": "a.mmd", "--dot": "a.dot", "--sarif": "a.sarif", "--metrics": "a.prom"}
    options = [part for option, name in names.items() for part in (option, tmp_path / name)]
    ending = probe("analyze", *given(), *options, "-o", "json")
    assert ending.code == 3, ending.err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names.values())
    log = json.loads((tmp_path / "a.sarif").read_text())
    sarif_is_valid(log)
    codes = {finding["code"] for finding in ending.json["findings"]}
    assert {result["ruleId"] for result in log["runs"][0]["results"]} == codes
    assert (tmp_path / "a.mmd").read_text().startswith("flowchart LR\n")
