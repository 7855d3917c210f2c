"""Many nodes: every stream on one thread."""

from __future__ import annotations

from pathlib import Path

from daemonset.observation import PACKET
from tests.cluster.agents import nodes, scripted_agent, web_service
from tests.cluster.conftest import Stage
from tests.cluster.double import Double, Faults
from tests.cluster.double.double import namespaces
from tests.cluster.double.execution import ScriptExecutor

MANY = 120


def rows(_node: str) -> bytes:
    """A hundred packets that say nothing."""
    return bytes(PACKET.size * 100)


def test_many_streams_take_no_thread_each(tmp_path: Path) -> None:
    names = [f"node{number}" for number in range(1, MANY + 1)]
    objects = [*namespaces("default", "kube-system"), *nodes(*names), *web_service()]
    faults = Faults()
    with Double(objects, ScriptExecutor(scripted_agent(faults, rows)), faults) as double:
        stage = Stage(double, tmp_path)
        running = stage.start("capture", "svc/web", "--duration", "60s", "-o", "json")
        running.until(f"on {MANY} nodes; watching")
        threads = len(list(Path(f"/proc/{running.process.pid}/task").iterdir()))
        running.interrupt()
        ending = running.ending()
        stage.close()
        assert len(ending.json["capture"]["nodes"]) == MANY
        assert ending.json["capture"]["observations"] == MANY * 100
        assert threads < 20, f"{threads} threads for {MANY} streams"
        assert double.left() == []
