"""Taps on a node that changes: sockets inside the pods' network namespaces, and the names of interfaces.

eBPF datapaths hand packets to a pod without passing the host end of its veth, so each pod is listened to from
inside: a thread enters its network namespace, opens a socket and ends; the socket stays (call_inside). An open
socket keeps a namespace alive, so one that nobody else is in any more has to be let go.

    Watch ── looks twice a second which namespaces there are ──▶ survey ──▶ Hub.add / Hub.remove
          └─ is woken by rtnetlink when links or addresses change

Rules of this file:

1. Pods are found by `node.topology`, which knows them by their link to us; nothing here guesses.
2. A pod that cannot be entered is a `Gap`, never an error: the node's own taps go on.
3. A look costs a stat() for each process; only when something changed is the topology read again.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from daemonset.node import topology
from daemonset.node.namespaces import call_inside
from daemonset.node.topology import Survey
from daemonset.observation import Gap, Interface, PodNamespace, Tap, TapKind, Topology
from daemonset.taps.ring import PacketSource
from daemonset.taps.sniffer import Hub

_LOOK_EVERY = 0.5  # seconds
_END_WITHIN = 5.0  # seconds in which a look that is not wanted any more ends
_SETTLE = 0.1  # a new pod's links and addresses come in several events
_LINKS_AND_ADDRESSES = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR (linux/rtnetlink.h)
_NO_PROCESSES = Path("/proc/self/attr")  # a folder that names none
_LOOPBACK_INDEX = 1
_NUMBER = re.compile(r"\d+")
_MOST_GAPS = 1000

#: Called with a tap that was not known before; answers with its index.
Announce = Callable[[Tap], int]


class NodeTaps:
    """Which tap an interface is, for every namespace that is listened to. May be asked from any thread."""

    def __init__(self, node: str, role: TapKind, announce: Announce) -> None:
        self._node = node
        self._role = role  # what the NIC is called
        self._announce = announce
        self._topology = Topology()
        self._indices: dict[tuple[str, int], tuple[Tap | None, int | None]] = {}
        self._lock = threading.Lock()

    def learn(self, found: Topology) -> dict[int, int | None]:
        """Name the node's own interfaces, announce new taps. Answers with the taps by interface index."""
        self._topology = found
        return {
            interface.index: self._index("", interface.index, self._node_tap(interface))
            for interface in found.interfaces
        }

    def learn_pod(self, pod: PodNamespace, interfaces: dict[int, str]) -> dict[int, int | None]:
        """The same for a pod whose interfaces are given by index."""
        return {
            index: self._index(pod.namespace, index, self._pod_tap(pod.namespace, name, pod.addresses))
            for index, name in interfaces.items()
            if index != _LOOPBACK_INDEX
        }

    def find(self, namespace: str, ifindex: int) -> int | None:
        """The tap of an interface that a packet came from, looking it up where it is new."""
        with self._lock:
            if (known := self._indices.get((namespace, ifindex))) is not None:
                return known[1]
        if namespace:
            name = f"interface {ifindex}"  # it appeared in the pod after the socket
            return self._index(namespace, ifindex, self._pod_tap(namespace, name, ()))
        with contextlib.suppress(OSError):
            self.learn(topology.survey(proc=_NO_PROCESSES, named=_NO_PROCESSES / "none").topology)
        with self._lock:
            if (known := self._indices.get((namespace, ifindex))) is not None:
                return known[1]
        # Gone again, or down: a tap of the commonest kind is better than packets without a place.
        unknown = Tap(self._node, TapKind.VETH, f"interface {ifindex}")
        return self._index(namespace, ifindex, unknown)

    def forget(self, namespace: str) -> None:
        """A namespace has gone; its number may come back as another's."""
        with self._lock:
            for key in [key for key in self._indices if key[0] == namespace]:
                del self._indices[key]

    def _index(self, namespace: str, ifindex: int, tap: Tap | None) -> int | None:
        """A tap keeps its index until its kind or name turns out to be another."""
        with self._lock:
            before, index = self._indices.get((namespace, ifindex), (None, None))
            if tap is not None and (
                before is None or (before.kind, before.interface) != (tap.kind, tap.interface)
            ):
                index = self._announce(tap)
            elif tap is None:
                index = None
            self._indices[namespace, ifindex] = tap, index
            return index

    def _node_tap(self, interface: Interface) -> Tap | None:
        kind = topology.classify(interface, self._topology)
        if kind is None:
            return None
        addresses = tuple(address.partition("/")[0] for address in interface.addresses)
        return Tap(self._node, self._role if kind is TapKind.NIC else kind, interface.name, "", addresses)

    def _pod_tap(self, namespace: str, interface: str, addresses: tuple[str, ...]) -> Tap:
        return Tap(self._node, TapKind.POD, interface, namespace, addresses)


class Watch:
    """Keeps a hub's sockets in step with the pods of the node.

    `opened` makes a socket in the namespace that it is called in; `tell` takes topologies and gaps.
    """

    def __init__(
        self,
        hub: Hub,
        taps: NodeTaps,
        opened: Callable[[], PacketSource],
        tell: Callable[[Topology | Gap], None],
        *,
        pods: bool = True,
    ) -> None:
        self._hub = hub
        self._taps = taps
        self._open = opened
        self._tell = tell
        self._want_pods = pods
        self._own: dict[int, int | None] = {}
        self._known: set[str] = set()  # pods that are listened to
        self._refused: set[str] = set()  # pods that were not entered, told once
        self._told = Topology()
        self._gaps: set[tuple[str, str]] = set()
        self._inodes: frozenset[int] = frozenset()
        self._events = _subscribe()
        self._ending = False
        self._end, self._end_of_thread = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._watch, name="namespaces", daemon=True)

    def look(self) -> dict[int, int | None]:
        """Survey the node once, now. Answers with the taps of its own interfaces.

        Raises OSError, and SurveyEndedError where it is closed meanwhile.
        """
        self._inodes = _namespaces_of_processes() if self._want_pods else frozenset()
        found = (
            topology.survey(time=time.time_ns(), wanted=lambda: not self._ending)
            if self._want_pods
            else _own_survey()
        )
        if found.topology != self._told:
            self._told = found.topology
            self._tell(found.topology)
        taps = self._taps.learn(found.topology)
        if taps != self._own:
            self._own = taps
            self._hub.forget_taps("")
        for gap in found.gaps:
            self._tell_once(gap)
        self._leave({pod.namespace for pod in found.topology.pods})
        for pod in found.topology.pods:
            if pod.namespace not in self._known:
                self._enter(pod, found)
        return taps

    def start(self) -> None:
        """Look whenever something changes, in a thread of its own, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking, also in the middle of it. Where that does not come to an end, it is told as a gap."""
        if self._ending:
            return
        self._ending = True
        os.close(self._end_of_thread)
        if self._thread.ident is not None:
            # Python waits for ever for a thread that died of a lack of memory as it began.
            self._thread.join(_END_WITHIN)
        if self._thread.is_alive():
            self._tell(Gap("topology", "a look at the node's pods came to no end", time.time_ns()))
            return  # it may still use what is left
        os.close(self._end)
        self._events.close()

    def _watch(self) -> None:
        try:
            self._keep_looking()
        except Exception as error:  # whatever it is: pods that begin now would be missed in silence
            self._hub.fail(error)

    def _keep_looking(self) -> None:
        poll = select.poll()
        poll.register(self._events, select.POLLIN)
        poll.register(self._end, select.POLLIN)
        due: float | None = None  # when to look because of notices; more of them do not put it off
        while True:
            wait = _LOOK_EVERY if due is None else max(0.0, due - time.monotonic())
            ready = [descriptor for descriptor, _ in poll.poll(wait * 1000 + 1)]
            if self._end in ready:
                return
            if ready:
                _discard(self._events)
                due = due or time.monotonic() + _SETTLE
            changed = not ready and self._want_pods and self._inodes != _namespaces_of_processes()
            if changed or (due is not None and time.monotonic() >= due):
                due = None
                self._look_again()

    def _look_again(self) -> None:
        try:
            self.look()
        except topology.SurveyEndedError:
            return
        except OSError as error:
            self._tell(Gap("topology", error.strerror or str(error), time.time_ns()))

    def _enter(self, pod: PodNamespace, found: Survey) -> None:
        try:
            entrance = os.open(found.paths[pod.namespace], os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # it has ended meanwhile
        try:
            source, interfaces = call_inside(entrance, lambda: (self._open(), _interfaces()))
        except OSError as error:
            if pod.namespace not in self._refused:
                self._refused.add(pod.namespace)
                reason = error.strerror or str(error)
                self._tell(
                    Gap("namespace", f"no tap inside pod namespace {pod.namespace}: {reason}", time.time_ns())
                )
            return
        finally:
            os.close(entrance)
        self._known.add(pod.namespace)
        self._hub.add(pod.namespace, source, self._taps.learn_pod(pod, interfaces))

    def _leave(self, present: set[str]) -> None:
        for namespace in self._known - present:
            self._known.discard(namespace)
            self._hub.remove(namespace)
            self._taps.forget(namespace)
        self._refused &= present

    def _tell_once(self, gap: Gap) -> None:
        kind = (
            gap.what,
            _NUMBER.sub("", gap.detail),
        )  # how many processes are closed to us changes all the time
        if kind not in self._gaps and len(self._gaps) < _MOST_GAPS:
            self._gaps.add(kind)
            self._tell(gap)


def _interfaces() -> dict[int, str]:
    """Names of the interfaces in the namespace that the calling thread is in."""
    return {index: topology.name_text(name) for index, name in socket.if_nameindex()}


def _own_survey() -> Survey:
    return topology.survey(proc=_NO_PROCESSES, named=_NO_PROCESSES / "none")


def _namespaces_of_processes(proc: str = "/proc") -> frozenset[int]:
    """The inodes of all network namespaces that a process is in, as far as we may see them."""
    return frozenset(_inodes(proc))


def _inodes(proc: str) -> Iterator[int]:
    for entry in os.listdir(proc):  # noqa: PTH208 - twice a second over hundreds of names
        if entry.isdecimal():
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is not ours to look at
                yield os.stat(f"{proc}/{entry}/ns/net").st_ino  # noqa: PTH116 - the same


def _subscribe() -> socket.socket:
    """rtnetlink's notices of links and addresses, for their time only; what they say is read elsewhere."""
    notices = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    notices.bind((0, _LINKS_AND_ADDRESSES))
    return notices


def _discard(notices: socket.socket) -> None:
    while True:
        try:
            notices.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            continue  # ENOBUFS: so many that some were dropped, which says enough
