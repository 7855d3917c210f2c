"""A small TCP balancer of the lab's own: it adds PROXY headers, also in two segments, and also wrong ones.

Run as `python -m probe.lab.relay PORT,TARGET,TARGET_PORT,none|v1|v2,SPLIT,TEXT ...`, one word for each frontend;
TEXT is in hexadecimal.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import NamedTuple

from probe.lab.proxy_headers import Ends, proxy_header

#: How long the second segment waits for the receiver to read the first. Nobody tells a sender when that has
#: happened; one that refuses half a header ends the waiting by closing, long before.
_APART = 0.1


class Way(NamedTuple):
    """One frontend: where it listens, where its connections go, and with which header."""

    port: int
    target: str
    target_port: int
    version: str
    split: int
    text: bytes

    def header(self, ends: Ends) -> bytes:
        """What goes out before the client's bytes."""
        if self.text:
            text = self.text
            for name, value in ends._asdict().items():
                text = text.replace(b"{%s}" % name.encode(), str(value).encode())
            return text.replace(b"{block}", ends.block)
        return b"" if self.version == "none" else proxy_header(int(self.version[1]), ends)


def parse(word: str) -> Way:
    """A frontend from its word on the command line."""
    port, target, target_port, version, split, text = word.split(",")
    return Way(int(port), target, int(target_port), version, int(split), bytes.fromhex(text))


async def _carry(way: Way, client: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
    try:
        server, server_writer = await asyncio.open_connection(way.target, way.target_port)
    except OSError:
        client_writer.close()
        return
    peer, own = client_writer.get_extra_info("peername"), client_writer.get_extra_info("sockname")
    back = asyncio.create_task(_pump(server, client_writer))
    with contextlib.suppress(ConnectionError):
        header = way.header(Ends(_plain(peer[0]), peer[1], _plain(own[0]), own[1]))
        if way.split:
            server_writer.write(header[: way.split])
            await asyncio.wait({back}, timeout=_APART)
        server_writer.write(header[way.split :])
        await _pump(client, server_writer)
    await back
    client_writer.close()
    server_writer.close()


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes until one side ends, then say so to the other."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


async def serve(ways: list[Way]) -> None:
    """Serve all frontends, for ever."""
    for way in ways:

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way = way) -> None:
            await _carry(way, reader, writer)

        host = "::" if ":" in way.target else ""
        await asyncio.start_server(carry, host or "0.0.0.0", way.port)  # noqa: S104 - a balancer serves everybody
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve([parse(word) for word in sys.argv[1:]]))
