"""nginx itself decides: the rules say of every case in the grid what it says of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from analysis.trust.evaluate import differs, resolve
from analysis.trust.ingress_nginx import OWN_FIELD
from analysis.trust.model import UNIX_PEER, Arrival, Claim, Fields, IngressNginx, NginxRealIp
from analysis.trust.overtrust import FORGED
from tests.trust.asking import ask, echo, folder, heard, ports, program, running, told
from tests.trust.grid import attempts, lists, opened, some

SEEN = ("X-Seen", "$remote_addr|$realip_remote_addr|$proxy_protocol_addr")
SENDS: tuple[Fields, ...] = (
    (SEEN,),
    (SEEN, ("X-Forwarded-For", "$proxy_add_x_forwarded_for"), ("X-Real-IP", "$remote_addr")),
    (SEEN, ("X-Real-IP", ""), ("X-Old", "${http_x_forwarded_for}/$http_x_real_ip/$http_absent")),
)
TRUSTED: tuple[tuple[str, ...], ...] = (
    (),
    ("127.0.0.2",),
    ("127.0.0.2", "10.0.0.0/8"),
    ("10.1.1.1/8", "127.0.0.0/30", "unix:"),
    ("0.0.0.0/0",),
    ("::1", "127.0.0.2/32", "2001:db8::/32"),
    ("::/0",),
)
HEADERS = ("X-Forwarded-For", "X-Real-IP", "CF-Connecting-IP", "proxy_protocol")
PROXIES = ("", "198.51.100.7", "10.1.1.1", "2001:DB8::7")


def settings() -> list[NginxRealIp]:
    return [
        NginxRealIp(trusted, header, recursive, sends=sends, proxy_protocol=proxy_protocol)
        for trusted, header, recursive, sends, proxy_protocol in itertools.product(
            TRUSTED, HEADERS, (False, True), SENDS, (False, True)
        )
    ]


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as tried:
        tried.bind(("::1", 0))
        return True
    return False


@dataclass(frozen=True)
class Served:
    """Where nginx listens: one port without and one with PROXY headers, and the unix sockets beside them."""

    plain: int
    proxied: int
    unix: str

    def ask(self, one: NginxRealIp, number: int, arrival: Arrival) -> tuple[int, str | None, Fields]:
        where = (
            (f"{self.unix}-{'proxied' if one.proxy_protocol else 'plain'}")
            if arrival.peer == UNIX_PEER
            else (
                "::1" if ":" in arrival.peer else "127.0.0.1",
                self.proxied if one.proxy_protocol else self.plain,
            )
        )
        answer = ask(where, arrival, host=f"c{number}.example")
        source, fields = heard(answer) if answer.status == 200 else (None, ())
        return answer.status, source, fields


def directives(one: NginxRealIp) -> str:
    lines = [f"set_real_ip_from {entry};" for entry in one.trusted]
    lines += [f"real_ip_header {one.header};", f"real_ip_recursive {'on' if one.recursive else 'off'};"]
    return "\n".join(lines)


def sets(sends: Fields) -> str:
    return "\n".join(f'proxy_set_header {name} "{expression}";' for name, expression in sends)


def base(where: str) -> str:
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"{kind}_temp_path {where}/{kind};" for kind in temporary)
    return f"server_names_hash_max_size 4096; variables_hash_max_size 4096; access_log off;\n{paths}\n"


def whole(where: str, http: str) -> str:
    # As root nginx would give its files to another user, which a root without capabilities may not do.
    user = "user root root;" if os.geteuid() == 0 else ""
    return (
        f"{user} daemon off; master_process off; pid {where}/pid; error_log {where}/error.log crit;\n"
        f"events {{ worker_connections 256; }}\nhttp {{\n{base(where)}{http}\n}}\n"
    )


@contextlib.contextmanager
def nginx(http: str, where: str, port: int) -> Iterator[None]:
    Path(where, "nginx.conf").write_text(whole(where, http))
    command = [program("nginx"), "-p", where, "-c", f"{where}/nginx.conf", "-e", f"{where}/error.log"]
    with running(command, port):
        yield


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with folder() as where, echo() as upstream:
        plain, proxied = ports(2)
        six = has_ipv6()
        blocks = []
        for number, one in enumerate(settings()):
            port, flag = (proxied, " proxy_protocol") if one.proxy_protocol else (plain, "")
            kind = "proxied" if one.proxy_protocol else "plain"
            listens = [f"127.0.0.1:{port}{flag}", f"unix:{where}/n-{kind}{flag}"]
            listens += [f"[::1]:{port}{flag}"] if six else []
            blocks.append(
                "server {\n"
                + "\n".join(f"listen {listen};" for listen in listens)
                + f"\nserver_name c{number}.example;\n{directives(one)}\n"
                + f"location / {{ proxy_pass http://127.0.0.1:{upstream};\n{sets(one.sends)} }}\n}}"
            )
        with nginx("\n".join(blocks), str(where), plain):
            yield Served(plain, proxied, f"{where}/n")


def arrivals() -> Iterator[Arrival]:
    peers = ("127.0.0.2", "127.0.0.9", UNIX_PEER, *(["::1"] if has_ipv6() else []))
    real = (("X-Real-IP", "203.0.113.8"),), (("X-Real-IP", "6.6.6.6"), ("X-Real-IP", "203.0.113.8"))
    every = [*lists(), *lists("CF-Connecting-IP"), *real, (*real[0], ("X_Forwarded_For", "6.6.6.6"))]
    for peer, proxy, fields in itertools.product(peers, (None, *PROXIES), every):
        yield Arrival(peer, proxy, fields)


def cases() -> list[tuple[int, NginxRealIp, Arrival]]:
    """Mostly cases in which something can be decided; a few of each kind that is refused."""
    every = list(enumerate(settings()))
    fitting = [
        (number, one, arrival)
        for (number, one), arrival in zip(itertools.cycle(every), some(arrivals(), 4000) * 2, strict=False)
        if one.proxy_protocol == (arrival.proxy_source is not None)
    ]
    refused = [
        (number, one, arrival)
        for (number, one), arrival in zip(every[::17], some(arrivals(), 60), strict=False)
        if one.proxy_protocol != (arrival.proxy_source is not None)
    ]
    return some(fitting, 2500) + refused


def test_nginx_says_what_the_rules_say(served: Served) -> None:
    wrong = []
    decided = set()
    for number, one, arrival in cases():
        expected = resolve(one, arrival)
        status, _, fields = served.ask(one, number, arrival)
        decided.add(expected.rule_key)
        if expected.refused:
            if status == 200:
                wrong.append((one, arrival, expected, fields))
            continue
        client = dict(told(fields)).get("x-seen", "").partition("|")[0]
        if expected.onward is None or client != expected.client or told(fields) != told(expected.onward):
            wrong.append((one, arrival, expected, fields))
    assert not wrong, f"{len(wrong)} cases, such as {wrong[0]}"
    # A grid that decides nothing would agree with anything.
    assert decided == {
        "nginx-off",
        "nginx-stranger",
        "nginx-last",
        "nginx-recursive",
        "nginx-nothing",
        "nginx-proxy",
        "nginx-expected",
        "nginx-unexpected",
    }


def test_a_stranger_decides_the_client_exactly_where_the_rules_say_so(served: Served) -> None:
    told_open, seen_open = set(), set()
    for number, one in enumerate(settings()):
        if one.sends != SENDS[0] or "127.0.0.2/32" in one.trusted:
            continue
        if opened(one):
            told_open.add(number)
        for arrival in attempts(one):
            if one.proxy_protocol == (arrival.proxy_source is not None):
                seen = dict(told(served.ask(one, number, arrival)[2])).get("x-seen", "").partition("|")[0]
                seen_open |= {number} if seen in FORGED.values() else set()
    assert seen_open == told_open
    assert 0 < len(told_open) < len(settings())


INGRESS_LISTS: tuple[tuple[str, ...], ...] = (
    ("0.0.0.0/0",),
    ("127.0.0.2",),
    ("127.0.0.2", "198.51.100.0/24"),
    ("198.51.100.0/24", "10.0.0.0/8"),
)


def both() -> list[IngressNginx]:
    return [
        IngressNginx(
            use_forwarded_headers=True,
            use_proxy_protocol=True,
            compute_full_forwarded_for=full,
            proxy_real_ip_cidr=cidrs,
            forwarded_for_header=header,
        )
        for cidrs, header, full in itertools.product(
            INGRESS_LISTS, ("X-Forwarded-For", "X-Client-Chain"), (False, True)
        )
    ]


def both_blocks(number: int, one: IngressNginx, first: int, second: str, upstream: int) -> str:
    """The controller makes the field inside one nginx, with a module that is not at hand: here two servers do it.

    The first takes the PROXY header and makes the field; it connects from the address of its peer, so that the
    second sees the peer that the controller would see.
    """
    name = f"b{number}.example"
    geo = "\n".join(f"{entry} 1;" for entry in one.proxy_real_ip_cidr)
    field = "$http_" + one.forwarded_for_header.lower().replace("-", "_")
    sends = (
        SEEN,
        ("X-Real-IP", "$remote_addr"),
        ("X-Forwarded-For", f"$full{number}" if one.compute_full_forwarded_for else "$remote_addr"),
        ("X-Original-Forwarded-For", field),
        (OWN_FIELD, ""),
        ("X-Proxy", ""),
    )
    rendered = NginxRealIp(one.proxy_real_ip_cidr, OWN_FIELD, recursive=True)
    return f"""
geo $proxy_protocol_addr $geo{number} {{ default 0; {geo} }}
map $geo{number} $chosen{number} {{ default $proxy_protocol_addr; 1 {field}; }}
map $http_x_forwarded_for $full{number} {{
    default "$http_x_forwarded_for, $http_x_proxy"; '' "$http_x_proxy";
}}
server {{
    listen 127.0.0.1:{first} proxy_protocol; server_name {name};
    location / {{
        proxy_bind $remote_addr; proxy_pass http://{second}; proxy_set_header Host {name};
        proxy_set_header {OWN_FIELD} $chosen{number}; proxy_set_header X-Proxy $proxy_protocol_addr;
    }}
}}
server {{
    listen {second}; server_name {name};
    {directives(rendered)}
    location / {{ proxy_pass http://127.0.0.1:{upstream}; {sets(sends)} }}
}}"""


def test_ingress_nginx_with_both_says_what_the_rules_say() -> None:
    with folder() as where, echo() as upstream:
        first, second = ports(2)
        blocks = [
            both_blocks(number, one, first, f"127.0.0.1:{second}", upstream)
            for number, one in enumerate(both())
        ]
        with nginx("\n".join(blocks), str(where), first):
            wrong, rules = [], set()
            # The nginx at hand reads the first of repeated fields, that of the controller (1.27) joins them.
            single = [fields for fields in lists("X-Client-Chain") if len(fields) < 2]
            grid = itertools.product(
                enumerate(both()),
                ("127.0.0.2", "127.0.0.9"),
                ("", "198.51.100.7", "10.1.1.1"),
                [*some(lists(), 12), *some(single, 12), ((OWN_FIELD, "6.6.6.6"),)],
            )
            for (number, one), peer, proxy, fields in some(grid, 900):
                arrival = Arrival(peer, proxy, fields)
                expected = resolve(one, arrival)
                answer = ask(("127.0.0.1", first), arrival, host=f"b{number}.example")
                sent = {name.lower(): value for name, value in heard(answer)[1]}
                wanted = {name.lower(): value for name, value in expected.onward or ()}
                rules.add(expected.rule_key)
                names = ("x-real-ip", "x-forwarded-for", "x-original-forwarded-for")
                if sent.get("x-seen", "").partition("|")[0] != expected.client or [
                    sent.get(name) for name in names
                ] != [wanted.get(name) for name in names]:
                    wrong.append((one, arrival, expected, sent))
            assert not wrong, f"{len(wrong)} cases, such as {wrong[0]}"
            assert {"ingress-both-field", "ingress-both-proxy", "ingress-both-nothing"} <= rules


def test_a_listener_with_proxy_protocol_is_decided_by_the_header_of_a_trusted_peer_alone(
    served: Served,
) -> None:
    number, one = next(
        (number, one)
        for number, one in enumerate(settings())
        if one.proxy_protocol and one.header == "proxy_protocol" and one.trusted == ("127.0.0.2",)
    )
    believed = Arrival("127.0.0.2", "198.51.100.7")
    forged = Arrival("127.0.0.9", "198.51.100.7")

    assert resolve(one, believed).by is Claim.PROXY
    assert resolve(one, forged).by is Claim.PEER
    for arrival, client in ((believed, "198.51.100.7"), (forged, "127.0.0.9")):
        seen = dict(told(served.ask(one, number, arrival)[2]))["x-seen"].split("|")
        assert not differs(resolve(one, arrival), seen[0])
        # The header is on hand as a variable although nobody believes it.
        assert seen == [client, arrival.peer, "198.51.100.7"]
