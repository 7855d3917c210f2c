"""uvicorn, gunicorn and hypercorn themselves decide: the real servers, over the grid."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from analysis.trust.evaluate import resolve
from analysis.trust.model import UNIX_PEER, Arrival, Fields, Gunicorn, Hypercorn, Resolution, Uvicorn
from analysis.trust.overtrust import FORGED
from analysis.trust.readers import gunicorn as read_gunicorn
from analysis.trust.readers import uvicorn as read_uvicorn
from tests.trust.asking import Answer, ask, folder, ports, running
from tests.trust.grid import attempts, lists, opened, some

HERE = Path(__file__).parent


def version(name: str) -> tuple[int, int]:
    major, minor, *_ = importlib.metadata.version(name).split(".")
    return int(major), int(minor)


UVICORN_VERSION, GUNICORN_VERSION = version("uvicorn"), version("gunicorn")

ALLOWED = (
    None,
    "",
    "*",
    "127.0.0.2",
    "127.0.0.2, 10.0.0.0/8",
    "127.0.0.0/30,2001:db8::/32,fe80::/10",
    "127.0.0.1/8",  # bits below the prefix length: no range for Python, and so nothing at all
    "'127.0.0.2'",  # quotes that a YAML list has kept (uvicorn's issue 1223)
    '"*"',
    "*,127.0.0.9",
    "127.0.0.2,unknown,10.1.1.1",
    "0.0.0.0/0",
    "::/0",
)


def says(answer: Answer, expected: Resolution) -> bool:
    """Whether the server did what the rules say of it."""
    if expected.refused:
        return answer.refused
    return answer.status == 200 and json.loads(answer.body) == expected.client


def arrivals(peers: Sequence[str], most: int, every: Sequence[Fields]) -> Iterator[Arrival]:
    for peer, fields in some(itertools.product(peers, every), most):
        yield Arrival(peer, None, fields)


def test_uvicorn_says_what_the_rules_say() -> None:
    settings = [Uvicorn(True, allow, UVICORN_VERSION) for allow in ALLOWED] + [
        Uvicorn(False, "*", UVICORN_VERSION)
    ]
    with folder() as where:
        listens = ports(len(settings))
        written = []
        for number, (one, port) in enumerate(zip(settings, listens, strict=True)):
            flags: dict[str, object] = {"proxy_headers": one.proxy_headers, "forwarded_allow_ips": one.allow}
            written.append({**flags, "uds": f"{where}/u{number}"})
            written.append({**flags, "port": port})
        command = [sys.executable, str(HERE / "served.py"), json.dumps(written)]
        with running(command, listens[-1]):
            wrong: list[tuple[object, ...]] = []
            decided = set()
            for number, (one, port) in enumerate(zip(settings, listens, strict=True)):
                for arrival in arrivals(("127.0.0.2", "127.0.0.9", UNIX_PEER), 80, [*lists()]):
                    unix = arrival.peer == UNIX_PEER
                    answer = ask(f"{where}/u{number}" if unix else ("127.0.0.1", port), arrival)
                    expected = resolve(one, arrival)
                    decided.add(expected.rule_key)
                    if not says(answer, expected):
                        wrong.append((one, arrival, expected, answer))
                forged = {ask(("127.0.0.1", port), one_attempt).body for one_attempt in attempts(one)}
                if opened(one) != any(json.dumps(claimed) in forged for claimed in FORGED.values()):
                    wrong.append((one, "openings", forged))
                if not ask(("127.0.0.1", port), Arrival("127.0.0.2", "198.51.100.7")).refused:
                    wrong.append((one, "PROXY header"))
    assert not wrong, f"{len(wrong)} cases, such as {wrong[0]}"
    assert decided == {
        "uvicorn-off",
        "uvicorn-stranger",
        "uvicorn-absent",
        "uvicorn-always",
        "uvicorn-last-stranger",
        "uvicorn-all-trusted",
    }


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        (["--forwarded-allow-ips", "'127.0.0.2'"], {}),
        (["--forwarded-allow-ips=127.0.0.0/30"], {"FORWARDED_ALLOW_IPS": "*"}),
        ([], {"FORWARDED_ALLOW_IPS": "127.0.0.2"}),
        (["--no-proxy-headers"], {"UVICORN_FORWARDED_ALLOW_IPS": "*"}),
        ([], {"UVICORN_FORWARDED_ALLOW_IPS": "*", "FORWARDED_ALLOW_IPS": "127.0.0.9"}),
        (["--proxy-headers"], {"UVICORN_PROXY_HEADERS": "no", "UVICORN_FORWARDED_ALLOW_IPS": "127.0.0.2"}),
        ([], {"UVICORN_PROXY_HEADERS": "no", "UVICORN_FORWARDED_ALLOW_IPS": "127.0.0.2"}),
    ],
)
def test_the_command_line_of_uvicorn_is_read_as_uvicorn_reads_it(
    flags: list[str], environ: dict[str, str]
) -> None:
    one = read_uvicorn(["served:app", *flags], environ, UVICORN_VERSION)
    [port] = ports(1)
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        str(HERE),
        "--port",
        str(port),
        "--lifespan",
        "off",
    ]
    with running([*command, *flags, "served:app"], port, environ):
        for peer, value in itertools.product(
            ("127.0.0.2", "127.0.0.9"), ("203.0.113.5", "203.0.113.5, 127.0.0.2")
        ):
            arrival = Arrival(peer, None, (("X-Forwarded-For", value),))
            assert says(ask(("127.0.0.1", port), arrival), resolve(one, arrival)), (one, arrival)


#: Arguments and environment of gunicorn.
GUNICORNS: tuple[tuple[list[str], dict[str, str]], ...] = (
    ([], {"FORWARDED_ALLOW_IPS": "*"}),
    (["--proxy-protocol", "--proxy-allow-from", "127.0.0.2"], {}),
    (["--proxy-protocol"], {"GUNICORN_CMD_ARGS": "--proxy-allow-from='*'"}),
    (["-k", "uvicorn.workers.UvicornWorker"], {"FORWARDED_ALLOW_IPS": "127.0.0.2,10.1.1.1"}),
    (
        ["-k", "uvicorn.workers.UvicornWorker", "--forwarded-allow-ips=*"],
        {"UVICORN_FORWARDED_ALLOW_IPS": "127.0.0.9"},
    ),
    (
        ["--worker-class=uvicorn.workers.UvicornWorker", "--proxy-protocol"],
        {"FORWARDED_ALLOW_IPS": "*,127.0.0.9"},
    ),
)


@contextlib.contextmanager
def gunicorn(arguments: list[str], environ: dict[str, str], port: int, unix: str) -> Iterator[Gunicorn]:
    one = read_gunicorn(arguments, environ, GUNICORN_VERSION, UVICORN_VERSION)
    name = "served:app" if one.worker == "uvicorn" else "served:wsgi"
    command = [sys.executable, "-m", "gunicorn", "--pythonpath", str(HERE), "--bind", f"127.0.0.1:{port}"]
    command += [
        "--bind",
        f"unix:{unix}",
        "--log-level",
        "critical",
        "--worker-tmp-dir",
        "/tmp",
        *arguments,
        name,
    ]
    # The worker of uvicorn says that it will move to a package of its own.
    with running(command, port, {**environ, "PYTHONWARNINGS": "ignore"}):
        yield one


def test_gunicorn_says_what_the_rules_say() -> None:
    wrong, decided = [], set()
    with folder() as where, contextlib.ExitStack() as stack:
        listens = ports(len(GUNICORNS))
        settings = [
            stack.enter_context(gunicorn(arguments, environ, port, f"{where}/g{number}"))
            for number, ((arguments, environ), port) in enumerate(zip(GUNICORNS, listens, strict=True))
        ]
        for number, (one, port) in enumerate(zip(settings, listens, strict=True)):
            grid = [*arrivals(("127.0.0.2", "127.0.0.9", UNIX_PEER), 60, [*lists()])]
            for peer, proxy in itertools.product(
                ("127.0.0.2", "127.0.0.9", UNIX_PEER), ("", "198.51.100.7", "2001:db8::7")
            ):
                grid.append(Arrival(peer, proxy))
            for arrival in grid:
                unix = arrival.peer == UNIX_PEER
                answer = ask(f"{where}/g{number}" if unix else ("127.0.0.1", port), arrival)
                expected = resolve(one, arrival)
                decided.add(expected.rule_key)
                if not says(answer, expected):
                    wrong.append((one, arrival, expected, answer))
    assert not wrong, f"{len(wrong)} cases, such as {wrong[0]}"
    assert {
        "gunicorn-peer",
        "gunicorn-proxy",
        "gunicorn-forbidden",
        "gunicorn-nobody",
        "gunicorn-unexpected",
        "uvicorn-always",
        "uvicorn-last-stranger",
        "uvicorn-stranger",
        "uvicorn-proxy",
    } <= decided


def forwarded() -> list[Fields]:
    """Forwarded (RFC 7239), as people write it."""
    values = (
        "for=203.0.113.5",
        'for="[2001:db8::5]:4711";proto=https',
        "for=203.0.113.5, for=10.1.1.1",
        "proto=https;for=203.0.113.5;by=10.1.1.1",
        "For=203.0.113.5",
        "by=10.1.1.1",
        "for = 203.0.113.5",
        "for=_hidden;for=203.0.113.5",
        "for=",
        "",
        "unknown",
    )
    both = (("Forwarded", "for=203.0.113.5"), ("X-Forwarded-For", "203.0.113.8, 10.1.1.1"))
    return [*((("Forwarded", value),) for value in values), both]


def test_hypercorn_says_what_the_rules_say() -> None:
    settings: list[tuple[str, Hypercorn]] = [("/", Hypercorn())]
    for mode, hops in itertools.product(("legacy", "modern"), (0, 1, 2, 3)):
        settings.append((f"/{mode}/{hops}", Hypercorn("legacy" if mode == "legacy" else "modern", hops)))
    [port] = ports(1)
    command = [sys.executable, "-m", "hypercorn", "--bind", f"127.0.0.1:{port}", "--log-level", "CRITICAL"]
    wrong, decided = [], set()
    with running([*command, "served:fixed()"], port, {"PYTHONPATH": str(HERE)}):
        for path, one in settings:
            for arrival in arrivals(("127.0.0.2", "127.0.0.9"), 80, [*lists(), *forwarded()]):
                answer = ask(("127.0.0.1", port), arrival, path)
                expected = resolve(one, arrival)
                decided.add(expected.rule_key)
                if not says(answer, expected):
                    wrong.append((one, arrival, expected, answer))
        proxied = Arrival("127.0.0.2", "198.51.100.7")
        assert ask(("127.0.0.1", port), proxied).refused
        assert resolve(Hypercorn(), proxied).refused
    assert not wrong, f"{len(wrong)} cases, such as {wrong[0]}"
    assert decided == {"hypercorn-peer", "hypercorn-hops", "hypercorn-forwarded", "hypercorn-few"}
