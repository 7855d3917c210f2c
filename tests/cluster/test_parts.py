"""The parts that need no server: clocks, durations, channels, pods' states, ports, signals, configurations."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.facts import Endpoint, Facts, Service, ServicePort
from analysis.recording import RecordingBuilder
from daemonset.observation import NAT, PACKET, Bye, Hello, Loss, Tap, TapKind, Taps
from daemonset.wire import PacketRows, Writer
from probe.cluster import channels
from probe.cluster.capturing import watched_ports
from probe.cluster.counting import Counts
from probe.cluster.durations import age_text, parse_duration, seconds_text
from probe.cluster.interrupts import Terminated, deferred, termination
from probe.cluster.kubeconfig import load_access
from probe.cluster.pods import Stage, complaint_about, fate_of, node_of, not_ready, state_of, unfit
from probe.cluster.resolve import Gathered
from probe.cluster.timing import Clock, ClockGauge
from probe.errors import UnavailableError
from probe.sessions.session import _Follower
from probe.sessions.spool import Spool

Json = dict[str, Any]
MS = 1_000_000
HOUR = 3600 * 1_000_000_000

# ── clocks ───────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    ahead=st.integers(-HOUR, HOUR),
    trips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=8),
)
def test_what_a_gauge_says_of_a_steady_clock_is_true(ahead: int, trips: list[tuple[int, int]]) -> None:
    gauge = ClockGauge()
    now = 1_760_000_000 * 1_000_000_000
    for there, back in trips:
        gauge.exchanged(now, now + there + ahead, now + there + back)
        now += there + back
    clock = gauge.clock
    assert clock is not None
    assert clock.least <= ahead <= clock.most
    assert clock.most - clock.least == min(there + back for there, back in trips) or len(trips) > 1
    assert abs(clock.ahead - ahead) <= clock.doubt
    assert not clock.was_set


def test_clocks_that_may_agree_are_left_alone() -> None:
    gauge = ClockGauge()
    assert gauge.clock is None
    gauge.exchanged(100 * MS, 130 * MS, 180 * MS)
    assert gauge.clock is not None
    assert gauge.clock.ahead == 0
    assert str(gauge.clock) == "agrees with ours (±50 ms)"


def test_a_clock_that_was_set_in_between_is_told() -> None:
    gauge = ClockGauge()
    gauge.exchanged(0, 1 * MS, 2 * MS)
    gauge.exchanged(10 * MS, 5011 * MS, 12 * MS)
    assert gauge.clock is not None
    assert gauge.clock.was_set
    assert gauge.clock.ahead == 5000 * MS
    assert str(gauge.clock) == "is 5.0 s ahead of ours (±1 ms)"


def test_our_own_clock_set_back_says_nothing() -> None:
    gauge = ClockGauge()
    gauge.exchanged(1000, 1500, 10)
    assert gauge.clock is None


# ── durations ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400), (" 2m ", 120)],
)
def test_durations_are_read_as_kubectl_writes_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-3s", "1d", "3 0s", "1e9", "nan", "٣s", "99999999999s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


def test_times_are_told_in_one_unit() -> None:
    assert [seconds_text(each) for each in (0, 1_500_000, -2 * 10**9, HOUR)] == [
        "0.0 ms",
        "2 ms",
        "2.0 s",
        "60 min",
    ]
    assert [age_text(each) for each in (-1, 59, 600, 8000, 999_999)] == ["0s", "59s", "10m", "2h", "11d"]


# ── channels ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_messages_carry_their_channel() -> None:
    assert channels.pack(channels.STDIN, b".") == b"\x00."
    assert channels.close_of(channels.STDIN) == b"\xff\x00"
    assert channels.unpack(b"\x01abc") == (1, b"abc")
    assert channels.unpack(b"\x01") == (1, b"")
    assert channels.unpack(b"") == (-1, b"")


def test_how_a_command_ended() -> None:
    status = {
        "status": "Failure",
        "message": "no",
        "details": {"causes": [{"reason": "ExitCode", "message": "5"}]},
    }
    assert channels.ended(json.dumps(status).encode()) == channels.Ended(5, "no")
    assert channels.ended(b'{"status": "Success"}') == channels.Ended(0)
    assert channels.ended(b"broken pipe").code is None


@given(st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(msgspec.json.encode))
def test_any_end_is_understood_or_quoted(data: bytes) -> None:
    ended = channels.ended(data)
    assert ended.code is None or 0 <= ended.code < 100_000
    assert "\n" not in ended.message


# ── pods ─────────────────────────────────────────────────────────────────────────────────────────────────────


def pod(**status: Any) -> Json:
    return {"metadata": {"name": "p"}, "spec": {}, "status": status}


def waiting(reason: str, message: str = "", before: Json | None = None) -> Json:
    state = {"waiting": {"reason": reason, "message": message}}
    last = {"lastState": {"terminated": before}} if before is not None else {}
    return pod(phase="Pending", containerStatuses=[{"image": "a/b:1", "state": state, **last}])


STARTED_BADLY = {
    "reason": "StartError",
    "exitCode": 128,
    "message": 'failed to create containerd task: exec: "python3": exec format error',
}
NO_PLATFORM = "failed to pull and unpack image: no match for platform in manifest: not found"


@pytest.mark.parametrize(
    ("body", "stage", "words"),
    [
        (pod(phase="Running", conditions=[{"type": "Ready", "status": "True"}]), Stage.READY, ""),
        (pod(phase="Running", conditions=[{"type": "Ready", "status": "False"}]), Stage.WAITING, "running"),
        (pod(), Stage.WAITING, "pending"),
        (waiting("ContainerCreating"), Stage.WAITING, "being made"),
        (waiting("ErrImagePull", "not found"), Stage.WAITING, "cannot be pulled yet: not found"),
        (waiting("ImagePullBackOff", "401"), Stage.HOPELESS, "cannot be pulled (a/b:1): 401; check --image"),
        (waiting("CrashLoopBackOff"), Stage.HOPELESS, "again and again"),
        (
            waiting("CrashLoopBackOff", "back-off 10s", STARTED_BADLY),
            Stage.HOPELESS,
            "StartError (exit code 128)",
        ),
        (waiting("CrashLoopBackOff", "back-off 10s", STARTED_BADLY), Stage.HOPELESS, "this node's processor"),
        (waiting("ImagePullBackOff", NO_PLATFORM), Stage.HOPELESS, "this node's processor"),
        (waiting("SomethingNew", "why"), Stage.WAITING, "SomethingNew: why"),
        (pod(phase="Failed", reason="Evicted", message="disk"), Stage.WAITING, "Evicted: disk"),
        ({**pod(phase="Running"), "metadata": {"deletionTimestamp": "t"}}, Stage.WAITING, "being deleted"),
    ],
)
def test_the_state_of_a_pod(body: Json, stage: Stage, words: str) -> None:
    state = state_of(body)
    assert state.stage is stage
    assert words in state.reason


def test_why_a_pod_ended() -> None:
    killed = {"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
    assert fate_of(pod(containerStatuses=[killed])) == "its container was ended: OOMKilled (exit code 137)"
    disrupted = {"type": "DisruptionTarget", "status": "True", "message": "node is drained"}
    assert fate_of(pod(conditions=[disrupted])) == "node is drained"
    assert fate_of(pod(phase="Running")) == ""


def test_which_node_a_pod_is_for_and_which_nodes_take_none() -> None:
    field = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    terms = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [field]}}
    assert node_of({"spec": {"affinity": {"nodeAffinity": terms}}}) == "n1"
    assert node_of({"spec": {"nodeName": "n2"}}) == "n2"
    assert node_of({}) is None
    assert "Windows" in str(unfit({"status": {"nodeInfo": {"operatingSystem": "windows"}}}))
    assert "virtual" in str(unfit({"metadata": {"labels": {"type": "virtual-kubelet"}}}))
    assert unfit({}) is None
    assert not_ready({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}) is None
    unknown = {"type": "Ready", "status": "Unknown", "message": "stopped posting"}
    assert "stopped posting" in str(not_ready({"status": {"conditions": [unknown]}}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
PODS = st.fixed_dictionaries(
    {},
    optional={
        "metadata": JSON,
        "spec": JSON,
        "status": JSON
        | st.fixed_dictionaries({}, optional={"phase": JSON, "containerStatuses": JSON, "conditions": JSON}),
    },
)


@given(PODS)
def test_a_pod_of_any_shape_has_a_state(body: Json) -> None:
    assert state_of(body).stage in Stage
    node_of(body)
    fate_of(body)
    unfit(body)
    not_ready(body)
    complaint_about([body], "Pod", "p")


# ── ports, counts ────────────────────────────────────────────────────────────────────────────────────────────


def gathered() -> Gathered:
    service = Service(
        "default",
        "web",
        ports=(ServicePort("http", "tcp", 80, 30080), ServicePort("https", "tcp", 443, 30443)),
        endpoints=(Endpoint("10.0.0.1", 8080, "tcp", "http"), Endpoint("10.0.0.1", 8443, "tcp", "https")),
    )
    return Gathered({}, Facts(services=(service,)), service, (80, 443, 8080, 8443, 30080, 30443), ())


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ((), (80, 443, 8080, 8443, 30080, 30443)),
        ((443,), (443, 8443, 30443)),
        ((30080,), (80, 8080, 30080)),
        ((8080, 9000), (80, 8080, 9000, 30080)),
    ],
)
def test_a_port_stands_for_the_same_one_on_all_sides_of_nat(
    only: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert watched_ports(gathered(), only) == expected


def test_connections_are_counted_once_wherever_they_are_seen() -> None:
    rows = np.zeros(4, dtype=PACKET.dtype())
    rows["protocol"], rows["flags"], rows["seq"] = 6, [2, 2, 18, 2], [7, 7, 9, 8]
    counts = Counts(flows=2, packets=100)
    counts.take("n1", PacketRows(rows.tobytes()))
    counts.take("n2", PacketRows(rows.tobytes()))
    counts.take("n2", Loss(0, 10, 3))
    assert (counts.flows, counts.packets, counts.dropped, counts.limit) == (2, 8, 3, "2 connections")
    assert str(counts) == "2 connections, 8 packets on 2 nodes, 3 dropped by kernels"
    counts = Counts(flows=9, packets=4)
    assert counts.limit is None
    counts.take("n1", PacketRows(rows.tobytes()))
    assert counts.limit == "4 packets"


# ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_signal_waits_until_what_must_be_done_is_done() -> None:
    done = []

    def clean_up() -> None:
        with deferred():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            done.append("all")

    with termination(), pytest.raises(KeyboardInterrupt):
        clean_up()
    assert done == ["all"]


def test_being_told_to_end_is_an_interruption() -> None:
    with termination(), pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)


# ── configurations ───────────────────────────────────────────────────────────────────────────────────────────


def kubeconfig(folder: Path, user: Json, name: str = "config") -> Path:
    body = {
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1/"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
    }
    path = folder / name
    path.write_text(json.dumps(body))
    return path


def token_of(path: Path) -> str:
    configuration = asyncio.run(load_access(path, None).configuration())
    return str(configuration.api_key.get("BearerToken"))


def test_context_namespace_and_token_are_read(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": "abc"})
    access = load_access(path, None)
    assert (access.context, access.namespace, access.server) == ("here", "shop", "http://127.0.0.1:1")
    assert token_of(path) == "Bearer abc"


def test_several_files_are_joined_and_a_missing_one_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kubeconfig(tmp_path, {"token": "abc"})
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join([str(tmp_path / "none"), str(path)]))
    assert load_access(None, "here").namespace == "shop"


def plugin(folder: Path, script: str) -> Json:
    file = folder / "plugin"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(file)}}


def test_a_plugin_gives_the_token(tmp_path: Path) -> None:
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "t1"},
    }
    assert token_of(kubeconfig(tmp_path, plugin(tmp_path, f"echo '{json.dumps(answer)}'"))) == "Bearer t1"


@pytest.mark.parametrize("script", ["echo no session >&2; exit 1", "echo '{'", "echo '{}'"])
def test_a_plugin_that_fails_is_told(tmp_path: Path, script: str) -> None:
    with pytest.raises(UnavailableError, match="log in"):
        token_of(kubeconfig(tmp_path, plugin(tmp_path, script)))


def test_a_plugin_that_is_not_installed_is_told(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(tmp_path / "none")}}
    with pytest.raises(UnavailableError, match="log in"):
        token_of(kubeconfig(tmp_path, user))


# ── clocks, put right ────────────────────────────────────────────────────────────────────────────────────────


@given(ahead=st.integers(-HOUR, HOUR), when=st.integers(10**18, 2 * 10**18))
def test_times_of_a_stream_are_put_right_by_what_is_known_of_its_clock(ahead: int, when: int) -> None:
    table, record = np.zeros(1, dtype=PACKET.dtype()), np.zeros(1, dtype=NAT.dtype())
    table["time"] = record["time"] = when + ahead
    stream: list[bytes] = []
    writer = Writer(stream.append)
    writer.message(Hello("n1"))
    writer.message(Taps((Tap("n1", TapKind.NIC, "eth0"),)))
    writer.packets(table.tobytes())
    writer.nat(record.tobytes())
    writer.message(Bye(""))
    builder = RecordingBuilder()
    with Spool() as spool:
        follower = _Follower(Silent(), spool.stream())
        follower.take(b"".join(stream))
        follower.over(None)
        follower.pour(builder, Clock(ahead, ahead))
    recording = builder.build()
    assert recording.packets["time"].tolist() == recording.nat["time"].tolist() == [when]
    assert follower.lack is None


class Silent:
    """An agent of which only the name counts."""

    place = "n1"

    def read(self) -> bytes:
        return b""

    def stop(self) -> None: ...

    def close(self) -> str | None:
        return None
