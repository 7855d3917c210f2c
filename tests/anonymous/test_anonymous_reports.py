"""A report for strangers, in whatever form: the verdicts of the true one, and nobody's address, host, path or file."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from analysis.facts import Balancer, Facts, Service
from analysis.ingress import Application, Ingress, IngressRecord, Kind, LogEntry
from daemonset.observation import PACKET
from daemonset.wire import PacketRows, read_stream
from probe.anonymous.anonymizer import Anonymizer
from probe.sessions.folder import Meta, read_meta
from tests.cli.helpers import ended, start

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"

#: NAT and rules, PROXY headers with a TLS name, forwarded fields and tokens, IPv6.
SCENARIOS = ("cluster-remote", "proxy-v2-tlv", "xff-keepalive", "ipv6")

FORMATS = ("table", "wide", "json", "jsonl", "yaml")
FILES = ("html", "markdown", "junit", "sarif", "mermaid", "dot", "metrics")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One key, so that what is found once is found each time."""
    file = tmp_path_factory.mktemp("secret") / "key"
    file.write_bytes(bytes(range(32)))
    return file


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("somebodys-folder")

    def record(name: str) -> Path:
        if not (folder / name).exists():
            ended(start("capture", "--lab", name, "--record", folder / name, "-o", "json"))
        return folder / name

    return record


def outputs(folder: Path, *given: str | Path, forms: tuple[str, ...] = FORMATS) -> dict[str, bytes]:
    """Every file that there is of the same input, and what is printed, by its form; `packets` is pcapng."""
    written = {name: folder / f"out.{name}" for name in (*FILES, "packets")}
    options = [word for name in FILES for word in (f"--{name}", written[name])]
    made: dict[str, bytes] = {}
    for form in forms:
        more = [*options, "-w", written["packets"]] if form == "json" else []
        done = ended(start("analyze", *given, *more, "-o", form))
        assert done.code in {0, 3, 4}, done.err
        made[form] = done.out.encode()
    return made | {name: path.read_bytes() for name, path in written.items()}


def told(report: dict[str, Any]) -> list[tuple[object, ...]]:
    """What is said of each journey, without addresses."""
    return [
        (
            each["verdict"],
            each["confidence"],
            each["findings"],
            [(hop["point"], hop["changed"]) for hop in each["hops"]],
        )
        for each in report["journeys"]
    ]


def addresses_of(session: Path) -> Iterator[str]:
    """Whoever sent a packet, but for what is nobody's."""
    meta = read_meta(session)
    for place in meta.places:
        for frame in read_stream(session / f"{place}.probe"):
            if isinstance(frame, PacketRows):
                for values in struct.iter_unpack(PACKET.struct.format, frame.rows):
                    row = dict(zip((column.name for column in PACKET.columns), values, strict=True))
                    address = ip_address((row["src_hi"] << 64 | row["src_lo"]).to_bytes(16, "big"))
                    plain = getattr(address, "ipv4_mapped", None) or address
                    if not (
                        plain.is_loopback or plain.is_multicast or plain.is_unspecified or plain.is_link_local
                    ):
                        yield str(plain)


def assert_nobody(made: dict[str, bytes], names: set[str]) -> None:
    for form, data in made.items():
        for name in names:
            assert not re.search(rb"(?<![\w.:])" + re.escape(name).encode() + rb"(?![\w:]|\.\d)", data), (
                form,
                name,
            )
            if form == "packets" and "/" not in name:
                try:
                    assert ip_address(name).packed not in data, name
                except ValueError:
                    assert name.encode() not in data


@pytest.mark.lab
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_report_of_a_session_names_nobody(
    recorded: Callable[[str], Path], key: Path, tmp_path: Path, name: str
) -> None:
    session = recorded(name)
    made = outputs(tmp_path, session, "--anonymize", "--key", key, forms=("json", "table"))
    assert told(msgspec.json.decode(made["json"])) == told(
        ended(start("analyze", session, "-o", "json")).json
    )
    tokens = {asked.token for asked in read_meta(session).asked if asked.token}
    assert_nobody(made, {*addresses_of(session), *tokens, str(session.parent)})


@pytest.mark.lab
def test_it_is_what_the_session_for_strangers_is_judged_to_be(
    recorded: Callable[[str], Path], key: Path, tmp_path: Path
) -> None:
    session, other = recorded("proxy-v2-tlv"), tmp_path / "other"
    assert ended(start("export", session, "--anonymize", other, "--key", key)).code == 0
    at_once = ended(start("analyze", session, "--anonymize", "--key", key, "-o", "json"))
    assert at_once.json == ended(start("analyze", other, "-o", "json")).json


@pytest.mark.lab
def test_health_checks_of_a_session_name_nobody(recorded: Callable[[str], Path], key: Path) -> None:
    session = recorded("hc-ok")
    for form in ("json", "wide"):
        done = ended(start("health", session, "--anonymize", "--key", key, "-o", form))
        assert done.code == 0, done.err
        assert_nobody({form: done.out.encode()}, set(addresses_of(session)))


def test_a_report_of_captures_names_nobody_and_no_file(key: Path, tmp_path: Path) -> None:
    there = tmp_path / "somebodys-folder"
    there.mkdir()
    for path in EXAMPLES.glob("*"):
        if path.is_file():
            (there / path.name).write_bytes(path.read_bytes())
    cut = there / "node2-eth0.pcap"
    cut.write_bytes(cut.read_bytes()[:-7])  # so that the report speaks of the file
    taps = (
        "client:client1/eth0=client1-eth0",
        "nic:node1/eth0=node1-eth0",
        "nic:node2/eth0=node2-eth0",
        "bridge:node2/cni0=node2-cni0",
    )
    given: list[str | Path] = []
    for tap in taps:
        place, _, file = tap.partition("=")
        given += ["--tap", f"{place}={there / file}.pcap"]
    given += ["--objects", there / "objects.json", "--conntrack", f"node1={there / 'conntrack-node1.txt'}"]
    made = outputs(tmp_path, *given, "--anonymize", "--key", key)
    report = msgspec.json.decode(made["json"])
    assert told(report) == told(ended(start("analyze", *given, "-o", "json")).json)
    assert any("the capture of nic:node2/eth0" in reason for reason in report["capture"]["reasons"])
    objects = msgspec.json.decode((there / "objects.json").read_bytes())
    named = {
        address["address"]
        for item in objects["items"]
        for address in item.get("status", {}).get("addresses", ())
        if address["type"] != "Hostname"
    }
    named |= {each["ip"] for item in objects["items"] for each in item.get("status", {}).get("podIPs", ())}
    assert len(named) == 4
    assert_nobody(made, {*named, "172.30.0.101", str(there), "node2-eth0.pcap"})


def test_what_a_cluster_and_its_servers_say_of_others_goes_too() -> None:
    arn, command = (
        "arn:aws:acm:eu-west-1:123456789012:certificate/1",
        "SECRET=hunter2 /opt/venv/bin/uvicorn app:main --key k",
    )
    facts = Facts(services=(
        Service("default", "web", balancers=(Balancer(hostname="acme-123.elb.example.com"),),
                annotations={"ssl-cert": arn, "proxy-protocol": "*", "type": "nlb-ip"}),
    ))  # fmt: skip
    line = '198.51.100.7 - - "GET /reset?token=abc HTTP/1.1" "Mozilla/5.0"'
    record = IngressRecord(
        (
            Ingress(
                Kind.NGINX,
                file="/home/alice/acme/nginx.conf",
                notes=("/home/alice/acme/nginx.conf:3 is odd",),
            ),
        ),
        (LogEntry(kind=Kind.NGINX, client="198.51.100.7", file="/home/alice/acme/access.log", text=line),),
        ("/home/alice/acme/access.log is empty",),
        Application(command),
    )
    mask = Anonymizer(bytes(32))
    other, said = mask.facts(facts), mask.ingress(record)
    everything = msgspec.json.encode((other, said)).decode()
    for word in (
        "acme",
        "123456789012",
        "alice",
        "198.51.100.7",
        "Mozilla",
        "token=abc",
        "hunter2",
        "app:main",
    ):
        assert word not in everything
    assert other.services[0].annotations["proxy-protocol"] == "*"
    assert other.services[0].annotations["type"] == "nlb-ip"
    assert said.ingresses[0].file.endswith(".conf")
    assert said.remarks == (f"{said.entries[0].file} is empty",)
    assert said.application == Application("uvicorn")


@pytest.mark.parametrize(
    ("title", "other"),
    [
        ("svc/web, context alice@arn:aws:eks:eu-west-1:1:cluster/x", "svc/web"),
        ("asked http://balancer/reset?token=7", "asked a URL"),
        ("cluster-remote, iptables mode", "cluster-remote, iptables mode"),
    ],
)
def test_a_title_keeps_what_was_watched(title: str, other: str) -> None:
    assert Anonymizer(bytes(32)).title(title) == other
    assert Anonymizer(bytes(32)).meta(Meta(title=title))["title"] == other


@pytest.mark.parametrize(
    "command", [("analyze", "session"), ("health", "session"), ("analyze", "--tap", "nic:n/e=f.pcap")]
)
def test_a_key_alone_is_a_mistake(command: tuple[str, ...], key: Path) -> None:
    done = ended(start(*command, "--key", key))
    assert done.code == 2
    assert done.err == "probe: --key is for --anonymize; leave it out\n"
