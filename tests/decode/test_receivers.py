"""Which receivers take a header: what was measured, and nothing beyond what follows from it."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.receivers import RECEIVERS, Reception, receptions
from analysis.receivers.classify import classify, source
from analysis.receivers.judge import _judge, _Measured, _measured, _outcome
from analysis.receivers.kinds_v2 import crc32c
from analysis.receivers.measured import BEHIND, CASES, NOT_MEASURED
from daemonset.decode import crc32c as decoder_crc32c
from tests.decode.capture import datagram, segment, syn, write
from tests.decode.encode import SIGNATURE, tcp4, tlv, v1, v2, with_checksum
from tests.decode.test_command import Result

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TABLE, SUMMARY = SHARED / "proxy-receivers.json", SHARED / "proxy-receivers-measured.md"

NGINX, HAPROXY, HAPROXY_NEW, APACHE, ENVOY, GO = 0, 2, 3, 4, 6, 7

#: The names that the tables have for RECEIVERS: servers that were live, then libraries.
LIVE = (
    "nginx1.22", "nginx_main", "haproxy2.6", "haproxy3.5d", "apache2.4.71", "lighttpd1.4.69", "envoy1.40",
    "go-pp REQUIRE",
)  # fmt: skip
LIBRARIES = ("pires", "icgood", "twisted", "aiosmtpd", "gunicorn", "ppp")
LETTERS = {"A": "A", "E": "E", "A(t)": "T", "wait": "W", "LOOP": "L", "pass": "P"}

OWN_PORTS = range(36000, 40000)  # Apache told the port of the connection itself

LINE = v1("TCP4", "10.0.0.1", "10.0.0.2", 4000, 80)


def verdicts(data: bytes, **how: Any) -> list[str]:
    return [one.verdict for one in receptions(data, **how)]


def by_name(told: tuple[Reception, ...], name: str) -> Reception:
    return next(one for one in told if f"{one.name} {one.version}".startswith(name))


def table() -> dict[str, Any]:
    if not TABLE.is_file():
        pytest.skip("needs the table of measurements in shared/data beside the repository")
    loaded: dict[str, Any] = json.loads(TABLE.read_text())
    return loaded


class TestTheTable:
    """What the package carries is what was measured."""

    def test_every_header_is_the_one_that_was_sent(self) -> None:
        edges = table()["edges"]
        cases = CASES[: len(edges)]
        assert [case.name for case in cases] == [edge["name"] for edge in edges]
        assert [case.header.hex() for case in cases] == [edge["hex"] for edge in edges]
        assert [case.cut or None for case in cases] == [edge["split"] for edge in edges]

    def test_every_code_of_a_live_server_says_what_it_did(self) -> None:
        told = table()["receivers"]
        for case in CASES[: len(told[LIVE[0]])]:
            for place, name in enumerate(LIVE):
                assert means(case.codes[place], told[name][case.name], case.header), (case.name, name)

    def test_every_code_of_a_library_says_what_it_did(self) -> None:
        if not SUMMARY.is_file():
            pytest.skip("needs the summary of measurements in shared/data beside the repository")
        columns, *rows = (
            line.strip().strip("|").split("|")
            for line in SUMMARY.read_text().splitlines()
            if line.startswith(("|case", "|v1_", "|v2_", "|none_"))
        )
        letters = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
        for case in CASES[: len(letters)]:
            for place, name in enumerate(LIBRARIES, len(LIVE)):
                assert case.codes[place] == LETTERS[letters[case.name][name]], (case.name, name)

    def test_every_timeout_is_the_measured_one(self) -> None:
        idle = table()["idle"]
        for place, name in enumerate(LIVE):
            for version, told in zip(("v1", "v2"), RECEIVERS[place].half, strict=True):
                if told:
                    how, seconds = idle[f"{name.removesuffix('4.69')} half {version}"]
                    assert told == f"{how} after {seconds:.0f} s"

    def test_every_case_has_a_code_for_each_receiver(self) -> None:
        assert {len(case.codes) for case in CASES} == {len(RECEIVERS)}
        assert len({(one.name, one.version) for one in RECEIVERS}) == len(RECEIVERS)


def means(code: str, told: str, header: bytes) -> bool:
    """Whether a code says the same as the words of the measurement."""
    words = told.removesuffix(" LI").split()
    simple = {"F": ["fin"], "R": ["rst"], "W": ["hang"], "?": ["200", "fin"]}
    if code in simple:
        return words == simple[code]
    if code == "4":
        return words[0] == "400"
    status, client, end = words
    address, _, port = client.rpartition(":")
    own = address == "127.0.0.1"
    spelled = source(header, classify(header + BEHIND))
    if code == "h":
        same = (
            spelled is not None
            and alike(address, spelled[0])
            and port in {spelled[1], spelled[1].lstrip("0")}
        )
        return (status, end) == ("200", "fin") and same
    if code == "i":
        same = spelled is not None and alike(address, spelled[0])
        return (status, end) == ("200", "fin") and same and int(port) in OWN_PORTS
    return {"o": own, "-": client == ":"}.get(code, code == f"={client}")


def alike(one: str, other: str) -> bool:
    try:
        return ip_address(one.strip("[]")) == ip_address(other)
    except ValueError:
        return one == other


def by_kind(place: int, known: _Measured) -> str:
    return _judge(place, known.kind, None, None).verdict


class TestTheRule:
    """What is concluded from one case for another: see analysis/receivers/judge.py."""

    def test_no_measured_case_contradicts_it(self) -> None:
        for place, receiver in enumerate(RECEIVERS):
            known = [one for one in _measured() if one.case.codes[place] != NOT_MEASURED]
            for less in known:
                for more in known:
                    if less is not more and less.kind.within(more.kind):
                        pair = _outcome(less.case.codes[place]), _outcome(more.case.codes[place])
                        assert pair != ("refused", "accepted"), (receiver, less.case.name, more.case.name)

    def test_every_case_is_judged_by_its_kind_as_it_was_measured(self) -> None:
        for known in _measured():
            for place, code in enumerate(known.case.codes):
                if code != NOT_MEASURED and "second" not in known.kind.form:
                    assert by_kind(place, known) == _outcome(code), (known.case.name, place)

    def test_one_case_left_out_is_never_judged_wrongly_by_the_others(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = _measured()
        judged = 0
        for known in whole:
            others = tuple(other for other in whole if other is not known)
            monkeypatch.setattr("analysis.receivers.judge._measured", lambda others=others: others)
            for place, code in enumerate(known.case.codes):
                if code != NOT_MEASURED:
                    found = by_kind(place, known)
                    assert found in {_outcome(code), "not measured"}, (
                        known.case.name,
                        RECEIVERS[place].name,
                    )
                    judged += found != "not measured"
        assert judged > 300  # the rule says something, too

    @given(st.binary(max_size=300))
    def test_any_bytes_are_judged(self, data: bytes) -> None:
        for start in (
            b"",
            b"PROXY ",
            b"PROXY TCP4 ",
            b"PROXY UNKNOWN",
            SIGNATURE,
            SIGNATURE + b"\x21\x11\x00\x20",
        ):
            told = receptions(start + data)
            assert len(told) == len(RECEIVERS)
            assert all(one.detail for one in told)

    def test_its_checksum_is_the_decoders(self) -> None:
        for data in (b"", b"123456789", bytes(range(256))):
            assert crc32c(data) == decoder_crc32c.crc32c(data)
        assert crc32c(b"123456789") == 0xE3069283


class TestHeadersOfAKind:
    """Other addresses, same answer."""

    def test_an_ordinary_header_is_taken_by_all(self) -> None:
        ordinary = tcp4(source="10.1.2.3", sport=4000)
        assert set(verdicts(LINE)) == set(verdicts(ordinary)) == {"accepted"}
        assert "10.0.0.1:4000" in receptions(LINE)[NGINX].detail

    def test_a_leading_zero_divides_them(self) -> None:
        told = receptions(b"PROXY TCP4 10.0.00.3 10.0.0.1 4000 80\r\n")
        assert by_name(told, "nginx 1.22.1").verdict == "accepted"
        assert by_name(told, "HAProxy 2.6.12").verdict == "accepted"
        assert by_name(told, "Envoy 1.40").detail.startswith("closes with RST")
        assert by_name(told, "go-proxyproto (Traefik)").verdict == "refused"

    def test_haproxy_alone_looks_at_the_checksum(self) -> None:
        broken = bytearray(with_checksum(tcp4(tlv(3, bytes(4)))))
        broken[-1] ^= 1
        refusing = {one.name for one in receptions(bytes(broken)) if one.verdict == "refused"}
        assert refusing == {"HAProxy"}
        assert set(verdicts(with_checksum(tcp4(tlv(3, bytes(4)), tlv(4, bytes(9)))))) == {"accepted"}

    def test_a_long_header_is_judged_between_what_was_measured(self) -> None:
        long = [receptions(tcp4(tlv(4, bytes(size - 31)))) for size in (500, 1500, 4000, 20000)]
        assert [told[NGINX].verdict for told in long] == ["accepted", "not measured", "refused", "refused"]
        assert [told[HAPROXY].verdict for told in long] == [
            "accepted",
            "accepted",
            "accepted",
            "not measured",
        ]
        assert [told[GO].verdict for told in long] == ["accepted", "accepted", "not measured", "refused"]
        assert [told[ENVOY].verdict for told in long] == ["accepted"] * 4

    def test_a_second_header_is_a_bad_request_to_who_took_the_first(self) -> None:
        told = receptions(tcp4(), first=LINE)
        assert "HTTP 400" in by_name(told, "nginx 1.22.1").detail
        assert by_name(receptions(tcp4(), first=b"PROXY UNKNOWN x\r\n"), "HAProxy").detail.startswith(
            "with the header before it"
        )
        assert verdicts(LINE, first=LINE)[ENVOY] == "not measured"

    def test_what_waits_is_told_with_when_it_gives_up(self) -> None:
        told = receptions(tcp4()[:20])
        assert told[ENVOY].verdict == "waits"
        assert "RST after 5 s" in told[ENVOY].detail
        assert told[NGINX].verdict == "refused"

    def test_a_cut_is_one_thing_more_out_of_the_ordinary(self) -> None:
        assert [verdicts(tcp4(), cuts=cut)[NGINX] for cut in ((), (10,), (16,), (20,))] == [
            "accepted", "refused", "refused", "refused",
        ]  # fmt: skip
        assert verdicts(tcp4(), cuts=(20,))[ENVOY] == "accepted"
        assert verdicts(tcp4(), cuts=(10, 20))[ENVOY] == "not measured"
        assert verdicts(tcp4(), cuts=(28,))[NGINX] == "accepted"  # between header and request


class TestWhatWasNotMeasured:
    @pytest.mark.parametrize(
        "data",
        [
            b"PROXY TCP5 10.0.0.1 10.0.0.2 1 2\r\n",
            b"\x00\x01\x02",
            b"SSH-2.0-OpenSSH_9\r\n",
            b"PRO",
        ],
    )
    def test_it_says_so_for_every_receiver(self, data: bytes) -> None:
        assert set(verdicts(data)) == {"not measured"}

    def test_two_faults_that_are_each_taken_were_not_measured_together(self) -> None:
        told = receptions(b"PROXY TCP4 10.0.00.3 10.0.0.1 4000 080\r\n")
        assert by_name(told, "Apache").verdict == "not measured"
        assert by_name(told, "go-proxyproto").verdict == "refused"  # for either
        assert by_name(told, "nginx 1.22.1").verdict == "accepted"  # there both were measured together
        assert by_name(told, "nginx main").verdict == "not measured"

    def test_a_datagram_is_nothing_that_was_measured(self) -> None:
        assert set(verdicts(tcp4(), datagram=True)) == {"not measured"}

    def test_a_local_header_is_not_judged_by_others(self) -> None:
        checked = with_checksum(v2(0x11, tlv(3, bytes(4)) + tlv(4, bytes(73)), command=0))
        assert verdicts(checked)[HAPROXY_NEW] == "not measured"


class TestTheCommand:
    def test_json_has_the_receivers_beside_the_stable_fields(self) -> None:
        [answer] = Result(LINE.hex(), receivers=True).answers
        assert list(answer)[-1] == "receivers"
        assert [list(one) for one in answer["receivers"]] == [["name", "version", "verdict", "detail"]] * len(
            RECEIVERS
        )
        assert "receivers" not in Result(LINE.hex()).answers[0]

    def test_each_header_in_a_row_is_judged_where_it_stands(self) -> None:
        first, second = Result((LINE + tcp4() + BEHIND).hex(), receivers=True).answers
        assert {one["verdict"] for one in first["receivers"]} == {"accepted"}
        assert "HTTP 400" in second["receivers"][NGINX]["detail"]
        [line] = Result("-", "jsonl", [(LINE + tcp4()).hex().encode()], receivers=True).answers
        assert "HTTP 400" in line["next"][0]["receivers"][NGINX]["detail"]

    def test_what_is_no_header_is_judged_too(self) -> None:
        [answer] = Result(BEHIND.hex(), receivers=True).answers
        assert answer["error"]
        assert answer["receivers"][HAPROXY]["verdict"] == "refused"
        [answer] = Result("-", "jsonl", [b"zz"], receivers=True).answers
        assert "receivers" not in answer

    def test_a_person_reads_who_takes_it_and_who_does_not(self) -> None:
        text = Result(b"PROXY TCP4 10.0.00.3 10.0.0.1 4000 80\r\n".hex(), "table", receivers=True).text
        assert re.search(r"✓ accepted +nginx 1.22.1", text)
        assert re.search(r"× refused +.*Envoy 1.40", text)
        assert "measured: its kind (v1_lz_ip)" in re.sub(r"\s+", " ", text)

    def test_in_a_capture_segments_count(self, tmp_path: Path) -> None:
        header = tcp4()
        packets = [syn(), segment(header[:10]), segment(header[10:] + BEHIND, seq=1011)]
        whole = [syn(sport=40001), segment(header + BEHIND, sport=40001)]
        late = [
            syn(sport=40002),
            segment(header[10:] + BEHIND, seq=1011, sport=40002),
            segment(header[:10], sport=40002),
        ]
        cut, plain, disorder = Result(
            write(tmp_path / "a.pcap", packets + whole + late), receivers=True
        ).answers
        assert cut["receivers"][NGINX]["verdict"] == "refused"
        assert cut["receivers"][APACHE]["verdict"] == cut["receivers"][GO]["verdict"] == "accepted"
        assert plain["receivers"][NGINX]["verdict"] == "accepted"
        assert disorder["receivers"][NGINX]["verdict"] == "accepted"  # both parts arrive at the same moment

    def test_in_a_datagram_nothing_was_measured(self, tmp_path: Path) -> None:
        [answer] = Result(write(tmp_path / "a.pcap", [datagram(tcp4() + b"x")]), receivers=True).answers
        assert {one["verdict"] for one in answer["receivers"]} == {"not measured"}
