"""Stories of a load balancer that checks nodes and sends clients to them, in packets.

Balanced(cluster("Local", ("node2",), balancer=ADDRESS)).asks("node1", 503).sends("node2", times=3) …
"""

from __future__ import annotations

from analysis.facts import Facts
from analysis.report import Report
from daemonset.observation import TcpFlag
from tests.analysis.story import CLIENT, HTTP, NODES, OK, PODS, Story, cluster

ADDRESS = "172.30.0.150"
CHECK = b"GET / HTTP/1.0\r\n\r\n"
HEALTH_PORT = 32100

Path = list[tuple[str, str, str]]


def local(*nodes: str) -> Facts:
    """Policy Local, with ready endpoints on these nodes, behind a balancer that makes connections of its own."""
    return cluster("Local", nodes, balancer=ADDRESS)


def answer(status: int, endpoints: int | None = None) -> bytes:
    """What a health check node port answers."""
    weight = b"" if endpoints is None else b"X-Load-Balancing-Endpoint-Weight: %d\r\n" % endpoints
    body = b"" if endpoints is None else b'{"localEndpoints": %d, "serviceProxyHealthy": true}' % endpoints
    return b"HTTP/1.1 %d Whatever\r\n%s\r\n%s" % (status, weight, body)


class Balanced(Story):
    """A story with a balancer, watched on both its sides and at every node's NIC."""

    number = 100

    def _next(self) -> int:
        self.number += 1
        return self.number

    def asks(
        self, node: str, status: int, endpoints: int | None = None, *, times: int = 1, port: int = HEALTH_PORT,
        request: bytes = CHECK, every: float = 1.0,
    ) -> Balanced:  # fmt: skip
        """Health checks of a node; 0: nobody answers, -1: refused."""
        for _ in range(times):
            number = self._next()
            path = self._to(node, number, port)
            if status <= 0:
                self.syn(path, isn=number * 100)
                if status < 0:
                    self._refuse(path, number * 100)
            else:
                self.connection(path, isn=number * 100, data=request, response=answer(status, endpoints))
            self.wait(every)
        return self

    def sends(
        self, node: str, *, times: int = 1, served: bool = True, every: float = 0.1, request: bytes = HTTP
    ) -> Balanced:
        """Clients whose connections the balancer passes on to a node, which serves them or drops them."""
        for _ in range(times):
            number = self._next()
            client = f"{CLIENT}:{30_000 + number}"
            front: Path = [("lb:lb/eth0", client, f"{ADDRESS}:80")]
            named = f"PROXY TCP4 {CLIENT} {ADDRESS} {30_000 + number} 80\r\n".encode()
            self.connection(front, isn=number * 100, data=request, response=b"")
            path = self._to(node, number, 30080)
            if served:
                path.append((f"pod:{node}/web", path[0][1], f"{PODS[node]}:8080"))
                self.connection(path, isn=number * 100 + 1, data=named + request, response=OK)
                self.respond(front, number * 100, request, OK)
            else:
                self.syn(path, isn=number * 100 + 1).wait(every)
                self.close(front, number * 100)
            self.wait(every)
        return self

    def story(self) -> Report:
        """Some time passes, so that what got no answer had its time, and then the report."""
        self.wait(5)
        self.connection([("nic:node3/eth0", "198.51.100.1:9", "198.51.100.2:9")], isn=1)
        return self.report(service="shop/web")

    def _to(self, node: str, number: int, port: int) -> Path:
        source, there = f"{ADDRESS}:{40_000 + number}", f"{NODES[node]}:{port}"
        return [("lb:lb/eth0", source, there), (f"nic:{node}/eth0", source, there)]

    def _refuse(self, path: Path, isn: int) -> None:
        for tap, src, dst in reversed(path):
            self.packet(tap, dst, src, flags=TcpFlag.RST | TcpFlag.ACK, ack=isn + 1)


def lying() -> Report:
    """node1 has no endpoint and says 200; what is sent there is dropped."""
    told = Balanced(local("node2")).asks("node1", 200, times=3).asks("node2", 200, times=3)
    return told.sends("node1", times=3, served=False).sends("node2", times=3).story()


def not_served() -> Report:
    told = Balanced(local("node2")).asks("node1", -1, times=4).asks("node2", 200, 1, times=4)
    return told.sends("node2", times=3).story()


def refusing_in_vain() -> Report:
    told = Balanced(local("node1", "node2")).asks("node1", 503, 0, times=4).asks("node2", 200, 1, times=4)
    return told.sends("node2", times=6).story()


def asking_elsewhere() -> Report:
    """Only kube-proxy's own health is asked, which is good everywhere."""
    told = Balanced(local("node2"))
    for node in NODES:
        told.asks(node, 200, times=3, port=10256, request=b"GET /healthz HTTP/1.0\r\n\r\n")
    return told.sends("node1", times=2, served=False).sends("node2", times=2).story()


def header_before_the_check() -> Report:
    told = Balanced(local("node2"))
    check = b"PROXY UNKNOWN\r\n" + CHECK
    for node in NODES:
        told.asks(node, 400, times=3, request=check)
    return told.sends("node2", times=2).story()


def ignoring() -> Report:
    told = Balanced(local("node2"))
    for _ in range(12):
        told.asks("node1", 503, 0, every=0.4).asks("node2", 200, 1, every=0.4)
        told.sends("node2").sends("node1", served=False)
    return told.story()


def draining(*, terminating: bool) -> Report:
    """node1's endpoint goes: 503 after three clients more; the balancer stops after two refusals."""
    told = Balanced(local("node1", "node2"))
    for _ in range(3):
        told.asks("node1", 200, 1, every=0.2).asks("node2", 200, 1, every=0.2).sends("node1").sends("node2")
    for _ in range(2):
        told.sends("node1", served=terminating).sends("node2")
        told.asks("node1", 503, 0, every=0.2).asks("node2", 200, 1, every=0.2)
        told.sends("node1", served=terminating).sends("node2")
    for _ in range(4):
        told.asks("node1", 503, 0, every=0.2).asks("node2", 200, 1, every=0.2).sends("node2", times=2)
    return told.story()


def contradicting() -> Report:
    told = Balanced(local("node2")).asks("node1", 200, 0, times=3).asks("node2", 200, 1, times=3)
    return told.sends("node2", times=3).story()


def well() -> Report:
    told = Balanced(local("node2"))
    for _ in range(6):
        told.asks("node1", 503, 0, every=0.4).asks("node2", 200, 1, every=0.4).asks("node3", 503, 0).sends(
            "node2"
        )
    return told.story()


HEALTH_STORIES = {
    "SIP601": lying,
    "SIP602": not_served,
    "SIP603": refusing_in_vain,
    "SIP604": asking_elsewhere,
    "SIP605": header_before_the_check,
    "SIP606": ignoring,
    "SIP607": lambda: draining(terminating=False),
    "SIP608": contradicting,
    "SIP609": well,
    "SIP610": lambda: draining(terminating=True),
}
