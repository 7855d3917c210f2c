"""What happens to a capture that is under way: signals, kills, streams that break; and the way back to clean."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cluster.conftest import Stage
from tests.cluster.running import Running
from tests.cluster.test_refusals import incomplete

WATCH = ("capture", "svc/web", "--duration", "60s", "-o", "json")


def watching(stage: Stage, *more: str | Path) -> Running:
    running = stage.start(*WATCH, *more)
    running.until("watching for")
    return running


def test_ctrl_c_ends_the_watching_and_reports(stage: Stage) -> None:
    running = watching(stage)
    assert len(stage.double.left()) >= 3, "the agents are there"
    running.interrupt()
    ending = running.ending()
    assert ending.json["capture"]["complete"] is True, ending.err
    assert stage.double.left() == []


def test_a_second_ctrl_c_gives_up_and_still_cleans_up(stage: Stage) -> None:
    stage.faults.deaf = {"node1", "node2", "node3"}  # agents do not hear that they are to end
    running = watching(stage)
    running.interrupt()
    running.until("collecting what the agents saw")
    running.interrupt()
    ending = running.ending()
    assert (ending.code, ending.out) == (130, ""), ending.err
    assert stage.double.left() == []


def test_sigterm_cleans_up_and_reports_nothing(stage: Stage) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        running = watching(stage)
        running.interrupt(number)
        ending = running.ending()
        assert (ending.code, ending.out) == (130, ""), ending.err
        assert stage.double.left() == []


def test_an_interruption_while_pods_are_awaited_cleans_up(stage: Stage) -> None:
    stage.faults.pods = {"node2": "unschedulable"}
    running = stage.start(*WATCH)
    running.until("2 of 3 run")
    running.interrupt()
    assert running.ending().code == 130
    assert stage.double.left() == []


def test_what_a_killed_capture_left_is_told_by_the_next_and_removed(stage: Stage) -> None:
    killed = watching(stage)
    killed.interrupt(signal.SIGKILL)
    killed.ending()
    left = stage.double.left()
    assert len(left) >= 3
    session = next(name for name in left if name.startswith("daemonsets/")).rpartition("-")[2]

    ending = stage.start("capture", "svc/web", "--duration", "1s", "-o", "json").ending()
    assert f"session {session}" in ending.err
    assert "`probe cleanup` removes it" in ending.err
    assert sorted(stage.double.left()) == sorted(left), "another session's objects are not touched"

    told = stage.start("cleanup", "--dry-run").ending()
    assert f"would remove daemonsets/client-ip-probe-{session}" in told.out
    assert sorted(stage.double.left()) == sorted(left)

    assert "nothing is left" in stage.start("cleanup", "--session", "another").ending().out
    cleaned = stage.start("cleanup").ending()
    assert cleaned.code == 0, cleaned.err
    assert f"removed daemonsets/client-ip-probe-{session}" in cleaned.out
    assert stage.double.left() == []

    again = stage.start("cleanup").ending()
    assert (again.code, again.out) == (0, "nothing is left on the cluster\n")


def test_what_is_kept_stays_until_it_is_cleaned_up(stage: Stage) -> None:
    ending = stage.start("capture", "svc/web", "--duration", "1s", "--keep", "-o", "json").ending()
    assert ending.json["capture"]["complete"] is True
    assert "kept on the cluster" in ending.err
    assert any(name.startswith("daemonsets/") for name in stage.double.left())
    assert stage.start("cleanup").ending().code == 0
    assert stage.double.left() == []


def test_a_standing_installation_is_no_leftover(stage: Stage) -> None:
    labels = {"app.kubernetes.io/name": "client-ip-probe", "app.kubernetes.io/managed-by": "probe"}
    body = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "client-ip-probe", "labels": labels},
    }
    stage.double.call(lambda: stage.double.store.create(("v1", "namespaces"), body))
    assert "nothing is left" in stage.start("cleanup").ending().out
    assert "client-ip-probe" in {
        each["metadata"]["name"] for each in stage.double.objects("v1", "namespaces")
    }


def test_a_namespace_that_does_not_go_is_named_with_its_reason(stage: Stage) -> None:
    stage.faults.stuck = True
    watching(stage).interrupt(signal.SIGKILL)
    from probe.cluster.cleanup import find, remove
    from probe.cluster.client import Api

    with Api.connect(stage.kubeconfig) as api:
        items = [item for left in find(api) for item in left.items]
        troubles = remove(api, items, lambda _text: None, within=0.0)
    assert [[item.resource.plural for item in trouble.items] for trouble in troubles] == [["namespaces"]]
    assert "still being deleted" in troubles[0].why


def test_a_server_that_is_gone_for_good_is_told_once_and_not_asked_for_each_object(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching(stage).interrupt(signal.SIGKILL)
    from probe.cluster import cleanup, client
    from probe.cluster.client import Api

    said: list[str] = []
    with Api.connect(stage.kubeconfig) as api:
        items = [item for left in cleanup.find(api) for item in left.items]
    assert len(items) >= 3
    monkeypatch.setattr(cleanup, "ASK_WITHIN", 0.5)
    monkeypatch.setattr(client, "RETRY_AFTER", ())
    with Api.connect(stage.kubeconfig, "elsewhere") as gone:
        (trouble,) = cleanup.remove(gone, items, said.append, within=0.0)
    assert set(trouble.items) == set(items)
    assert f"and {len(items) - 1} more: the cluster's API server" in str(trouble)
    assert "cannot be reached" in trouble.why
    assert any("does not answer; asking it for" in line for line in said)


def test_a_stream_that_drops_makes_the_capture_incomplete(stage: Stage) -> None:
    running = watching(stage)
    stage.double.call(lambda: stage.double.server.drop("node2"))
    running.interrupt()
    incomplete(running.ending(), "node2: the stream broke off")
    assert stage.double.left() == []


def test_a_server_that_goes_away_with_all_streams_makes_the_capture_incomplete(stage: Stage) -> None:
    running = watching(stage)
    for node in ("node1", "node2", "node3"):
        stage.double.call(lambda node=node: stage.double.server.drop(node))
    stage.faults.unavailable = 3  # it comes back after a while
    running.interrupt()
    broken = [f"{node}: the stream broke off" for node in ("node1", "node2", "node3")]
    incomplete(running.ending(), *broken)
    assert stage.double.left() == [], "what was placed before is taken away after"


def test_a_pod_that_is_evicted_is_named_with_its_reason(stage: Stage, tmp_path: Path) -> None:
    running = watching(stage, "--record", tmp_path / "session")
    stage.double.evict("node2")
    running.interrupt()
    live = running.ending()
    incomplete(live, "pod on node2 did not stay: Evicted: The node was low on resource: memory.")
    later = stage.start_plain("analyze", tmp_path / "session", "-o", "json")
    assert later.json == live.json, "what was known of the stream then is known later"


def test_a_watch_that_is_too_old_or_ends_begins_anew(stage: Stage) -> None:
    stage.faults.gone, stage.faults.watch_events = 1, 1
    stage.faults.pods = {"node2": "not-ready"}  # somebody is waited for until there were two watches
    running = stage.start("capture", "svc/web", "--duration", "1s", "-o", "json")

    def watches() -> int:
        return stage.double.server.requests.count(("watch", "pods"))

    stage.double.until(lambda: watches() >= 2)
    stage.double.call(lambda: stage.double.nodes.run(stage.double.pod_on("node2")))
    ending = running.ending()
    assert ending.json["capture"]["complete"] is True, ending.err
    assert watches() >= 2


def test_a_server_that_restarts_is_asked_again(stage: Stage) -> None:
    stage.faults.unavailable, stage.faults.exec_errors = 2, 2
    ending = stage.start("capture", "svc/web", "--duration", "1s", "-o", "json").ending()
    assert ending.json["capture"]["complete"] is True, ending.err


def test_an_older_server_that_cannot_close_a_channel_alone(stage: Stage) -> None:
    stage.faults.protocols = ("v4.channel.k8s.io",)
    ending = stage.start("capture", "svc/web", "--duration", "1s", "-o", "json").ending()
    assert ending.json["capture"]["complete"] is True, ending.err


def test_clocks_that_differ_are_kept_with_the_session(stage: Stage, tmp_path: Path) -> None:
    stage.faults.clocks = {"node2": 5_000_000_000, "node3": -90_000_000_000}
    running = watching(stage, "--record", tmp_path / "session")
    running.interrupt()
    running.ending()
    clocks = json.loads((tmp_path / "session" / "session.json").read_text())["clocks"]
    assert clocks["node1"]["least"] <= 0 <= clocks["node1"]["most"]
    assert clocks["node2"]["least"] <= 5_000_000_000 <= clocks["node2"]["most"]
    assert clocks["node3"]["least"] <= -90_000_000_000 <= clocks["node3"]["most"]
    assert all(clock["most"] - clock["least"] < 4_000_000_000 for clock in clocks.values())


def test_a_stream_that_is_slow_is_still_whole(stage: Stage) -> None:
    stage.faults.slow = {"node2": 0.3}
    running = watching(stage)
    running.interrupt()
    ending = running.ending()
    assert ending.json["capture"]["complete"] is True, ending.err
