"""The tracers of one node: its own, and one in each pod that has rules of its own, for as long as the pod is there.

A pod's rules are where a load balancer inside the cluster masquerades, or a mesh redirects. A pod without tables of
nftables is left alone. What is refused is told and hinders nothing. Of rules of iptables-legacy, which no trace tells,
the counters are read instead.

May be called from any thread; sockets are closed only by the thread that polls them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from daemonset.node.legacy_counters import CountsRefusedError, LegacyCounters
from daemonset.node.nat_rules import MECHANISM, Tracer, TraceRefusedError, has_rules
from daemonset.node.nft_table import TABLE
from daemonset.node.ruleset import tables_with_rules
from daemonset.observation import RuleCounts, RuleHits, TracedRules, Tracing

#: How many pods of a node are traced at most.
MOST_PODS = 250

Tell = Callable[[Tracing | TracedRules | RuleHits | RuleCounts], None]


class Tracers:
    """Traces of `ports`, at most `packets` packets in each network namespace; what comes of it goes to `tell`."""

    def __init__(self, ports: Collection[int], packets: int, tell: Tell) -> None:
        self._ports = ports
        self._packets = packets
        self._tell = tell
        self._lock = threading.Lock()
        self._open: dict[str, Tracer] = {}
        self._gone: set[str] = set()
        self._counters: LegacyCounters | None = None
        self._in_pods: dict[str, tuple[LegacyCounters, bool]] = {}  # and whether nftables has rules there too

    def add_node(self) -> None:
        """Trace the network namespace of the calling thread, as the node's own, and begin to count there."""
        self._add("")
        try:
            self._counters = LegacyCounters()
        except CountsRefusedError as error:
            self._tell(RuleCounts(refused=str(error), time=time.time_ns()))

    def add_pod(self) -> None:
        """The same, as a pod's, if it has any rules."""
        try:
            namespace = str(Path("/proc/thread-self/ns/net").stat().st_ino)
        except OSError:
            return
        try:
            traced = has_rules()
        except (TraceRefusedError, OSError):
            traced = False  # without nftables there are no rules of it
        self._count(namespace, traced)
        if traced:
            self._add(namespace)

    def keep(self, namespaces: Collection[str]) -> None:
        """Let go of pods that are not among these: an open socket would keep their namespace alive."""
        with self._lock:
            self._gone |= {namespace for namespace in self._open if namespace and namespace not in namespaces}
            ended = [self._in_pods.pop(namespace) for namespace in self._in_pods.keys() - set(namespaces)]
        for counters, rivalled in ended:
            self._tell(_counted(counters, rivalled))
            counters.close()

    def descriptors(self) -> list[int]:
        """What is to be polled now."""
        with self._lock:
            for namespace in self._gone & self._open.keys():
                self._open.pop(namespace).close()
            self._gone.clear()
            return [tracer.fileno() for tracer in self._open.values()]

    def read(self) -> None:
        """Tell what the kernel has told since."""
        with self._lock:
            for tracer in self._open.values():
                for message in tracer.read():
                    self._tell(message)

    def finish(self) -> None:
        """Tell the rest, and how it went."""
        self.read()
        with self._lock:
            for tracer in self._open.values():
                self._tell(tracer.state())
            counted = list(self._in_pods.values())
        if self._counters:
            self._tell(_beside(self._counters.counts()))
        for counters, rivalled in counted:
            self._tell(_counted(counters, rivalled))

    def close(self) -> None:
        """Take everything away."""
        with self._lock:
            for tracer in self._open.values():
                tracer.close()
            self._open.clear()
            for counters, _ in self._in_pods.values():
                counters.close()
            self._in_pods.clear()
        if self._counters is not None:
            self._counters.close()

    def _count(self, namespace: str, rivalled: bool) -> None:
        """Begin to count in a pod, the calling thread's network namespace, if it has rules of iptables-legacy."""
        try:
            counters = LegacyCounters(namespace)
        except CountsRefusedError:
            return
        with self._lock:
            if counters and namespace not in self._in_pods and len(self._in_pods) < MOST_PODS:
                self._in_pods[namespace] = (counters, rivalled)
                return
        counters.close()

    def _add(self, namespace: str) -> None:
        with self._lock:
            if len(self._open) > MOST_PODS or namespace in self._open:
                return
            try:
                tracer = Tracer(self._ports, self._packets, namespace)
            except (TraceRefusedError, OSError) as error:
                refused = str(error)
                self._tell(Tracing(namespace, MECHANISM, refused, self._packets, time=time.time_ns()))
                return
            self._gone.discard(namespace)
            self._open[namespace] = tracer
            self._tell(tracer.state())


def _counted(counters: LegacyCounters, rivalled: bool) -> RuleCounts:
    """What a pod's rules counted. Which tables nftables has there is not asked for; with any, it may translate too."""
    rivals = ("nftables",) if rivalled else ()
    return msgspec.structs.replace(counters.counts(), rivals=rivals, rival_nat=rivalled)


def _beside(counts: RuleCounts) -> RuleCounts:
    """The same with the tables of nftables that packets pass as well, in the namespace of the calling thread."""
    try:
        rivals, translates = tables_with_rules(TABLE)
    except (TraceRefusedError, OSError):
        return counts  # there is no nftables
    return msgspec.structs.replace(counts, rivals=rivals, rival_nat=translates)
