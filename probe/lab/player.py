"""A client host of the lab at work: sends requests and tells, for each, what it saw itself.

Run as `python -m probe.lab.player` inside the client's network namespace: a JSON list of `Errand` on stdin, one
JSON line of `Result` per request on stdout, in the order in which they end. A connection that fails is told once,
for the request that it failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator

import msgspec

from probe.lab import http1, http2
from probe.lab.channel import Channel
from probe.lab.errands import Errand, Result
from probe.lab.http1 import HttpAnswer
from probe.lab.plan import PEER_HEADER, POD_HEADER
from probe.lab.scenario import Outcome
from probe.lab.small_servers import dns_query, dns_text

_DNS_NAME = "who.am.i"
_CLOSING = 1.0  # seconds that a server has to close after the last answer

#: How a request can end that got no answer: the exception, and what the lab calls it. The first that fits.
_OUTCOMES: tuple[tuple[type[BaseException], Outcome], ...] = (
    (TimeoutError, "timeout"),
    (ConnectionRefusedError, "refused"),
    (ConnectionResetError, "reset"),
    (BrokenPipeError, "reset"),
    (EOFError, "empty"),
    (OSError, "error"),
    (ValueError, "error"),
)


async def play(errands: list[Errand]) -> None:
    """Send them all, each at its time; print results."""
    async with asyncio.TaskGroup() as group:
        begun: list[asyncio.Task[None]] = []
        for errand in errands:
            if begun and errand.after is None:
                await asyncio.wait(begun)
            elif begun and errand.after:
                await asyncio.sleep(errand.after)
            begun.append(group.create_task(_play(errand)))


async def _play(errand: Errand) -> None:
    family = socket.AF_INET6 if ":" in errand.target else socket.AF_INET
    kind = socket.SOCK_STREAM if errand.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as connection:
        connection.setblocking(False)
        # Bound first, so that the port is known of connections that are never answered as well.
        connection.bind((errand.source, 0))
        result = Result(
            index=errand.index,
            number=errand.number,
            source=errand.source,
            source_port=connection.getsockname()[1],
            target=errand.target,
            target_port=errand.port,
            protocol=errand.protocol,
            outcome="error",
            started=time.time(),
            ended=0.0,
            token=errand.token_of(errand.number),
        )
        try:
            # The timeout is one for the whole connection.
            async with asyncio.timeout(errand.patience):
                async for answer in _answers(connection, errand):
                    _tell(_understood(result, answer))
                    result = _next(result, errand)
        except tuple(kind for kind, _ in _OUTCOMES) as error:
            _tell(_failed(result, errand, error))


def _next(last: Result, errand: Errand) -> Result:
    """The next request of a connection, which goes out now or has gone out with the first."""
    number = last.number + 1
    started = last.started if errand.pipelined else time.time()
    return msgspec.structs.replace(last, number=number, started=started, token=errand.token_of(number))


def _failed(result: Result, errand: Errand, error: BaseException) -> Result:
    outcome = next(name for kind, name in _OUTCOMES if isinstance(error, kind))
    words = f"no answer within {errand.patience} s" if outcome == "timeout" else str(error)
    return msgspec.structs.replace(result, outcome=outcome, error=words, ended=time.time())


def _tell(result: Result) -> None:
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    sys.stdout.flush()


async def _answers(connection: socket.socket, errand: Errand) -> AsyncIterator[HttpAnswer]:
    """The answers to an errand's requests, as they come. Raises EOFError where the server closed without a byte."""
    await asyncio.get_running_loop().sock_connect(connection, (errand.target, errand.port))
    channel = Channel(connection)
    if errand.protocol == "udp":
        yield await _ask_dns(channel)
        return
    if errand.proxy:
        await channel.send(errand.proxy)
    if errand.tls:
        try:
            await channel.begin_tls()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:  # which one depends on OpenSSL
            raise _nothing(channel) or error from error
    exchange = _http2(channel, errand) if errand.h2c else _http1(channel, errand)
    async for answer in exchange:
        yield answer


def _nothing(channel: Channel) -> EOFError | None:
    return None if channel.received else EOFError("closed without a byte")


async def _http1(channel: Channel, errand: Errand) -> AsyncIterator[HttpAnswer]:
    requests = [
        http1.get(
            errand.authority,
            errand.path,
            errand.fields(errand.number + number),
            last=number == errand.requests - 1,
        )
        for number in range(errand.requests)
    ]
    if errand.pipelined:
        requests = [b"".join(requests), *[b""] * (errand.requests - 1)]
    reader = http1.Reader()
    for number, request in enumerate(requests, 1):
        await channel.send(request)
        answer, ended = reader.take(), False
        while answer is None:
            if ended:
                raise _nothing(channel) or ConnectionResetError("closed before the answer")
            data = await channel.receive()
            ended = not data
            reader.feed(data)
            answer = reader.take(ended=ended)
        if number == errand.requests:
            await _await_close(channel)
        yield answer


async def _await_close(channel: Channel) -> None:
    """Let the server close first, as a patient client does; one that was asked to close and does not is left."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(_CLOSING):
            while await channel.receive():
                pass


async def _http2(channel: Channel, errand: Errand) -> AsyncIterator[HttpAnswer]:
    await channel.send(
        http2.get(errand.authority, errand.path, {"user-agent": "probe-lab", **errand.fields(errand.number)})
    )
    reader = http2.Reader()
    while not reader.complete:
        data = await channel.receive()
        if not data:
            raise _nothing(channel) or ConnectionResetError("closed before the answer")
        reader.feed(data)
        if reader.reply:
            await channel.send(reader.reply)
            reader.reply = b""
    yield HttpAnswer(reader.status, {}, reader.body)


async def _ask_dns(channel: Channel) -> HttpAnswer:
    """The name server's words, in the form in which a web server would have said them."""
    query = dns_query(_DNS_NAME)
    await channel.send(query)
    seen = dns_text(query, await channel.receive()) or ""
    address, port = _address_and_port(seen)
    said = {"client_host": address, "client_port": port}
    return HttpAnswer(None, {PEER_HEADER.lower(): seen}, json.dumps(said).encode())


def _address_and_port(text: str) -> tuple[str | None, int | None]:
    """From "ADDRESS PORT", in which an IPv6 address needs no brackets."""
    address, _, port = text.partition(" ")
    return (address, int(port)) if port.isdigit() else (None, None)


def _understood(result: Result, answer: HttpAnswer) -> Result:
    """The result with what the answer says: status, who the application saw, which pod answered."""
    said: dict[str, object] = {}
    with contextlib.suppress(ValueError):
        parsed = json.loads(answer.body)
        said = parsed if isinstance(parsed, dict) else {}
    peer, peer_port = _address_and_port(answer.fields.get(PEER_HEADER.lower(), str(said.get("peer", ""))))
    seen, port, pod = said.get("client_host"), said.get("client_port"), said.get("pod")
    return msgspec.structs.replace(
        result,
        outcome="answered",
        ended=time.time(),
        status=answer.status,
        seen=seen if isinstance(seen, str) else None,
        # nginx writes it as a text, an empty one where it took the client out of a field that has no port.
        seen_port=int(str(port)) if str(port).isdigit() else None,
        peer=peer,
        peer_port=peer_port,
        pod=answer.fields.get(POD_HEADER.lower(), pod if isinstance(pod, str) else None),
        answer=said,
    )


def main() -> None:
    """Read errands, play them."""
    asyncio.run(play(msgspec.json.decode(sys.stdin.buffer.read(), type=list[Errand])))


if __name__ == "__main__":
    main()
