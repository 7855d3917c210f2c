"""The application on trial: FastAPI under uvicorn, telling who it believes its client is.

Run as `python -m probe.lab.application NAME PORT`, with uvicorn's own options for whom to believe.
"""

from __future__ import annotations

import argparse
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

from probe.lab.plan import PEER_HEADER, POD_HEADER

_PEER = "lab.peer"


def application(name: str) -> FastAPI:
    """The application of one pod."""
    app = FastAPI(openapi_url=None)

    @app.get("/debug/ip")
    async def debug_ip(request: Request, response: Response) -> dict[str, Any]:
        peer = request.scope[_PEER] or ("", 0)
        response.headers[PEER_HEADER] = f"{peer[0]} {peer[1]}"
        response.headers[POD_HEADER] = name
        return {
            "client_host": request.client.host if request.client else None,
            "client_port": request.client.port if request.client else None,
            "x_forwarded_for": request.headers.get("x-forwarded-for"),
            "x_real_ip": request.headers.get("x-real-ip"),
            "headers": dict(request.headers),
            "pod": name,
        }

    return app


class Witness:
    """Notes the peer of the socket before uvicorn's own middleware puts another client in its place."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass on, with the peer noted."""
        await self.app({**scope, _PEER: scope.get("client")}, receive, send)


def main() -> None:
    """Serve on every address of the pod, both families where there are two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    parser.add_argument("--proxy-headers", default=True, action=argparse.BooleanOptionalAction)
    parser.add_argument("--forwarded-allow-ips")
    told = parser.parse_args()
    config = uvicorn.Config(
        application(told.name),
        proxy_headers=told.proxy_headers,
        forwarded_allow_ips=told.forwarded_allow_ips,
        lifespan="off",
        http="h11",
        ws="none",
        log_level="warning",
    )
    config.load()
    config.loaded_app = Witness(config.loaded_app)
    uvicorn.Server(config).run(sockets=_listeners(told.port))


def _listeners(port: int) -> list[socket.socket]:
    """One for each family: a socket of both would show IPv4 peers as ::ffff:a.b.c.d, which no trust list holds."""
    four = socket.create_server(("", port))
    with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", encoding="ascii") as setting:  # noqa: PTH123 - not a file
        if setting.read().strip() != "0":
            return [four]
    return [four, socket.create_server(("::", port), family=socket.AF_INET6)]


if __name__ == "__main__":
    main()
