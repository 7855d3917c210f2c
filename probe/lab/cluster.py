"""Building a plan in the kernel: namespaces, links, rules, servers, in that order. Runs as the lab's pid 1.

Steps of one stage run side by side. Nothing is ever taken down: when pid 1 ends, the kernel ends the rest.
"""

from __future__ import annotations

import contextlib
import csv
import os
import socket
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from analysis.facts import Facts
from probe.lab import namespaces, network, processes, rules, servers, small_servers
from probe.lab.errors import LabError
from probe.lab.kube_objects import objects
from probe.lab.plan import DNS_PORT, Plan
from probe.objects import facts_from_objects

_SERVER_PATIENCE = 15.0  # seconds until a server must listen: a busy machine is slow, not broken
_POLL = 0.01
_LISTEN = "0A"  # TCP_LISTEN, net/tcp_states.h
_BOUND = "07"  # how /proc/net/udp shows a bound socket (TCP_CLOSE)


class Cluster:
    """One cluster under construction; `tell` hears what it is busy with."""

    def __init__(self, plan: Plan, tell: Callable[[str], None]) -> None:
        self.plan = plan
        self.tell = tell
        self.facts: Facts = facts_from_objects(objects(plan))
        self.ipv6 = "ipv6" in plan.families
        self.running: dict[str, tuple[int, servers.Server]] = {}

    def build(self) -> None:
        """Everything, until every server listens and the balancer knows its nodes. Raises LabError, OSError."""
        plan = self.plan
        self._check_tools()
        self.tell(f"{len(plan.nodes)} nodes, {len(plan.pods)} pods: network namespaces")
        self._namespaces()
        for server in servers.pod_servers(plan):  # early: they start while the network is made
            self._start(server)
        self.tell("links, addresses and routes")
        self._network()
        self.tell(f"Service forwarding, kube-proxy's {plan.proxy_mode} mode")
        self._rules()
        self.tell("servers")
        self._small_servers()
        balancer = servers.haproxy(plan)
        if balancer:
            self._start(balancer)
        for pid, server in self.running.values():
            self._await_listening(pid, server)
        if balancer:
            _await_health()

    def _check_tools(self) -> None:
        """Before anything is built, that everything is there to build it with."""
        tools = {"ip"} | {str(entry.tool) for entry in rules.rule_texts(self.plan, self.facts)}
        if self.plan.scenario.cluster.pod_network == "vxlan":
            tools.add("bridge")
        programs = [*servers.pod_servers(self.plan), servers.haproxy(self.plan)]
        for tool in sorted(tools) + [server.argv[0] for server in programs if server]:
            processes.find(tool)
        if self.plan.apps() and not all(find_spec(name) for name in ("fastapi", "uvicorn")):
            raise LabError("fastapi and uvicorn are not installed; install them: pip install fastapi uvicorn")

    def _folder(self, name: str) -> Path:
        folder = servers.FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _namespaces(self) -> None:
        namespaces.name_network(network.FABRIC)
        _apply(network.sysctls(self.plan, forwarding=False))
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        for name in network.namespaces(self.plan):
            namespaces.new_network(name)
            _apply(network.sysctls(self.plan, network.forwards(self.plan, name)))
        namespaces.setns(home, namespaces.CLONE_NEWNET)
        os.close(home)
        for pod in self.plan.pods:
            if not pod.pod.host_network:
                log = self._folder(pod.name) / "pause.log"
                processes.fork("pause", pod.namespace, processes.pause, log)

    def _network(self) -> None:
        host_routes = not self._bridge_netfilter()
        batches = network.batches(self.plan, host_routes)
        for stage in sorted({batch.stage for batch in batches}):
            jobs = []
            for batch in batches:
                if batch.stage == stage:
                    text = "\n".join(batch.commands) + "\n"
                    jobs.append(self._feed(("ip", "-batch", "-"), batch.namespace, "ip", text))
            _finish(jobs)  # a namespace is configured only once it was given its interfaces
        tables = {node.name: network.forwarding_database(self.plan, node) for node in self.plan.nodes}
        _finish(
            [
                self._feed(("bridge", "-batch", "-"), name, "fdb", "\n".join(commands) + "\n")
                for name, commands in tables.items()
                if commands
            ]
        )

    def _bridge_netfilter(self) -> bool:
        """Whether bridged packets pass the IP hooks; set in every node as the scenario says."""
        wanted = self.plan.scenario.cluster.bridge_netfilter
        available = Path("/proc/sys/net/bridge").is_dir()
        if wanted and not available:
            raise LabError("this kernel has no bridge netfilter; load it: modprobe br_netfilter")
        value = "1" if (available if wanted is None else wanted) else "0"
        if available:
            for node in self.plan.nodes:
                with namespaces.inside(node.name):
                    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
                        Path("/proc/sys/net/bridge", name).write_text(value, encoding="ascii")
            for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
                Path("/proc/sys/net/bridge", name).write_text("0", encoding="ascii")  # the fabric is a switch
        return value == "1"

    def _feed(self, argv: tuple[str, ...], namespace: str, name: str, text: str) -> processes.Job:
        """Start a tool with this text as its input; text and output stay in the lab's folder."""
        folder = self._folder(namespace)
        source = folder / name
        source.write_text(text, encoding="utf-8")
        return processes.start(argv, namespace, folder / f"{name}.log", source)

    def _rules(self) -> None:
        texts = rules.rule_texts(self.plan, self.facts)
        tools = {tool: self._variant(tool) for tool in {entry.tool for entry in texts}}
        _finish([self._feed(tools[entry.tool], entry.namespace, entry.tool, entry.text) for entry in texts])

    def _variant(self, tool: rules.Tool) -> tuple[str, ...]:
        """The command line of a tool that loads rules; of iptables' two backends the one that this kernel has."""
        if tool == "nft":
            return ("nft", "-f", "-")
        family = tool.removesuffix("-restore")
        for name in (tool, f"{family}-nft-restore", f"{family}-legacy-restore"):
            with contextlib.suppress(LabError):
                command = (name, "--wait", "--noflush")
                self._feed(command, network.FABRIC, name, "*nat\nCOMMIT\n").finish()
                return command
        log = self._folder(network.FABRIC) / f"{tool}.log"
        raise LabError(
            f"{tool} does not work with this kernel: {processes.last_words(log)}; "
            "try --proxy-mode nftables, or load the kernel's modules: modprobe nft_compat ip_tables"
        )

    def _start(self, server: servers.Server) -> None:
        folder = self._folder(server.name)
        for name, text in server.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        job = processes.start(server.argv, server.namespace, folder / "output.log")
        self.running[server.name] = (job.pid, server)

    def _small_servers(self) -> None:
        answers = small_servers.health_answers(self.plan, self.facts)
        self._fork(
            servers.Server("kube-proxy", network.FABRIC, (), tcp_ports=()),
            lambda: small_servers.serve_health(answers, self.ipv6),
        )
        for pod in self.plan.pods:
            if pod.pod.role == "dns":
                server = servers.Server(pod.name, pod.namespace, (), udp_ports=(DNS_PORT,))
                self._fork(server, lambda: small_servers.serve_dns(DNS_PORT, self.ipv6))

    def _fork(self, server: servers.Server, body: Callable[[], None]) -> None:
        log = self._folder(server.name) / "output.log"
        self.running[server.name] = (processes.fork(server.name, server.namespace, body, log), server)

    def _await_listening(self, pid: int, server: servers.Server) -> None:
        """Until a server has all its ports open, as the kernel tells; no packet is sent to find out."""
        deadline = time.monotonic() + _SERVER_PATIENCE
        wanted = {(kind, port) for kind, ports in server.ports.items() for port in ports}
        while not wanted <= _open_ports(server.namespace):
            ended, status = os.waitpid(pid, os.WNOHANG)
            log = self._folder(server.name) / "output.log"
            if ended:
                code = os.waitstatus_to_exitcode(status)
                raise LabError(f"{server.name} ended with {code} in the lab: {processes.last_words(log)}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"{server.name} does not listen after {_SERVER_PATIENCE:.0f} s: {processes.last_words(log)}"
                )
            time.sleep(_POLL)


def _apply(settings: dict[str, str]) -> None:
    """Write sysctls of the current network namespace; those of a family that the kernel lacks are passed over."""
    for name, value in settings.items():
        path = Path("/proc/sys/net", name)
        if path.exists():
            path.write_text(value, encoding="ascii")


def _finish(jobs: list[processes.Job]) -> None:
    for job in jobs:
        job.finish()


def _open_ports(namespace: str) -> set[tuple[str, int]]:
    """Listening TCP ports and bound UDP ports of a namespace, as ("tcp", 80)."""
    found = set()
    with namespaces.inside(namespace):
        for kind, state in (("tcp", _LISTEN), ("udp", _BOUND)):
            for name in (kind, f"{kind}6"):
                with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                    lines = Path("/proc/thread-self/net", name).read_text(encoding="ascii").splitlines()[1:]
                    rows = [line.split() for line in lines]
                    found |= {(kind, int(row[1].rpartition(":")[2], 16)) for row in rows if row[3] == state}
    return found


def _await_health() -> None:
    """Until HAProxy has checked every node once and one of them is up. Raises LabError."""
    deadline = time.monotonic() + _SERVER_PATIENCE
    while time.monotonic() < deadline:
        states = _haproxy_states()
        if states and all(check != "INI" for _, check in states) and any(up == "UP" for up, _ in states):
            return
        time.sleep(_POLL)
    raise LabError(f"the load balancer finds no healthy node: {_haproxy_states()}")


def _haproxy_states() -> list[tuple[str, str]]:
    """(status, check_status) of each server, from the statistics socket (HAProxy management guide, 9.1)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(servers.HAPROXY_SOCKET))
        except OSError:
            return []
        connection.sendall(b"show stat\n")
        text = b""
        while chunk := connection.recv(65536):
            text += chunk
    lines = text.decode("utf-8", "replace").removeprefix("# ").splitlines()
    rows = list(csv.DictReader(line for line in lines if line))
    backends = [row for row in rows if row["svname"] not in {"FRONTEND", "BACKEND"}]
    return [(row["status"], row["check_status"].removeprefix("* ")) for row in backends]
