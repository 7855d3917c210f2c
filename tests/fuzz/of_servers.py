"""Readers of what servers are told and write, configurations, logs, command lines; and of whom they believe."""

from __future__ import annotations

import io

import msgspec

from analysis.ingress import Application, Ingress, LogEntry
from analysis.receivers import RECEIVERS, receptions
from analysis.trust.evaluate import resolve
from analysis.trust.model import (
    Arrival,
    EnvoyCustomHeader,
    EnvoyTrust,
    EnvoyXff,
    Gunicorn,
    HaproxyRule,
    HaproxyTrust,
    Hypercorn,
    IngressNginx,
    NginxRealIp,
    Relay,
    Settings,
    TraefikTrust,
    Uvicorn,
)
from daemonset.decode.proxy_protocol import HEADER_MAX
from probe.decoding.answer import Answer, decode_bytes
from probe.errors import UsageError
from probe.ingress.application import read_application
from probe.ingress.config import parse_config
from probe.ingress.entries import TEXT_LIMIT
from probe.ingress.log import parse_log
from probe.ingress.nginx_files import Part
from probe.ingress.settle import settled
from probe.render.machines import machine
from tests.fuzz.reader import Reader, one_line


def answers(data: bytes, size: int) -> None:
    """`probe decode` about one header."""
    told = decode_bytes(data, final=not size)
    assert 1 <= len(told) <= HEADER_MAX + 1
    for answer in told:
        line = machine.to_line(answer)
        for text in (line, machine.to_yaml(answer)) if size < 16 else (line,):
            assert text.isascii()
            assert text.replace("\n", "").isprintable()
        assert msgspec.json.decode(line, type=Answer).ok == answer.ok


def receivers(data: bytes, size: int) -> None:
    """Who takes a header, alone or behind another one."""
    told = receptions(data, first=data[:size] or None if size & 1 else None, cuts=(size,))
    assert len(told) == len(RECEIVERS)
    assert all(one.detail.isprintable() for one in told if one.verdict != "accepted")


#: What a configuration may include.
_INCLUDED = "set_real_ip_from 10.0.0.0/8;\ninclude again.conf;"


def _lookup(pattern: str) -> list[Part]:
    return [Part("a.conf", _INCLUDED, "a.conf")] if pattern.startswith("a") else []


def configurations(data: bytes, size: int) -> None:
    """nginx.conf, haproxy.cfg, ConfigMaps: whatever a text is taken for."""
    try:
        found = parse_config(data.decode("utf-8", "replace"), "file", _lookup)
    except UsageError as error:
        one_line(error)
        return
    assert msgspec.json.decode(msgspec.json.encode(found), type=list[Ingress]) == found
    assert all(len(each.listeners) <= 70_000 for each in found)
    assert size < 256


def logs(data: bytes, size: int) -> None:
    """Lines of logs."""
    try:
        found = parse_log(io.BufferedReader(io.BytesIO(data)), "access.log")  # type: ignore[arg-type] # BytesIO is raw
    except UsageError as error:
        one_line(error)
        return
    entries = settled(found.entries, ())
    assert len(entries) <= len(data)
    assert msgspec.json.decode(msgspec.json.encode(entries), type=list[LogEntry]) == entries
    assert all(len(entry.text) <= TEXT_LIMIT + 1 for entry in entries)  # with the mark that it is cut
    assert size < 256


_TRUSTED = ("10.0.0.0/8", "::/0")
_ORDER = ("192.0.2.1", "10.0.0.1", "::ffff:10.0.0.1", "unix:", "not one")
#: Servers that believe in different ways.
_SETTINGS: tuple[Settings, ...] = (
    NginxRealIp(
        _TRUSTED,
        "X-Forwarded-For",
        recursive=True,
        proxy_protocol=True,
        sends=(("X-Forwarded-For", "$proxy_add_x_forwarded_for"), ("X-Real-IP", "$http_x_real_ip")),
    ),
    NginxRealIp(_TRUSTED),
    IngressNginx(use_forwarded_headers=True, compute_full_forwarded_for=True, enable_real_ip=True),
    IngressNginx(use_proxy_protocol=True, use_forwarded_headers=True),
    HaproxyTrust(
        accept_proxy=True,
        forward_for=True,
        rules=(HaproxyRule("set-src", "X-Forwarded-For"), HaproxyRule("set-header", "X-Real-IP", "%[src]")),
    ),
    EnvoyTrust(use_remote_address=True, trusted_hops=1),
    EnvoyTrust(detection=(EnvoyXff(trusted_cidrs=_TRUSTED), EnvoyCustomHeader("X-Real-IP"))),
    TraefikTrust(proxy=True, proxy_insecure=True, forwarded_trusted=_TRUSTED),
    *(
        Uvicorn(allow=allow, version=(0, minor))
        for allow in ("*", "10.0.0.0/8")
        for minor in (30, 35, 46, 54)
    ),
    Gunicorn(worker="uvicorn", allow="*"),
    Gunicorn(proxy_protocol=True, proxy_allow="*"),
    Hypercorn("legacy"),
    Hypercorn("modern"),
    Relay("append"),
)
_CLAIMS = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Host")


def believed(data: bytes, size: int) -> None:
    """Whom servers believe; each line is a field's value, the first what a PROXY header says."""
    source, *values = data.decode("latin-1").split("\n")[:32]
    fields = tuple((_CLAIMS[at % len(_CLAIMS)], value) for at, value in enumerate(values))
    told = (source if size & 1 else None) if size & 2 else "203.0.113.9"
    arrival = Arrival(_ORDER[(size >> 2) % len(_ORDER)], told, fields)
    found = resolve(_SETTINGS[(size >> 3) % len(_SETTINGS)], arrival)
    assert found.refused <= (found.client is None)
    assert found.onward is None or sum(len(value) for _, value in found.onward) <= 8 * len(data) + 1024


def command_lines(data: bytes, size: int) -> None:
    """The command line of an application's server."""
    command = ("", "uvicorn app:main ", "gunicorn app:main ")[size % 3] + data.decode("utf-8", "replace")
    try:
        found = read_application(command)
    except UsageError as error:
        one_line(error)
        return
    assert msgspec.json.decode(msgspec.json.encode(found), type=Application) == found


READERS = (
    Reader(answers, 180, longest=1024),
    Reader(receivers, 20, longest=300),
    Reader(configurations, 180),
    Reader(logs, 330, longest=1024),
    Reader(command_lines, 110, longest=512),
    Reader(believed, 217, longest=512),
)
