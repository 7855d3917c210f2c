"""An agent that is refused memory tells what it lacks, or ends without a goodbye: its stream never looks whole."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP

from daemonset.node import namespaces
from daemonset.observation import Bye, Gap, Loss
from daemonset.taps import sniffer
from daemonset.taps.namespaces import Watch
from daemonset.taps.ring import FRAMES
from daemonset.taps.sniffer import Hub
from daemonset.wire import TruncatedError
from tests.agent.scene import Scene, scene, why_not
from tests.agent.test_agent import PATIENCE, Agent, add_pod, start
from tests.agent.test_odd_network import client_speaks, frames

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def node() -> Iterator[Scene]:
    """A node, and a client at the other end of a cable."""
    with scene() as made:
        client = made.add("client")
        made.ip("link set lo up", f"link add name eth0 type veth peer name eth0 netns {client}")
        made.ip("addr add 10.0.0.1/24 dev eth0", "link set eth0 up")
        made.ip("link set eth0 up", name="client")
        made.ip("link add name br0 type bridge", "link set br0 up")
        yield made


@pytest.mark.parametrize("arrives", [200, FRAMES], ids=["little", "a full ring"])
def test_an_agent_that_is_given_no_more_memory_amid_a_capture(node: Scene, arrives: int) -> None:
    """It reads on in the memory that it has, and ends when it is told to; or it ends and says why."""
    agent = start(node, "--port", "80", stderr=subprocess.PIPE)
    agent.until_ready()
    pid = agent.process.pid
    assert b"daemonset.agent" in Path(f"/proc/{pid}/cmdline").read_bytes()
    resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))  # nothing more, that is
    (frame,) = frames(node, IP(src="10.0.0.2", dst="10.0.0.9") / TCP(sport=1025, dport=80, seq=77))
    client_speaks(node, "flood", "eth0", str(arrives), frame)
    add_pod(node, "late", "10.1.0.2")
    agent.process.terminate()
    code, said = ended(agent)
    if agent.of(Bye):
        assert code == 0, said
        lost = sum(loss.dropped for loss in agent.of(Loss))
        assert len(agent.packets()) + lost == arrives
    else:
        assert code == 5
        assert "there is not enough memory" in said.splitlines()[-1]
        assert "Traceback" not in said


def test_an_agent_that_is_given_no_more_memory_ends_where_nobody_reads_it_any_more(node: Scene) -> None:
    agent = start(node, "--port", "80", stderr=subprocess.PIPE)
    agent.until_ready()
    resource.prlimit(agent.process.pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))
    add_pod(node, "late", "10.1.0.2")
    assert agent.process.stdout is not None
    agent.process.stdout.close()
    assert agent.process.wait(PATIENCE) in {0, 5}
    assert agent.process.stderr is not None
    agent.process.stderr.close()


def ended(agent: Agent) -> tuple[int, str]:
    """Read all, which need not be whole; the exit code, and what was complained of."""
    with contextlib.suppress(TruncatedError):
        agent.rest()
    assert agent.process.stderr is not None
    said = agent.process.stderr.read().decode()
    agent.process.stderr.close()
    return agent.process.wait(PATIENCE), said


def test_what_cannot_be_handed_on_ends_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library that sniffs says so on stderr, and would go on without us."""
    told: list[str] = []
    hub = Hub(lambda *_: None, lambda: told.append("woken"))
    hauled: Any = {}

    class Sniffing:
        def __init__(self, prn: Any, started_callback: Any, **_: object) -> None:
            hauled["prn"] = prn
            self.started = started_callback

        def start(self) -> None:
            self.started()

    def refused(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sniffer, "AsyncSniffer", Sniffing)
    monkeypatch.setattr("daemonset.capabilities.keep_none", lambda: None)
    sniffer.start(hub, refused)
    with pytest.raises(MemoryError):
        hauled["prn"](object())
    assert isinstance(hub.error, MemoryError)
    assert told == ["woken"]
    hub.close()


def test_a_look_at_the_pods_that_fails_ends_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(lambda *_: None, lambda: None)
    watch = Watch(hub, None, None, lambda _: None)  # type: ignore[arg-type]  # it does not come to ask them

    def refused() -> None:
        raise MemoryError

    monkeypatch.setattr(watch, "_keep_looking", refused)
    watch.start()
    watch.close()
    assert isinstance(hub.error, MemoryError)
    hub.close()


def test_a_look_at_the_pods_that_comes_to_no_end_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python waits for ever for a thread that it lost as it began."""
    told: list[Gap] = []
    stuck = threading.Event()
    hub = Hub(lambda *_: None, lambda: None)
    watch = Watch(hub, None, None, told.append)  # type: ignore[arg-type]  # it does not come to ask them
    monkeypatch.setattr(watch, "_keep_looking", stuck.wait)
    monkeypatch.setattr("daemonset.taps.namespaces._END_WITHIN", 0.01)
    watch.start()
    watch.close()
    watch.close()
    stuck.set()
    watch._events.close()  # which is left to a process that ends
    os.close(watch._end)
    assert [(gap.what, gap.detail) for gap in told] == [
        ("topology", "a look at the node's pods came to no end")
    ]
    hub.close()


def test_no_thread_to_enter_a_pod_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __init__(self, **_: object) -> None:
            pass

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(namespaces.threading, "Thread", Refused)
    with pytest.raises(OSError, match="temporarily unavailable"):
        namespaces.call_inside(0, lambda: None)
