"""`probe decode`: what it answers, in which shape, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from probe.decoding.decode import LINE_LIMIT, run
from probe.errors import UsageError
from tests.decode.capture import datagram, segment, syn, write
from tests.decode.encode import SIGNATURE, tcp4, tlv, v1, v2, with_checksum

LINE = v1("TCP4", "192.0.2.1", "198.51.100.2", 56324, 443)
REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"
KEYS = [
    "ok", "error", "complete", "version", "command", "family", "transport",
    "source", "destination", "tlvs", "length", "warnings",
]  # fmt: skip


class Result:
    """What a run wrote and how it ended."""

    def __init__(
        self,
        source: str | Path,
        output: str = "json",
        lines: list[bytes] | None = None,
        *,
        receivers: bool = False,
    ) -> None:
        written: list[str] = []
        self.code = run(str(source), output, receivers=receivers, lines=lines, write=written.append)
        self.text = "\n".join(written)
        self.answers: list[dict[str, Any]] = []
        if output in {"json", "jsonl"}:
            self.answers = [json.loads(each) for each in written]
            assert "\n" not in "".join(written)


class TestHex:
    def test_one_header_is_one_object_with_the_agreed_keys(self) -> None:
        result = Result((LINE + REQUEST).hex())
        [answer] = result.answers
        assert list(answer) == KEYS
        assert answer == {
            "ok": True, "error": None, "complete": True, "version": 1, "command": "PROXY", "family": "inet",
            "transport": "stream", "source": "192.0.2.1:56324", "destination": "198.51.100.2:443",
            "tlvs": [], "length": len(LINE), "warnings": [],
        }  # fmt: skip
        assert result.code == 0

    def test_tlvs_have_their_value_in_hex_and_what_it_means(self) -> None:
        [answer] = Result(with_checksum(tcp4(tlv(3, bytes(4)), tlv(2, b"app.example"))).hex()).answers
        assert answer["tlvs"][1] == {
            "type": 2, "name": "AUTHORITY", "value": b"app.example".hex(), "decoded": "app.example",
        }  # fmt: skip
        assert answer["tlvs"][0]["name"] == "CRC32C"

    def test_an_error_is_told_with_rule_and_offset(self) -> None:
        result = Result(b"PROXY TCP4 192.0.02".hex())
        [answer] = result.answers
        assert (answer["ok"], answer["complete"], answer["version"], answer["source"]) == (
            False,
            True,
            1,
            None,
        )
        assert "2.1" in answer["error"]
        assert "byte 18" in answer["error"]
        assert result.code == 3

    def test_a_header_that_is_cut_is_no_error_but_inconclusive(self) -> None:
        for data in (LINE[:20], tcp4()[:20], b"PRO", SIGNATURE[:3]):
            result = Result(data.hex())
            [answer] = result.answers
            assert (answer["ok"], answer["error"], answer["complete"]) == (False, None, False)
            assert "cut" in answer["warnings"][0]
            assert result.code == 4

    def test_a_single_cr_at_the_very_end_is_the_senders_line_end_and_wrong(self) -> None:
        result = Result(LINE[:-1].hex())
        assert "single CR" in result.answers[0]["error"]
        assert result.code == 3

    @pytest.mark.parametrize(
        ("data", "what"),
        [(REQUEST, "an HTTP request"), (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "a TLS ClientHello")],
    )
    def test_what_is_no_header_is_named(self, data: bytes, what: str) -> None:
        result = Result(data.hex())
        assert result.answers[0]["error"].endswith(f"this is {what}")
        assert (result.answers[0]["version"], result.code) == (None, 3)

    def test_headers_in_a_row_are_an_object_each(self) -> None:
        result = Result((LINE + tcp4() + REQUEST).hex())
        assert [answer["version"] for answer in result.answers] == [1, 2]
        assert result.code == 0
        broken = Result((LINE + b"PROXY TCP7").hex())
        assert [answer["ok"] for answer in broken.answers] == [True, False]
        assert broken.code == 3

    @pytest.mark.parametrize("text", ["0x{}", " {} ", "{}\n"])
    def test_hex_as_people_have_it_is_taken(self, text: str) -> None:
        assert Result(text.format(LINE.hex())).answers[0]["ok"]
        for separator in (" ", ":", "-", ", 0x", "\\x"):
            assert Result(separator.join(f"{byte:02X}" for byte in LINE)).answers[0]["ok"]

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("xyz", "no hexadecimal digit"),
            ("abc", "whole bytes"),
            ("", "no bytes"),
            ("missing.pcap", "neither a file nor hex"),
            ("/tmp", "folder"),
            ("\udcff\x1b", "no hexadecimal digit"),
        ],
    )
    def test_what_cannot_be_decoded_at_all_is_a_usage_error_on_one_line(
        self, source: str, words: str
    ) -> None:
        with pytest.raises(UsageError, match=words) as caught:
            run(source, "json", write=print)
        assert "\n" not in str(caught.value)

    def test_the_longest_header_fits_an_argument(self) -> None:
        [answer] = Result(tcp4(tlv(4, bytes(30000))).hex()).answers
        assert answer["length"] == 28 + 3 + 30000


class TestLines:
    def test_every_line_gets_its_line_in_the_same_order(self) -> None:
        lines = [
            LINE.hex().encode(),
            b"",
            b"zz",
            REQUEST.hex().encode(),
            LINE[:9].hex().encode(),
            tcp4().hex().encode(),
        ]
        result = Result("-", "jsonl", lines)
        assert [answer["ok"] for answer in result.answers] == [True, False, False, False, False, True]
        assert [answer["complete"] for answer in result.answers] == [True, False, True, True, False, True]
        assert all(answer["error"] for answer in result.answers[1:4])
        assert result.code == 3

    def test_headers_behind_the_first_stand_in_the_same_line(self) -> None:
        [answer] = Result("-", "jsonl", [(LINE + tcp4()).hex().encode()]).answers
        assert (answer["version"], [behind["version"] for behind in answer["next"]]) == (1, [2])

    def test_the_worst_line_decides_how_it_ends(self) -> None:
        good, cut, bad = (data.hex().encode() for data in (LINE, LINE[:9], b"PROXY x"))
        assert Result("-", "jsonl", [good, good]).code == 0
        assert Result("-", "jsonl", [good, cut, good]).code == 4
        assert Result("-", "jsonl", [bad, cut, good]).code == 3
        assert Result("-", "jsonl", []).code == 0


class TestCapture:
    def test_each_header_says_where_it_was_seen(self, tmp_path: Path) -> None:
        packets = [syn(), segment(LINE + REQUEST), syn(sport=40001), segment(tcp4(), sport=40001)]
        result = Result(write(tmp_path / "a.pcap", packets))
        assert [answer["version"] for answer in result.answers] == [1, 2]
        assert list(result.answers[0]) == [*KEYS, "seen"]
        assert result.answers[0]["seen"] == {
            "packet": 2, "time": 1_700_000_000.001, "from": "192.0.2.150:40000", "to": "198.51.100.8:8081",
            "interface": "",
        }  # fmt: skip
        assert result.code == 0

    @pytest.mark.parametrize("isn", [1000, 2**32 - 10])
    def test_a_header_over_segments_is_put_together(self, tmp_path: Path, isn: int) -> None:
        data = LINE + tcp4() + REQUEST
        pieces = [segment(data[at : at + 9], seq=isn + 1 + at) for at in range(0, len(data), 9)]
        for name, order in {
            "in order": pieces,
            "backwards": pieces[::-1],
            "twice": [piece for piece in pieces for _ in range(2)],
            "overlapping": [segment(data[:30], seq=isn + 1), segment(data[20:], seq=isn + 21)],
        }.items():
            result = Result(write(tmp_path / f"{name}.pcap", [syn(isn=isn), *order]))
            assert [answer["version"] for answer in result.answers] == [1, 2], name
            assert result.code == 0

    def test_a_header_whose_end_is_missing_is_cut(self, tmp_path: Path) -> None:
        result = Result(write(tmp_path / "a.pcap", [syn(), segment(LINE[:20])]))
        assert [(answer["ok"], answer["complete"], answer["error"]) for answer in result.answers] == [
            (False, False, None)
        ]
        assert result.code == 4

    def test_a_packet_that_the_capture_cut_is_not_taken_for_a_whole_one(self, tmp_path: Path) -> None:
        packets = [syn(), segment(LINE), segment(LINE, seq=1001 + len(LINE))]
        result = Result(write(tmp_path / "a.pcap", packets, snaplen=60))
        assert [answer["complete"] for answer in result.answers] == [False]

    def test_a_broken_header_is_an_error_with_its_place(self, tmp_path: Path) -> None:
        result = Result(
            write(tmp_path / "a.pcap", [syn(), segment(b"PROXY TC"), segment(b"P9\r\n", seq=1009)])
        )
        [answer] = result.answers
        assert (answer["ok"], answer["version"], answer["seen"]["packet"]) == (False, 1, 3)
        assert result.code == 3

    def test_a_port_used_again_is_another_connection(self, tmp_path: Path) -> None:
        packets = [syn(), segment(LINE), syn(isn=9000), segment(tcp4(), seq=9001)]
        assert [answer["version"] for answer in Result(write(tmp_path / "a.pcap", packets)).answers] == [1, 2]

    def test_the_middle_of_a_connection_is_no_header_even_if_it_reads_like_one(self, tmp_path: Path) -> None:
        packets = [syn(), segment(REQUEST), segment(LINE, seq=1001 + len(REQUEST))]
        result = Result(write(tmp_path / "a.pcap", packets))
        assert (result.answers, result.code) == ([], 4)

    def test_a_connection_that_began_before_the_capture_counts_if_it_shows_a_header(
        self, tmp_path: Path
    ) -> None:
        assert len(Result(write(tmp_path / "a.pcap", [segment(LINE)])).answers) == 1

    def test_a_datagram_has_its_header_in_front_of_its_payload(self, tmp_path: Path) -> None:
        header = v2(0x12, tcp4()[16:])
        packets = [datagram(header + b"query"), datagram(b"query"), datagram(header[:-1], sport=40001)]
        result = Result(write(tmp_path / "a.pcap", packets))
        assert [(answer["ok"], answer["transport"]) for answer in result.answers] == [
            (True, "dgram"),
            (False, None),
        ]

    def test_a_capture_without_headers_is_inconclusive_and_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert Result(write(tmp_path / "a.pcap", [syn(), segment(REQUEST)])).code == 4
        assert "none of the 1 flows" in capsys.readouterr().err

    def test_a_capture_that_ends_early_is_read_and_not_taken_for_whole(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "a.pcap", [syn(), segment(LINE), segment(REQUEST, seq=1046)])
        path.write_bytes(path.read_bytes()[:-5])
        result = Result(path)
        assert ([answer["ok"] for answer in result.answers], result.code) == ([True], 4)
        assert "not whole" in capsys.readouterr().err

    def test_a_file_that_is_no_capture_is_a_usage_error(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pcap"
        path.write_text("not a capture")
        with pytest.raises(UsageError, match="not a pcap"):
            Result(path)

    def test_headers_of_a_real_cluster_are_those_that_its_balancer_sent(self, evidence: Path) -> None:
        folder = evidence / "kubernetes-1.36-proxy-iptables" / "lb-9002-v2"
        log = folder / "haproxy.log"
        answers = Result(folder / "lb-eth0.pcap").answers
        logged = re.findall(r" ci=(\S+) cp=(\d+) fi=(\S+) fp=(\d+) .* bi=(\S+) bp=(\d+) ", log.read_text())
        assert len(logged) == 3
        assert [(each["source"], each["destination"], each["seen"]["from"]) for each in answers] == [
            (f"{client}:{port}", f"{front}:{front_port}", f"{back}:{back_port}")
            for client, port, front, front_port, back, back_port in logged
        ]


class TestForPeople:
    def test_a_block_a_header_with_a_line_a_fact(self) -> None:
        text = Result(
            (with_checksum(tcp4(tlv(3, bytes(4)), tlv(2, b"app.example"))) + REQUEST).hex(), "table"
        ).text
        for words in (
            "PROXY v2",
            "192.0.2.1:56324",
            "198.51.100.2:443",
            "verified",
            "app.example",
            "an HTTP request",
        ):
            assert words in text

    def test_hostile_bytes_are_escaped_everywhere(self) -> None:
        evil = "\x1b]0;x\x07\x9b31m\u202e".encode()
        for data in (
            tcp4(tlv(2, evil), tlv(1, evil), tlv(0x20, b"\x01" + bytes(4) + tlv(0x22, evil))),
            v2(0x31, evil.ljust(108, b"\0") + evil.ljust(108, b"\0")),
            LINE + b"GET /" + evil + b" HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 " + evil,
        ):
            for output in ("table", "wide", "json", "yaml"):
                text = Result(data.hex(), output).text
                assert all(character == "\n" or character.isprintable() for character in text)

    def test_yaml_is_a_document_a_header(self) -> None:
        text = Result((LINE + LINE).hex(), "yaml").text
        assert text.count("---\n") == 2
        assert "ok: true" in text


def probe(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from probe.cli import main; main()", "decode", *arguments]
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(command, input=stdin, capture_output=True, check=False, env=environment)


class TestCommandLine:
    def test_hex_in_json_out(self) -> None:
        result = probe(LINE.hex(), "-o", "json")
        assert (json.loads(result.stdout)["source"], result.returncode, result.stderr) == (
            "192.0.2.1:56324",
            0,
            b"",
        )

    def test_lines_in_lines_out(self) -> None:
        stdin = b"%b\r\n\n%b" % (LINE.hex().encode(), b"PROXY x".hex().encode())
        result = probe("-", "-o", "jsonl", stdin=stdin)
        assert [json.loads(line)["ok"] for line in result.stdout.splitlines()] == [True, False, False]
        assert result.returncode == 3

    def test_a_line_without_end_is_one_answer_and_bounded(self) -> None:
        result = probe(
            "-", "-o", "jsonl", stdin=b"0" * (LINE_LIMIT + 10) + b"\n" + LINE.hex().encode() + b"\n"
        )
        assert [json.loads(line)["ok"] for line in result.stdout.splitlines()] == [False, True]

    def test_a_mistake_is_one_line_and_code_2(self) -> None:
        result = probe("nothing.pcap")
        assert (result.returncode, result.stdout) == (2, b"")
        assert result.stderr.count(b"\n") == 1
