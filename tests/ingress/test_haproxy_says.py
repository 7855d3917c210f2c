"""Real HAProxy is sent what it does not expect, and its log is asked afterwards what happened to whom."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from analysis.ingress import IngressFacts, Problem, port_of
from probe.ingress import read_ingress
from tests.ingress.running import ADDRESS, REQUEST, certificate, need, nginx_main, running, say, v1, v2

PLAIN, PROXY, TLS, BEHIND, TCP, NOBODY = 9080, 9081, 9443, 9090, 9082, 9083

KEYS = '"ci=%ci cp=%cp fi=%fi fp=%fp srv=%s bi=%bi bp=%bp si=%si sp=%sp t=%Ts.%ms ts=%ts"'

CONVERSATIONS = {
    "plain": (PLAIN, REQUEST),
    "no header": (PROXY, REQUEST),
    "v1": (PROXY, v1() + REQUEST),
    "v2": (PROXY, v2() + REQUEST),
    "v2 to plain": (PLAIN, v2() + REQUEST),
    "request to tls": (TLS, REQUEST),
    "v1 to tls": (TLS, v1() + REQUEST),
    "broken v1": (PROXY, b"PROXY TCP4 one two 3 4\r\n" + REQUEST),
    "half v2": (PROXY, v2()[:14]),
    "not a byte": (PROXY, b""),
    "keys": (TCP, REQUEST),
    "no server": (NOBODY, REQUEST),
}


class Told:
    def __init__(self, facts: IngressFacts, by_name: dict[str, tuple[str, float]]) -> None:
        self.facts = facts
        self.by_name = by_name


def haproxy_config(folder: Path) -> str:
    return f"""
global
  log stdout format raw local0 info
defaults
  mode http
  log global
  timeout connect 5s
  timeout client 20s
  timeout server 20s
  option httplog
frontend plain
  bind {ADDRESS}:{PLAIN}
  default_backend web
frontend proxied
  bind {ADDRESS}:{PROXY} accept-proxy
  default_backend web
frontend secure
  bind {ADDRESS}:{TLS} ssl crt {certificate(folder)}
  default_backend web
listen tcp
  mode tcp
  log-format {KEYS}
  bind {ADDRESS}:{TCP}
  server one {ADDRESS}:{BEHIND} source {ADDRESS}
listen nobody
  mode tcp
  retries 0
  option tcplog
  bind {ADDRESS}:{NOBODY}
  server none {ADDRESS}:9
backend web
  option forwardfor
  server one {ADDRESS}:{BEHIND} send-proxy-v2 source {ADDRESS}
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """HAProxy in front of nginx, all the conversations, the configurations and logs of both."""
    folder = tmp_path_factory.mktemp("haproxy")
    config, behind = folder / "haproxy.cfg", folder / "nginx.conf"
    config.write_text(haproxy_config(folder))
    server = f"server {{ listen {ADDRESS}:{BEHIND} proxy_protocol; location / {{ return 200 ok; }} }}"
    behind.write_text(nginx_main(folder, f"access_log off; {server}"))
    by_name = {}
    nginx = running(
        [need("nginx"), "-p", folder, "-e", folder / "e", "-c", behind], [BEHIND], folder / "nginx.out"
    )
    log = folder / "haproxy.log"
    haproxy = running(
        [need("haproxy"), "-db", "-f", config], [PLAIN, PROXY, TLS, TCP, NOBODY], log, signal.SIGUSR1
    )
    with nginx, haproxy:
        for name, (port, data) in CONVERSATIONS.items():
            when = time.time()
            by_name[name] = say(port, data, end=name == "not a byte")[0], when
    return Told(IngressFacts(read_ingress([config, behind], [log])), by_name)


def test_every_line_was_understood(told: Told) -> None:
    assert not [remark for remark in told.facts.record.remarks if "not understood" in remark]


def test_the_configuration_says_what_each_port_expects_and_sends(told: Told) -> None:
    plain, proxy = told.facts.listener_at(ADDRESS, PLAIN), told.facts.listener_at(None, PROXY)
    tls, behind = told.facts.listener_at(ADDRESS, TLS), told.facts.listener_at(ADDRESS, BEHIND)
    assert plain is not None
    assert proxy is not None
    assert tls is not None
    assert behind is not None
    assert (plain.proxy_protocol, proxy.proxy_protocol, behind.proxy_protocol) == (False, True, True)
    assert (plain.tls, tls.tls) == (False, True)
    assert [(each.address, each.sends) for each in plain.upstreams] == [(f"{ADDRESS}:{BEHIND}", 2)]
    assert plain.haproxy is not None
    assert plain.haproxy.forward_for
    assert plain.forwards == (("x-forwarded-for", "%[src]"),)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no header", Problem.HEADER_MISSING),
        ("broken v1", Problem.HEADER_MALFORMED),
        ("half v2", Problem.HEADER_MALFORMED),
        ("not a byte", Problem.HEADER_EMPTY),
    ],
)
def test_a_refused_header_is_found_by_its_peer(told: Told, name: str, problem: Problem) -> None:
    peer, when = told.by_name[name]
    (entry,) = told.facts.entries_about(peer, when, port=PROXY)
    assert entry.problem is problem
    assert entry.peer == peer


@pytest.mark.parametrize(("name", "status"), [("plain", 200), ("v2 to plain", 400)])
def test_with_the_configuration_the_client_of_a_plain_frontend_is_the_peer(
    told: Told, name: str, status: int
) -> None:
    peer, when = told.by_name[name]
    (entry,) = told.facts.entries_about(peer, when, port=PLAIN)
    assert entry.status == status
    assert entry.problem is (Problem.REQUEST_INVALID if status == 400 else None)


def test_without_the_configuration_a_session_names_its_client_only(told: Told) -> None:
    """httplog does not say whether somebody else named the client."""
    peer, when = told.by_name["plain"]
    log = next(each.file for each in told.facts.record.entries)
    alone = IngressFacts(read_ingress([], [Path(log)]))
    assert alone.entries_about(peer, when) == ()
    (entry,) = alone.entries_of_client(peer, when)
    assert (entry.peer, entry.listener, entry.status) == (None, "plain", 200)


def test_behind_a_header_the_client_is_the_one_in_it(told: Told) -> None:
    for name in ("v1", "v2"):
        peer, when = told.by_name[name]
        assert told.facts.entries_about(peer, when, port=PROXY) == ()
    entries = [each for each in told.facts.record.entries if each.client == "192.0.2.7"]
    assert [(each.client_port, each.peer, each.status) for each in entries] == [(4711, None, 200)] * 2


def test_tls_that_was_none(told: Told) -> None:
    for name in ("request to tls", "v1 to tls"):
        peer, when = told.by_name[name]
        (entry,) = told.facts.entries_about(peer, when, port=TLS)
        assert entry.problem in {Problem.PLAIN_ON_TLS, Problem.TLS_FAILED}


def test_a_format_of_keys_joins_both_sides_of_a_connection(told: Told) -> None:
    """With the configuration it is known that the listener takes everybody for what they are."""
    peer, when = told.by_name["keys"]
    (entry,) = told.facts.entries_about(peer, when, port=TCP)
    assert entry.local == f"{ADDRESS}:{TCP}"
    assert entry.upstream == f"{ADDRESS}:{BEHIND}"
    assert entry.outgoing is not None
    assert port_of(entry.outgoing)
    assert told.facts.entries_opening(entry.outgoing, when) == (entry,)


def test_a_server_that_cannot_be_reached(told: Told) -> None:
    peer, when = told.by_name["no server"]
    (entry,) = told.facts.entries_about(peer, when, port=NOBODY)
    assert entry.problem is Problem.UPSTREAM_FAILED
    assert not entry.zoned
