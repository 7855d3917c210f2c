"""Applications that answer with whom they believe to be their client, and many uvicorns in one process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

UNIX = "unix:"  # as the rules write it; ASGI and WSGI leave the client out


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI: the host of scope["client"]."""
    if scope["type"] != "http":
        return
    client = scope.get("client")
    host = UNIX if client is None or client[0] is None else client[0]
    body = json.dumps(host).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ: dict[str, Any], start: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    """WSGI: REMOTE_ADDR."""
    body = json.dumps(environ.get("REMOTE_ADDR") or UNIX).encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def fixed() -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """ASGI behind hypercorn's middleware; the path says how: /MODE/HOPS."""
    from hypercorn.middleware import ProxyFixMiddleware

    middleware: Any = ProxyFixMiddleware  # its types of ASGI are its own

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        words = scope.get("path", "").strip("/").split("/")
        if scope["type"] == "http" and len(words) == 2:
            await middleware(app, mode=words[0], trusted_hops=int(words[1]))(scope, receive, send)
        else:
            await app(scope, receive, send)

    return choose


async def _uvicorns(written: str) -> None:
    import uvicorn

    servers = []
    for one in json.loads(written):
        config = uvicorn.Config(app, log_level="critical", lifespan="off", http="h11", ws="none", **one)
        server = uvicorn.Server(config)
        config.load()
        servers.append(server)
    # The last one to begin is the one that is waited for.
    await asyncio.gather(*(server.serve() for server in servers))


if __name__ == "__main__":
    asyncio.run(_uvicorns(sys.argv[1]))
