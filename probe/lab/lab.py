"""The lab as the rest of the program uses it: start it, see its objects, run agents in it, send its requests.

with Lab.start(load_scenario("cluster-remote"), "iptables") as lab:
    agent = lab.spawn("node1", [sys.executable, "-m", "daemonset.agent"], stdout=PIPE)
    answers = lab.send()
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from subprocess import DEVNULL, PIPE
from types import TracebackType
from typing import IO, Any, Literal, Self

import msgspec

from analysis.health.changes import EndpointChange
from probe.lab import control, servers
from probe.lab.errands import Errand, Result
from probe.lab.errors import LabError
from probe.lab.kube_objects import objects
from probe.lab.plan import Plan, ProxyMode, make_plan, same_address
from probe.lab.proxy_headers import Ends, proxy_header
from probe.lab.scenario import Event, Scenario

_ENDED = "the lab has ended; start it again"
_STOP_PATIENCE = 5.0  # seconds until a launcher that does not end by itself is killed


class Place(msgspec.Struct, frozen=True):
    """Somewhere in the lab where an agent can run."""

    name: str
    role: Literal["node", "client", "lb"]
    addresses: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True):
    """What one client saw of one request, and whether it is what the scenario's construction demands.

    `request` is the index of the request in the scenario; `place` is who sent it. `wrong` lists differences from
    what was expected, in words; empty: as expected.
    """

    request: int
    place: str
    result: Result
    wrong: tuple[str, ...] = ()


class LabProcess:
    """A program running in the lab. Like subprocess.Popen, as far as is needed.

    `pid` is the process id within the lab. Return codes: the exit code, or minus the signal's number; -9 when it
    went down with the lab.
    """

    def __init__(self, pid: int, descriptors: list[int], streams: Sequence[IO[bytes] | None]) -> None:
        self.pid = pid
        self.stdin, self.stdout, self.stderr = streams
        self.returncode: int | None = None
        self._handle, self._status = descriptors
        self._ending = threading.Lock()  # several threads may wait for it, and its end is told once

    def poll(self) -> int | None:
        """The return code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """The return code, once it has ended. Raises subprocess.TimeoutExpired."""
        with self._ending:
            if self.returncode is not None:
                return self.returncode
            status = os.dup(self._status)  # whoever comes first closes the descriptor itself
        try:
            if not select.select([status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(["lab process"], timeout or 0)
        finally:
            os.close(status)
        with self._ending:
            if self.returncode is None:
                text = os.read(self._status, 64)
                self.returncode = int(text) if text.strip() else -signal.SIGKILL
                control.close((self._handle, self._status))
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens where it has ended."""
        self.poll()
        with self._ending:
            if self.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Make it end (SIGKILL)."""
        self.send_signal(signal.SIGKILL)


class Lab:
    """A running cluster. Made by `Lab.start`; ends when closed, or with the process that started it."""

    def __init__(self, plan: Plan, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self.plan = plan
        self.scenario = plan.scenario
        self._process = process
        self._connection = connection
        self._lock = threading.Lock()
        self._now = plan.scenario  # as events have left it
        self.changes: list[EndpointChange] = []  # what events changed of the Service's endpoints, and when

    @classmethod
    def start(
        cls,
        scenario: Scenario,
        proxy_mode: ProxyMode = "iptables",
        progress: Callable[[str], None] | None = None,
    ) -> Self:
        """Build the cluster; `progress` hears what is going on. Raises LabError where this system cannot."""
        plan = make_plan(scenario, proxy_mode)
        ours, theirs = control.pair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "probe.lab.init", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=DEVNULL,
                stdout=DEVNULL,
                process_group=0,  # Ctrl-C is for the caller, who then ends the lab in order
            )
        lab = cls(plan, process, ours)
        try:
            control.send(ours, control.Start(scenario, proxy_mode))
            lab._await_ready(progress or (lambda _text: None))
        except BaseException:
            lab.close()
            raise
        return lab

    def _await_ready(self, progress: Callable[[str], None]) -> None:
        while True:
            message, descriptors = self._receive()
            control.close(descriptors)
            match message:
                case control.Progress(text):
                    progress(text)
                case control.Failed(text):
                    raise LabError(text)
                case control.Ready():
                    return
                case control.Spawned() | control.Changed():
                    raise LabError("the lab answered what was not asked; run the command again")

    def _receive(self) -> tuple[control.FromLab, list[int]]:
        try:
            return control.receive_from_lab(self._connection)
        except (EOFError, OSError) as error:
            raise LabError(_ENDED) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it: every process, namespace and interface. May be called twice."""
        self._connection.close()
        try:
            self._process.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def objects(self) -> dict[str, Any]:
        """The cluster's objects, as `kubectl get nodes,pods,services,endpointslices,configmaps -A -o json`."""
        return objects(self.plan)

    def objects_now(self) -> dict[str, Any]:
        """The same as events have left it."""
        return objects(make_plan(self._now, self.plan.proxy_mode))

    def configs(self) -> dict[str, str]:
        """What every server was told, by its pod's or host's name: its configuration file, or its command line."""
        return servers.configurations(self.plan)

    def places(self) -> list[Place]:
        """Every place where an agent can run: clients, the balancer, nodes."""
        return [Place(host.name, host.role, tuple(host.addresses.values())) for host in self.plan.hosts]

    def spawn(
        self,
        place: str,
        argv: Sequence[str],
        *,
        stdin: int | None = DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        env: dict[str, str] | None = None,
    ) -> LabProcess:
        """Run a program at a place (or in a pod, by its name), as root of the lab.

        stdin, stdout and stderr are PIPE, DEVNULL, a file descriptor, or None for the caller's own; `env` is added
        to the caller's environment. Raises LabError where it cannot be run.
        """
        streams, theirs = _Streams(), []
        try:
            theirs = [streams.child_end(number, wish) for number, wish in enumerate((stdin, stdout, stderr))]
            spawned, descriptors = self._ask_spawn(
                control.Spawn(self._namespace(place), list(argv), env or {}), theirs
            )
        except BaseException:
            streams.close_all()
            raise
        streams.close_child_ends()
        return LabProcess(spawned.pid, descriptors, streams.ours)

    def _ask_spawn(
        self, message: control.Spawn, descriptors: Sequence[int]
    ) -> tuple[control.Spawned, list[int]]:
        with self._lock:
            try:
                control.send(self._connection, message, descriptors)
            except OSError as error:
                raise LabError(_ENDED) from error
            answer, received = self._receive()
        if isinstance(answer, control.Failed):
            raise LabError(answer.message)
        if not isinstance(answer, control.Spawned):
            raise LabError("the lab answered what was not asked; run the command again")
        return answer, received

    def _namespace(self, place: str) -> str:
        names = {host.name: host.name for host in self.plan.hosts}
        names |= {pod.name: pod.namespace for pod in self.plan.pods}
        if place not in names:
            raise LabError(f"the lab has no {place!r}; it has {', '.join(names)}")
        return names[place]

    def send(self) -> list[Answer]:
        """Play the scenario's requests and events; answers in the order of the scenario.

        Between two events all clients send at the same time.
        """
        answers: list[Answer] = []
        borders = sorted({event.before for event in self.scenario.events} - {0})
        for first, end in pairwise([0, *borders, len(self.scenario.requests)]):
            for event in self.scenario.events:
                if event.before == first:
                    self.happen(event)
            answers += self._send(first, end)
        return sorted(answers, key=lambda answer: (answer.request, answer.result.number))

    def happen(self, event: Event) -> None:
        """Let an event take effect; what it changed for nodes is added to `changes`. Raises LabError."""
        now = self._now.after(event)
        node = next(pod.node for pod in now.pods if pod.name == event.pod)
        balanced = (node,) if event.until == "balancer" else ()
        with self._lock:
            try:
                control.send(self._connection, control.Change(now, balanced))
            except OSError as error:
                raise LabError(_ENDED) from error
            answer, _ = self._receive()
        if isinstance(answer, control.Failed):
            raise LabError(answer.message)
        if not isinstance(answer, control.Changed):
            raise LabError("the lab answered what was not asked; run the command again")
        self._now = now
        if event.becomes is not None:
            here = [pod for pod in now.pods if pod.node == node and pod.role in {"echo", "ingress", "dns"}]
            ready = sum(pod.ready and not pod.terminating for pod in here)
            draining = sum(pod.terminating and pod.serving for pod in here)
            service = f"{now.service.namespace}/{now.service.name}"
            self.changes.append(EndpointChange(answer.time, node, ready, draining, service))

    def _send(self, first: int, end: int) -> list[Answer]:
        """Play the requests from index `first` up to `end`."""
        players = []
        for place, errands in self._errands(first, end).items():
            player = self.spawn(place, [sys.executable, "-m", "probe.lab.player"], stdin=PIPE, stdout=PIPE)
            if player.stdin is None:
                raise LabError(_ENDED)
            with contextlib.suppress(BrokenPipeError), player.stdin:  # it has ended: its code says so below
                player.stdin.write(msgspec.json.encode(errands))
            players.append((place, player))
        answers = []
        for place, player in players:
            if player.stdout is None:
                raise LabError(_ENDED)
            with player.stdout:
                lines = player.stdout.read().splitlines()
            if player.wait() != 0:
                raise LabError(f"the client {place} failed in the lab; its words are above")
            results = [msgspec.json.decode(line, type=Result) for line in lines]
            answers += [self._answer(place, result) for result in results]
        return answers

    def _errands(self, first: int, end: int) -> dict[str, list[Errand]]:
        by_place: dict[str, list[Errand]] = {}
        for index, request in enumerate(self.scenario.requests[first:end], start=first):
            for connection in range(request.count):
                errand = self._errand(index, connection * request.per_connection)
                by_place.setdefault(request.from_, []).append(errand)
        return by_place

    def _errand(self, index: int, number: int) -> Errand:
        request = self.scenario.requests[index]
        target, port = self.plan.target_of(request)
        proxy, header = request.proxy, b""
        if proxy:
            ends = Ends(proxy.source, proxy.port, target, port) if proxy.source else None
            header = proxy_header(proxy.version, ends)
        return Errand(
            index=index,
            number=number,
            protocol=self.scenario.service.protocol,
            source=self.plan.source_of(request),
            target=target,
            port=port,
            path="/debug/ip",
            patience=request.patience,
            after=request.every,
            requests=request.per_connection,
            pipelined=request.pipelined,
            headers=request.headers,
            proxy=header,
            tls=request.tls,
            h2c=request.h2c,
            token=secrets.token_hex(8) if request.token else "",
        )

    def _answer(self, place: str, result: Result) -> Answer:
        """Hold what came back against what must come back."""
        request = self.scenario.requests[result.index]
        expect, wrong = request.expect, []
        if result.outcome != request.outcome:
            wrong.append(f"outcome is {result.outcome} ({result.error}), expected {request.outcome}")
        elif result.outcome == "answered":
            if result.protocol == "tcp" and result.status != request.status:
                wrong.append(f"status is {result.status}, expected {request.status}")
            for name, who, found in (
                ("the application", expect.seen, result.seen),
                ("the endpoint", expect.peer or expect.seen, result.peer),
            ):
                wanted = self.plan.resolve(who, request) if who else None
                if wanted and (not found or not same_address(found, wanted)):
                    wrong.append(f"{name} saw {found}, expected {wanted} ({who})")
        return Answer(result.index, place, result, tuple(wrong))

    def shell(self, place: str, argv: Sequence[str] = ()) -> int:
        """An interactive shell at a place, on the caller's terminal; its return code."""
        program = list(argv) or _shell()
        terminal = sys.stdin.isatty()
        message = control.Spawn(
            self._namespace(place), program, {"PS1": f"{place}# ", "PROBE_LAB_PLACE": place}, terminal
        )
        spawned, descriptors = self._ask_spawn(message, (0, 1, 2))
        process = LabProcess(spawned.pid, descriptors, (None, None, None))
        try:
            return process.wait()
        finally:
            if terminal:
                # We are in the background of our own terminal until we take it back.
                before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
                os.tcsetpgrp(0, os.getpgrp())
                signal.signal(signal.SIGTTOU, before)


def _shell() -> list[str]:
    """The user's shell, without start-up files where these would replace our prompt."""
    shell = os.environ.get("SHELL", "/bin/sh")
    return [shell, "--norc"] if shell.endswith("/bash") else [shell]


class _Streams:
    """Pipes between the caller and a program of the lab."""

    def __init__(self) -> None:
        self.ours: list[IO[bytes] | None] = []
        self.child_ends: list[int] = []

    def child_end(self, number: int, wish: int | None) -> int:
        """The descriptor that becomes the program's stdin, stdout or stderr."""
        if wish == PIPE:
            reader, writer = os.pipe()
            own, theirs = (writer, reader) if number == 0 else (reader, writer)
            self.ours.append(os.fdopen(own, "wb" if number == 0 else "rb"))
            self.child_ends.append(theirs)
            return theirs
        self.ours.append(None)
        if wish == DEVNULL:
            self.child_ends.append(os.open(os.devnull, os.O_RDWR))
            return self.child_ends[-1]
        return number if wish is None else wish

    def close_child_ends(self) -> None:
        """The program has them now."""
        control.close(self.child_ends)

    def close_all(self) -> None:
        """Nothing was started."""
        self.close_child_ends()
        for stream in self.ours:
            if stream:
                stream.close()
