"""Captures of anyone's making as a recording: pcap files as taps, saved conntrack tables as NAT records.

Nobody here knows how a file was made; so only what the user says of it (kind, node, name) is taken for true.
What a file lacks is stated in the recording: an end in the middle of a packet, packets that the capturing
host dropped, lines that are no conntrack entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from analysis.recording import Recording, RecordingBuilder
from daemonset.decode.packet import Batch
from daemonset.node.conntrack import parse_text
from daemonset.observation import Bye, Gap, Loss, Tap, TapKind
from daemonset.taps.pcap import CaptureFileError, read_tap
from probe.errors import UsageError, os_error
from probe.render.escape import escape

TAP_FORM = "KIND:NODE/INTERFACE=FILE"
TAP_EXAMPLE = "--tap nic:node1/eth0=node1-eth0.pcap"
KINDS = ", ".join(kind.value for kind in TapKind)


class TapFile(NamedTuple):
    """A capture file and what it is a capture of."""

    tap: Tap
    path: Path


class TableFile(NamedTuple):
    """A saved conntrack table and whose it is."""

    node: str
    path: Path


def parse_tap(text: str) -> TapFile:
    """One `--tap`. Raises UsageError, which says what is wrong with it and shows how it should look."""

    def wrong(what: str) -> UsageError:
        return UsageError(f"--tap {text}: {what}; give {TAP_FORM}, for instance {TAP_EXAMPLE}")

    place, equals, file = text.partition("=")
    if not equals:
        raise wrong("there is no =FILE")
    kind, colon, rest = place.partition(":")
    if not colon:
        raise wrong(f"there is no KIND: before the node (one of {KINDS})")
    node, slash, name = rest.partition("/")
    if not slash:
        raise wrong("there is no /INTERFACE (for a pod: any name) after the node")
    if kind not in {known.value for known in TapKind}:
        raise wrong(f"there is no kind of tap {kind!r} (one of {KINDS})")
    for part, value in (("node", node), ("interface", name), ("file", file)):
        if not value.strip():
            raise wrong(f"the {part} is empty")
    node, name = escape(node, 253), escape(name, 253)
    namespace = name if kind == TapKind.POD else ""
    return TapFile(Tap(node, TapKind(kind), name, namespace), Path(file))


def parse_table(text: str) -> TableFile:
    """One `--conntrack`. Raises UsageError."""
    node, equals, file = text.partition("=")
    if not equals or not node.strip() or not file.strip():
        raise UsageError(
            f"--conntrack {text} is not NODE=FILE; give what `conntrack -L` printed there, for instance as "
            "--conntrack node1=conntrack-node1.txt"
        )
    return TableFile(escape(node, 253), Path(file))


def check_files(taps: Sequence[TapFile]) -> None:
    """Refuse a file that is given for two taps: its packets would count as seen at both."""
    seen: dict[Path, TapFile] = {}
    for tap in taps:
        first = seen.setdefault(tap.path.resolve(), tap)
        if first is not tap:
            raise UsageError(
                f"{tap.path} is given for two taps, {_name(first.tap)} and {_name(tap.tap)}; give it once"
            )


def check_nodes(taps: Sequence[TapFile], tables: Sequence[TableFile], known: Sequence[str]) -> None:
    """Refuse a node that the objects do not know; without objects every name will do."""
    outside = {TapKind.CLIENT, TapKind.LB}
    named = [(f"--tap {_name(file.tap)}", file.tap.node) for file in taps if file.tap.kind not in outside]
    named += [(f"--conntrack {table.node}", table.node) for table in tables]
    for option, node in named:
        if known and node not in known:
            raise UsageError(f"{option}: the objects know no node {node}; name one of {', '.join(known)}")


def read_captures(
    taps: Sequence[TapFile], tables: Sequence[TableFile], progress: Callable[[str], None]
) -> Recording:
    """All files as one recording. Raises ProbeError for a file that cannot be used at all."""
    builder = RecordingBuilder()
    packets = 0
    for file in taps:
        progress(f"reading {file.path}")
        packets += _read_tap(builder, file)
    for table in tables:
        progress(f"reading {table.path}")
        _read_table(builder, table)
    if taps and not packets:
        builder.gaps.append(("", Gap("capture", "none of the given captures holds a packet")))
    nodes = [file.tap.node for file in taps] + [table.node for table in tables]
    return builder.build(expected_nodes=tuple(dict.fromkeys(nodes)))


def capture_error(error: CaptureFileError) -> UsageError:
    """The error for a file that is no capture, or none that is understood."""
    return UsageError(f"{error}; give a file that tcpdump or Wireshark has written")


def _read_tap(builder: RecordingBuilder, file: TapFile) -> int:
    stream = builder.stream(file.tap.node)
    tap = stream.tap(file.tap)
    batch = Batch()
    try:
        result = read_tap(file.path, tap, batch)
    except CaptureFileError as error:
        if isinstance(error.__cause__, OSError):
            raise os_error(error.__cause__, f"read {file.path}") from error
        raise capture_error(error) from error
    stream.packets(*batch.take())
    if result.dropped:
        stream.message(Loss(tap, result.packets, result.dropped))
    if result.truncated:
        stream.truncated = f"{file.path}: {result.truncated}"
    else:
        stream.message(Bye("end of the file"))
    return result.packets


def _read_table(builder: RecordingBuilder, table: TableFile) -> None:
    try:
        text = table.path.read_text(encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise os_error(error, f"read {table.path}") from error
    rows, skipped = parse_text(text)
    if skipped and not rows:
        raise UsageError(
            f"{table.path} is not what `conntrack -L` prints: {skipped[0]}; give its output, or leave it out"
        )
    stream = builder.stream(table.node)
    stream.nat(rows)
    if skipped:
        number = f"{len(skipped)} lines" if len(skipped) > 1 else "1 line"
        stream.message(Gap("conntrack", f"{table.path}: {number} not understood, the first: {skipped[0]}"))
    stream.message(Bye("end of the file"))


def _name(tap: Tap) -> str:
    return f"{tap.kind}:{tap.node}/{tap.interface}"
