"""Whatever a user gets wrong ends in one line that says what and what to do, and in the right exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemonset.keeping import FORMAT, INDEX, VERSION
from daemonset.observation import SCHEMA_VERSION, Bye, Hello, Ready, Tap, TapKind, Taps
from daemonset.wire import PREAMBLE, Writer
from probe.sessions.folder import Meta, SessionFolder
from tests.cli.helpers import USB, Probe, ended, pcap, start, syn


def session(folder: Path, *, finish: bool = True) -> Path:
    """A recorded session of one node on which nothing happened."""
    recording = SessionFolder(folder, Meta(title="nothing happened"))
    recording.stream("node1")
    writer = Writer(lambda data: recording.write("node1", data))
    tap = Tap("node1", TapKind.NIC, "eth0")
    for message in (Hello("node1"), Taps((tap,)), Ready(), Bye("asked to stop")):
        writer.message(message)
    if finish:
        recording.finish()
    else:
        recording.close()
    return folder


# ── the command line itself ──────────────────────────────────────────────────────────────────────────────


def test_no_command_shows_the_help_and_is_a_usage_error(probe: Probe) -> None:
    ending = probe()
    assert ending.code == 2
    assert "Usage: probe" in ending.out
    assert "analyze" in ending.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["analyse"], ["no such command 'analyse'", "analyze"]),
        (["demo", "--bogus"], ["--bogus", "probe demo --help"]),
        (["demo", "--proxy-mode", "ipvs"], ["--proxy-mode", "iptables", "nftables"]),
        (["analyze", "x", "-o", "xml"], ["--output", "table", "json"]),
        (["lab", "play"], ["no such command 'play'", "probe lab --help"]),
        (["explain", "SIP101", "SIP102"], ["unexpected extra argument", "probe explain --help"]),
        (["analyze"], ["nothing to analyze", "--tap KIND:NODE/INTERFACE=FILE"]),
        (["analyze", "dir", "--tap", "nic:a/b=c"], ["either them or the DIR"]),
        (["explain", "SIP1001"], ["no finding SIP1001", "did you mean", "probe explain"]),
        (["explain", "\x1b]0;owned\x07"], [r"\x1b]0;owned\x07"]),
    ],
)
def test_a_wrong_command_line(probe: Probe, arguments: list[str], words: list[str]) -> None:
    probe(*arguments).complains(2, *words)


def test_the_kubectl_plugin_names_itself_as_kubectl_does(
    probe: Probe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from probe import cli

    monkeypatch.setattr("sys.argv", ["/usr/local/bin/kubectl-client_ip", "demo", "--bogus"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "see 'kubectl client-ip demo --help'" in capsys.readouterr().err


# ── --tap, --conntrack, --objects, --service ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tap", "what"),
    [
        ("eth0.pcap", "there is no =FILE"),
        ("node1/eth0=a.pcap", "there is no KIND: before the node"),
        ("nic:eth0=a.pcap", "there is no /INTERFACE"),
        ("ethernet:node1/eth0=a.pcap", "there is no kind of tap 'ethernet'"),
        ("nic:/eth0=a.pcap", "the node is empty"),
        ("nic:node1/=a.pcap", "the interface is empty"),
        ("nic:node1/eth0=", "the file is empty"),
    ],
)
def test_a_wrong_tap_is_spelled_out(probe: Probe, tap: str, what: str) -> None:
    probe("analyze", "--tap", tap).complains(
        2, tap, what, "for instance --tap nic:node1/eth0=node1-eth0.pcap"
    )


def test_a_capture_that_is_not_there(probe: Probe, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pcap"
    probe("analyze", "--tap", f"nic:node1/eth0={missing}").complains(2, str(missing), "No such file")


def test_a_capture_that_is_a_folder(probe: Probe, tmp_path: Path) -> None:
    probe("analyze", "--tap", f"nic:node1/eth0={tmp_path}").complains(2, str(tmp_path), "directory")


def test_a_capture_that_may_not_be_read(tmp_path: Path) -> None:
    capture = pcap(tmp_path / "secret.pcap")
    capture.chmod(0)
    process = start("analyze", "--tap", f"nic:node1/eth0={capture}", mortal=True)
    ended(process).complains(5, str(capture), "Permission denied")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"#!/bin/sh\necho hello\n", ["not a pcap"]),
        (b"\x1f\x8b\x08\x00" + bytes(20), ["gunzip"]),
        (bytes.fromhex("d4c3b2a1 0200"), ["truncated"]),
    ],
)
def test_a_capture_that_is_none(probe: Probe, tmp_path: Path, content: bytes, words: list[str]) -> None:
    capture = tmp_path / "capture.pcap"
    capture.write_bytes(content)
    probe("analyze", "--tap", f"nic:node1/eth0={capture}").complains(2, str(capture), *words)


def test_a_capture_of_another_link_type(probe: Probe, tmp_path: Path) -> None:
    capture = pcap(tmp_path / "usb.pcap", b"\x00" * 64, link=USB)
    probe("analyze", "--tap", f"nic:node1/eth0={capture}").complains(
        2, str(capture), "link type 220", "Ethernet"
    )


def test_a_truncated_capture_is_judged_as_far_as_it_goes_and_never_looks_whole(
    probe: Probe, tmp_path: Path
) -> None:
    capture = pcap(tmp_path / "cut.pcap", syn(), syn(port=40113))
    capture.write_bytes(capture.read_bytes()[:-7])
    ending = probe("analyze", "--tap", f"nic:node1/eth0={capture}", "-o", "json")
    assert ending.code == 4
    assert ending.json["capture"]["complete"] is False
    assert any("cut.pcap" in reason and "middle" in reason for reason in ending.json["capture"]["reasons"])


def test_an_empty_capture_is_inconclusive_and_says_why(probe: Probe, tmp_path: Path) -> None:
    capture = pcap(tmp_path / "idle.pcap")
    ending = probe("analyze", "--tap", f"nic:node1/eth0={capture}", "-o", "json")
    assert ending.code == 4
    assert ending.json["capture"]["complete"] is False
    assert any("holds a packet" in reason for reason in ending.json["capture"]["reasons"])


def test_one_file_cannot_be_two_taps(probe: Probe, tmp_path: Path) -> None:
    capture = pcap(tmp_path / "a.pcap", syn())
    taps = ["--tap", f"nic:node1/eth0={capture}", "--tap", f"bridge:node1/cni0={tmp_path}/./a.pcap"]
    probe("analyze", *taps).complains(2, "given for two taps", "nic:node1/eth0", "bridge:node1/cni0")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("kind: List", ["not JSON", "kubectl get"]),
        ("[" * 100_000, ["not JSON"]),
        ('"text"', ["List"]),
        ('{"items": [{"name": "no kind"}]}', ["kind"]),
        ('{"kind": "Node", "metadata": {"name": "n"}, "spec": {"podCIDRs": "10.0.0.0/8"}}', ["podCIDRs"]),
    ],
)
def test_objects_that_are_none(probe: Probe, tmp_path: Path, content: str, words: list[str]) -> None:
    capture = pcap(tmp_path / "a.pcap", syn())
    objects = tmp_path / "objects.json"
    objects.write_text(content)
    ending = probe("analyze", "--tap", f"nic:node1/eth0={capture}", "--objects", objects)
    ending.complains(2, str(objects), *words)


def cluster(path: Path) -> Path:
    """Objects of a cluster of one node and one Service."""
    items = [
        {"kind": "Node", "metadata": {"name": "node1"}, "spec": {}, "status": {}},
        {"kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": {}},
    ]
    path.write_text(json.dumps({"kind": "List", "items": items}))
    return path


def test_a_node_that_the_objects_do_not_know(probe: Probe, tmp_path: Path) -> None:
    capture = pcap(tmp_path / "a.pcap", syn())
    objects = cluster(tmp_path / "objects.json")
    ending = probe("analyze", "--tap", f"nic:nodeX/eth0={capture}", "--objects", objects)
    ending.complains(2, "no node nodeX", "node1")


def test_a_service_that_the_objects_do_not_know(probe: Probe, tmp_path: Path) -> None:
    capture = pcap(tmp_path / "a.pcap", syn())
    objects = cluster(tmp_path / "objects.json")
    tap = f"nic:node1/eth0={capture}"
    ending = probe("analyze", "--tap", tap, "--objects", objects, "--service", "shop/cart")
    ending.complains(5, "no Service shop/cart", "default/web")


@pytest.mark.parametrize("option", ["node1", "=file", "node1="])
def test_a_wrong_conntrack_option(probe: Probe, tmp_path: Path, option: str) -> None:
    capture = pcap(tmp_path / "a.pcap", syn())
    ending = probe("analyze", "--tap", f"nic:node1/eth0={capture}", "--conntrack", option)
    ending.complains(2, "NODE=FILE", "conntrack -L")


def test_a_conntrack_file_that_is_none(probe: Probe, tmp_path: Path) -> None:
    capture = pcap(tmp_path / "a.pcap", syn())
    table = tmp_path / "table.txt"
    table.write_bytes(b"\x7fELF\x02\x01\x01 this is a program\n\x00\xff")
    ending = probe("analyze", "--tap", f"nic:node1/eth0={capture}", "--conntrack", f"node1={table}")
    ending.complains(2, str(table), "conntrack -L")


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_that_is_not_there(probe: Probe, tmp_path: Path) -> None:
    probe("analyze", tmp_path / "nothing").complains(2, "does not exist", "--record DIR")


def test_a_file_where_a_session_is_expected(probe: Probe, tmp_path: Path) -> None:
    probe("analyze", pcap(tmp_path / "a.pcap", syn())).complains(2, "not a folder", "--tap")


def test_a_folder_that_is_no_session(probe: Probe, tmp_path: Path) -> None:
    probe("analyze", tmp_path).complains(2, "not a recorded session", INDEX)


@pytest.mark.parametrize(
    "index", [b"{}", b"[]", b"\xff\xfe", b'{"format": "har", "version": 1}', b"[" * 100_000]
)
def test_a_foreign_session(probe: Probe, tmp_path: Path, index: bytes) -> None:
    (tmp_path / INDEX).write_bytes(index)
    probe("analyze", tmp_path).complains(2, INDEX, "not of a session that probe recorded")


def test_a_session_of_a_newer_probe(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"format": FORMAT, "version": VERSION + 1}))
    probe("analyze", tmp_path).complains(2, "newer probe", f"version {VERSION + 1}")


def test_a_damaged_session(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"format": FORMAT, "version": VERSION, "places": "node1"}))
    probe("analyze", tmp_path).complains(2, INDEX, "damaged", "places")


def test_a_whole_session_on_which_nothing_happened(probe: Probe, tmp_path: Path) -> None:
    ending = probe("analyze", session(tmp_path / "s"), "-o", "json")
    assert ending.code == 4
    assert ending.json["title"] == "nothing happened"
    assert ending.json["capture"]["complete"] is True


def test_a_session_that_was_cut_off_never_looks_whole(probe: Probe, tmp_path: Path) -> None:
    ending = probe("analyze", session(tmp_path / "s", finish=False), "-o", "json")
    assert ending.code == 4
    assert ending.json["capture"]["complete"] is False
    assert any("cut off" in reason for reason in ending.json["capture"]["reasons"])


@pytest.mark.parametrize("keep", [0, 3, 20, -1])
def test_a_session_with_a_shorter_stream_never_looks_whole(probe: Probe, tmp_path: Path, keep: int) -> None:
    stream = session(tmp_path / "s") / "node1.probe"
    stream.write_bytes(stream.read_bytes()[:keep])
    ending = probe("analyze", tmp_path / "s", "-o", "json")
    assert ending.code == 4
    assert ending.json["capture"]["complete"] is False


def test_a_session_without_one_of_its_streams_never_looks_whole(probe: Probe, tmp_path: Path) -> None:
    (session(tmp_path / "s") / "node1.probe").unlink()
    ending = probe("analyze", tmp_path / "s", "-o", "json")
    assert ending.code == 4
    assert ending.json["capture"]["complete"] is False
    assert any("node1" in reason for reason in ending.json["capture"]["reasons"])


@pytest.mark.parametrize(
    "content",
    [
        b"not a stream at all",
        PREAMBLE.pack(b"SIPOBS", SCHEMA_VERSION + 1),
        PREAMBLE.pack(b"SIPOBS", SCHEMA_VERSION) + b"\xff" * 64,
    ],
)
def test_a_session_with_a_foreign_stream_never_looks_whole(
    probe: Probe, tmp_path: Path, content: bytes
) -> None:
    (session(tmp_path / "s") / "node1.probe").write_bytes(content)
    ending = probe("analyze", tmp_path / "s", "-o", "json")
    assert ending.code == 4
    assert ending.json["capture"]["complete"] is False


def test_recording_never_mixes_with_what_is_in_a_folder(tmp_path: Path) -> None:
    from probe.errors import UsageError

    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        SessionFolder(tmp_path, Meta())
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
