"""The application on trial: FastAPI under uvicorn, telling who it believes its client is.

Run as `python -m probe.lab.application NAME PORT TRUSTED`, where TRUSTED is a comma-separated list of the proxies
whose X-Forwarded-For uvicorn may believe (its --forwarded-allow-ips).
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request


def application(name: str) -> FastAPI:
    """The application of one pod."""
    app = FastAPI(openapi_url=None)

    @app.get("/debug/ip")
    async def debug_ip(request: Request) -> dict[str, Any]:
        return {
            "client_host": request.client.host if request.client else None,
            "client_port": request.client.port if request.client else None,
            "x_forwarded_for": request.headers.get("x-forwarded-for"),
            "x_real_ip": request.headers.get("x-real-ip"),
            "headers": dict(request.headers),
            "pod": name,
        }

    return app


def main() -> None:
    """Serve on every address of the pod, both families where there are two."""
    name, port, trusted = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    config = uvicorn.Config(
        application(name),
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted,
        lifespan="off",
        http="h11",
        ws="none",
        log_level="warning",
    )
    listener = socket.create_server(("", port)) if not _has_ipv6() else _dual(port)
    uvicorn.Server(config).run(sockets=[listener])


def _has_ipv6() -> bool:
    with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", encoding="ascii") as setting:  # noqa: PTH123 - not a file
        return setting.read().strip() == "0"


def _dual(port: int) -> socket.socket:
    return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)


if __name__ == "__main__":
    main()
