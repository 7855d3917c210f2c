"""Requests of our own in the lab: whom a URL means there, and a sender in the operator's place.

The operator's place is the first client's: its address is the one that is to arrive.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from subprocess import PIPE

import msgspec

from analysis.asked import Asked
from analysis.judging.forgery import plain_address
from probe.errors import UsageError
from probe.lab import Lab, LabError
from probe.lab.plan import Plan, same_address
from probe.lab.scenario import Expect, Family, Request
from probe.sending import Order, Target, claims_of, make_orders, told

OPERATOR = "client1"

_NO_EXPECTATION = Expect(verdict="inconclusive")


@dataclass(frozen=True, slots=True)
class Question:
    """What a person wants to be asked: `count` honest requests, and as many with each forged claim."""

    target: Target
    count: int = 1
    spoof: tuple[str, ...] = ()


def lab_orders(question: Question, plan: Plan) -> list[Order]:
    """The requests to send in a lab. Raises UsageError where the URL means nothing there."""
    if plan.scenario.service.protocol != "tcp":
        raise UsageError(f"{plan.scenario.name} serves UDP; --send asks over HTTP: choose another scenario")
    address, port = lab_address(question.target, plan)
    family: Family = "ipv6" if ":" in address else "ipv4"
    if family not in plan.families:
        raise UsageError(
            f"--send {question.target.url}: {plan.scenario.name} has no {_said(family)}; "
            f"ask one of {', '.join(_names(plan))}"
        )
    claims = claims_of(question.spoof, ipv6=family == "ipv6", chance=random.SystemRandom())
    source = plan.source_of(_request(OPERATOR, family))
    return make_orders(question.target, address, port, count=question.count, claims=claims, source=source)


def lab_address(target: Target, plan: Plan) -> tuple[str, int]:
    """Address and port of a URL; a place is asked at the port at which the scenario asks it."""
    if target.literal:
        address = plain_address(target.host) or target.host
        places = _names(plan).items()
        place = next((name for name, its in places if any(same_address(address, each) for each in its)), None)
        family: Family = "ipv6" if ip_address(address).version == 6 else "ipv4"
    else:
        place, family = _place(target, plan), plan.families[0]
        address, _ = plan.target_of(_request(place, family))
    if target.port is not None or place is None:
        return address, target.port or target.default_port
    tls = target.scheme == "https"
    # What the scenario's own requests do comes first: a place may have several ports.
    asked = [each for each in plan.scenario.requests if each.to == place and each.tls == tls]
    return address, plan.target_of(
        msgspec.structs.replace(asked[0] if asked else _request(place), family=family)
    )[1]


def _place(target: Target, plan: Plan) -> str:
    name = {"lb": "balancer"}.get(target.host.lower(), target.host.lower())
    names = _names(plan)
    if name not in names:
        raise UsageError(f"--send {target.url}: the lab has no {name!a}; it has {', '.join(names)}")
    return name


def _names(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Everything in a scenario's cluster that can be asked by name, with its addresses."""
    wanted = [
        "balancer",
        "edge",
        "vip",
        "external-ip",
        "cluster-ip",
        *(["app-cluster-ip"] if plan.apps() else []),
    ]
    wanted += [node.name for node in plan.nodes] + [pod.name for pod in plan.pods]
    found: dict[str, tuple[str, ...]] = {}
    for name in wanted:
        for family in plan.families:
            with contextlib.suppress(KeyError):  # this scenario has none of that kind, or of that family
                found[name] = (*found.get(name, ()), plan.target_of(_request(name, family))[0])
    return found


def _request(place: str, family: Family | None = None) -> Request:
    return Request(expect=_NO_EXPECTATION, from_=OPERATOR, to=place, family=family)


def _said(family: Family) -> str:
    return family.replace("ip", "IP")


def ask_in_lab(lab: Lab, orders: Sequence[Order], progress: Callable[[str], None]) -> Iterator[Asked]:
    """Send from the operator's place, one after the other; each is told of as it ends. Raises LabError."""
    sender = lab.spawn(OPERATOR, [sys.executable, "-m", "probe.sending"], stdin=PIPE, stdout=PIPE)
    try:
        if sender.stdin is None or sender.stdout is None:
            raise LabError("the sender in the lab has no pipes; run the command again")
        for number, order in enumerate(orders, start=1):
            with contextlib.suppress(BrokenPipeError):  # its end is told below
                sender.stdin.write(msgspec.json.encode(order) + b"\n")
                sender.stdin.flush()
            line = sender.stdout.readline()
            if not line:
                raise LabError(
                    "the sender in the lab ended; its words are above; `probe doctor lab` looks further"
                )
            asked = msgspec.json.decode(line, type=Asked)
            progress(told(number, len(orders), asked))
            yield asked
    finally:
        for stream in (sender.stdin, sender.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        sender.terminate()
        sender.wait()
