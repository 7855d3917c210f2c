"""A recorded session as tables at rest: Parquet files beside its streams, for engines that ask many sessions at once.

    packets  one row for each packet at each tap      nat    the kernels' NAT records
    taps     where packets were captured              heads  what first bytes said
    rules    the nodes' packet filters                facts  what the cluster said of itself, a JSON text a row

Rules:

1. Every table has the session's id as a column, and where it is about a node, its name: the files of many sessions are
   one table (`read_parquet('*/packets.parquet')`). Types are those that all engines know: no unsigned integers.
2. Addresses are text, as people write them. Times are UTC, by the clocks as the session corrects them; `time_ns` has
   what a TIMESTAMP of microseconds cannot hold.
3. A table is there whole or not at all. Tables say nothing of what the capture missed: `probe analyze` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np

from analysis.engine.gathering import Rows
from analysis.facts import Facts
from analysis.recording import Recording
from daemonset.observation import Direction, Head, NatEvent, Payload, Ruleset, Tunnel, address_text
from daemonset.wire import WireError, read_stream
from probe.errors import UnavailableError, os_error
from probe.sessions.folder import Meta, stream_path
from probe.sessions.session import Session, load

TABLES = ("packets", "nat", "taps", "heads", "rules", "facts")

_TIME = "make_timestamp((time // 1000)::bigint) as time, time::bigint as time_ns"

_PACKETS = f"""
    select $session as session, taps.node, taps.kind as tap_kind, taps.interface, taps.namespace, p.tap::integer as tap,
           {_TIME}, directions.word as direction, p.protocol::integer as protocol,
           source.text as source, p.sport::integer as source_port,
           destination.text as destination, p.dport::integer as destination_port,
           p.flags::integer as tcp_flags, p.seq::bigint as seq, p.ack::bigint as ack, p.tsval::bigint as tsval,
           p.tsecr::bigint as tsecr, p."window"::integer as tcp_window, p.ttl::integer as ttl, p.ipid::integer as ip_id,
           case when p.vlan <> 0 then (p.vlan & 4095)::integer end as vlan,
           case when p.icmp <> 0 then p.icmp::integer end as icmp,
           p.length::bigint as payload_length, payloads.word as payload,
           case when p.head <> 0 then p.head::bigint end as head,
           tunnels.word as tunnel, case when p.tunnel <> 0 then p.vni::bigint end as vni,
           outer_source.text as outer_source, outer_destination.text as outer_destination
    from p join taps using (tap)
    left join addresses source on (p.src_hi, p.src_lo) = (source.hi, source.lo)
    left join addresses destination on (p.dst_hi, p.dst_lo) = (destination.hi, destination.lo)
    left join addresses outer_source on
        p.outer_dst_lo <> 0 and (p.outer_src_hi, p.outer_src_lo) = (outer_source.hi, outer_source.lo)
    left join addresses outer_destination on
        p.outer_dst_lo <> 0 and (p.outer_dst_hi, p.outer_dst_lo) = (outer_destination.hi, outer_destination.lo)
    left join directions on p.direction = directions.number
    left join payloads on p.payload = payloads.number
    left join tunnels on p.tunnel = tunnels.number
    order by p.row
"""  # noqa: S608 - only constants of this module are put into the text

_NAT = f"""
    select $session as session, nodes.name as node, {_TIME}, events.word as event, protocol::integer as protocol,
           a.text as original_source, orig_sport::integer as original_source_port,
           b.text as original_destination, orig_dport::integer as original_destination_port,
           c.text as reply_source, reply_sport::integer as reply_source_port,
           d.text as reply_destination, reply_dport::integer as reply_destination_port,
           (orig_dst_hi, orig_dst_lo, orig_dport) <> (reply_src_hi, reply_src_lo, reply_sport) as dnat,
           (orig_src_hi, orig_src_lo, orig_sport) <> (reply_dst_hi, reply_dst_lo, reply_dport) as snat,
           status::bigint as status, mark::bigint as mark, zone::integer as zone
    from n join nodes on n.node = nodes.number
    left join addresses a on (orig_src_hi, orig_src_lo) = (a.hi, a.lo)
    left join addresses b on (orig_dst_hi, orig_dst_lo) = (b.hi, b.lo)
    left join addresses c on (reply_src_hi, reply_src_lo) = (c.hi, c.lo)
    left join addresses d on (reply_dst_hi, reply_dst_lo) = (d.hi, d.lo)
    left join events on n.event = events.number
    order by n.row
"""  # noqa: S608 - the same

_TYPED = {
    "packets": _PACKETS,
    "nat": _NAT,
    "taps": """
        select $session as session, node, tap::integer as tap, kind, interface, namespace, addresses
        from taps order by tap
    """,
    "heads": "select $session as session, * replace (head::bigint as head) from heads order by head",
    "rules": "select $session as session, * replace (handle::bigint as handle) from rules",
    "facts": "select $session as session, * from facts",
}

_PAIRS = (
    ("src_hi", "src_lo"), ("dst_hi", "dst_lo"), ("outer_src_hi", "outer_src_lo"), ("outer_dst_hi", "outer_dst_lo"),
    ("orig_src_hi", "orig_src_lo"), ("orig_dst_hi", "orig_dst_lo"), ("reply_src_hi", "reply_src_lo"),
    ("reply_dst_hi", "reply_dst_lo"),
)  # fmt: skip


def export(folder: Path) -> dict[str, int]:
    """Write the tables of a recorded session into its folder; answers with the rows of each. Raises ProbeError."""
    return write_tables(folder, load(folder))


def write_tables(folder: Path, session: Session) -> dict[str, int]:
    """The same, where the session is in memory. Tables that are there already are replaced. Raises ProbeError."""
    rulesets = _rulesets(folder, session.meta)
    database = duckdb.connect(":memory:")
    try:
        database.execute("set threads to 2")
        database.execute("set enable_progress_bar_print = false")  # it would be drawn on stdout
        _register(database, session.recording)
        _register_words(database)
        database.register("heads", _heads(session.recording.heads))
        database.register("rules", _rules(rulesets))
        database.register("facts", _facts(session.facts))
        return {name: _write(database, folder, name, session_id(session.meta)) for name in TABLES}
    except duckdb.Error as error:
        why = " ".join(str(error).split())[:200]
        raise UnavailableError(
            f"the tables cannot be written into {folder}: {why}; check the folder's rights and free space"
        ) from error
    finally:
        database.close()


def session_id(meta: Meta) -> str:
    """The session's id; of one that was recorded before there were any, what stays the same whenever it is read."""
    if meta.id:
        return meta.id
    return hashlib.sha256(msgspec.json.encode([meta.created, meta.title, meta.places])).hexdigest()[:16]


def _write(database: duckdb.DuckDBPyConnection, folder: Path, name: str, session: str) -> int:
    """Write one table in one step; answers with its rows."""
    target, draft = folder / f"{name}.parquet", folder / f".{name}.parquet"
    place = str(draft).replace("'", "''")
    try:
        database.execute(
            f"copy ({_TYPED[name]}) to '{place}' (format parquet, compression zstd)", {"session": session}
        )
        draft.replace(target)
    except OSError as error:
        raise os_error(error, f"write {target}") from error
    finally:
        draft.unlink(missing_ok=True)  # there after an interruption or an error only
    row = database.execute("select count(*) from read_parquet(?)", [str(target)]).fetchone()
    return int(row[0]) if row else 0


def _register(database: duckdb.DuckDBPyConnection, recording: Recording) -> None:
    """The rows and what they refer to."""
    for name, rows in (("p", recording.packets), ("n", recording.nat)):
        columns = {column: np.ascontiguousarray(rows[column]) for column in rows.dtype.names or ()}
        database.register(name, columns | {"row": np.arange(len(rows), dtype=np.int64)})
    taps = recording.taps
    database.register(
        "taps",
        {
            "tap": np.arange(len(taps), dtype=np.uint32),
            "node": _texts(tap.node for tap in taps),
            "kind": _texts(tap.kind.value for tap in taps),
            "interface": _texts(tap.interface for tap in taps),
            "namespace": _texts(tap.namespace or None for tap in taps),
            "addresses": _texts(", ".join(tap.addresses) or None for tap in taps),
        },
    )
    nodes = recording.nodes
    database.register("nodes", {"number": np.arange(len(nodes), dtype=np.uint16), "name": _texts(nodes)})
    words = _addresses((recording.packets, recording.nat))
    database.register(
        "addresses",
        {
            "hi": np.array([high for high, _ in words], dtype=np.uint64),
            "lo": np.array([low for _, low in words], dtype=np.uint64),
            "text": _texts(address_text(*pair) for pair in words),
        },
    )


def _register_words(database: duckdb.DuckDBPyConnection) -> None:
    """What numbers of the rows mean."""
    kinds = {"directions": Direction, "payloads": Payload, "tunnels": Tunnel, "events": NatEvent}
    for name, kind in kinds.items():
        members = [member for member in kind if not (member == 0 and kind is not NatEvent)]
        numbers = np.array([int(member) for member in members], dtype=np.uint8)
        database.register(
            name,
            {"number": numbers, "word": _texts(member.name.lower().replace("_", "-") for member in members)},
        )


def _addresses(tables: Iterable[Rows]) -> list[tuple[int, int]]:
    """Every address of the rows, once."""
    found: set[tuple[int, int]] = set()
    for rows in tables:
        for high, low in _PAIRS:
            if high in (rows.dtype.names or ()):
                found.update(map(tuple, np.unique(rows[[high, low]]).tolist()))
    return sorted(found)


def _heads(heads: Sequence[Head]) -> Mapping[str, Rows]:
    """What first bytes said; PROXY headers and fields as JSON where there may be several."""
    return {
        "head": np.arange(1, len(heads) + 1, dtype=np.int64),
        "proxy_version": _texts(str(head.proxy[0].version) if head.proxy else None for head in heads),
        "proxy_command": _texts(head.proxy[0].command if head.proxy else None for head in heads),
        "proxy_source": _texts(head.proxy[0].source if head.proxy else None for head in heads),
        "proxy_destination": _texts(head.proxy[0].destination if head.proxy else None for head in heads),
        "proxy_error": _texts(head.proxy_error for head in heads),
        "http": _texts(head.http.start if head.http else None for head in heads),
        "http_fields": _texts(_json(head.http.fields) if head.http else None for head in heads),
        "tls_server_name": _texts(head.tls.server_name if head.tls else None for head in heads),
        "tls_random": _texts(head.tls.random.hex() if head.tls else None for head in heads),
        "echo": _texts(head.echo for head in heads),
    }


def _rulesets(folder: Path, meta: Meta) -> list[tuple[str, Ruleset]]:
    """The rules of each place as its stream has them; what is damaged has been told of by `load`."""
    found: list[tuple[str, Ruleset]] = []
    for place in meta.places:
        path = stream_path(folder, place)
        if path is None:
            continue
        try:
            found += [(place, frame) for frame in read_stream(path) if isinstance(frame, Ruleset)]
        except (WireError, OSError):
            continue
    return found


def _rules(rulesets: Sequence[tuple[str, Ruleset]]) -> Mapping[str, Rows]:
    rules = [(node, rule) for node, said in rulesets for rule in said.rules]
    columns = {
        name: _texts(getattr(rule, name) or None for _, rule in rules)
        for name in ("family", "table", "chain", "action", "text", "comment")
    }
    handles = np.array([rule.handle for _, rule in rules], dtype=np.int64)
    return {"node": _texts(node for node, _ in rules), **columns, "handle": handles}


def _facts(facts: Facts) -> Mapping[str, Rows]:
    """One row for each node, pod and Service, and one for the cluster as a whole."""
    rows: list[tuple[str, str, str]] = []
    if facts.known:
        rows += [("node", node.name, _json(node)) for node in facts.nodes]
        rows += [("pod", f"{pod.namespace}/{pod.name}", _json(pod)) for pod in facts.pods]
        rows += [("service", service.key, _json(service)) for service in facts.services]
        rest = msgspec.structs.replace(facts, nodes=(), pods=(), services=())
        rows.append(("cluster", "", _json(rest)))
    return {name: _texts(row[at] or None for row in rows) for at, name in enumerate(("kind", "name", "json"))}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _texts(values: Iterable[str | None]) -> np.ndarray[Any, np.dtype[np.object_]]:
    """A column of texts; None where there is none."""
    return np.array(list(values), dtype=object)
