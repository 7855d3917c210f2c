"""Sessions as Parquet: what an engine that knows nothing of this program reads from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from daemonset.observation import PACKET, Hello, Message, Ready, Tap, TapKind, Taps, address_words
from daemonset.wire import Writer
from probe.sessions.folder import Meta, SessionFolder
from probe.sessions.parquet import TABLES
from tests.cli.helpers import ended, start
from tests.docs.documents import DOCUMENTS, table
from tests.lab.here import why_not


def ask(query: str, folder: Path) -> list[tuple[Any, ...]]:
    """What a query over these folders gives; FOLDER stands for where they are."""
    with duckdb.connect() as database:
        return database.execute(query.replace("FOLDER", str(folder))).fetchall()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sessions of the lab, exported."""
    if why_not():
        pytest.skip(why_not())
    folder = tmp_path_factory.mktemp("kept")
    for scenario in ("cluster-remote", "local-preserved"):
        ended(start("capture", "--lab", scenario, "--output", folder / scenario, "-o", "json"))
    done = ended(start("export", folder / "cluster-remote", folder / "local-preserved", "--parquet"))
    assert done.code == 0, done.err
    return folder


def test_who_replaced_whom_is_a_query_over_all_sessions(kept: Path) -> None:
    rows = ask(
        "select distinct filename, node, original_source from read_parquet('FOLDER/*/nat.parquet', filename = true) "
        "where snat and original_destination_port = 30080",
        kept,
    )
    assert {(Path(file).parent.name, node) for file, node, _ in rows} == {("cluster-remote", "node1")}


def test_a_client_is_found_where_its_packets_were_seen(kept: Path) -> None:
    rows = ask(
        "select session, node, tap_kind, min(time), count(*) from read_parquet('FOLDER/*/packets.parquet') "
        "where source = '172.30.0.101' and tcp_flags = 2 group by all",
        kept,
    )
    assert len({session for session, *_ in rows}) == 2, "each session has an id of its own"
    assert {node for _, node, *_ in rows} >= {"client1", "node1"}
    assert all(str(time).startswith("20") for *_, time, _ in rows)


def test_first_bytes_and_packets_belong_together(kept: Path) -> None:
    rows = ask(
        "select distinct http from read_parquet('FOLDER/*/packets.parquet') "
        "join read_parquet('FOLDER/*/heads.parquet') using (session, head)",
        kept,
    )
    assert ("GET /debug/ip HTTP/1.1",) in rows


def test_rules_and_facts_are_there_to_be_asked(kept: Path) -> None:
    assert ask(
        "select count(*) from read_parquet('FOLDER/*/rules.parquet') where action = 'masquerade'", kept
    ) > [(0,)]
    names = ask("select distinct name from read_parquet('FOLDER/*/facts.parquet') where kind = 'node'", kept)
    assert {name for (name,) in names} == {"node1", "node2", "node3"}


def test_the_documented_columns_are_those_of_the_tables(kept: Path) -> None:
    told = {
        row[0].strip("`"): row[2].replace("`", "").split(", ")
        for row in table(DOCUMENTS["docs/session.md"], "Tables at rest")
    }
    for name in TABLES:
        rows = ask(f"describe select * from read_parquet('FOLDER/local-preserved/{name}.parquet')", kept)
        assert [row[0] for row in rows] == ["session", *told[name]]
        assert not [row[1] for row in rows if row[1].startswith("U")], (
            "not all engines know unsigned integers"
        )


def test_every_row_is_there_and_hostile_text_is_only_text(tmp_path: Path) -> None:
    place = "n'; drop table p; --"
    folder = SessionFolder(tmp_path / "it's one", Meta())
    folder.stream(place)
    writer = Writer(lambda data: folder.write(place, data))
    words: tuple[Message, ...] = (Hello(place), Taps((Tap(place, TapKind.NIC, "'\x1b[2J"),)), Ready())
    for message in words:
        writer.message(message)
    row = dict.fromkeys((column.name for column in PACKET.columns), 0)
    row |= dict(zip(("src_hi", "src_lo"), address_words("2001:db8::1"), strict=True))
    row |= dict(zip(("dst_hi", "dst_lo"), address_words("192.0.2.1"), strict=True)) | {
        "time": 1_760_000_000_123_456_789
    }
    writer.packets(PACKET.struct.pack(*row.values()) * 5)
    folder.finish()
    done = ended(start("export", tmp_path / "it's one", "--parquet"))
    assert done.code == 0, done.err
    rows = ask(
        "select source, destination, node, interface, time_ns from read_parquet('FOLDER/*/packets.parquet')",
        tmp_path,
    )
    assert rows == [("2001:db8::1", "192.0.2.1", place, "'\x1b[2J", 1_760_000_000_123_456_789)] * 5


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    ended(start("export", tmp_path, "--parquet")).complains(2, "is not a recorded session")
    ended(start("export", tmp_path)).complains(2, "--parquet")
