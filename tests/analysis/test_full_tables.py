"""Nodes whose table of connections is full: what is said of them, and what is not."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from analysis.analyze import analyze
from analysis.judging.full_table import full_table
from analysis.report import Finding, Report, Severity, Verdict
from daemonset.observation import ConntrackCounts
from tests.analysis.story import Story, cluster
from tests.analysis.test_stories import LOCAL, NODE_PORT, C

MOST = 262_144
FULL = ConntrackCounts(entries_before=MOST, maximum_before=MOST, entries=MOST, maximum=MOST, drop=12)
QUIET = ConntrackCounts(entries_before=900, maximum_before=MOST, entries=1_000, maximum=MOST)
EVICTING = msgspec.structs.replace(QUIET, early_drop=5)
THOUGH = "although nothing calls for a drop there"


def silent(policy: str = "Cluster") -> Story:
    """A client asks node1 three times and nothing comes of it."""
    story = Story(cluster(policy)).watch("bridge:node1/cni0")
    for attempt in range(3):
        story.syn([("nic:node1/eth0", C, NODE_PORT)], isn=7_000, tsval=1_000 + attempt * 1_000).wait(1)
    return story


def told(story: Story, *counts: ConntrackCounts, node: str = "node1") -> Report:
    """The report of a story in which a node says what its conntrack counted."""
    said = tuple((node, each) for each in counts)
    return analyze(dataclasses.replace(story.recording(), conntrack_counts=said), story.facts)


def counts(base: ConntrackCounts = FULL, **changes: int) -> ConntrackCounts:
    return msgspec.structs.replace(base, **changes)


def about_tables(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.code in {"SIP426", "SIP427"}]


def test_the_reason_of_a_silence_names_the_full_table() -> None:
    report = told(silent(), FULL)
    (journey,) = report.journeys
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert journey.findings == ("SIP203",), "which packets were dropped, the counters do not say"
    assert journey.reason is not None
    assert journey.reason.endswith(
        f"{THOUGH}; the node's kernel dropped 12 packets in the capture, and its table of connections was full "
        "(262,144 of 262,144)"
    )


def test_the_finding_has_the_counts() -> None:
    (finding,) = about_tables(told(silent(), FULL))
    assert (finding.code, finding.severity) == ("SIP426", Severity.ERROR)
    (line,) = finding.evidence
    assert line == (
        "node1: conntrack dropped 12 packets and evicted 0 records; its table held 262,144 records at the beginning "
        "and 262,144 at the end, of at most 262,144"
    )


def test_a_node_is_told_of_though_no_connection_met_it() -> None:
    report = told(Story(cluster("Local")).connection(LOCAL), FULL, node="node3")
    (finding,) = about_tables(report)
    assert finding.code == "SIP426"
    assert finding.evidence[0].startswith("node3: ")
    (journey,) = report.journeys
    assert journey.verdict is Verdict.PRESERVED


def test_one_attempt_alone_is_told_the_same() -> None:
    story = Story(cluster()).watch("bridge:node1/cni0").syn([("nic:node1/eth0", C, NODE_PORT)], isn=7_000)
    (journey,) = told(story, FULL).journeys
    assert journey.verdict is Verdict.INCONCLUSIVE
    assert (journey.reason or "").startswith(
        "only one attempt was seen, and nothing that followed it; the node's"
    )
    assert not journey.findings


def test_another_nodes_table_explains_nothing() -> None:
    (journey,) = told(silent(), FULL, node="node2").journeys
    assert journey.reason is not None
    assert journey.reason.endswith(THOUGH)


def test_a_drop_that_the_facts_call_for_stays_theirs() -> None:
    (journey,) = told(silent("Local"), FULL).journeys
    assert journey.verdict is Verdict.BLACKHOLED
    assert "table" not in (journey.reason or "")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            counts(drop=1),
            "dropped 1 packet in the capture, and its table of connections was full (262,144 of 262,144)",
        ),
        (
            counts(entries=300),
            "dropped 12 packets in the capture, and its table of connections was full (262,144 of 262,144)",
        ),
        (
            counts(QUIET, drop=12, early_drop=3),
            "and its table of connections was full at times (1,000 of 262,144 when it was read)",
        ),
        (
            counts(entries_before=9, entries=250_000),
            "dropped 12 packets in the capture, and its table of connections was nearly full (250,000 of 262,144)",
        ),
        (counts(drop=20, insert_failed=8), "dropped at least 12 packets in the capture, and"),
        # It was raised while we watched.
        (counts(entries=MOST, maximum=4 * MOST), "was full (262,144 of 262,144)"),
    ],
)
def test_words_are_no_stronger_than_what_was_counted(said: ConntrackCounts, words: str) -> None:
    report = told(silent(), said)
    assert words in (report.journeys[0].reason or "")
    assert [finding.code for finding in about_tables(report)] == ["SIP426"]


@pytest.mark.parametrize(
    "said",
    [
        QUIET,
        ConntrackCounts(),
        # Packets dropped with room in the table: another fault, or a clash of two records.
        counts(QUIET, drop=40),
        counts(QUIET, drop=40, insert_failed=40, invalid=7_000, chain_too_long=5),
        counts(entries=MOST // 2, entries_before=MOST // 2),
        # Full to the brim, and nothing has come of it; or nothing but clashes.
        counts(drop=0),
        counts(drop=9, insert_failed=9),
        counts(drop=0, insert_failed=9),
        # No maximum, or none that the kernel tells.
        counts(maximum=0, maximum_before=0),
        counts(maximum=-1, maximum_before=-1, entries=-5),
    ],
)  # fmt: skip
def test_a_node_with_room_alarms_nobody(said: ConntrackCounts) -> None:
    report = told(silent(), said)
    assert not about_tables(report)
    assert (report.journeys[0].reason or "").endswith(THOUGH)


def test_evicted_records_are_a_warning() -> None:
    report = told(silent(), EVICTING)
    (finding,) = about_tables(report)
    assert (finding.code, finding.severity) == ("SIP427", Severity.WARNING)
    assert "dropped 0 packets and evicted 5 records" in finding.evidence[0]
    assert (report.journeys[0].reason or "").endswith(THOUGH), "nothing was dropped"


def test_a_node_that_was_watched_twice_is_told_of_once() -> None:
    (finding,) = about_tables(told(silent(), FULL, counts(drop=7), EVICTING))
    assert len(finding.evidence) == 1
    assert "dropped 12 packets" in finding.evidence[0]


def test_fullness_is_proven_by_the_moment_that_was_fuller() -> None:
    table = full_table(counts(entries_before=MOST, entries=10))
    assert table is not None
    assert (table.entries, table.entries_before, table.entries_after) == (MOST, MOST, 10)
