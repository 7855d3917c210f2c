"""The report as Markdown, JUnit and against its schema: all from one value, none obeying what stands in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

from analysis.report import Finding, Report, Summary
from probe.render.machines import machine
from probe.render.machines.junit import to_junit
from probe.render.machines.schema import report_schema
from probe.render.markdown import to_markdown
from tests import hostile
from tests.analysis.story import Story, cluster
from tests.cli.helpers import Probe
from tests.cli.reports import (
    MASQUERADED,
    blackholed_journey,
    chained_journey,
    lost_journey,
    preserved_journey,
    report,
)
from tests.cli.test_pcapng import given

values = pytest.mark.parametrize("value", hostile.VALUES.values(), ids=hostile.VALUES.keys())

ALL = (lost_journey(), preserved_journey(), blackholed_journey(), chained_journey())


def filled(value: Any, text: str) -> Any:
    """A report with `text` in every field that is free text."""
    kept = {"verdict", "severity", "outcome", "id", "example", "shape", "protocol", "evidence_", "confidence"}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(
            value,
            **{
                name: filled(getattr(value, name), text)
                for name in value.__struct_fields__
                if name not in kept
            },
        )
    if isinstance(value, tuple):
        return tuple(filled(each, text) for each in value)
    return text if type(value) is str else value


def hostile_report(value: bytes) -> Report:
    text = value[:3000].decode("utf-8", "surrogateescape")
    return filled(report(*ALL, findings=(MASQUERADED,), reasons=("why",)), text)


class TestMarkdown:
    def test_the_verdict_comes_first_and_the_remedy_with_its_finding(self) -> None:
        text = to_markdown(report(*ALL, findings=(MASQUERADED,)))
        assert (
            text.index("**lost** | 2")
            < text.index("Path 1: lost")
            < text.index("SIP101** kube-proxy replaced")
        )
        assert "`192.0.2.10:40112` became `172.30.0.11:26962`" in text
        assert "Fix: kubectl -n default patch service web" in text

    def test_each_hop_is_a_row_of_its_table(self) -> None:
        journey = lost_journey()
        rows = [line for line in to_markdown(report(journey)).splitlines() if line.startswith("| node")]
        assert len(rows) == 1 + len(journey.hops) - 1  # the head; the client's place is no node
        assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)

    @values
    def test_no_value_becomes_a_mark_a_link_or_a_line(self, value: bytes) -> None:
        plain = to_markdown(hostile_report(b"x"))
        text = to_markdown(hostile_report(value))
        hostile.safe_text(text.replace("️", ""))
        assert len(text.splitlines()) == len(plain.splitlines())
        # What is left when code spans and escaped marks are taken away holds nothing that is obeyed.
        bare = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text.replace("<!-- -->", ""))
        bare = re.sub(r"\\[\\`*_\[\]<>#|~&$:.]", "", bare)
        assert not re.search(r"[<>\[\]`$~]|https?:|&#?\w+;", bare), bare[:2000]
        assert not re.search(r"@(?!<!-- -->)\w", re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text))


class TestJunit:
    def test_a_lost_path_fails_and_a_preserved_one_passes(self) -> None:
        suite = ET.fromstring(to_junit(report(*ALL, findings=(MASQUERADED,))))
        cases = {case.get("name", ""): case for case in suite}
        assert int(suite.get("tests", "0")) == len(cases) == 5
        failed = sorted(
            case.find("failure").get("type") for case in cases.values() if case.find("failure") is not None
        )  # type: ignore[union-attr, type-var]
        assert failed == ["SIP101", "blackholed", "lost", "lost"]
        assert suite.get("failures") == "4"
        assert suite.get("errors") == "0"

    def test_what_is_not_known_is_no_pass(self) -> None:
        unsure = msgspec.structs.replace(preserved_journey(), verdict="inconclusive", reason="no tap")
        suite = ET.fromstring(to_junit(report(unsure)))
        assert suite.get("errors") == "1"
        nothing = ET.fromstring(to_junit(report()))
        assert (nothing.get("tests"), nothing.get("errors")) == ("1", "1")

    def test_connections_that_are_counted_and_not_judged_are_no_pass(self) -> None:
        one = report(preserved_journey())
        more = msgspec.structs.replace(one, summary=Summary(journeys=90, preserved=80, inconclusive=10))
        assert ET.fromstring(to_junit(more)).get("errors") == "1"

    @values
    def test_no_value_breaks_out_of_the_document(self, value: bytes) -> None:
        document = to_junit(hostile_report(value))
        suite = ET.fromstring(document)
        assert [case.tag for case in suite] == ["testcase"] * 5
        assert {child.tag for case in suite for child in case} <= {"failure", "error", "system-out"}
        hostile.safe_text(document)


class TestSchema:
    validator = pytest.importorskip("jsonschema").Draft202012Validator

    def test_it_is_a_schema(self, probe: Probe) -> None:
        told = probe("schema").json
        self.validator.check_schema(told)
        assert told == json.loads(machine.to_json(report_schema()))

    def test_reports_of_every_kind_are_valid(self, probe: Probe) -> None:
        schema = self.validator(report_schema())
        told = [json.loads(machine.to_json(report(*ALL, findings=(MASQUERADED,), reasons=("why",))))]
        told += [
            probe("analyze", *given(), "-o", "json").json,
            json.loads(machine.to_json(Story(cluster()).report())),
        ]
        for each in told:
            schema.validate(each)

    def test_every_field_that_is_written_is_described(self) -> None:
        """No field of a report is without a place in the schema."""
        defined = report_schema()["$defs"]
        for kind in (Report, Finding):
            names = {field.encode_name for field in msgspec.structs.fields(kind)}
            assert set(defined[kind.__name__]["properties"]) == names

    @pytest.mark.parametrize("change", [{"summary": None}, {"journeys": {}}, {"findings": [{"code": 1}]}])
    def test_what_is_no_report_is_refused(self, change: dict[str, Any]) -> None:
        told = json.loads(machine.to_json(report(*ALL))) | change
        assert not self.validator(report_schema()).is_valid(told)


def test_the_files_are_written_beside_what_is_printed(probe: Probe, tmp_path: Path) -> None:
    markdown, junit = tmp_path / "a.md", tmp_path / "a.xml"
    ending = probe("analyze", *given(), "--markdown", markdown, "--junit", junit, "-o", "json")
    assert ending.code == 3
    assert ending.json["summary"]["lost"] == 3
    assert "**lost** | 3" in markdown.read_text()
    assert ET.fromstring(junit.read_text()).get("failures") == "2"


def test_two_files_of_one_name_are_refused(probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "a"
    probe("analyze", *given(), "--markdown", path, "--junit", path).complains(2, "two options name it")
