"""Runs inside a private network namespace: traces what it sends itself, and prints what the kernel said.

Arguments: what to do, then its own. Output: lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys

import msgspec

from daemonset.node.nat_rules import Tracer, TraceRefusedError
from daemonset.observation import Rule, RuleHit, TracedRules


def tell(**said: object) -> None:
    print(json.dumps(said), flush=True)  # noqa: T201 - the test reads it


def knock(address: str, port: int, protocol: int = socket.SOCK_STREAM) -> None:
    """One packet that begins something; whether anybody answers does not matter."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, protocol) as client, contextlib.suppress(BlockingIOError, ConnectionError):
        client.setblocking(False)
        client.connect((address, port))
        if protocol == socket.SOCK_DGRAM:
            client.send(b"?")


def gathered(tracer: Tracer, least: int) -> tuple[list[Rule], list[RuleHit]]:
    """Rules and hits, until there are hits of so many packets."""
    rules: list[Rule] = []
    hits: list[RuleHit] = []
    while len({hit.packet for hit in hits}) < least:
        assert select.select([tracer], [], [], 5)[0], f"only {hits} came"
        for message in tracer.read():
            if isinstance(message, TracedRules):
                rules += message.rules
            else:
                hits += message.hits
    return rules, hits


def trace(*knocks: str) -> None:
    """Trace knocks, each `tcp|udp,address,port`, one after the other; the last one is awaited."""
    with Tracer([80, 53], 20) as tracer:
        for each in knocks:
            protocol, address, port = each.split(",")
            kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
            knock(address, int(port), kind)
        rules, hits = gathered(tracer, len(knocks))
        tell(
            rules=msgspec.to_builtins(rules),
            hits=msgspec.to_builtins(hits),
            state=msgspec.to_builtins(tracer.state()),
        )


def bound(limit: str) -> None:
    """Knock three times as often as is allowed; how many packets were told of?"""
    with Tracer([80], int(limit)) as tracer:
        for _ in range(3 * int(limit)):
            knock("192.0.2.1", 80)
        gathered(tracer, int(limit))
        quiet = not select.select([tracer], [], [], 0)[0]
        tell(packets=tracer.state().packets, quiet=quiet)


def hold(stop: str) -> None:
    """Trace, say so at one step of it, and wait to be killed there."""
    tell(step="before")
    if stop == "before":
        sys.stdin.read()
    with Tracer([80], 20) as tracer:
        tell(step="placed")
        if stop == "placed":
            sys.stdin.read()
        knock("10.9.9.9", 80)
        gathered(tracer, 1)
        tell(step="traced")
        sys.stdin.read()


def refused() -> None:
    """Try to trace; what is said against it?"""
    try:
        Tracer([80]).close()
    except TraceRefusedError as error:
        tell(said=str(error))
    else:
        tell(said=None)


if __name__ == "__main__":
    {"trace": trace, "bound": bound, "hold": hold, "refused": refused}[sys.argv[1]](*sys.argv[2:])
