"""Real nginx is sent what it does not expect, and its log is asked afterwards what happened to whom."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from analysis.ingress import IngressFacts, LogEntry, Problem
from probe.ingress import read_ingress
from tests.ingress.running import ADDRESS, REQUEST, certificate, need, nginx_main, running, say, v1, v2

PLAIN, PROXY, TLS, UNTRUSTED = 8080, 8081, 8443, 8082

VARIABLES = """
    msec request_id connection server_addr server_port remote_addr remote_port realip_remote_addr realip_remote_port
    proxy_protocol_addr proxy_protocol_port http_x_forwarded_for request status upstream_addr
"""
JSON = (
    "log_format words escape=json '{" + ",".join(f'"{name}":"${name}"' for name in VARIABLES.split()) + "}';"
)


@dataclass
class Told:
    """What each client did, by a name: its own address, when, and what it was answered."""

    folder: Path
    facts: IngressFacts
    by_name: dict[str, tuple[str, float, bytes]] = field(default_factory=dict)

    def about(self, name: str, port: int) -> list[LogEntry]:
        peer, when, _ = self.by_name[name]
        return list(self.facts.entries_about(peer, when, port=port))


CONVERSATIONS: dict[str, tuple[int, bytes]] = {
    "plain": (PLAIN, REQUEST),
    "no header": (PROXY, REQUEST),
    "v1": (PROXY, v1() + REQUEST),
    "v2": (PROXY, v2() + REQUEST),
    "v2 from a stranger": (UNTRUSTED, v2() + REQUEST),
    "v2 to plain": (PLAIN, v2() + REQUEST),
    "v1 to plain": (PLAIN, v1() + REQUEST),
    "hello to plain": (PLAIN, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)),
    "hello to proxy": (PROXY, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)),
    "request to tls": (TLS, REQUEST),
    "v1 to tls": (TLS, v1() + REQUEST),
    "v2 to tls": (TLS, v2() + REQUEST),
    "broken v1": (PROXY, b"PROXY TCP4 one two 3 4\r\n" + REQUEST),
    "half v2": (PROXY, v2()[:14]),
    "unknown version": (PROXY, v2(command=0x31) + REQUEST),
    "unknown command": (PROXY, v2(command=0x2F) + REQUEST),
    "unix sockets": (PROXY, v2(family=0x31) + REQUEST),
    "not a byte": (PROXY, b""),
}


def converse(folder: Path, access: str) -> Told:
    """One nginx, all the conversations, its configuration and logs."""
    pem = certificate(folder)
    body = f"""
      {access}
      server {{ listen {ADDRESS}:{PLAIN}; location / {{ return 200 "$remote_addr\\n"; }} }}
      server {{ listen {ADDRESS}:{PROXY} proxy_protocol; set_real_ip_from 127.0.0.0/8; real_ip_header proxy_protocol;
               location / {{ return 200 "$remote_addr\\n"; }} }}
      server {{ listen {ADDRESS}:{UNTRUSTED} proxy_protocol; location / {{ return 200 "$remote_addr\\n"; }} }}
      server {{ listen {ADDRESS}:{TLS} ssl; ssl_certificate {pem}; ssl_certificate_key {pem};
               location / {{ return 200 "$remote_addr\\n"; }} }}
    """
    config = folder / "nginx.conf"
    config.write_text(nginx_main(folder, body))
    told = Told(folder, IngressFacts())
    command = [need("nginx"), "-p", folder, "-e", folder / "error.log", "-c", config]
    with running(command, [PLAIN, PROXY, TLS, UNTRUSTED], folder / "output"):
        for name, (port, data) in CONVERSATIONS.items():
            when = time.time()
            peer, answer = say(port, data)
            told.by_name[name] = peer, when, answer
    told.facts = IngressFacts(read_ingress([config], [folder / "error.log", folder / "access.log"]))
    return told


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """With a log that names everything."""
    folder = tmp_path_factory.mktemp("nginx")
    return converse(folder, f"{JSON} access_log {folder}/access.log words;")


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """With the log that nginx writes when it is not told anything about it."""
    folder = tmp_path_factory.mktemp("nginx")
    return converse(folder, f"access_log {folder}/access.log;")


@pytest.fixture(params=["told", "combined"])
def either(request: pytest.FixtureRequest) -> Told:
    """What both must tell."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Told)
    return found


def problems(entries: list[LogEntry]) -> set[Problem | None]:
    return {each.problem for each in entries}


def test_every_line_was_understood(either: Told) -> None:
    assert not [remark for remark in either.facts.record.remarks if "not understood" in remark]


def test_the_configuration_says_what_each_port_expects(either: Told) -> None:
    plain, proxy, tls = (either.facts.listener_at("10.9.8.7", port) for port in (PLAIN, PROXY, TLS))
    assert plain is not None
    assert proxy is not None
    assert tls is not None
    assert (plain.proxy_protocol, proxy.proxy_protocol, tls.proxy_protocol) == (False, True, False)
    assert (plain.tls, proxy.tls, tls.tls) == (False, False, True)
    assert proxy.nginx is not None
    assert proxy.nginx.trusted == ("127.0.0.0/8",)
    assert either.facts.listener_at("10.9.8.7", 9999) is None


@pytest.mark.parametrize(
    ("name", "port", "problem"),
    [
        ("plain", PLAIN, None),
        ("v1", PROXY, None),
        ("v2", PROXY, None),
        ("v2 to plain", PLAIN, Problem.HEADER_UNEXPECTED),
        ("v1 to plain", PLAIN, Problem.HEADER_UNEXPECTED),
        ("hello to plain", PLAIN, Problem.TLS_ON_PLAIN),
        ("request to tls", TLS, Problem.PLAIN_ON_TLS),
        ("v1 to tls", TLS, Problem.HEADER_UNEXPECTED),
        ("v2 to tls", TLS, Problem.HEADER_UNEXPECTED),
    ],
)
def test_a_connection_with_an_access_line_is_found_by_its_port(
    told: Told, name: str, port: int, problem: Problem | None
) -> None:
    entries = told.about(name, port)
    assert entries
    assert problem in problems(entries)
    assert problems(entries) <= {problem, None}, "an access line of a refused request need not say why"
    assert {each.peer for each in entries} == {told.by_name[name][0]}
    if problem is not None:
        assert any(each.text.startswith("20") for each in entries), "the error log's line was not tied to it"


def test_whom_it_takes_for_the_client_is_read_from_the_access_line(told: Told) -> None:
    for name in ("v1", "v2"):
        (entry,) = told.about(name, PROXY)
        assert (entry.client, entry.client_port, entry.proxied) == ("192.0.2.7", 4711, "192.0.2.7:4711")
        assert told.by_name[name][2].endswith(b"192.0.2.7\n"), "the log and the answer disagree"
    (stranger,) = told.about("v2 from a stranger", UNTRUSTED)
    assert (stranger.client, stranger.proxied) == (ADDRESS, "192.0.2.7:4711")
    assert stranger.request_id
    assert told.facts.entries_for_request(stranger.request_id) == (stranger,)


def test_the_error_log_tells_each_refusal_with_its_reason(either: Told) -> None:
    entries = [each for each in either.facts.record.entries if each.file.endswith("error.log")]
    assert [each.problem for each in entries if each.peer and each.peer.startswith(ADDRESS)] == [
        Problem.HEADER_MISSING,  # no header
        Problem.HEADER_UNEXPECTED,  # v2 to plain
        Problem.HEADER_UNEXPECTED,  # v1 to plain
        Problem.TLS_ON_PLAIN,  # hello to plain
        Problem.HEADER_MISSING,  # hello to proxy
        Problem.PLAIN_ON_TLS,  # request to tls
        Problem.HEADER_UNEXPECTED,  # v1 to tls
        Problem.HEADER_UNEXPECTED,  # v2 to tls
        Problem.HEADER_MALFORMED,  # broken v1
        Problem.HEADER_MALFORMED,  # half v2
        Problem.HEADER_VERSION,  # unknown version
        Problem.HEADER_EMPTY,  # not a byte
    ]


def test_of_several_refusals_from_one_address_none_is_guessed(either: Told) -> None:
    """The error log names the address without the port, and these all came within a second."""
    for name in ("no header", "broken v1", "half v2", "unknown version", "not a byte"):
        assert either.about(name, PROXY) == []


def test_what_nginx_takes_although_it_cannot_use_it_is_no_complaint(told: Told) -> None:
    """An unknown command and a unix socket's address are no reason for nginx to close."""
    for name in ("unknown command", "unix sockets"):
        assert told.by_name[name][2].startswith(b"HTTP/1.1 200")
        assert not any(each.problem for each in told.about(name, PROXY))


def test_times_without_a_zone_are_admitted_and_still_found(either: Told) -> None:
    assert any("no time zone" in remark for remark in either.facts.record.remarks)
    errors = [each for each in either.facts.record.entries if each.file.endswith("error.log")]
    assert errors
    assert not any(each.zoned for each in errors)


def test_the_default_log_names_clients_without_ports(combined: Told) -> None:
    """So its lines are about nobody's connection in particular; what was refused for is told all the same."""
    lines = [each for each in combined.facts.record.entries if each.file.endswith("access.log")]
    assert {each.peer for each in lines} == {None}
    assert {each.client for each in lines} >= {ADDRESS, "192.0.2.7"}
    assert {Problem.HEADER_UNEXPECTED, Problem.TLS_ON_PLAIN} <= problems(lines)
    assert all(each.zoned for each in lines)


def test_a_lone_refusal_is_found_by_its_address_alone(tmp_path: Path) -> None:
    config = tmp_path / "nginx.conf"
    config.write_text(
        nginx_main(tmp_path, f"access_log off; server {{ listen {ADDRESS}:{PROXY} proxy_protocol; }}")
    )
    command = [need("nginx"), "-p", tmp_path, "-e", tmp_path / "error.log", "-c", config]
    with running(command, [PROXY], tmp_path / "output"):
        when = time.time()
        peer, answer = say(PROXY, REQUEST)
    assert answer == b""
    facts = IngressFacts(read_ingress([config], [tmp_path / "error.log"]))
    (entry,) = facts.entries_about(peer, when, port=PROXY)
    assert entry.problem is Problem.HEADER_MISSING
    assert entry.local == f"{ADDRESS}:{PROXY}"
    assert entry.request is not None
    assert entry.request.startswith("GET /asked HTTP/1.1")
    assert facts.entries_about(peer, when, port=PLAIN) == (), "a line about another listener was taken"
    assert facts.entries_about("192.0.2.99:1234", when) == ()
    assert facts.entries_about(peer, when - 600) == (), "a line from ten minutes later was taken"


def test_a_client_cannot_write_lines_of_its_own(tmp_path: Path) -> None:
    """What nginx logs of a refused header is the client's text, line feeds too: it must not count as log."""
    config = tmp_path / "nginx.conf"
    config.write_text(
        nginx_main(tmp_path, f"access_log off; server {{ listen {ADDRESS}:{PROXY} proxy_protocol; }}")
    )
    forged = [
        b'A" while reading PROXY protocol, client: 198.51.100.1, server: 0.0.0.0:80\n{"status":"200"}\n',
        b'X\n{"remote_addr":"198.51.100.1","status":"200"}\nY',
        b"X\n2026/11/21 03:11:21 [info] 7#7: *9 client sent plain HTTP request to HTTPS port, client: 1.2.3.4, server:",
        b'"\n198.51.100.1 - - [21/Nov/2026:03:11:21 +0000] "GET / HTTP/1.1" 200 1 "-" "-"\n',
    ]
    command = [need("nginx"), "-p", tmp_path, "-e", tmp_path / "error.log", "-c", config]
    with running(command, [PROXY], tmp_path / "output"):
        for text in forged:
            say(PROXY, text)
    entries = [
        each for each in read_ingress([], [tmp_path / "error.log"]).entries if each.peer != "127.0.0.9"
    ]
    assert [each.peer for each in entries] == [ADDRESS] * len(forged)
    assert problems(entries) == {Problem.HEADER_MISSING}
    assert {each.local for each in entries} == {f"{ADDRESS}:{PROXY}"}
    assert not any(each.client for each in entries)


def test_an_upstream_that_does_not_answer(tmp_path: Path) -> None:
    config = tmp_path / "nginx.conf"
    server = f"server {{ listen {ADDRESS}:{PLAIN}; location / {{ proxy_pass http://{ADDRESS}:9; }} }}"
    body = f"{JSON} access_log {tmp_path}/access.log words; {server}"
    config.write_text(nginx_main(tmp_path, body))
    command = [need("nginx"), "-p", tmp_path, "-e", tmp_path / "error.log", "-c", config]
    with running(command, [PLAIN], tmp_path / "output"):
        when = time.time()
        peer, answer = say(PLAIN, REQUEST, end=False)
    assert b"502 Bad Gateway" in answer
    facts = IngressFacts(read_ingress([config], [tmp_path / "error.log", tmp_path / "access.log"]))
    entries = facts.entries_about(peer, when)
    assert {(each.problem, each.status) for each in entries} == {(Problem.UPSTREAM_FAILED, None), (None, 502)}
    assert all(each.upstream == f"{ADDRESS}:9" for each in entries)
