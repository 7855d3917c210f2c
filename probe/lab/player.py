"""A client host of the lab at work: sends requests and tells, for each, what it saw itself.

Run as `python -m probe.lab.player` inside the client's network namespace: a JSON list of `Errand` on stdin, one
JSON line of `Result` per request on stdout, in the order in which they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time

import msgspec

from probe.lab.errands import Errand, Result
from probe.lab.scenario import Outcome
from probe.lab.servers import PEER_HEADER, POD_HEADER
from probe.lab.small_servers import dns_query, dns_text

_ANSWER_LIMIT = 1 << 20
_DNS_NAME = "who.am.i"


class _Exchange(msgspec.Struct):
    """What came back, as far as it came."""

    outcome: Outcome = "error"
    error: str | None = None
    data: bytes = b""


async def play(errands: list[Errand]) -> None:
    """Send them all, each at its time; print results."""
    await asyncio.gather(*(_play(errand) for errand in errands))


async def _play(errand: Errand) -> None:
    await asyncio.sleep(errand.delay)
    family = socket.AF_INET6 if ":" in errand.target else socket.AF_INET
    kind = socket.SOCK_STREAM if errand.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as connection:
        connection.setblocking(False)
        # Bound first, so that the port is known of connections that are never answered as well.
        connection.bind((errand.source, 0))
        started = time.time()
        exchange, query = _Exchange(), b""
        if errand.protocol == "udp":
            query = dns_query(_DNS_NAME)
        await _exchange(connection, errand, query, exchange)
        result = Result(
            index=errand.index,
            number=errand.number,
            source=errand.source,
            source_port=connection.getsockname()[1],
            target=errand.target,
            target_port=errand.port,
            protocol=errand.protocol,
            outcome=exchange.outcome,
            error=exchange.error,
            started=started,
            ended=time.time(),
        )
    understood = (
        _understand_dns(result, query, exchange.data) if query else _understand(result, exchange.data)
    )
    sys.stdout.write(msgspec.json.encode(understood).decode() + "\n")
    sys.stdout.flush()


async def _exchange(connection: socket.socket, errand: Errand, query: bytes, exchange: _Exchange) -> None:
    try:
        async with asyncio.timeout(errand.patience):
            if query:
                await _ask(connection, errand, query, exchange)
            else:
                await _get(connection, errand, exchange)
    except TimeoutError:
        exchange.outcome, exchange.error = "timeout", f"no answer within {errand.patience} s"
    except ConnectionRefusedError as error:
        exchange.outcome, exchange.error = "refused", str(error)
    except ConnectionResetError as error:
        exchange.outcome, exchange.error = "reset", str(error)
    except OSError as error:
        exchange.outcome, exchange.error = "error", str(error)


async def _get(connection: socket.socket, errand: Errand, exchange: _Exchange) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (errand.target, errand.port))
    host = f"[{errand.target}]" if ":" in errand.target else errand.target
    request = (
        f"GET {errand.path} HTTP/1.1\r\nHost: {host}:{errand.port}\r\nUser-Agent: probe-lab\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    await loop.sock_sendall(connection, request.encode())
    while len(exchange.data) < _ANSWER_LIMIT and (chunk := await loop.sock_recv(connection, 65536)):
        exchange.data += chunk
    exchange.outcome = "answered" if exchange.data else "empty"


async def _ask(connection: socket.socket, errand: Errand, query: bytes, exchange: _Exchange) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (errand.target, errand.port))
    await loop.sock_sendall(connection, query)
    exchange.data = await loop.sock_recv(connection, 512)
    exchange.outcome = "answered"


def _understand_dns(result: Result, query: bytes, data: bytes) -> Result:
    text = dns_text(query, data) or ""
    seen, port = _address_and_port(text)
    return msgspec.structs.replace(result, seen=seen, seen_port=port, peer=seen, peer_port=port)


def _address_and_port(text: str) -> tuple[str | None, int | None]:
    """From "ADDRESS PORT", in which an IPv6 address needs no brackets."""
    address, _, port = text.partition(" ")
    return (address, int(port)) if port.isdigit() else (None, None)


def _understand(result: Result, data: bytes) -> Result:
    """The result with what the answer says: status, who the application saw, which pod answered."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
    }
    words = lines[0].split(" ")
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else None
    answer: dict[str, object] = {}
    with contextlib.suppress(ValueError):
        parsed = json.loads(body)
        answer = parsed if isinstance(parsed, dict) else {}
    seen, port = answer.get("client_host"), answer.get("client_port")
    peer, peer_port = _address_and_port(fields.get(PEER_HEADER.lower(), ""))
    return msgspec.structs.replace(
        result,
        status=status,
        seen=seen if isinstance(seen, str) else None,
        seen_port=port if isinstance(port, int) else None,
        peer=peer,
        peer_port=peer_port,
        pod=fields.get(POD_HEADER.lower()),
        answer=answer,
    )


def main() -> None:
    """Read errands, play them."""
    asyncio.run(play(msgspec.json.decode(sys.stdin.buffer.read(), type=list[Errand])))


if __name__ == "__main__":
    main()
