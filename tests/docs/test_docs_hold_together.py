"""Links lead somewhere, files and options that are named exist, and tables agree with the code."""

from __future__ import annotations

import re
import shlex

import msgspec
import pytest
import typer

from analysis import report
from analysis.catalogue.findings import CATALOGUE
from analysis.health import result
from daemonset import agent, observation
from probe.cli import app
from probe.decoding.answer import Answer, Seen
from probe.errors import ExitCode
from probe.lab import scenario
from probe.render.rows import SAID
from probe.sessions.folder import Meta
from tests.docs.documents import DOCUMENTS, REPOSITORY, anchors, inline_code, links, names, prose, table

ROOTS = ("probe", "analysis", "daemonset", "tests", "bench", "docs", "packaging", ".ci", ".github")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in links(DOCUMENTS[name]):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = ((REPOSITORY / name).parent / path).resolve() if path else REPOSITORY / name
        assert file.exists(), f"{name} links to {target}, which is not there"
        if anchor:
            text = DOCUMENTS[str(file.relative_to(REPOSITORY))]
            assert anchor in anchors(text), f"{name} links to {target}; there is no such heading"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name: str) -> None:
    for code in inline_code(DOCUMENTS[name]):
        if re.fullmatch(rf"(?:{'|'.join(ROOTS)})/[\w./-]*", code) and "NAME" not in code:
            assert (REPOSITORY / code).exists(), f"{name} names {code}, which is not there"


def test_every_page_can_be_found_from_the_readme() -> None:
    linked = set(links(DOCUMENTS["README.md"]))
    for name in DOCUMENTS:
        assert name == "README.md" or name in linked, f"README.md does not link to {name}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_and_options_that_are_named_exist(name: str) -> None:
    root = typer.main.get_command(app)
    for code in inline_code(DOCUMENTS[name]):
        if not code.startswith("probe "):
            continue
        command, where = root, "probe"
        for word in shlex.split(code.replace("…", ""))[1:]:
            known = {flag for parameter in command.params for flag in parameter.opts}
            if where == "probe agent":  # it hands its words to the ground floor, which reads them itself
                known = set(agent.parser()._option_string_actions)
            if word.startswith("-"):
                assert word in known or word in {"-h", "--help"}, f"{name}: {where} has no {word}"
            elif hasattr(command, "commands") and word in command.commands:
                command, where = command.commands[word], f"{where} {word}"
            else:
                assert not hasattr(command, "commands"), f"{name}: there is no command `{where} {word}`"


def test_every_finding_has_its_section() -> None:
    for code, finding in CATALOGUE.items():
        page, _, anchor = finding.docs.partition("#")
        assert anchor in anchors(DOCUMENTS[page]), f"{code} says that {finding.docs} explains it"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_findings_that_are_named_exist(name: str) -> None:
    named = set(re.findall(r"SIP\d+", prose(DOCUMENTS[name])))
    assert named <= set(CATALOGUE)


def test_the_words_are_those_of_the_code() -> None:
    words = "\n".join(map(" ".join, table(DOCUMENTS["docs/architecture.md"], "The words")))
    for word in (*observation.TapKind, *report.Verdict, *SAID, "dnat"):
        assert f"`{word}`" in words


def test_exit_codes_are_those_of_the_code() -> None:
    rows = table(DOCUMENTS["README.md"], "Exit codes")
    assert [int(row[0]) for row in rows] == [code.value for code in ExitCode]


@pytest.mark.parametrize(
    "kind",
    [
        report.Report,
        report.Capture,
        report.Summary,
        report.Journey,
        report.Client,
        report.Hop,
        report.Snat,
        report.CrossNode,
        report.ProxyProtocol,
        report.Resolved,
        report.Finding,
        report.Path,
        report.Forgery,
        result.Health,
        result.Checker,
        result.NodeHealth,
        result.Outage,
        result.Event,
    ],
)
def test_fields_of_the_report_are_told(kind: type[msgspec.Struct]) -> None:
    rows = table(DOCUMENTS["docs/report.md"], kind.__name__)
    assert [names(row[0])[0] for row in rows] == [field.encode_name for field in msgspec.structs.fields(kind)]


def test_fields_of_the_session_file_are_told() -> None:
    rows = table(DOCUMENTS["docs/session.md"], "session.json")
    assert [names(row[0])[0] for row in rows] == [field.encode_name for field in msgspec.structs.fields(Meta)]


def test_messages_of_the_stream_are_told() -> None:
    rows = {names(row[0])[0]: names(row[1]) for row in table(DOCUMENTS["docs/session.md"], "Messages")}
    kinds = (
        observation.Hello,
        observation.Taps,
        observation.Topology,
        observation.Ready,
        observation.Heads,
        observation.Loss,
        observation.Gap,
        observation.Bye,
        observation.Tracing,
        observation.TracedRules,
        observation.RuleHits,
        observation.Ruleset,
        observation.RuleCounts,
        observation.ConntrackCounts,
    )
    assert rows == {
        kind.__struct_config__.tag: [field.encode_name for field in msgspec.structs.fields(kind)]
        for kind in kinds
    }


@pytest.mark.parametrize(
    ("heading", "layout"), [("Packet rows", observation.PACKET), ("NAT rows", observation.NAT)]
)
def test_columns_of_rows_are_told(heading: str, layout: observation.Layout) -> None:
    told = [name for row in table(DOCUMENTS["docs/session.md"], heading) for name in names(row[0])]
    assert sorted(told) == sorted(column.name for column in layout.columns)


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("Top level", scenario.Scenario),
        ("Cluster", scenario.Cluster),
        ("Service", scenario.Service),
        ("Pod", scenario.Pod),
        ("Nginx", scenario.Nginx),
        ("App", scenario.App),
        ("App Service", scenario.AppService),
        ("Balancer", scenario.Balancer),
        ("Request", scenario.Request),
        ("Expect", scenario.Expect),
        ("Health Port", scenario.HealthPort),
        ("Event", scenario.Event),
        ("Health Expect", scenario.HealthExpect),
    ],
)
def test_keys_of_scenario_files_are_told(heading: str, kind: type[msgspec.Struct]) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if kind is scenario.Scenario:
        del fields["name"]  # the file's
    rows = table(DOCUMENTS["docs/lab.md"], heading)
    assert sorted(names(row[0])[0] for row in rows) == sorted(fields)
    for row in rows:
        field, told = fields[names(row[0])[0]], row[1]
        assert field.required == (told == "-"), f"{heading}: {field.encode_name}"
        if names(told):
            default = msgspec.json.decode(msgspec.json.encode(field.default))
            assert msgspec.json.decode(names(told)[0]) == default, f"{heading}: {field.encode_name}"


def test_fields_of_decoded_headers_are_told() -> None:
    rows = table(DOCUMENTS["docs/decode.md"], "For programs")
    told = [name for row in rows for name in names(row[0])]
    assert told == [field.encode_name for field in msgspec.structs.fields(Answer)]
    assert told[-1] == "seen"
    assert names(rows[-1][1]) == [field.encode_name for field in msgspec.structs.fields(Seen)]
