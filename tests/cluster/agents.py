"""Small clusters as objects, and agents that are scripts: they speak the agent's stream, and see what they are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from daemonset.lifeline import END
from daemonset.observation import Bye, Hello, Ready, Tap, TapKind, Taps
from daemonset.wire import Writer
from tests.cluster.double.execution import Script, ScriptedCommand
from tests.cluster.double.faults import Faults

Json = dict[str, Any]


def nodes(*names: str) -> list[Json]:
    """Nodes with an address each."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"podCIDR": f"10.244.{number}.0/24", "podCIDRs": [f"10.244.{number}.0/24"]},
            "status": {
                "addresses": [{"type": "InternalIP", "address": f"192.0.2.{10 + number}"}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        for number, name in enumerate(names, start=1)
    ]


def web_service(name: str = "web", namespace: str = "default") -> list[Json]:
    """A Service with a node port, and one endpoint on node1."""
    spec = {
        "type": "NodePort",
        "clusterIP": "10.96.0.80",
        "clusterIPs": ["10.96.0.80"],
        "externalTrafficPolicy": "Cluster",
        "selector": {"app": name},
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 30080}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-1", "namespace": namespace, "labels": {"app": name}},
        "spec": {"nodeName": "node1", "containers": [{"name": "web"}]},
        "status": {"phase": "Running", "podIP": "10.244.1.2", "podIPs": [{"ip": "10.244.1.2"}]},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-ipv4",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.244.1.2"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": "node1",
                "targetRef": {"kind": "Pod", "name": f"{name}-1", "namespace": namespace},
            }
        ],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": spec,
        "status": {"loadBalancer": {}},
    }
    return [pod, service, endpoints]


def scripted_agent(faults: Faults, rows: Callable[[str], bytes] = lambda _node: b"") -> Script:
    """An agent that opens one tap, sends `rows`, answers beats by its own clock, and ends when it is told to."""

    async def play(node: str, command: ScriptedCommand) -> int:
        def now() -> int:
            return time.time_ns() + faults.clocks.get(node, 0)

        writer = Writer(command.put)
        writer.message(Hello(node, agent="script", time=now()))
        writer.message(Taps((Tap(node, TapKind.NIC, "eth0"),)))
        writer.message(Ready(now()))
        writer.packets(rows(node))
        while True:
            data = await command.input.get()
            if not data or END in data:
                writer.message(Bye("asked to" if data else "lifeline cut", now()))
                return 0
            await asyncio.sleep(0)
            writer.message(Ready(now()))

    return play
