"""Which line is about which connection, and which listener is at a port: answers only where there is one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.ingress import (
    CLOCKS,
    NEAR,
    Ingress,
    IngressFacts,
    IngressRecord,
    Kind,
    Listener,
    LogEntry,
    Problem,
    canonical,
    host_of,
    port_of,
)
from analysis.trust.model import HaproxyRule, HaproxyTrust, IngressNginx, NginxRealIp

AT = 1795230681.0
PEER = "172.30.0.150:54640"


def entry(**values: object) -> LogEntry:
    return msgspec.structs.replace(LogEntry(kind=Kind.NGINX, time=AT, peer=PEER), **values)


def facts(*entries: LogEntry) -> IngressFacts:
    return IngressFacts(IngressRecord(entries=entries))


def listening(*listeners: Listener) -> IngressFacts:
    return IngressFacts(IngressRecord((Ingress(Kind.NGINX, listeners),)))


def test_without_files_every_answer_is_none() -> None:
    nothing = IngressFacts()
    assert not nothing
    assert nothing.listener_at("10.0.0.1", 80) is None
    assert nothing.entries_about(PEER, AT) == ()
    assert nothing.entries_of_client(PEER, AT) == ()
    assert nothing.entries_for_request("5f3a") == ()


def test_a_port_that_came_again_is_another_connection() -> None:
    """In a busy cluster a source port comes back after 11 s."""
    first, second = entry(request="first"), entry(request="second", time=AT + 11)
    both = facts(first, second)
    assert both.entries_about(PEER, AT + 0.2) == (first,)
    assert both.entries_about(PEER, AT + 11) == (second,)
    assert both.entries_about(PEER, AT + 40) == (), "a line from half a minute ago was taken"
    assert both.entries_about(PEER, None) == (), "one of two was guessed"
    assert facts(first).entries_about(PEER, None) == (first,)


def test_a_connection_that_lasts_has_lines_until_its_end() -> None:
    late = entry(time=AT + 300)
    assert facts(late).entries_about(PEER, AT) == ()
    assert facts(late).entries_about(PEER, AT, AT + 301) == (late,)


def test_requests_that_follow_each_other_on_one_connection() -> None:
    """Without numbers, what was logged while the connection lasted is its own: nobody else can have had the port."""
    first, second = entry(request="first"), entry(request="second", time=AT + 11)
    both = facts(first, second)
    assert both.entries_about(PEER, AT, AT + 11) == (first, second)
    assert both.entries_about(PEER, AT, AT + 1) == (first,)
    numbered = facts(entry(connection="7"), entry(connection="9", time=AT + 11))
    assert numbered.entries_about(PEER, AT, AT + 11) == ()


def test_two_candidates_that_clocks_do_not_tell_apart_are_none() -> None:
    one, other = entry(connection="7"), entry(connection="9", time=AT + CLOCKS)
    assert facts(one, other).entries_about(PEER, AT) == ()
    apart = entry(connection="9", time=AT + CLOCKS + 1)
    assert facts(one, apart).entries_about(PEER, AT) == (one,)


def test_an_access_line_and_an_error_line_of_one_connection_belong_together() -> None:
    access, error = (
        entry(connection="7", file="access"),
        entry(connection="7", file="error", problem=Problem.TLS_ON_PLAIN),
    )
    assert facts(access, error).entries_about(PEER, AT) == (access, error)
    elsewhere = msgspec.structs.replace(error, server="another-pod")
    here = msgspec.structs.replace(access, server="a-pod")
    assert facts(here, elsewhere).entries_about(PEER, AT) == ()


def test_a_line_about_another_listener_is_not_meant() -> None:
    there = entry(local="10.244.1.9:8080")
    assert facts(there).entries_about(PEER, AT, port=8081) == ()
    assert facts(there).entries_about(PEER, AT, port=8080) == (there,)
    assert facts(entry()).entries_about(PEER, AT, port=8081) == (entry(),)


def test_lines_without_a_port_count_if_they_all_tell_the_same() -> None:
    missing = [entry(peer="172.30.0.150", problem=Problem.HEADER_MISSING, line=number) for number in (1, 2)]
    assert facts(*missing).entries_about(PEER, AT) == tuple(missing)
    malformed = entry(peer="172.30.0.150", problem=Problem.HEADER_MALFORMED)
    assert facts(*missing, malformed).entries_about(PEER, AT) == ()
    check = entry(peer="172.30.0.150", problem=Problem.HEADER_EMPTY)
    assert facts(*missing, check).entries_about(PEER, AT) == tuple(missing), "a health check hid the mismatch"
    assert facts(check).entries_about(PEER, AT) == (check,)
    exact = entry(status=200)
    assert facts(*missing, exact).entries_about(PEER, AT) == (exact,)


@pytest.mark.parametrize("offset", [-12.0, -9.5, 0.0, 5.75, 14.0])
def test_a_time_without_a_zone_may_be_of_any_zone(offset: float) -> None:
    local = entry(time=AT + offset * 3600, zoned=False)
    assert facts(local).entries_about(PEER, AT) == (local,)
    assert facts(local).entries_about(PEER, AT + 300) == ()


@given(st.floats(-1e12, 1e12), st.floats(0, 1e6))
def test_without_a_zone_it_is_never_farther_than_with_one(apart: float, lasting: float) -> None:
    zoned = facts(entry(time=AT + apart)).entries_about(PEER, AT, AT + lasting)
    anywhere = facts(entry(time=AT + apart, zoned=False)).entries_about(PEER, AT, AT + lasting)
    assert bool(zoned) <= bool(anywhere)
    assert bool(zoned) == (-NEAR <= apart <= lasting + NEAR)


def test_a_damaged_time_is_of_no_connection() -> None:
    assert facts(entry(time=float("inf")), entry(time=float("nan"))).entries_about(PEER, AT) == ()


def test_who_was_told_to_be_the_client() -> None:
    header = entry(client="192.0.2.7", client_port=4711, proxied="192.0.2.7:4711")
    assert facts(header).entries_of_client("192.0.2.7:4711", AT) == (header,)
    assert facts(header).entries_about("192.0.2.7:4711", AT) == ()


def test_which_connection_the_server_opened_itself() -> None:
    onward = entry(outgoing="172.30.0.150:41000")
    assert facts(onward).entries_opening("172.30.0.150:41000", AT) == (onward,)


def test_a_listener_is_known_by_its_port() -> None:
    proxy = Listener(port=8081, addresses=("0.0.0.0",), proxy_protocol=True)
    ingress = listening(Listener(port=8080), proxy)
    assert ingress.listener_at("10.244.1.9", 8081) == proxy
    assert ingress.listener_at("fd00::9", 8081) == proxy
    assert ingress.listener_at(None, 8081) == proxy
    assert ingress.listener_at("10.244.1.9", 80) is None


def test_of_listeners_that_differ_the_address_decides_or_nothing() -> None:
    one = Listener(port=80, addresses=("10.0.0.1",), proxy_protocol=True)
    other = Listener(port=80, addresses=("10.0.0.2",))
    every = Listener(port=80, addresses=("0.0.0.0",), tls=True)
    assert listening(one, other).listener_at("::ffff:10.0.0.2", 80) == other
    assert listening(one, other).listener_at("10.9.9.9", 80) is None
    assert listening(one, other, every).listener_at("10.9.9.9", 80) == every
    twin = msgspec.structs.replace(one, addresses=("10.0.0.3",), line=7)
    assert listening(one, twin).listener_at("10.9.9.9", 80) == one


def test_all_of_it_survives_a_recording() -> None:
    record = IngressRecord(
        (
            Ingress(
                Kind.NGINX,
                (
                    Listener(port=1, nginx=NginxRealIp(("10.0.0.0/8",), sends=(("A", "b"),))),
                    Listener(
                        port=2,
                        proxy_protocol=None,
                        haproxy=HaproxyTrust(rules=(HaproxyRule("set-src", "x"),)),
                    ),
                    Listener(port=3, versions=(1, 2), ingress_nginx=IngressNginx(use_proxy_protocol=True)),
                ),
                "file",
                ("a note",),
            ),
        ),
        (entry(problem=Problem.HEADER_MISSING, zoned=False),),
        ("a remark",),
    )
    back = msgspec.json.decode(msgspec.json.encode(record), type=IngressRecord)
    assert back == record
    assert isinstance(back.ingresses[0].listeners[2].trust, IngressNginx)


def test_a_file_given_again_counts_once() -> None:
    old = IngressRecord((Ingress(Kind.NGINX, (), "a"), Ingress(Kind.NGINX, (), "b")), (entry(file="log"),))
    new = IngressRecord((Ingress(Kind.HAPROXY, (), "b"),), (entry(file="log", line=2),))
    both = old.plus(new)
    assert [(each.kind, each.file) for each in both.ingresses] == [(Kind.NGINX, "a"), (Kind.HAPROXY, "b")]
    assert [each.line for each in both.entries] == [2]


@pytest.mark.parametrize(
    ("text", "whole", "host", "port"),
    [
        ("192.0.2.1:80", "192.0.2.1:80", "192.0.2.1", 80),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1", None),
        ("[FD00::0:1]:443", "[fd00::1]:443", "fd00::1", 443),
        ("fd00::1", "fd00::1", "fd00::1", None),
        ("name:80", "name:80", "name", 80),
        (":8080", ":8080", "", 8080),
        ("", "", "", None),
    ],
)
def test_one_spelling_of_addresses(text: str, whole: str, host: str, port: int | None) -> None:
    assert (canonical(text), host_of(text), port_of(text)) == (whole, host, port)
