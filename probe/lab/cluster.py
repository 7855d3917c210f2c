"""Building a plan in the kernel: namespaces, links, rules, servers, in that order. Runs as the lab's pid 1.

Steps of one stage run side by side. Nothing is ever taken down: when pid 1 ends, the kernel ends the rest.
"""

from __future__ import annotations

import contextlib
import csv
import os
import socket
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from analysis.facts import Facts
from probe.lab import namespaces, network, processes, rules, servers, small_servers
from probe.lab.errors import LabError
from probe.lab.kube_objects import objects
from probe.lab.plan import DNS_PORT, HEALTHZ_PORT, Plan, make_plan
from probe.lab.scenario import Scenario
from probe.objects import facts_from_objects

_SERVER_PATIENCE = 60.0  # seconds until a server must listen: a busy machine is slow, not broken
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
        if servers.needs_certificate(plan):
            self._certificate()
        for server in servers.pod_servers(plan):  # early: they start while the network is made
            self._start(server)
        self.tell("links, addresses and routes")
        self._network()
        self.tell(f"Service forwarding, kube-proxy's {plan.proxy_mode} mode")
        self._rules()
        self.tell("servers")
        self._small_servers()
        balancers = servers.balancers(plan)
        for balancer in balancers:
            self._start(balancer)
        for pid, server in self.running.values():
            self._await_listening(pid, server)
        for balancer in balancers:
            if balancer.argv[0] == "haproxy":
                _await_health(balancer.name, servers.broken_sections(plan))

    def _check_tools(self) -> None:
        """Before anything is built, that everything is there to build it with."""
        tools = {"ip"} | {str(entry.tool) for entry in rules.rule_texts(self.plan, self.facts)}
        if self.plan.scenario.cluster.pod_network == "vxlan":
            tools.add("bridge")
        if servers.needs_certificate(self.plan):
            tools.add("openssl")
        programs = [*servers.pod_servers(self.plan), *servers.balancers(self.plan)]
        for tool in sorted(tools) + [server.argv[0] for server in programs]:
            processes.find(tool)
        packages = {"fastapi", "uvicorn"} if self.plan.apps() else set()
        packages |= {"gunicorn"} if any(pod.pod.server == "gunicorn" for pod in self.plan.pods) else set()
        if missing := sorted(name for name in packages if not find_spec(name)):
            names = " and ".join(missing)
            raise LabError(
                f"{names} must be there for this scenario; install: pip install {' '.join(missing)}"
            )

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
        # iptables-legacy takes a lock, in a folder that need not be ours.
        lock = {"XTABLES_LOCKFILE": str(folder / "xtables.lock")}
        return processes.start(argv, namespace, folder / f"{name}.log", source, lock)

    def _rules(self) -> None:
        texts = rules.rule_texts(self.plan, self.facts)
        tools = {tool: self._variant(tool) for tool in {entry.tool for entry in texts}}
        _finish([self._feed(tools[entry.tool], entry.namespace, entry.tool, entry.text) for entry in texts])

    def _variant(self, tool: rules.Tool) -> tuple[str, ...]:
        """The command line of a tool that loads rules; of iptables' two backends the one that this kernel has."""
        if tool == "nft":
            return ("nft", "-f", "-")
        family = tool.removesuffix("-restore")
        names = (tool, f"{family}-nft-restore", f"{family}-legacy-restore")
        for name in names if "-legacy" not in tool else (tool,):
            with contextlib.suppress(LabError):
                command = (name, "--wait", "--noflush")
                self._feed(command, network.FABRIC, name, "*nat\nCOMMIT\n").finish()
                return command
        log = self._folder(network.FABRIC) / f"{tool}.log"
        raise LabError(
            f"{tool} does not work with this kernel: {processes.last_words(log)}; "
            "try --proxy-mode nftables, or load the kernel's modules: modprobe nft_compat ip_tables iptable_nat"
        )

    def change(self, scenario: Scenario, balanced: Sequence[str]) -> int:
        """Give nodes the rules and health ports of a scenario in which other endpoints are ready, once all have them.

        Returns when this began to be so, ns since the epoch. Raises LabError.
        """
        self.plan = make_plan(scenario, self.plan.proxy_mode)
        self.facts = facts_from_objects(objects(self.plan))
        texts = rules.rule_texts(self.plan, self.facts)
        tools = {tool: self._variant(tool) for tool in {entry.tool for entry in texts}}
        nodes = {node.name for node in self.plan.nodes}
        changed = time.time_ns()
        _finish(
            [
                self._feed(tools[entry.tool], entry.namespace, entry.tool, rules.anew(entry.tool, entry.text))
                for entry in texts
                if entry.namespace in nodes
            ]
        )
        answers = small_servers.health_answers(self.plan, self.facts)
        small_servers.write_answers(self._folder("kube-proxy") / "answers.json", answers)
        port = self.plan.health_check_node_port() or HEALTHZ_PORT
        live = {answer.node: answer.status == 200 for answer in answers if answer.port == port}
        for node in balanced:
            _await_balanced(self.plan.lb.name if self.plan.lb else "lb", node, live.get(node, False))
        return changed

    def _certificate(self) -> None:
        """One for everybody who speaks TLS; nobody in the lab asks who signed it."""
        folder = self._folder("tls")
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        argv = [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=lab.example", "-days", "2", "-keyout", str(key), "-out", str(certificate)),
        ]
        processes.start(argv, network.FABRIC, folder / "openssl.log").finish()
        text = certificate.read_text(encoding="ascii") + key.read_text(encoding="ascii")
        servers.CERTIFICATE.write_text(text, encoding="ascii")

    def _start(self, server: servers.Server) -> None:
        folder = self._folder(server.name)
        for name, text in server.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        job = processes.start(server.argv, server.namespace, folder / "output.log")
        self.running[server.name] = (job.pid, server)

    def _small_servers(self) -> None:
        answers = self._folder("kube-proxy") / "answers.json"
        small_servers.write_answers(answers, small_servers.health_answers(self.plan, self.facts))
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


def _await_health(host: str, broken: frozenset[str]) -> None:
    """Until a balancer's HAProxy has checked every server once, and in each section that is not broken one is up.

    Raises LabError.
    """
    deadline = time.monotonic() + _SERVER_PATIENCE
    states: list[_Checked] = []
    while time.monotonic() < deadline:
        states = _haproxy_states(host)
        sections = {state.section for state in states}
        up = {state.section for state in states if state.status in {"UP", "no check"}}
        if states and all(state.check != "INI" for state in states) and sections - broken == up - broken:
            return
        time.sleep(_POLL)
    raise LabError(f"the load balancer finds no healthy node: {states}")


def _await_balanced(host: str, node: str, up: bool) -> None:
    """Until a balancer's HAProxy has marked a node as up or down in every section. Raises LabError."""
    deadline = time.monotonic() + _SERVER_PATIENCE
    while time.monotonic() < deadline:
        states = [state for state in _haproxy_states(host) if state.server == node]
        # "UP 1/2" is one that is on its way down, "DOWN 1/2" one on its way up.
        if states and all(state.status == ("UP" if up else "DOWN") for state in states):
            return
        time.sleep(_POLL)
    raise LabError(f"the load balancer does not mark {node} as {'up' if up else 'down'}; run it again")


class _Checked(NamedTuple):
    """One server of HAProxy's, in the words of its statistics."""

    section: str
    server: str
    status: str
    check: str


def _haproxy_states(host: str) -> list[_Checked]:
    """Every server, from the statistics socket (HAProxy management guide, 9.1); none while it does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(servers.haproxy_socket(host)))
        except OSError:
            return []
        connection.sendall(b"show stat\n")
        text = b""
        while chunk := connection.recv(65536):
            text += chunk
    lines = text.decode("utf-8", "replace").removeprefix("# ").splitlines()
    rows = csv.DictReader(line for line in lines if line)
    return [
        _Checked(row["pxname"], row["svname"], row["status"], row["check_status"].removeprefix("* "))
        for row in rows
        if row["svname"] not in {"FRONTEND", "BACKEND"}
    ]
