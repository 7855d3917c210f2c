"""One line of a log at a time: what each form tells, and that no bytes at all are more than a line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.ingress import TEXT_LIMIT, Kind, LogEntry, Problem
from probe.errors import UsageError
from probe.ingress.lines import LINE_LIMIT, Line, TooLong, read_lines
from probe.ingress.log import Log, read_log
from probe.ingress.times import moment

AT = 1795230681.0  # 2026-11-21T03:11:21Z


def log(folder: Path, *lines: str | bytes) -> Log:
    file = folder / "log"
    file.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return read_log(file)


def only(folder: Path, *lines: str | bytes) -> LogEntry:
    found = log(folder, *lines)
    assert not [remark for remark in found.remarks if "understood" in remark]
    (entry,) = found.entries
    return entry


# ── times ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "time", "zoned"),
    [
        ("2026-11-21T03:11:21Z", AT, True),
        ("2026-11-21T03:11:21.25Z", AT + 0.25, True),
        ("2026-11-21T04:11:21+01:00", AT, True),
        ("2026-11-20T21:41:21.123456789-0530", AT + 0.123456789, True),
        ("2026-11-21 03:11:21,5", AT + 0.5, False),
        ("2026/11/21 03:11:21", AT, False),
        ("21/Nov/2026:03:11:21 +0000", AT, True),
        ("20/Nov/2026:17:11:21 -1000", AT, True),
        ("21/Nov/2026:03:11:21.250", AT + 0.25, False),
        ("1795230681", AT, True),
        ("1795230681.060", AT + 0.06, True),
        ("1795230681060", AT + 0.06, True),
        ("1795230681060000000", AT + 0.06, True),
    ],
)
def test_times_in_every_form(text: str, time: float, zoned: bool) -> None:
    found = moment(text)
    assert found is not None
    assert found.time == pytest.approx(time, abs=1e-6)
    assert found.zoned is zoned


@pytest.mark.parametrize(
    "text",
    ["", "2026-02-31T00:00:00Z", "0000-00-00T00:00:00Z", "2026-11-21T03:11:21+99:00", "31/Foo/2026:00:00:00 +0000",
     "12", "٢٠٢٦-11-21T03:11:21Z"],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    assert moment(text) is None


# ── prefixes ─────────────────────────────────────────────────────────────────────────────────────────────

UVICORN = 'INFO:     192.0.2.7:0 - "GET /x HTTP/1.1" 200 OK'


@pytest.mark.parametrize(
    ("prefix", "server", "time"),
    [
        ("", "", None),
        ("2026-11-21T03:11:21.000000000Z ", "", AT),
        ("[pod/app-1/app] ", "app-1", None),
        ("[pod/app-1/app] 2026-11-21T03:11:21Z ", "app-1", AT),
        ("2026-11-21T03:11:21Z stdout F ", "", AT),
        ("1795230681.000000 ", "", AT),
        ("Nov 21 03:11:21 host1 uvicorn[12]: ", "host1", None),
        ("<134>1 2026-11-21T03:11:21Z host1 uvicorn 12 - - ", "host1", AT),
        ("app-1  | ", "app-1", None),
    ],
)
def test_prefixes_of_collectors(prefix: str, server: str, time: float | None, tmp_path: Path) -> None:
    entry = only(tmp_path, prefix + UVICORN)
    assert (entry.kind, entry.client, entry.server, entry.time) == (Kind.UVICORN, "192.0.2.7", server, time)


def test_a_line_of_dockers_own_driver(tmp_path: Path) -> None:
    entry = only(tmp_path, '{"log":"INFO:     192.0.2.7:0 - \\"GET /x HTTP/1.1\\" 200 OK\\n","stream":"stdout",'
                           '"time":"2026-11-21T03:11:21.5Z"}')  # fmt: skip
    assert (entry.client, entry.time) == ("192.0.2.7", AT + 0.5)


def test_a_collectors_time_is_finer_than_the_lines_own(tmp_path: Path) -> None:
    nginx = "2026/11/21 04:11:21 [error] 7#7: *2 no live upstreams while connecting to upstream, client: ::1, server: x"
    entry = only(tmp_path, f"2026-11-21T03:11:21.250Z {nginx}")
    assert (entry.time, entry.zoned) == (AT + 0.25, True)


# ── forms ────────────────────────────────────────────────────────────────────────────────────────────────


def test_combined_and_its_relatives(tmp_path: Path) -> None:
    base = '192.0.2.7 - - [21/Nov/2026:03:11:21 +0000] "GET /x HTTP/1.1" 200 12 "-" "curl/8"'
    assert only(tmp_path, base).client == "192.0.2.7"
    assert only(tmp_path, base.replace(' "-" "curl/8"', "")).status == 200
    assert only(tmp_path, base + ' "198.51.100.1, 10.0.0.1"').forwarded == "198.51.100.1, 10.0.0.1"
    ipv6 = only(tmp_path, base.replace("192.0.2.7", "::ffff:192.0.2.7"))
    assert ipv6.client == "192.0.2.7"


def test_ingress_nginx(tmp_path: Path) -> None:
    entry = only(
        tmp_path,
        '192.0.2.7 - - [21/Nov/2026:03:11:21 +0000] "GET /x HTTP/2.0" 502 552 "-" "curl/8" 431 0.006 '
        "[default-app-80] [] 10.244.1.9:8000, 10.244.2.9:8000 0, 10 0.001, 0.004 502, 502 "
        "5f3a9bd6c1e24a7f90b1c2d3e4f50617",
    )
    assert entry.request_id == "5f3a9bd6c1e24a7f90b1c2d3e4f50617"
    assert entry.upstream == "10.244.1.9:8000, 10.244.2.9:8000"


@pytest.mark.parametrize(
    ("request_line", "problem"),
    [
        (r"\x00", Problem.HEADER_UNEXPECTED),
        ("PROXY TCP4 192.0.2.7 192.0.2.1 4711 80", Problem.HEADER_UNEXPECTED),
        ("PROXY UNKNOWN", Problem.HEADER_UNEXPECTED),
        (r"\x16\x03\x01\x02\x00\x01", Problem.TLS_ON_PLAIN),
        ("GET /x HTTP/9", None),
        ("-", None),
    ],
)
def test_what_a_refused_request_line_was(request_line: str, problem: Problem | None, tmp_path: Path) -> None:
    entry = only(tmp_path, f'192.0.2.7 - - [21/Nov/2026:03:11:21 +0000] "{request_line}" 400 157 "-" "-"')
    assert entry.problem is problem


def test_a_request_that_was_taken_is_no_problem_whatever_it_says(tmp_path: Path) -> None:
    entry = only(tmp_path, '192.0.2.7 - - [21/Nov/2026:03:11:21 +0000] "PROXY TCP4 HTTP/1.1" 200 157 "-" "-"')
    assert entry.problem is None


def test_json_with_bytes_that_are_not_json(tmp_path: Path) -> None:
    entry = only(
        tmp_path, rb'{"remote_addr":"192.0.2.7","remote_port":"1","request":"\x00\xff","status":"400"}'
    )
    assert (entry.problem, entry.client_port) == (Problem.HEADER_UNEXPECTED, 1)


def test_json_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    """Without escape=json a client's quotes end the value, and the rest of its text is keys."""
    forged = '{"remote_addr":"192.0.2.7","request":"GET /","remote_addr":"198.51.100.1","x":" HTTP/1.1","status":"200"}'
    found = log(tmp_path, UVICORN, forged)
    assert [each.kind for each in found.entries] == [Kind.UVICORN]
    assert found.remarks == [f"1 line of {tmp_path / 'log'} was not understood, the first is line 2"]


def test_haproxy_in_its_usual_formats(tmp_path: Path) -> None:
    start = "192.0.2.7:4711 [21/Nov/2026:03:11:21.250] web~ app/one 0/0/0/1/1 200 87 - - ---- 1/1/0/0/0 0/0"
    entry = only(tmp_path, f'Nov 21 03:11:21 lb haproxy[7]: {start} {{a|b}} "GET / HTTP/1.1"')
    assert (entry.kind, entry.client, entry.client_port) == (Kind.HAPROXY, "192.0.2.7", 4711)
    assert (entry.listener, entry.upstream, entry.status) == ("web", "app/one", 200)
    assert (entry.request, entry.time, entry.zoned, entry.peer) == ("GET / HTTP/1.1", AT + 0.25, False, None)
    tcp = only(tmp_path, "fd00::1:4711 [21/Nov/2026:03:11:21.250] web app/<NOSRV> 1/-1/2 0 SC 1/1/0/0/3 0/0")
    assert (tcp.client, tcp.client_port, tcp.problem, tcp.upstream) == (
        "fd00::1",
        4711,
        Problem.UPSTREAM_FAILED,
        None,
    )


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("Received something which does not look like a PROXY protocol header", Problem.HEADER_MISSING),
        ("Received an invalid PROXY protocol header", Problem.HEADER_MALFORMED),
        ("Received an unhandled protocol in the PROXY protocol header", Problem.HEADER_FAMILY),
        ("Timeout while waiting for PROXY protocol header", Problem.HEADER_LATE),
        ("Connection closed while waiting for PROXY protocol header", Problem.HEADER_EMPTY),
    ],
)
def test_haproxy_of_headers(words: str, problem: Problem, tmp_path: Path) -> None:
    entry = only(tmp_path, f"192.0.2.7:4711 [21/Nov/2026:03:11:21.250] web/1: {words}")
    assert (entry.peer, entry.problem) == ("192.0.2.7:4711", problem)


def test_haproxy_of_keys_given_twice_is_nobodys(tmp_path: Path) -> None:
    found = log(tmp_path, UVICORN, "ci=192.0.2.7 cp=1 ua=x ci=198.51.100.1 cp=2")
    assert [each.kind for each in found.entries] == [Kind.UVICORN]


def test_envoy(tmp_path: Path) -> None:
    line = ('[2026-11-21T03:11:21.250Z] "GET /x HTTP/1.1" 200 - 0 12 3 2 "198.51.100.1" "curl/8" '
            '"6a1b0a3e-0000-4000-8000-000000000001" "example.test" "10.244.1.9:8000"')  # fmt: skip
    entry = only(tmp_path, line)
    assert (entry.kind, entry.forwarded, entry.upstream) == (Kind.ENVOY, "198.51.100.1", "10.244.1.9:8000")
    assert (entry.request_id, entry.time) == ("6a1b0a3e-0000-4000-8000-000000000001", AT + 0.25)
    istio = only(
        tmp_path,
        line.replace(" 200 - 0 ", ' 200 - via_upstream - "-" 0 ')
        + " outbound|80||app 10.244.1.2:41000 10.244.1.2:8443 192.0.2.7:4711 - default",
    )
    assert (istio.client, istio.client_port, istio.local) == ("192.0.2.7", 4711, "10.244.1.2:8443")
    assert istio.outgoing == "10.244.1.2:41000"


def test_envoy_with_quotes_of_a_clients_is_not_understood(tmp_path: Path) -> None:
    line = ('[2026-11-21T03:11:21.250Z] "GET /x HTTP/1.1" 200 - 0 12 3 2 "1.1.1.1" "a" "forged" "b" "10.9.9.9:1" "c" '
            '"id" "example.test" "10.244.1.9:8000"')  # fmt: skip
    assert log(tmp_path, UVICORN, line).entries[1:] == []


@pytest.mark.parametrize(
    "line",
    [
        "listener.0.0.0.0_8081.downstream_cx_proxy_proto_error: 3",
        'envoy_listener_downstream_cx_proxy_proto_error{envoy_listener_address="0.0.0.0_8081"} 3',
    ],
)
def test_envoys_count_of_refused_headers(line: str, tmp_path: Path) -> None:
    entry = only(
        tmp_path, line, "listener.0.0.0.0_8082.downstream_cx_proxy_proto_error: 0", "server.uptime: 77"
    )
    assert (entry.local, entry.problem, entry.peer) == ("0.0.0.0:8081", Problem.HEADER_REFUSED, None)


def test_uvicorn(tmp_path: Path) -> None:
    found = log(
        tmp_path,
        "INFO:     Started server process [1]",
        '\x1b[32mINFO\x1b[0m:     fd00::7:4711 - "\x1b[1mGET /x?y=%22 HTTP/1.1\x1b[0m" \x1b[32m404 Not Found\x1b[0m',
        "WARNING:  Invalid HTTP request received.",
    )
    access, refused = found.entries
    assert (access.client, access.client_port, access.request) == ("fd00::7", 4711, "GET /x?y=%22 HTTP/1.1")
    assert (access.status, access.peer) == (404, None)
    assert refused.problem is Problem.REQUEST_INVALID
    assert found.remarks == []


# ── what is not a log, and what is hostile ───────────────────────────────────────────────────────────────


def test_lines_that_are_not_understood_are_counted(tmp_path: Path) -> None:
    found = log(tmp_path, "hello", UVICORN, "", "hello again", b"x" * (LINE_LIMIT * 2), UVICORN)
    assert [each.line for each in found.entries] == [2, 6]
    assert found.remarks == [f"3 lines of {tmp_path / 'log'} were not understood, the first is line 1"]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of its 2 lines is understood"):
        log(tmp_path, "hello", "world")


def test_a_header_that_never_ends_is_not_understood(tmp_path: Path) -> None:
    found = log(tmp_path, UVICORN, '2026/11/21 03:11:21 [error] 7#7: *2 broken header: "GET / HTTP/1.1')
    assert found.remarks == [f"1 line of {tmp_path / 'log'} was not understood, the first is line 2"]


def test_a_long_line_between_the_lines_of_a_header(tmp_path: Path) -> None:
    """What another stream of the same container writes stands between them; it is too long to be the client's."""
    access = '{"remote_addr":"192.0.2.9","status":"200","request":"GET /' + "a" * 120 + ' HTTP/1.1"}'
    header, other = log(
        tmp_path,
        '2026/11/21 03:11:21 [error] 7#7: *2 broken header: "GET / HTTP/1.1',
        access,
        "Host: x",
        '" while reading PROXY protocol, client: 192.0.2.7, server: 0.0.0.0:8081',
    ).entries
    assert (header.peer, header.problem, header.line) == ("192.0.2.7", Problem.HEADER_MISSING, 1)
    assert other.client == "192.0.2.9"


def test_lines_of_several_pods_are_put_together_pod_by_pod(tmp_path: Path) -> None:
    start, end = (
        '2026/11/21 03:11:21 [error] 7#7: *2 broken header: "GET / HTTP/1.1',
        '" while reading PROXY protocol, client: ',
    )
    found = log(
        tmp_path,
        f"[pod/a/nginx] {start}",
        f"[pod/b/nginx] {start}",
        f"[pod/a/nginx] {end}192.0.2.1, server: 0.0.0.0:8081",
        f"[pod/b/nginx] {end}192.0.2.2, server: 0.0.0.0:8081",
    )
    assert [(each.server, each.peer) for each in found.entries] == [("a", "192.0.2.1"), ("b", "192.0.2.2")]


def test_texts_are_bounded(tmp_path: Path) -> None:
    entry = only(tmp_path, f'192.0.2.7:0 - "GET /{"a" * 9000} HTTP/1.1" 200 OK')
    assert entry.request is not None
    assert len(entry.request) == len(entry.text) == TEXT_LIMIT + 1


@given(st.binary(max_size=300), st.integers(1, 400))
@example(b"\n" * 20, 3)
def test_lines_of_any_bytes(data: bytes, limit: int) -> None:
    numbers = [line.number for line in read_lines(io.BytesIO(data), limit)]
    assert numbers == list(range(1, len(numbers) + 1))


_PIECES = st.sampled_from(
    [
        *(
            "2026/11/21 03:11:21 [error] 7#7: *2 ",
            'broken header: "',
            '" while reading PROXY protocol',
            ", client: ",
        ),
        *(
            "192.0.2.7",
            ":4711",
            ", server: ",
            "\n",
            "client sent invalid method while reading client request line",
        ),
        *(
            '{"remote_addr":"',
            '","status":"400"}',
            '"',
            "\\",
            "[21/Nov/2026:03:11:21 +0000]",
            " - - ",
            "ci=",
            " 200 ",
        ),
        *(
            "\0",
            "\r",
            "2026-11-21T03:11:21Z ",
            "[pod/a/b] ",
            "listener.",
            "_80.downstream_cx_proxy_proto_error: 1",
        ),
        *("é", "\x1b[31m", "{", "["),
    ]
)


@given(st.lists(_PIECES | st.text(max_size=5), max_size=30))
def test_any_text_is_a_log_or_is_none(pieces: list[str]) -> None:
    from probe.ingress.log import _Reader

    reader = _Reader("log")
    lines = list(
        read_lines(io.BytesIO(UVICORN.encode() + b"\n" + "".join(pieces).encode("utf-8", "replace")), 1 << 20)
    )
    for line in lines:
        assert isinstance(line, Line | TooLong)
        if isinstance(line, Line):
            reader.take(line)
    for entry in reader.log(complete=True).entries:
        assert 1 <= entry.line <= len(lines)
        assert len(entry.text) <= TEXT_LIMIT + 1
        assert entry.status is None or 0 <= entry.status <= 999
