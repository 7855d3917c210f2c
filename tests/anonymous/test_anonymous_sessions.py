"""A session for strangers has the verdicts of the true one, and nobody's address, host, path or id."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest

from daemonset.observation import PACKET, Bye, Hello, Topology
from daemonset.wire import PacketRows, Writer, read_stream
from probe.anonymous.session import anonymize
from probe.cluster.timing import Clock
from probe.sessions.folder import Meta, SessionFolder, read_meta
from tests.cli.helpers import ended, start

pytestmark = pytest.mark.lab

Json = dict[str, object]

#: One for each thing that travels: NAT and rules, PROXY headers, TLS, forwarded fields and tokens, IPv6, UDP.
SCENARIOS = ("cluster-remote", "proxy-v2-tlv", "proxy-tls-unexpected", "xff-keepalive", "ipv6", "udp-dns")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("recorded")

    def record(name: str) -> Path:
        if not (folder / name).exists():
            ended(start("capture", "--lab", name, "--record", folder / name, "-o", "json"))
        return folder / name

    return record


def verdicts(folder: Path) -> list[tuple[object, ...]]:
    """What is said of each journey, without addresses."""
    report = ended(start("analyze", folder, "-o", "json")).json
    return [
        (
            each["verdict"], each["confidence"], each["findings"], each["crossNode"], each["service"], each["endpoint"],
            [(hop["node"], hop["point"], hop["interface"], hop["changed"]) for hop in each["hops"]],
            [(snat["node"], snat["mechanism"]) for snat in each["snat"]],
        )
        for each in report["journeys"]
    ]  # fmt: skip


def addresses_in(folder: Path) -> Iterator[str]:
    """Every address of a session that belongs to somebody."""
    meta = read_meta(folder)
    for place in meta.places:
        for frame in read_stream(folder / f"{place}.probe"):
            if isinstance(frame, PacketRows):
                for values in struct.iter_unpack(PACKET.struct.format, frame.rows):
                    row = dict(zip((column.name for column in PACKET.columns), values, strict=True))
                    yield str(ip_address((row["src_hi"] << 64 | row["src_lo"]).to_bytes(16, "big")))
            elif isinstance(frame, Topology):
                yield from (text.partition("/")[0] for each in frame.interfaces for text in each.addresses)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_verdicts_are_the_same_and_nobody_is_named(
    recorded: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    session, other = recorded(name), tmp_path / "other"
    done = ended(start("export", session, "--anonymize", other))
    assert done.code == 0, done.err
    assert verdicts(other) == verdicts(session)
    everything = b"".join(path.read_bytes() for path in sorted(other.iterdir()))
    for text in set(addresses_in(session)):
        address = ip_address(text)
        plain = getattr(address, "ipv4_mapped", None) or address
        if plain.is_loopback or plain.is_multicast or plain.is_unspecified or plain.is_link_local:
            continue
        assert str(plain).encode() not in everything
        whole = int(address)
        assert struct.pack("<QQ", whole >> 64, whole & (1 << 64) - 1) not in everything
    for asked in read_meta(session).asked:
        assert not asked.token or asked.token.encode() not in everything


def test_the_same_key_makes_the_same_of_the_same(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    made = []
    for number in range(2):
        other = tmp_path / f"other{number}"
        assert (
            ended(start("export", recorded("cluster-remote"), "--anonymize", other, "--key", key)).code == 0
        )
        made.append(read_meta(other))
    assert made[0].facts == made[1].facts
    assert made[0].id != made[1].id
    strange = tmp_path / "strange"
    assert ended(start("export", recorded("cluster-remote"), "--anonymize", strange)).code == 0
    assert read_meta(strange).facts != made[0].facts


def test_what_was_cut_off_stays_cut_off(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in recorded("cluster-remote").iterdir():
        if path.suffix != ".parquet":
            (broken / path.name).write_bytes(path.read_bytes())
    (broken / "node1.probe").write_bytes((broken / "node1.probe").read_bytes()[:-40])
    (broken / "node2.probe").unlink()
    other = tmp_path / "other"
    assert ended(start("export", broken, "--anonymize", other)).code == 0
    report = ended(start("analyze", other, "-o", "json")).json
    assert report["capture"]["complete"] is False
    reasons = " ".join(report["capture"]["reasons"])
    assert "node1" in reasons
    assert "node2" in reasons


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--anonymize", "NEW", "--parquet"), "--parquet or --anonymize"),
        ((), "--parquet or --anonymize"),
        (("--parquet", "--key", "KEY"), "--key is for --anonymize"),
        (("--anonymize", "NEW", "--key", "SHORT"), "less than 16 bytes"),
        (("--anonymize", "NEW", "--key", "NOWHERE"), "cannot read"),
        (("--anonymize", "SAME"), "the session itself"),
    ],
)
def test_what_cannot_be_done_is_said(
    recorded: Callable[[str], Path], tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    session = recorded("cluster-remote")
    (tmp_path / "short").write_bytes(b"abc")
    (tmp_path / "key").write_bytes(bytes(32))
    places = {
        "NEW": tmp_path / "new", "KEY": tmp_path / "key", "SHORT": tmp_path / "short", "NOWHERE": tmp_path / "nowhere",
        "SAME": session,
    }  # fmt: skip
    done = ended(start("export", session, *(str(places.get(each, each)) for each in arguments)))
    assert done.code == 2 or "nowhere" in done.err
    assert words in done.err
    assert "Traceback" not in done.err


def test_heads_keep_nothing_of_what_was_asked(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert ended(start("export", recorded("xff-keepalive"), "--anonymize", other)).code == 0
    heads = [
        head
        for path in other.glob("*.probe")
        for frame in read_stream(path)
        if isinstance(frame, PacketRows)
        for head in frame.heads
    ]
    assert heads
    assert all(head.raw == b"" for head in heads)
    agents = {
        value for head in heads if head.http for name, value in head.http.fields if name == "user-agent"
    }
    assert agents <= {"anonymous"}
    assert msgspec.json.encode(heads)


def test_a_node_that_is_called_by_its_address_is_called_otherwise_everywhere(tmp_path: Path) -> None:
    folder = SessionFolder(tmp_path / "session", Meta())
    folder.stream("203.0.113.9")
    writer = Writer(lambda data: folder.write("203.0.113.9", data))
    writer.message(Hello("203.0.113.9"))
    writer.message(Bye("end"))
    folder.finish(clocks={"203.0.113.9": Clock(1, 1)}, kernels={"203.0.113.9": "6.18"})
    made = anonymize(tmp_path / "session", tmp_path / "other", bytes(32))
    (place,) = made.places
    assert {place} == set(made.clocks) == set(made.kernels)
    (hello, _) = read_stream(tmp_path / "other" / f"{place}.probe")
    assert isinstance(hello, Hello)
    assert hello.node == place
    for path in (tmp_path / "other").iterdir():
        assert "203.0.113.9" not in path.name
        assert b"203.0.113.9" not in path.read_bytes()
