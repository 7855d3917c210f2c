"""The servers that the lab brings itself: kube-proxy's health ports, and a name server that tells who asked."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from email.utils import formatdate
from pathlib import Path

import msgspec

from analysis.facts import Facts
from probe.lab.forwarding.services import local_ready
from probe.lab.namespaces import enter_network
from probe.lab.plan import HEALTHZ_PORT, Plan

_QUESTION_LIMIT = 255  # bytes of a name, RFC 1035 §2.3.4
_TYPE_TXT = 16
_CLASS_IN = 1
_HEADER = struct.Struct("!HHHHHH")


_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"400 Bad Request"
)


class Health(msgspec.Struct, frozen=True):
    """What one port of one node answers."""

    node: str
    port: int
    status: int
    body: str
    weight: int | None = None


def health_answers(plan: Plan, facts: Facts) -> list[Health]:
    """What kube-proxy serves on each node: the health check node port of each Service that has one, and healthz.

    Or what the scenario has in the place of the former.
    """
    odd = {port.node: port for port in plan.scenario.health_ports}
    answers = []
    for node in plan.nodes:
        answers.append(Health(node.name, HEALTHZ_PORT, 200, '{"nodeEligible":true,"healthy":true}'))
        for service in facts.services:
            port = odd.get(node.name)
            if service.health_check_node_port and (port is None or port.served):
                count = local_ready(service, node.name)
                status = 200 if count else 503
                if port is not None:
                    status = port.status or status
                    count = count if port.local_endpoints is None else port.local_endpoints
                body = (
                    f'{{\n\t"service": {{\n\t\t"namespace": "{service.namespace}",\n\t\t"name": "{service.name}"'
                    f'\n\t}},\n\t"localEndpoints": {count},\n\t"serviceProxyHealthy": true\n}}'
                )
                answers.append(Health(node.name, service.health_check_node_port, status, body, count))
    return answers


def serve_health(path: Path, ipv6: bool) -> None:
    """Serve all nodes' health ports from one process; its sockets belong to the nodes' namespaces. Never returns.

    What they answer stands in the file, which is read again for each request: it can be replaced meanwhile.
    """
    sockets = []
    for answer in read_answers(path):
        enter_network(answer.node)
        sockets.append((listen(answer.port, ipv6), answer))
    asyncio.run(_serve_health(path, sockets))


def read_answers(path: Path) -> list[Health]:
    """The answers that a file holds."""
    return msgspec.json.decode(path.read_bytes(), type=list[Health])


def write_answers(path: Path, answers: list[Health]) -> None:
    """Put answers in the place of those that a file holds, all at once."""
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(answers))
    new.replace(path)


def listen(port: int, ipv6: bool) -> socket.socket:
    """A TCP listener on every address of the current namespace."""
    if ipv6:
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


async def _serve_health(path: Path, sockets: list[tuple[socket.socket, Health]]) -> None:
    for listener, answer in sockets:
        await asyncio.start_server(_health_responder(path, answer), sock=listener)
    await asyncio.Event().wait()


def _health_responder(path: Path, first: Health):  # type: ignore[no-untyped-def]  # asyncio's callback type has no public name
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                if not request[:1].isupper() or b" HTTP/1." not in request or request.startswith(b"PROXY "):
                    writer.write(_BAD_REQUEST)  # as Go's net/http, which kube-proxy is built on
                    return
                known = {(each.node, each.port): each for each in read_answers(path)}
                writer.write(health_response(known.get((first.node, first.port), first)))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # the checker has gone, as checkers do
        finally:
            writer.close()

    return respond


def health_response(answer: Health) -> bytes:
    """The HTTP response, fields in kube-proxy's order."""
    phrase = {200: "OK", 503: "Service Unavailable"}[answer.status]
    head = [
        f"HTTP/1.1 {answer.status} {phrase}",
        "Content-Type: application/json",
        "X-Content-Type-Options: nosniff",
    ]
    if answer.weight is not None:
        head.append(f"X-Load-Balancing-Endpoint-Weight: {answer.weight}")
    head += [f"Date: {formatdate(usegmt=True)}", f"Content-Length: {len(answer.body)}", "", answer.body]
    return "\r\n".join(head).encode()


def serve_dns(port: int, ipv6: bool) -> None:
    """Answer every DNS query over UDP with a TXT record: the address and port that it came from. Never returns."""
    server = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    if ipv6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::" if ipv6 else "", port))
    while True:
        query, peer = server.recvfrom(512)
        answer = dns_answer(query, f"{peer[0].removeprefix('::ffff:')} {peer[1]}")
        if answer:
            server.sendto(answer, peer)


def dns_query(name: str) -> bytes:
    """A TXT query with a random id (RFC 1035 §4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    header = _HEADER.pack(int.from_bytes(os.urandom(2)), 0x0100, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack("!HH", _TYPE_TXT, _CLASS_IN)


def dns_answer(query: bytes, text: str) -> bytes | None:
    """The response to a query of one question: one TXT record. None where it is no such query."""
    end = query.find(b"\0", _HEADER.size)
    if len(query) < _HEADER.size or end < 0 or end > _HEADER.size + _QUESTION_LIMIT:
        return None
    question = query[_HEADER.size : end + 5]
    identity, flags, questions, *_ = _HEADER.unpack_from(query)
    if flags & 0x8000 or questions != 1 or len(question) < 6:
        return None
    data = bytes([len(text)]) + text.encode()
    # The answer's name is a pointer to the question's (RFC 1035 §4.1.4).
    record = struct.pack("!HHHIH", 0xC000 | _HEADER.size, _TYPE_TXT, _CLASS_IN, 0, len(data)) + data
    return _HEADER.pack(identity, 0x8400, 1, 1, 0, 0) + question + record


def dns_text(query: bytes, response: bytes) -> str | None:
    """The TXT data of the response to a query of ours; None where it is not that."""
    start = len(query) + 12
    if response[:2] != query[:2] or len(response) <= start:
        return None
    return response[start + 1 : start + 1 + response[start]].decode("ascii", "replace")
