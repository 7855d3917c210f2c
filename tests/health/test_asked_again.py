"""What health ports answered when they were asked, judged again from the session's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from analysis.facts import Facts
from analysis.health.asking import judge_kept, with_asked
from analysis.health.own import OwnChecks
from analysis.health.rounds import AskedRounds
from probe.anonymous.anonymizer import Anonymizer
from probe.errors import UsageError
from probe.sessions.folder import Meta, SessionFolder, read_meta
from tests.cli.helpers import ended, start
from tests.health.replied import KEY, PORT, REFUSED, SILENT, Asked, two
from tests.lab.here import why_not

needs_lab = pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is a lab")


def kept(asked: Asked) -> AskedRounds:
    return AskedRounds(KEY, asked.service.external_policy, PORT, tuple(asked.built), asked.leaving)


def recorded(folder: Path, asked: Asked) -> Path:
    meta = Meta(title="svc/web, context lab", service=KEY, facts=Facts(services=(asked.service,)))
    SessionFolder(folder, meta).finish(own=OwnChecks(asked=kept(asked)))
    return folder


STORIES = {
    "all well": two(),
    "lies": two().but("node2", status=200, local_endpoints=1, weight=1),
    "refuses": two().but("node1", status=503, local_endpoints=0, weight=0),
    "not served": two().but("node1", **REFUSED),
    "firewall": two().but("node1", sides=("peer", "operator"), **SILENT),
    "without slices": two().slices(0, None, None),
    "once only": two().but("node2", rounds=(0,), status=200, local_endpoints=1),
    "leaving": two().leaves("node2"),
    "junk": two().but("node1", outcome="not HTTP", status=None, start="SSH-2.0-OpenSSH of-alice"),
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_the_folder_is_judged_as_it_was_when_it_was_asked(story: Asked, tmp_path: Path) -> None:
    folder = recorded(tmp_path / "session", story)
    asked = read_meta(folder).own.asked
    assert asked is not None
    assert judge_kept(asked) == story.judged()
    done = ended(start("health", folder, "-o", "json"))
    assert done.json == json.loads(msgspec.json.encode(story.report()))
    assert done.code == story.report().exit_code


def test_analyze_tells_the_same_findings_and_that_no_packet_was_seen(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "session", STORIES["lies"])
    done = ended(start("analyze", folder, "-o", "json"))
    assert done.code == 3
    assert {each["code"] for each in done.json["findings"]} >= STORIES["lies"].codes()
    assert done.json["journeys"] == []
    well = ended(start("analyze", recorded(tmp_path / "well", STORIES["all well"]), "-o", "json"))
    assert well.code == 4, "of connections nothing is known"


def test_what_was_asked_of_another_service_is_not_told() -> None:
    own = OwnChecks(asked=kept(STORIES["lies"]))
    assert with_asked({}, own, "default/other") == {}
    assert set(with_asked({}, own, None)) == STORIES["lies"].codes()


def test_packets_that_tell_otherwise_win_over_all_well() -> None:
    own = OwnChecks(asked=kept(STORIES["all well"]))
    assert set(with_asked({}, own, KEY)) == {"SIP618"}
    assert set(with_asked({"SIP604": ["node1"]}, own, KEY)) == {"SIP604"}


def test_strangers_have_other_addresses_and_the_same_findings(tmp_path: Path) -> None:
    story = two().but("node1", address="198.51.100.7", start="HTTP/1.1 200 of alice")
    folder, other = recorded(tmp_path / "session", story), tmp_path / "other"
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))  # of any key, some address stays or begins with the true one by chance
    assert ended(start("export", folder, "--anonymize", other, "--key", key)).code == 0
    text = (other / "session.json").read_text()
    for word in ('"198.51.100.7"', "alice", '"10.244.0.2"'):
        assert word not in text
    first, second = (ended(start("health", each, "-o", "json")) for each in (folder, other))
    assert [each["evidence"] for each in first.json["findings"]] == [
        each["evidence"] for each in second.json["findings"]
    ]
    at_once = Anonymizer(bytes(32)).own(OwnChecks(asked=kept(STORIES["junk"])))
    assert "alice" not in str(at_once)


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "\x1b[2J"},
        {"port": 70000},
        {"askedFrom": "nowhere"},
        {"status": "200"},
    ],
)
def test_answers_that_nobody_gave_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    folder = recorded(tmp_path / "session", STORIES["lies"])
    index = json.loads((folder / "session.json").read_text())
    index["own"]["asked"]["rounds"][0]["replies"][0] |= change
    (folder / "session.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="is damaged"):
        read_meta(folder)


def test_a_session_without_rounds_is_read_as_ever(tmp_path: Path) -> None:
    SessionFolder(tmp_path / "session", Meta(service=KEY, facts=Facts(services=(two().service,)))).finish()
    assert read_meta(tmp_path / "session").own.asked is None
    done = ended(start("health", tmp_path / "session", "-o", "json"))
    assert done.code == 4
    assert done.json["asking"] is None


@needs_lab
@pytest.mark.lab
@pytest.mark.parametrize(("scenario", "more"), [("hc-lies", ()), ("hc-ok", ()), ("hc-ok", ("--watch",))])
def test_asked_in_the_lab_and_years_later(scenario: str, more: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "session"
    now = ended(start("health", "--lab", scenario, *more, "--record", folder, "-o", "json"))
    later = ended(start("health", folder, "-o", "json"))
    assert now.json["asking"]["nodes"]
    assert later.json == now.json
    assert later.code == now.code


def test_keeping_what_was_recorded_is_a_mistake(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "session", STORIES["lies"])
    ended(start("health", folder, "--record", tmp_path / "new")).complains(2, "leave it out")
