"""Requests through proxies, and what the servers themselves said of each: the truth that verdicts are held against."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.report import Journey, Report
from probe.lab import PIPE, Answer, Lab, LabProcess
from probe.lab.plan import PEER_HEADER, POD_HEADER
from tests.field.asking import PORTS
from tests.field.judging import tell

#: A member of the answer's JSON object that is a string.
_MEMBER = re.compile(r'"(client_host|x_forwarded_for|x_real_ip)"\s*:\s*"([^"]*)"')

REQUESTER = Path(__file__).with_name("requester.py")

Wish = dict[str, Any]
Socket = tuple[str, int]


@dataclass(frozen=True)
class Spoken:
    """One request: the client's socket, and whom the servers say they served. None: they said nothing.

    `seen` is the application's word (or that of the server that answered in its place), `peer` the other end of the
    answering server's own socket.
    """

    client: Socket
    outcome: str
    status: int | None = None
    seen: str | None = None
    peer: str | None = None
    pod: str | None = None
    named: tuple[str, ...] = ()  # whom the ingress named to the application, by what the application got

    @property
    def truth(self) -> str | None:
        """`preserved` or `lost`; None where nobody said."""
        if self.seen is None:
            return None
        return "preserved" if self.seen == self.client[0] else "lost"


def request(host: str, *fields: str, path: str = "/debug/ip", close: bool = True, body: str = "") -> str:
    """The text of a request."""
    host = f"[{host}]" if ":" in host else host
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", f"Host: {host}", "User-Agent: curl/7.88.1"]
    lines += ["Accept: */*", *fields, *(["Connection: close"] if close else [])]
    return "\r\n".join(lines) + "\r\n\r\n" + body


def of_answers(answers: Iterable[Answer]) -> list[Spoken]:
    """What the lab's own client was told."""
    return [
        Spoken(
            (answer.result.source, answer.result.source_port),
            answer.result.outcome,
            answer.result.status,
            answer.result.seen,
            answer.result.peer,
            answer.result.pod,
            named_in(answer.result.answer),
        )
        for answer in answers
    ]


def start_talking(lab: Lab, place: str, wishes: Sequence[Wish]) -> LabProcess:
    """Start a requester; `hear` hears it out."""
    process = lab.spawn(place, [sys.executable, "-S", "-E", str(REQUESTER)], stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(json.dumps([{"from_port": next(PORTS)} | wish for wish in wishes]).encode())
    return process


def hear(process: LabProcess, client: str) -> list[Spoken]:
    """What came of each request."""
    assert process.stdout is not None
    with process.stdout:
        lines = process.stdout.read().splitlines()
    assert process.wait(30) == 0
    return [spoken for line in lines for spoken in _spoken(json.loads(line), client)]


def talk(lab: Lab, place: str, client: str, *wishes: Wish) -> list[Spoken]:
    """Connections from a place, to their end."""
    return hear(start_talking(lab, place, wishes), client)


def _spoken(result: Json, client: str) -> list[Spoken]:
    socket = (result["source"] or client, result["source_port"])
    found = [_of_answer(socket, result["outcome"], text) for text in result["answers"]]
    if result["outcome"] != "answered":
        found.append(Spoken(socket, result["outcome"]))
    return found


Json = dict[str, Any]


def _of_answer(socket: Socket, outcome: str, text: str) -> Spoken:
    head, _, body = text.partition("\r\n\r\n")
    lines = head.split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    # By pattern: where no port is known, nginx's answer of the lab is no JSON ("client_port":,).
    told = dict(_MEMBER.findall(body))
    return Spoken(
        socket,
        outcome,
        int(lines[0].split()[1]),
        told.get("client_host"),
        fields.get(PEER_HEADER.lower(), "").partition(" ")[0].removeprefix("::ffff:") or None,
        fields.get(POD_HEADER.lower()),
        named_in(told),
    )


def named_in(told: Json) -> tuple[str, ...]:
    """Whom the ingress named, by what the application says that it got: the last of the list, and X-Real-IP."""
    texts = [
        str(told.get("x_forwarded_for") or "").rpartition(",")[2].strip(),
        str(told.get("x_real_ip") or ""),
    ]
    return tuple(text for text in texts if text)


@dataclass
class Held:
    """A report held against the truth."""

    wrong: list[str]
    beyond: list[str]  # true of what the ingress said, and the application took another address
    silent: list[str]  # requests that servers spoke of, and nothing but `inconclusive` is said of
    told: int = 0


def held(report: Report, spoken: Iterable[Spoken]) -> Held:
    """Every false claim of a report, and every request of which it claims nothing."""
    truth: dict[Socket, list[Spoken]] = defaultdict(list)
    for each in spoken:
        truth[each.client].append(each)
    result = Held([], [], [])
    said: dict[Socket, list[Journey]] = defaultdict(list)
    everything = [each for entries in truth.values() for each in entries]
    for journey in report.journeys:
        socket = (journey.client.address, journey.client.port) if journey.client else None
        if socket is not None:
            said[socket].append(journey)
        entries = truth.get(socket, []) if socket is not None else everything
        if not entries and journey.verdict == "lost":
            entries = (
                everything  # told of a proxy that nobody gave away: at whose address the client was lost
            )
        complaints = [f"{word}: {tell(journey)}" for word in _false(journey, entries)]
        by_ingress = any(journey.seen_by_app in each.named for each in entries)
        (result.beyond if by_ingress else result.wrong).extend(complaints)
    for socket, entries in truth.items():
        verdicts = {journey.verdict.value for journey in said[socket]} - {"inconclusive"}
        spoke = {each.truth for each in entries} - {None}
        result.told += bool(verdicts)
        if spoke - verdicts:
            listed = "\n".join(tell(journey) for journey in said[socket]) or "no journey"
            result.silent.append(f"{socket} {[each.seen for each in entries]}: {listed}")
    return result


def _false(journey: Journey, entries: Sequence[Spoken]) -> list[str]:
    if not entries:
        return [] if journey.verdict == "inconclusive" else ["nobody asked so"]
    complaints = []
    truths: set[str | None] = {each.truth for each in entries}
    seen = {each.seen for each in entries}
    if None in truths:  # nobody answered it, so nobody said whom he took for the client
        return []
    if journey.verdict in {"preserved", "lost"} and journey.verdict.value not in truths:
        complaints.append(f"the truth is {truths}")
    if journey.verdict == "blackholed" and all(each.seen is not None for each in entries):
        complaints.append("it was answered")
    if (
        journey.seen_by_app is not None
        and journey.verdict != "inconclusive"
        and journey.seen_by_app not in seen
    ):
        complaints.append(f"the application saw {seen}")
    return complaints
