"""A command in a pod, over `pods/exec`: its start, what it says channel by channel, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from probe.cluster import channels
from probe.cluster.client import ApiError
from probe.render.escape import escape

Socket = aiohttp.ClientWebSocketResponse

_AGAIN = (0.5, 1.0, 2.0, 4.0)  # seconds between attempts to start one
_LAST_WORDS = 4096  # bytes of standard error that are kept
_LINE = 300
_KILLED = 137  # 128 and SIGKILL: by the kernel for want of memory, most often


async def started(start: Callable[[], Awaitable[Socket]], pauses: Sequence[float] = _AGAIN) -> Socket:
    """Start a command, again where the server itself fails. Raises UnavailableError."""
    for pause in pauses:
        try:
            return await start()
        except ApiError as error:
            if error.status < 500:
                raise
        await asyncio.sleep(pause)
    return await start()


class Said:
    """What a command says. Standard output goes on at once; of standard error the last is kept."""

    def __init__(self) -> None:
        self._words = b""
        self._ended: channels.Ended | None = None

    @property
    def ended_well(self) -> bool:
        """Whether it is known to have ended with code 0."""
        return self._ended is not None and self._ended.code == 0

    async def read(self, socket: Socket, take: Callable[[bytes], None]) -> None:
        """To its end."""
        async for message in socket:
            if message.type not in {aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT}:
                continue
            data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
            channel, content = channels.unpack(data)
            match channel:
                case channels.STDOUT:
                    take(content)
                case channels.STDERR:
                    self._words = (self._words + content)[-_LAST_WORDS:]
                case channels.ERROR if content:
                    self._ended = channels.ended(content)

    def complaint(self, who: str) -> str | None:
        """Why it ended badly, by its own last words or by the server's; None where it did not, as far as is known."""
        if self._ended is None or self._ended.code == 0:
            return None
        if lines := self._words.decode("utf-8", "backslashreplace").strip().splitlines():
            return escape(lines[-1], _LINE)
        if self._ended.code is None:
            return f"{who} was ended: {escape(self._ended.message, _LINE) or 'the server does not say why'}"
        return f"{who} ended with code {self._ended.code}{', killed' if self._ended.code == _KILLED else ''}"
