"""HAProxy itself decides: frontends with rules, PROXY headers and `option forwardfor` over the grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from analysis.trust.evaluate import resolve
from analysis.trust.model import Arrival, Claim, HaproxyRule, HaproxyTrust
from analysis.trust.overtrust import FORGED
from tests.trust.asking import ask, echo, folder, heard, ports, program, running, told
from tests.trust.grid import attempts, lists, opened, some

#: Shows src after all rules that came before.
SHOW = HaproxyRule("set-header", "X-Seen", "%[src]")
SET_SRC = HaproxyRule("set-src", "X-Forwarded-For")

SETTINGS = [
    HaproxyTrust(rules=(SHOW,)),
    HaproxyTrust(forward_for=True, rules=(SHOW,)),
    HaproxyTrust(
        forward_for=True, forward_for_except=("127.0.0.0/30",), forward_for_if_none=True, rules=(SHOW,)
    ),
    HaproxyTrust(forward_for=True, forward_for_header="X-Client", forward_for_if_none=True, rules=(SHOW,)),
    HaproxyTrust(accept_proxy=True, forward_for=True, rules=(SHOW,)),
    HaproxyTrust(accept_proxy=True, rules=(SET_SRC, SHOW), sends_proxy=True),
    HaproxyTrust(expect_proxy_from=("127.0.0.2",), forward_for=True, rules=(SHOW,)),
    HaproxyTrust(
        expect_proxy_from=("127.0.0.2", "10.0.0.0/8"),
        rules=(HaproxyRule("add-header", "X-Peer", "%[fc_src]"), SHOW),
    ),
    HaproxyTrust(rules=(SET_SRC, SHOW), forward_for=True),
    HaproxyTrust(
        rules=(HaproxyRule("set-src", "X-Forwarded-For", occurrence=1, sources=("127.0.0.2",)), SHOW)
    ),
    HaproxyTrust(rules=(HaproxyRule("set-src", "X-Forwarded-For", occurrence=-2), SHOW), forward_for=True),
    HaproxyTrust(
        accept_proxy=True,
        forward_for=True,
        rules=(HaproxyRule("set-src", "X-Forwarded-For", sources=("10.0.0.0/8", "2001:db8::/32")), SHOW),
    ),
    HaproxyTrust(
        forward_for=True,
        rules=(
            HaproxyRule("del-header", "X-Forwarded-For"),
            SET_SRC,
            HaproxyRule("add-header", "X-Chain", "for=%[src];by=%ci"),
            SHOW,
        ),
    ),
    HaproxyTrust(
        rules=(
            HaproxyRule("set-header", "X-Real-IP", "%[req.hdr(X-Forwarded-For)]"),
            HaproxyRule("set-src", "X-Real-IP", occurrence=2),
            HaproxyRule("set-src", "X-Real-IP"),
            SHOW,
        )
    ),
    HaproxyTrust(mode="tcp"),
    HaproxyTrust(mode="tcp", sends_proxy=True),
    HaproxyTrust(mode="tcp", accept_proxy=True, sends_proxy=True),
]


def section(number: int, one: HaproxyTrust, port: int, upstream: int) -> str:
    lines = [
        f"listen l{number}",
        f"mode {one.mode}",
        f"bind 127.0.0.1:{port}{' accept-proxy' if one.accept_proxy else ''}",
    ]
    if one.expect_proxy_from:
        sources = " ".join(one.expect_proxy_from)
        lines.append(f"tcp-request connection expect-proxy layer4 if {{ src {sources} }}")
    lines += [directive(rule) for rule in one.rules]
    if one.forward_for:
        excepted = "".join(f" except {entry}" for entry in one.forward_for_except)
        if_none = " if-none" if one.forward_for_if_none else ""
        lines.append(f"option forwardfor{excepted} header {one.forward_for_header}{if_none}")
    lines.append(f"server s 127.0.0.1:{upstream}{' send-proxy' if one.sends_proxy else ''}")
    return "\n  ".join(lines)


def directive(rule: HaproxyRule) -> str:
    condition = f" if {{ src {' '.join(rule.sources)} }}" if rule.sources is not None else ""
    if rule.action == "set-src":
        return f"http-request set-src hdr({rule.name},{rule.occurrence}){condition}"
    value = f" {rule.value}" if rule.value else ""
    return f"http-request {rule.action} {rule.name}{value}{condition}"


@pytest.fixture(scope="module")
def served() -> Iterator[list[int]]:
    with folder() as where, echo() as upstream:
        listens = ports(len(SETTINGS))
        sections = [
            section(number, one, port, upstream)
            for number, (one, port) in enumerate(zip(SETTINGS, listens, strict=True))
        ]
        timeouts = "\n  ".join(f"timeout {side} 5s" for side in ("client", "server", "connect"))
        head = f"global\n  maxconn 100\ndefaults\n  mode http\n  {timeouts}"
        (where / "haproxy.cfg").write_text("\n".join([head, *sections, ""]))
        with running([program("haproxy"), "-q", "-db", "-f", str(where / "haproxy.cfg")], listens[0]):
            yield listens


def cases() -> list[tuple[int, Arrival]]:
    every = (
        (number, Arrival(peer, proxy, fields))
        for number, peer, proxy, fields in itertools.product(
            range(len(SETTINGS)),
            ("127.0.0.2", "127.0.0.9"),
            (None, "", "198.51.100.7", "10.1.1.1", "2001:DB8::7"),
            [*lists(), (("x-client", "203.0.113.5"), ("X-Real-IP", "203.0.113.8"))],
        )
    )
    fitting: list[tuple[int, Arrival]] = []
    refused: list[tuple[int, Arrival]] = []
    for number, arrival in every:
        (refused if resolve(SETTINGS[number], arrival).refused else fitting).append((number, arrival))
    return some(fitting, 1800) + some(refused, 100)


def test_haproxy_says_what_the_rules_say(served: list[int]) -> None:
    wrong, decided = [], set()
    for number, arrival in cases():
        one = SETTINGS[number]
        expected = resolve(one, arrival)
        answer = ask(("127.0.0.1", served[number]), arrival)
        decided.add(expected.rule_key)
        if expected.refused or expected.onward is None:
            if expected.refused and not answer.refused:
                wrong.append((one, arrival, expected, answer))
            continue
        source, fields = heard(answer)
        seen = dict(told(fields)).get("x-seen", expected.client)
        if (seen, source, told(fields)) != (expected.client, expected.onward_proxy, told(expected.onward)):
            wrong.append((one, arrival, expected, answer))
    assert not wrong, f"{len(wrong)} cases, such as {wrong[0]}"
    assert decided == {
        "haproxy-peer",
        "haproxy-proxy",
        "haproxy-proxy-nobody",
        "haproxy-expected",
        "haproxy-unexpected",
        "haproxy-as-data",
        "haproxy-set-src",
    }


def test_a_stranger_decides_the_client_exactly_where_the_rules_say_so(served: list[int]) -> None:
    told_open, seen_open = set(), set()
    for number, one in enumerate(SETTINGS):
        told_open |= {number} if opened(one) else set()
        for arrival in attempts(one):
            answer = ask(("127.0.0.1", served[number]), arrival)
            if answer.refused or resolve(one, arrival).rule_key == "haproxy-as-data":
                continue
            source, fields = heard(answer)
            seen = dict(told(fields)).get("x-seen", source if one.sends_proxy else "")
            seen_open |= {number} if seen in FORGED.values() else set()
    # A TCP proxy that tells nobody what it believes cannot be asked.
    assert seen_open == {
        number for number in told_open if SETTINGS[number].mode == "http" or SETTINGS[number].sends_proxy
    }
    assert 0 < len(told_open) < len(SETTINGS)


def test_a_condition_that_nobody_can_decide_makes_the_client_unknown() -> None:
    one = HaproxyTrust(rules=(HaproxyRule("set-src", "X-Forwarded-For", conditional=True),), forward_for=True)
    found = resolve(one, Arrival("127.0.0.2", None, (("X-Forwarded-For", "203.0.113.5"),)))

    assert (found.client, found.by, found.onward, found.refused) == (None, Claim.NOBODY, None, False)
    # Without the field the rule does nothing, whatever its condition says.
    assert resolve(one, Arrival("127.0.0.2")).client == "127.0.0.2"


def test_a_field_that_a_condition_may_have_changed_decides_nothing() -> None:
    rules = (HaproxyRule("del-header", "X-Forwarded-For", conditional=True), SET_SRC)
    found = resolve(
        HaproxyTrust(rules=rules), Arrival("127.0.0.2", None, (("X-Forwarded-For", "203.0.113.5"),))
    )

    assert (found.client, found.rule_key) == (None, "haproxy-condition")
