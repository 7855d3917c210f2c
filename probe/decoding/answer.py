"""What `probe decode` answers about one PROXY header, and the rules by which it does.

`ok` is true where the header is whole and valid. `error` says what the specification forbids about it.
`complete` is false where more bytes could still change the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from analysis.receivers import Reception, receptions
from daemonset.decode.head import read_payload
from daemonset.decode.proxy_protocol import ProxyProtocolError, decode_all
from daemonset.decode.proxy_v1 import PREFIX
from daemonset.decode.proxy_v2 import SIGNATURE
from daemonset.observation import Payload, ProxyHeader, Tlv
from probe.errors import ExitCode

#: What the begin of a payload is called.
KINDS = {
    Payload.HTTP_REQUEST: "an HTTP request",
    Payload.HTTP_RESPONSE: "an HTTP response",
    Payload.H2_PREFACE: "an HTTP/2 connection preface",
    Payload.TLS_CLIENT_HELLO: "a TLS ClientHello",
    Payload.TLS_OTHER: "a TLS record",
}


class Seen(msgspec.Struct, frozen=True, rename={"source": "from", "destination": "to"}):
    """Where in a capture a header was: packet number (from 1), seconds since the epoch, ip:port of both ends."""

    packet: int
    time: float
    source: str
    destination: str
    interface: str = ""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One header, decoded or not; `next` holds those behind it where one line has to say it all.

    `receivers` says which receivers would take it, where that was asked for.
    """

    ok: bool
    error: str | None
    complete: bool
    version: int | None
    command: str | None
    family: str | None
    transport: str | None
    source: str | None
    destination: str | None
    tlvs: tuple[dict[str, Any], ...]
    length: int
    warnings: tuple[str, ...]
    next: tuple[Answer, ...] = ()
    receivers: tuple[Reception, ...] = ()
    seen: Seen | None = None


def decode_bytes(data: bytes, *, final: bool = True) -> list[Answer]:
    """An answer for each header at the start of `data`; at least one. `final`: no byte follows these."""
    decoded = decode_all(data)
    answers = [answer_for(header) for header in decoded.headers]
    if decoded.error or not decoded.complete:
        answers.append(_failed(data[decoded.rest :], decoded.error, first=not answers, final=final))
    return answers


def answer_for(header: ProxyHeader, seen: Seen | None = None) -> Answer:
    """The answer for a header that is whole and valid."""
    return Answer(
        True, None, True, header.version, header.command, header.family, header.transport,
        header.source, header.destination, tuple(map(_tlv, header.tlvs)), header.length, header.warnings,
        seen=seen,
    )  # fmt: skip


def answer_failed(
    version: int | None,
    error: str | None,
    *,
    complete: bool,
    warnings: tuple[str, ...] = (),
    seen: Seen | None = None,
) -> Answer:
    """The answer for a header that is in error or, without `error`, cut short."""
    return Answer(False, error, complete, version, None, None, None, None, None, (), 0, warnings, seen=seen)


def version_of(error: ProxyProtocolError) -> int | None:
    """The version of the header that is in error, by the section that it breaks (2.1 and 2.2)."""
    return {"2.1": 1, "2.2": 2}.get(error.rule[:3])


def with_receivers(answers: list[Answer], data: bytes, *, datagram: bool = False) -> list[Answer]:
    """The answers to the headers at the start of `data`, each with what receivers do with it."""
    judged: list[Answer] = []
    first: bytes | None = None
    at = 0
    for answer in answers:
        found = receptions(data[at:], first=first, datagram=datagram)
        judged.append(msgspec.structs.replace(answer, receivers=found))
        at += answer.length
        first = first or data[:at]
    return judged


def exit_code(answers: Iterable[Answer]) -> int:
    """LOST before INCONCLUSIVE before OK."""
    code = ExitCode.OK
    for answer in answers:
        if answer.error is not None or any(behind.error is not None for behind in answer.next):
            return ExitCode.LOST
        if not answer.complete or any(not behind.complete for behind in answer.next):
            code = ExitCode.INCONCLUSIVE
    return code


def _tlv(tlv: Tlv) -> dict[str, Any]:
    return {"type": tlv.type, "name": tlv.name, "value": tlv.value.hex(), "decoded": tlv.decoded}


def _failed(begin: bytes, error: ProxyProtocolError | None, *, first: bool, final: bool) -> Answer:
    if error:
        what = KINDS.get(read_payload(begin)[0]) if first else None
        text = f"{error}; this is {what}" if what else str(error)
        return answer_failed(version_of(error), text, complete=True)
    if not begin:
        return answer_failed(None, "there are no bytes", complete=False)
    if begin.startswith(PREFIX) and begin.endswith(b"\r") and final:
        what = "a single CR must not be tolerated where CRLF ends the line, and nothing follows this one"
        return answer_failed(1, str(ProxyProtocolError("2.1", len(begin), what)), complete=False)
    version = 1 if begin.startswith(PREFIX) else 2 if begin.startswith(SIGNATURE) else None
    return answer_failed(version, None, complete=False, warnings=(_missing(begin),))


def _missing(begin: bytes) -> str:
    if begin.startswith(SIGNATURE) and len(begin) >= 16:
        whole = 16 + int.from_bytes(begin[14:16], "big")
        return f"the header is cut: {len(begin)} of its {whole} bytes are here"
    return f"the header is cut: it ends after {len(begin)} bytes"
