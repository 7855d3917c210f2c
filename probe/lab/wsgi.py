"""A server in a pod that says who it saw, as a WSGI application (PEP 3333) for gunicorn: `wsgi:named('NAME')`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from probe.lab.plan import PEER_HEADER, POD_HEADER

Environment = dict[str, Any]
Application = Callable[[Environment, Callable[..., Any]], Iterable[bytes]]


def named(pod: str) -> Application:
    """The application of one pod."""

    def answer(environment: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        said = {
            "client_host": environment["REMOTE_ADDR"],
            "client_port": int(environment["REMOTE_PORT"]),
            "pod": pod,
        }
        body = json.dumps(said).encode()
        address, port = environment["gunicorn.socket"].getpeername()[:2]
        fields = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            (PEER_HEADER, f"{address.removeprefix('::ffff:')} {port}"),
            (POD_HEADER, pod),
        ]
        start_response("200 OK", fields)
        return [body]

    return answer
