"""Readers of files that somebody hands over: captures, scenarios, manifests, events, a kubeconfig."""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
import tomllib
from pathlib import Path

import msgspec

from daemonset.decode.packet import Batch
from daemonset.observation import PACKET
from daemonset.taps.pcap import Capture, CaptureFileError
from probe.checking.documents import Documents, read_text
from probe.cluster.kubeconfig import FileAccess
from probe.decoding.answer import Answer, decode_bytes
from probe.decoding.capture import HeaderFinder
from probe.decoding.decode import parse_hex
from probe.errors import UnavailableError, UsageError
from probe.health.endpoint_changes import parse_changes
from probe.lab.errors import ScenarioError
from probe.lab.scenario import FOLDER, list_scenarios, parse_scenario, scenario_of
from probe.render.machines import machine
from tests.fuzz.odd import MOST_ORDERS, Base
from tests.fuzz.reader import Reader, one_line

#: Scenarios that are shipped.
_SCENARIOS = [
    Base(tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")))
    for name in list_scenarios()[::6]
]
_FOLDER = Path(tempfile.mkdtemp(prefix="probe-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def capture_files(data: bytes, size: int) -> None:
    """pcap and pcapng files: their packets, and the rows that these become."""
    batch, packets = Batch(), 0
    try:
        capture = Capture("file.pcap", io.BytesIO(data))
        for packet in capture:
            packets += 1
            assert 0 <= packet.time < 1 << 63
            assert len(packet.data) <= len(data)
            batch.add(
                packet.data, link=packet.link, time=packet.time, tap=size & 1, direction=packet.direction
            )
    except CaptureFileError as error:
        one_line(error)
    else:
        assert capture.truncated is None or capture.truncated.isprintable()
        assert capture.dropped >= 0
    rows, _ = batch.take()
    assert len(rows) <= (len(data) + size) * PACKET.size
    assert packets <= len(data)


def headers_in_files(data: bytes, size: int) -> None:
    """The same as `probe decode` reads them: the headers of every stream."""
    finder = HeaderFinder(receivers=size == 0)
    try:
        for answer in finder.answers(Capture("file.pcap", io.BytesIO(data))):
            assert machine.to_line(answer).isascii()
    except CaptureFileError as error:
        one_line(error)
    assert all(remark.isprintable() for remark in finder.remarks)


def hex_lines(data: bytes, size: int) -> None:
    """Lines of hex, as `probe decode -` has them."""
    found, fault = parse_hex(data)
    assert fault is None or (fault.isprintable() and not found)
    told = decode_bytes(found, final=bool(size & 1))
    assert all(isinstance(each, Answer) for each in told)


def scenarios(data: bytes, size: int) -> None:
    """A scenario of somebody's own."""
    try:
        scenario = parse_scenario(data.decode("utf-8", "replace"), "mine.toml")
    except ScenarioError as error:
        one_line(error)
        return
    assert msgspec.json.encode(scenario)
    assert size < 256


def odd_scenarios(data: bytes, size: int) -> None:
    """One in which something odd stands in the place of a key's value."""
    try:
        scenario = scenario_of(_SCENARIOS[size % len(_SCENARIOS)].changed(data), "mine.toml")
    except ScenarioError as error:
        one_line(error)
        return
    assert msgspec.json.encode(scenario)


def manifests(data: bytes, size: int) -> None:
    """Objects in YAML and JSON, as `probe check -f` has them."""
    found = Documents()
    read_text(data.decode("utf-8", "replace"), "a.yaml", found)
    assert all(each.isprintable() and len(each) < 600 for each in found.problems)
    assert all(isinstance(each["kind"], str) for each in found.items)
    assert size < 256


def watch_events(data: bytes, size: int) -> None:
    """Events of a watch of EndpointSlices, one a line."""
    try:
        changes = parse_changes(data, "events.json")
    except UsageError as error:
        one_line(error)
        return
    assert all(change.ready >= 0 and change.terminating >= 0 for change in changes)
    assert sorted(changes, key=lambda each: each.time) == list(changes)
    assert size < 256


def kubeconfigs(data: bytes, size: int) -> None:
    """A kubeconfig, as far as it says where the cluster is."""
    path = _FOLDER / "config"
    path.write_bytes(data)
    try:
        access = FileAccess.load(str(path), "a" if size & 1 else None)
    except UnavailableError as error:
        one_line(error)
        return
    assert access.server.startswith(("http://", "https://"))


READERS = (
    Reader(capture_files, 400, longest=1024),
    Reader(headers_in_files, 80, longest=1024),
    Reader(hex_lines, 60, longest=512),
    Reader(scenarios, 20),
    Reader(odd_scenarios, 20, longest=MOST_ORDERS),
    Reader(manifests, 30, longest=1024),
    Reader(watch_events, 60, longest=1024),
    Reader(kubeconfigs, 3, longest=1024),
)
