"""A cluster of N nodes with simulated agents: `python -m bench.simulated N KUBECONFIG`, until its input ends.

The API server is the tests' double, over real HTTP and WebSockets; each agent speaks the agent's own stream and sends
the handshakes of some connections that it saw.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np

from daemonset.observation import PACKET, TcpFlag, address_words
from tests.cluster.agents import nodes, scripted_agent, web_service
from tests.cluster.double import Double, Faults
from tests.cluster.double.double import namespaces
from tests.cluster.double.execution import ScriptExecutor

#: Connections that each agent saw begin; two packets each.
CONNECTIONS = 100


def main(count: int, kubeconfig: Path) -> None:
    """Serve until nobody is there any more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = [f"node{number}" for number in range(1, count + 1)]
    objects = [*namespaces("default", "kube-system"), *_nodes(names), *web_service()]
    faults = Faults()
    with Double(objects, ScriptExecutor(scripted_agent(faults, handshakes)), faults) as double:
        double.kubeconfig(kubeconfig)
        print("ready", flush=True)
        sys.stdin.read()


def _nodes(names: list[str]) -> list[dict[str, object]]:
    found = nodes(*names)
    for number, node in enumerate(found):
        node["spec"] = {}  # more than 255 prefixes and addresses are needed
        address = f"192.168.{number // 250}.{number % 250 + 1}"
        node["status"]["addresses"] = [{"type": "InternalIP", "address": address}]
    return found


def handshakes(node: str) -> bytes:
    """A SYN and its SYN-ACK for each connection, all of one client at this node's port."""
    number = int(node.removeprefix("node"))
    table = np.zeros(2 * CONNECTIONS, PACKET.dtype())
    client = address_words("203.0.113.9")
    here = address_words(f"192.168.{(number - 1) // 250}.{(number - 1) % 250 + 1}")
    isn = (number * CONNECTIONS + np.arange(CONNECTIONS)) * 7919 & 0xFFFF_FFFF
    there, back = table[:CONNECTIONS], table[CONNECTIONS:]
    for rows, source, destination, ports in (
        (there, client, here, ("sport", "dport")),
        (back, here, client, ("dport", "sport")),
    ):
        rows["src_hi"], rows["src_lo"] = source
        rows["dst_hi"], rows["dst_lo"] = destination
        rows[ports[0]], rows[ports[1]] = 20_000 + np.arange(CONNECTIONS), 30080
        rows["protocol"] = 6
    there["seq"], there["flags"] = isn, TcpFlag.SYN
    back["seq"], back["ack"], back["flags"] = isn ^ 0x5555, isn + 1, TcpFlag.SYN | TcpFlag.ACK
    table["time"] = 1_700_000_000 * 10**9 + np.arange(len(table)) * 1000
    return table.tobytes()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
