"""How full a node's table of connections is, and what conntrack has counted: ctnetlink's statistics.

What the kernel counts (net/netfilter/nf_conntrack_core.c), as far as it is told here:

| counter | what is counted |
|---|---|
| `drop` | packets that conntrack dropped: no record could be made for them, as when the table is full; or their record clashed with another one, which `insert_failed` counts as well; or, seldom, TCP's tracker raced with another CPU, which `invalid` counts as well |
| `early_drop` | records that were not assured and were evicted to make room. The kernel looks for such only when the table is full |
| `insert_failed` | records that were not put into the table: a clash that could not be resolved, a chain too long |
| `invalid` | packets that belong to no connection; nearly all of them go on |
| `chain_too_long` | records that were not put into the table because too many others have the same hash |

None of them says which packets. They belong to a network namespace, are never set back, and wrap around at 32 bits, on each
CPU alone. Only `reading` touches the kernel; it needs CAP_NET_ADMIN over the network namespace.
"""  # noqa: E501 - rows of a table

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from daemonset.node.conntrack import ask
from daemonset.node.nfnetlink import ACKNOWLEDGE, DUMP, PAYLOAD, Message, messages, number, request
from daemonset.observation import ConntrackCounts

_SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK
_GET_STATS_CPU, _GET_STATS = 4, 5  # IPCTNL_MSG_CT_*
_ENTRIES, _MAX_ENTRIES = 1, 2  # CTA_STATS_GLOBAL_*; the second since Linux 4.19
_WRAP = 1 << 32


class Counters(NamedTuple):
    """What one CPU has counted since the network namespace came into being."""

    drop: int = 0
    early_drop: int = 0
    insert_failed: int = 0
    invalid: int = 0
    chain_too_long: int = 0


#: CTA_STATS_* of each counter, in the order of `Counters`.
_ATTRIBUTES = (10, 11, 9, 4, 15)


class Reading(NamedTuple):
    """The statistics at one moment. `maximum` 0: none, or not told."""

    time: int
    entries: int
    maximum: int
    cpus: Mapping[int, Counters]


def reading() -> Reading:
    """The statistics of the network namespace that we are in. Raises ConntrackError where the kernel refuses."""
    now, entries, maximum = time.time_ns(), 0, 0
    for message in _said(request(_SUBSYSTEM, _GET_STATS, ACKNOWLEDGE)):
        if (filled := parse_filled(message)) is not None:
            entries, maximum = filled
    said = _said(request(_SUBSYSTEM, _GET_STATS_CPU, DUMP))
    return Reading(now, entries, maximum, dict(filter(None, map(parse_cpu, said))))


def _said(question: bytes) -> Iterator[Message]:
    return (message for answer in ask(question) for message in messages(answer))


def parse_filled(message: Message) -> tuple[int, int] | None:
    """How many records there are and may be; None where the message says something else."""
    if (message.subsystem, message.kind) != (_SUBSYSTEM, _GET_STATS) or len(message.data) < PAYLOAD:
        return None
    found = message.attributes()
    return _u32(found, _ENTRIES), _u32(found, _MAX_ENTRIES)


def parse_cpu(message: Message) -> tuple[int, Counters] | None:
    """A CPU's number and its counters, those that are not there as 0; None where the message says something else."""
    if (message.subsystem, message.kind) != (_SUBSYSTEM, _GET_STATS_CPU) or len(message.data) < PAYLOAD:
        return None
    found = message.attributes()
    cpu = int.from_bytes(message.data[PAYLOAD - 2 : PAYLOAD], "big")  # nfgenmsg.res_id
    return cpu, Counters(*(_u32(found, kind) for kind in _ATTRIBUTES))


def _u32(found: Mapping[int, bytes], kind: int) -> int:
    value = found.get(kind)
    return number(value) if value is not None and len(value) == 4 else 0


def counted(before: Reading, after: Reading) -> ConntrackCounts:
    """What was counted between two readings. A CPU that only one of them knows says nothing."""
    both = before.cpus.keys() & after.cpus.keys()
    totals = Counters(*(
        sum((after.cpus[cpu][at] - before.cpus[cpu][at]) % _WRAP for cpu in both)
        for at in range(len(_ATTRIBUTES))
    ))  # fmt: skip
    return ConntrackCounts(
        entries_before=before.entries,
        maximum_before=before.maximum,
        entries=after.entries,
        maximum=after.maximum,
        drop=totals.drop,
        early_drop=totals.early_drop,
        insert_failed=totals.insert_failed,
        invalid=totals.invalid,
        chain_too_long=totals.chain_too_long,
        began=before.time,
        time=after.time,
    )
