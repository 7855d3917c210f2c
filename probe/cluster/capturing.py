"""One capture on a cluster, from what was asked for to the report: look, install, watch, take away, judge.

    gather facts ─▶ place pods ─▶ wait for them ─▶ follow their agents ─▶ take all away ─▶ judge

Whatever happens after the first object was created, everything is taken away again: an error, Ctrl-C, SIGTERM. What
not even that can do (a kill, a machine that loses power) is left to the lifeline for agents, and to
`probe cleanup` for objects.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from analysis.analyze import analyze
from analysis.asked import Asked
from analysis.chain.clients import Clients
from analysis.facts import Service
from analysis.health.changes import EndpointChange
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.ingress import IngressRecord
from analysis.report import Report
from daemonset.wire import Frame
from probe.agents.kubernetes import SILENCE, KubernetesSource
from probe.agents.tracing import trace_arguments
from probe.cluster.cleanup import Item, Leftover, await_gone, find, items_of, request_removal
from probe.cluster.client import Api, NotAllowedError
from probe.cluster.counting import Counts
from probe.cluster.durations import age_text
from probe.cluster.installation import WAIT, Placed, Roll, await_pods, install, obituary, placed, standing
from probe.cluster.interrupts import Terminated, deferred
from probe.cluster.lister import ForbiddenError, Json
from probe.cluster.resolve import Gathered, gather
from probe.cluster.resources import DAEMON_SETS, NODES
from probe.cluster.selection import Selection
from probe.cluster.so_far import SoFar, Subject
from probe.cluster.timing import Clock
from probe.errors import UnavailableError
from probe.live.board import Board
from probe.manifests.objects import IMAGE, debug_pod, installation
from probe.sessions.folder import Meta
from probe.sessions.room import room
from probe.sessions.session import Mask, Session, Words, capture

#: Seconds to watch for, bytes of streams to take, and connections and packets in them. Judging takes some 400 bytes of
#: memory for a packet, and heads of requests three times what they take in a stream, so these stay below 2 GiB.
DURATION = 30.0
MAX_BYTES = 192 << 20
MAX_FLOWS = 1_000_000
MAX_PACKETS = 3_000_000

_TELL_EVERY = 2.0  # seconds
_TICK = 0.2
_GONE_WITHIN = 60.0
_DEBUG_SPARE = 600.0  # seconds that a debugging pod may stay beyond what was asked for

Progress = Callable[[str], None]
Asking = Callable[[Callable[[Asked], None]], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants: what to watch, for how long, where, and what becomes of it."""

    selection: Selection
    duration: float = DURATION
    nodes: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    clients: tuple[str, ...] = ()
    sample: int = 1
    image: str = IMAGE
    privileged: bool = False  # containers with every right, where nodes refuse the four capabilities
    keep: bool = False
    installed: str | None = None  # the namespace of agents that are there, instead of placing some
    debug: bool = False  # a pod on each of `nodes` in the Service's namespace, no DaemonSet
    record: Path | None = None
    wait: float = WAIT
    max_bytes: int = MAX_BYTES
    max_flows: int = MAX_FLOWS
    max_packets: int = MAX_PACKETS
    trace: int = 0  # packets of which rules are named, on each node
    mask: Mask | None = None  # what is kept and judged speaks of others


@dataclass(frozen=True, slots=True)
class Told:
    """Where words go: what is going on, and what stays to be read."""

    progress: Progress
    note: Progress


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that is known before anything is touched."""

    session: str
    gathered: Gathered
    nodes: tuple[Json, ...]
    objects: tuple[Json, ...]
    ports: tuple[int, ...]
    standing: Placed | None = None  # agents that are there already and stay


def prepare(api: Api, wish: Wish, told: Told) -> Prepared:
    """Read the cluster and make the objects of the installation. Raises UnavailableError."""
    told.progress(f"reading {wish.selection} in the context {api.context}")
    try:
        gathered = gather(api, wish.selection)
    except ForbiddenError as error:
        raise NotAllowedError(error.verb, error.resource, error.namespace) from error
    for remark in gathered.remarks:
        told.note(f"· {remark}")
    session = secrets.token_hex(4)
    nodes = _wanted_nodes(api.find(NODES), wish.nodes)
    ports = watched_ports(gathered, wish.ports)
    if wish.installed is not None:
        try:
            return Prepared(session, gathered, nodes, (), ports, standing(api, wish.installed))
        except ForbiddenError as error:
            raise NotAllowedError(error.verb, error.resource, error.namespace) from error
    objects = _debug_pods(api, wish, session, told) if wish.debug else _daemons(api, wish, session)
    return Prepared(session, gathered, nodes, tuple(objects), ports)


def _daemons(api: Api, wish: Wish, session: str) -> list[Json]:
    return installation(
        session,
        image=wish.image,
        nodes=wish.nodes,
        privileged=wish.privileged,
        kubernetes=api.version(),
        openshift=api.serves("security.openshift.io"),
    )


def _debug_pods(api: Api, wish: Wish, session: str, told: Told) -> list[Json]:
    """A pod on each node that is named, in the Service's namespace, as `kubectl debug node/NAME` makes them."""
    version, namespace = api.version(), wish.selection.namespace
    # Longer than the capture can take: a pod that nobody takes away ends by itself.
    seconds = int(wish.wait + wish.duration + _DEBUG_SPARE)
    told.progress(f"pods in namespace {namespace}, on {len(wish.nodes)} nodes; the others are not watched")
    return [
        debug_pod(
            session,
            node,
            namespace=namespace,
            image=wish.image,
            seconds=seconds,
            privileged=wish.privileged,
            kubernetes=version,
        )
        for node in wish.nodes
    ]


def run(
    api: Api,
    wish: Wish,
    prepared: Prepared,
    told: Told,
    *,
    asking: Asking | None,
    ingress: Callable[[], IngressRecord],
    keep: Callable[[Session], None] = lambda _: None,
    companion: Companion | None = None,
    board: Board | None = None,
) -> Report:
    """Capture and judge; `keep` is handed what is judged, `companion` is at work meanwhile, `board` told how it goes.

    Raises UnavailableError; KeyboardInterrupt where it was given up.
    """
    room()  # too little is said now, not when all has been captured
    _tell_leftovers(api, told)
    with installed(api, wish, prepared, told) as (where, roll):
        for node, why in roll.missing.items():
            told.note(f"· no agent on {node}: {why}")
            if board is not None:
                board.missing(node, why)
        session = _watch(Scene(api, wish, prepared, told, where, roll), asking, ingress, companion, board)
    keep(session)
    told.progress("judging")
    return analyze(
        session.recording,
        session.facts,
        asked=session.meta.asked,
        ingress=session.meta.ingress,
        service=session.meta.service,
        title=session.meta.title,
        clients=Clients.of(session.meta.clients),
        changes=session.meta.changes,
        own=session.meta.own,
        room=room(),
    )


def watched_ports(gathered: Gathered, only: Sequence[int]) -> tuple[int, ...]:
    """The ports that agents look at, on every side of NAT.

    With `only`, those that belong to these: a port, node port or target port of the Service stands for the others of
    the same entry; a port that is none of the Service's (a balancer's own) is watched beside them.
    """
    if not only:
        return gathered.ports
    groups = _entries(gathered.service)
    chosen = [group for group in groups if group & set(only)]
    return tuple(sorted(set(only).union(*chosen)))


def _entries(service: Service) -> list[set[int]]:
    """The numbers of each port of a Service: its own, its node port's, its endpoints'."""
    return [
        {port.port, port.node_port}.union(
            endpoint.port
            for endpoint in service.endpoints
            if endpoint.port_name == port.name and endpoint.protocol == port.protocol
        )
        - {0}
        for port in service.ports
    ]


def _wanted_nodes(nodes: Sequence[Json], names: Sequence[str]) -> tuple[Json, ...]:
    """All nodes, or those that are named. Raises UnavailableError where there is no such node."""
    there = {str(node["metadata"]["name"]): node for node in nodes}
    if unknown := [name for name in names if name not in there]:
        some = ", ".join(list(there)[:10]) + (" …" if len(there) > 10 else "")
        raise UnavailableError(f"the cluster has no node {', '.join(unknown)}; name one of {some}")
    return tuple(there[name] for name in names) if names else tuple(nodes)


def _tell_leftovers(api: Api, told: Told) -> None:
    """Say what earlier sessions left running."""
    try:
        left = find(api, (DAEMON_SETS,))
    except ForbiddenError:
        return  # who may not look is told when it comes to installing
    for each in left:
        told.note(f"· {describe(each)}; if that session is over, `probe cleanup` removes it")


def describe(left: Leftover) -> str:
    """One line about what a session has on the cluster."""
    return f"session {left.session}, {age_text(left.age)} old, has agents in namespace {left.namespaces}"


@contextmanager
def installed(api: Api, wish: Wish, prepared: Prepared, told: Told) -> Iterator[tuple[Placed, Roll]]:
    """The agents' pods, for as long as they are needed. Raises UnavailableError."""
    if prepared.standing is not None:
        told.progress(f"looking for the agents in namespace {prepared.standing.namespace}")
        yield prepared.standing, await_pods(api, prepared.standing, prepared.nodes, told.progress, wish.wait)
        return
    items = items_of(prepared.objects)
    try:
        told.progress(f"placing agents on {len(prepared.nodes)} nodes, session {prepared.session}")
        where = install(api, prepared.objects)
        roll = await_pods(api, where, prepared.nodes, told.progress, wish.wait)
        yield where, roll
    finally:
        if wish.keep:
            told.note(
                f"· kept on the cluster: session {prepared.session} in namespace {placed(prepared.objects).namespace}; "
                "`probe cleanup` removes it"
            )
        else:
            _take_away(api, items, told)


def _take_away(api: Api, items: Sequence[Item], told: Told) -> None:
    """Delete, whatever signals come; wait until all is gone, unless interrupted. What stays is said."""
    with deferred():
        told.progress("taking the agents away")
        troubles = request_removal(api, list(reversed(items)), told.progress)
    try:
        troubles += await_gone(api, items, _GONE_WITHIN) if not troubles else []
    except Terminated:
        raise
    except KeyboardInterrupt:
        told.note("· not waiting until everything is gone; `probe cleanup` tells what is still there")
    for trouble in troubles:
        told.note(f"· left on the cluster: {trouble}; `probe cleanup` tries again")


class Scene(NamedTuple):
    """A session whose agents' pods run."""

    api: Api
    wish: Wish
    prepared: Prepared
    told: Told
    where: Placed
    roll: Roll


class Companion(Protocol):
    """Something that is done beside a capture, with the same agents' pods."""

    def begin(self, scene: Scene, clocks: Callable[[], Mapping[str, Clock]]) -> None:
        """Everything is watched now. Raises UnavailableError."""
        ...

    def so_far(self) -> tuple[tuple[EndpointChange, ...], OwnChecks]:
        """What it knows so far."""
        ...

    def end(self) -> tuple[tuple[EndpointChange, ...], OwnChecks]:
        """The watching is over; what it knows."""
        ...

    def summary(self, report: Report) -> str:
        """One line on what has been seen so far; "" for none."""
        ...


def _watch(
    scene: Scene,
    asking: Asking | None,
    ingress: Callable[[], IngressRecord],
    companion: Companion | None = None,
    board: Board | None = None,
) -> Session:
    """Follow the agents for as long as is wanted."""
    api, wish, prepared, told, where, roll = scene
    gathered = prepared.gathered
    meta = Meta(
        title=f"{wish.selection}, context {api.context}",
        service=gathered.service.key,
        proxy_mode=gathered.facts.proxy_mode,
        facts=gathered.facts,
        clients=wish.clients,
        kubernetes=".".join(map(str, api.version())),
    )
    counts = Counts(wish.max_flows, wish.max_packets)
    tracing = trace_arguments(wish.trace, prepared.ports, gathered.facts)
    source = KubernetesSource(
        api,
        where,
        roll,
        command=lambda node: agent_command(
            node, prepared.ports, wish.sample, rules=wish.record is not None, tracing=tracing
        ),
        obituary=lambda node: obituary(api, where.namespace, roll.pods[node], node),
    )

    subject = Subject(gathered.facts, gathered.service.key, gathered.ingress, Clients.of(wish.clients))
    so_far = SoFar(subject, lambda: source.clocks, words=board.judged if board is not None else None)
    if companion is not None:
        so_far = SoFar(subject, lambda: source.clocks, companion.so_far, _both(companion.summary, board))

    def witness(place: str, frame: Frame) -> None:
        counts.take(place, frame)
        so_far.take(place, frame)
        if board is not None:
            board.take(place, frame)

    def action() -> Words:
        asked: list[Asked] = []
        changes, own = tuple[EndpointChange, ...](), NONE_OWN
        try:
            if companion is not None:
                companion.begin(scene, lambda: source.clocks)
            if asking is not None:
                asking(asked.append)
            _wait(wish, source, counts, so_far, told, asleep=board.ending if board else threading.Event())
        except Terminated:
            raise
        except KeyboardInterrupt:
            told.progress("ending the capture; Ctrl-C again gives up")
        finally:
            if board is not None:
                board.over()
            if companion is not None:
                changes, own = companion.end()
        return Words((), tuple(asked), gathered.ingress.plus(ingress()), changes, own)

    try:
        return capture(
            source,
            action,
            facts=gathered.facts,
            meta=meta,
            record=wish.record,
            progress=told.progress,
            witness=witness,
            limit=lambda: _cut(wish, source, counts),
            mask=wish.mask,
        )
    finally:
        source.close()


def _both(summary: Callable[[Report], str], board: Board | None) -> Callable[[Report], str]:
    """The words of a companion, and the same judgement for whoever looks on."""

    def words(report: Report) -> str:
        if board is not None:
            board.judged(report)
        return summary(report)

    return words


def _limit(wish: Wish, source: KubernetesSource, counts: Counts) -> str | None:
    """The limit that is reached, in words."""
    if source.received > wish.max_bytes:
        return f"{wish.max_bytes >> 20} MiB of observations"
    return counts.limit


def _cut(wish: Wish, source: KubernetesSource, counts: Counts) -> str | None:
    """Why no stream is kept any further."""
    limit = _limit(wish, source, counts)
    return (
        None if limit is None else f"cut off at the session's limit of {limit}; what came after is not kept"
    )


def _wait(
    wish: Wish,
    source: KubernetesSource,
    counts: Counts,
    so_far: SoFar,
    told: Told,
    *,
    asleep: threading.Event,
) -> None:
    """Watch until the time is over, a limit is reached, or somebody wakes us: who looks on has seen enough."""
    now = time.monotonic()
    ends, tell = now + wish.duration, now
    while (now := time.monotonic()) < ends:
        if limit := _limit(wish, source, counts):
            told.note(
                f"· ended early: the limit of {limit} is reached; --sample 1/16 watches fewer connections"
            )
            return
        if text := so_far.word():
            told.note(f"· {text}")
        if now >= tell:
            told.progress(f"{counts}; watching for {ends - now:.0f} s more, Ctrl-C ends that")
            tell = now + _TELL_EVERY
        if asleep.wait(min(_TICK, ends - now)):
            told.progress("ending the capture")
            return


def agent_command(
    node: str, ports: Sequence[int], sample: int = 1, *, rules: bool = False, tracing: Sequence[str] = ()
) -> list[str]:
    """How an agent is started in its pod; `tracing`: what it is told of tracing rules."""
    command = ["python3", "-m", "daemonset.agent", "--node", node, "--heads", "--lifeline", str(SILENCE)]
    command += ["--sample", f"1/{sample}"] if sample > 1 else []
    command += ["--rules"] if rules else []
    return [*command, *(part for port in ports for part in ("--port", str(port))), *tracing]
