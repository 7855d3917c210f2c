"""The bytes of one connected socket, within TLS where that is wanted.

TLS stands between memory buffers here, so that "the server closed without a byte" and "the server said something
that is no TLS" can be told apart, and a PROXY header can go out in front of it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

#: The name that the lab's clients ask for (SNI). Nobody verifies a certificate in the lab.
SERVER_NAME = "lab.example"

_CHUNK = 65536

Done = TypeVar("Done")


class Channel:
    """`received` counts the bytes that came from the network."""

    def __init__(self, connection: socket.socket) -> None:
        self.received = 0
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    async def begin_tls(self) -> None:
        """Shake hands. Raises ssl.SSLError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=SERVER_NAME)
        await self._drive(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        """All of it."""
        tls = self._tls
        if tls is None:
            await asyncio.get_running_loop().sock_sendall(self._connection, data)
        else:
            await self._drive(lambda: tls.write(data))

    async def receive(self) -> bytes:
        """What has come; b"" at the end."""
        tls = self._tls
        if tls is None:
            return await self._read()
        try:
            return await self._drive(lambda: tls.read(_CHUNK))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def _read(self) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self._connection, _CHUNK)
        self.received += len(data)
        return data

    async def _drive(self, step: Callable[[], Done]) -> Done:
        """Repeat a step of TLS until it needs nothing more from the network."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._read()
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            finally:
                await self._flush()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await asyncio.get_running_loop().sock_sendall(self._connection, self._outgoing.read())
