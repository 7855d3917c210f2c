"""A capture for strangers: whatever leaves the command is of others, and judged as the true one would be."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from probe.anonymous.anonymizer import Anonymizer
from probe.lab import load_scenario
from probe.lab.plan import make_plan
from probe.sessions.folder import Meta, read_meta, stream_path
from probe.sessions.session import Session, Words, capture, load
from tests.anonymous.test_anonymous_reports import FILES, SCENARIOS, assert_nobody, told
from tests.cli.helpers import ended, start
from tests.lab.here import REPOSITORY

KEY = bytes(range(32))

#: Of a stream: bytes before the first frame, and before what a frame holds.
_PREAMBLE, _HEADER = 8, 5


class Replayed:
    """A recorded stream that comes as from an agent: its end when it is asked for."""

    def __init__(self, place: str, path: Path) -> None:
        self.place = place
        data, last, at = path.read_bytes(), 0, _PREAMBLE
        while at < len(data):
            last, at = at, at + _HEADER + int.from_bytes(data[at : at + 4], "little")
        self._parts = [data[:last], data[last:], b""]  # the last frame is the goodbye
        self._wanted = threading.Event()

    def read(self) -> bytes:
        if len(self._parts) == 2:
            self._wanted.wait()
        return self._parts.pop(0)

    def stop(self) -> None:
        self._wanted.set()

    def close(self) -> str | None:
        self._wanted.set()
        return None


class Replay:
    """The streams of a session as agents."""

    def __init__(self, session: Path) -> None:
        self._session = session

    def start(self) -> Sequence[Replayed]:
        places = read_meta(self._session).places
        paths = {place: stream_path(self._session, place) for place in places}
        return [Replayed(place, path) for place, path in paths.items() if path is not None]


def capture_again(session: Path, mask: Anonymizer, record: Path | None) -> Session:
    """The capture that made a session, with a mask."""
    meta = read_meta(session)
    before = Meta(
        title=meta.title,
        service=meta.service,
        scenario=meta.scenario,
        proxy_mode=meta.proxy_mode,
        facts=meta.facts,
        clients=meta.clients,
    )
    words = Words(meta.answers, meta.asked, meta.ingress, meta.changes, meta.own)
    return capture(Replay(session), lambda: words, facts=meta.facts, meta=before, record=record, mask=mask)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "key"
    file.write_bytes(KEY)
    return file


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("true")

    def record(name: str) -> Path:
        if not (folder / name).exists():
            ended(start("capture", "--lab", name, "--record", folder / name, "-o", "json"))
        return folder / name

    return record


def everything_of(scenario: str) -> set[str]:
    """Every address of a scenario's lab, by its plan."""
    plan = make_plan(load_scenario(scenario), "iptables")
    hosts = [*plan.hosts, *(node.host for node in plan.nodes), *plan.pods]
    return {address for each in hosts for address in each.addresses.values()}


@pytest.mark.lab
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_packets_are_judged_the_same(
    recorded: Callable[[str], Path], key: Path, tmp_path: Path, name: str
) -> None:
    session, other = recorded(name), tmp_path / "other"
    exported = tmp_path / "exported"
    assert ended(start("export", session, "--anonymize", exported, "--key", key)).code == 0
    seen = capture_again(session, Anonymizer(KEY), other)
    assert seen.recording.expected_nodes == load(session).recording.expected_nodes
    report = ended(start("analyze", other, "-o", "json")).json
    assert report == ended(start("analyze", session, "--anonymize", "--key", key, "-o", "json")).json
    assert told(report) == told(ended(start("analyze", session, "-o", "json")).json)
    for place in read_meta(session).places:
        assert (other / f"{place}.probe").read_bytes() == (exported / f"{place}.probe").read_bytes()
    mine, its = read_meta(other), read_meta(exported)
    same = {"id": "", "created": 0.0}
    assert msgspec.structs.replace(mine, **same) == msgspec.structs.replace(its, **same)
    assert mine.facts == seen.facts == seen.meta.facts


@pytest.mark.lab
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_that_a_capture_in_the_lab_leaves_names_anybody(name: str, key: Path, tmp_path: Path) -> None:
    folder = tmp_path / "session"
    written = {form: tmp_path / f"out.{form}" for form in (*FILES, "packets", "events")}
    options = [word for form in (*FILES, "events") for word in (f"--{form}", written[form])]
    done = ended(
        start("capture", "--lab", name, "--anonymize", "--key", key, *options, "-w", written["packets"],
              "--record", folder, "-o", "json")
    )  # fmt: skip
    expected = {request.expect.verdict for request in load_scenario(name).requests}
    assert {journey["verdict"] for journey in done.json["journeys"]} == expected
    assert ended(start("analyze", folder, "-o", "json")).json == done.json, "the folder is of the same people"
    made = {form: path.read_bytes() for form, path in written.items()}
    made |= {"out": done.out.encode(), "err": done.err.encode()}
    made |= {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"session.json", "packets.parquet", "node1.probe"} <= set(made)
    assert_nobody(made, everything_of(name))
    assert done.json["journeys"][0]["client"]["address"].encode() in made["html"], "one key for all"


@pytest.mark.lab
def test_what_was_asked_is_in_no_file(key: Path, tmp_path: Path) -> None:
    folder, html = tmp_path / "session", tmp_path / "page.html"
    url = "http://balancer/reset/alice?token=hunter2hunter2"
    done = ended(
        start("capture", "--lab", "proxy-v2-ok", "--anonymize", "--key", key, "--send", url,
              "--spoof", "x-forwarded-for=192.0.2.77", "--from-ip", "172.30.0.0/16", "--record", folder, "--html", html)
    )  # fmt: skip
    assert done.code in {0, 3, 4}, done.err
    made = {path.name: path.read_bytes() for path in (*folder.iterdir(), html)}
    made |= {"out": done.out.encode(), "err": done.err.encode()}
    for name, data in made.items():
        for word in (b"alice", b"hunter2", b"192.0.2.77", b"172.30.", url.encode()):
            assert word not in data, (name, word)
    assert b"a URL" in made["session.json"]


@pytest.mark.lab
def test_a_kill_while_it_is_written_leaves_what_is_known_as_cut_off(
    recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    session, other = recorded("cluster-remote"), tmp_path / "other"
    code = f"""
import os, signal
from pathlib import Path
from probe.anonymous.anonymizer import Anonymizer
from tests.anonymous.test_anonymous_captures import KEY, capture_again

class Killed(Anonymizer):
    frames = 0
    def frame(self, frame):
        self.frames += 1
        if self.frames == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().frame(frame)

capture_again(Path({str(session)!r}), Killed(KEY), Path({str(other)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    made = {path.name: path.read_bytes() for path in other.iterdir()}
    assert any(name.endswith(".probe") and data for name, data in made.items()), "it was amid it"
    assert not read_meta(other).complete
    assert_nobody(made, everything_of("cluster-remote"))
    report = ended(start("analyze", other, "-o", "json")).json
    assert report["capture"]["complete"] is False
    assert any("cut off" in reason for reason in report["capture"]["reasons"])


@pytest.mark.parametrize(
    ("more", "words"),
    [(("--key", "KEY"), "--key is for --anonymize"), (("--anonymize", "--dry-run"), "leave --anonymize out")],
)
def test_what_cannot_be_is_said_before_anything_is_done(key: Path, more: tuple[str, ...], words: str) -> None:
    given = (str(key) if each == "KEY" else each for each in more)
    ended(start("capture", "svc/web", *given)).complains(2, words)
