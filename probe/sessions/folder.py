"""The folder of a recorded session: what is in it, how it is written, and when it may be believed.

    session.json     what was asked, the cluster's facts, what the applications answered (truth beside it)
    PLACE.probe      the raw stream of the agent of each place, as `daemonset.wire` frames it
    TABLE.parquet    the same for other programs (`probe.sessions.parquet`); nothing is read back from them

Rules:

1. `session.json` is there from the beginning with `complete: false`, and is replaced in one step at the end.
   A session that was cut off, for want of space or by a kill, is marked by that for ever.
2. A complete session names its streams with their sizes; a stream that is shorter or missing is told as such.
3. Fields are added, never renamed; `version` rises when an older program would misread the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from analysis.asked import Asked
from analysis.chain.clients import Clients
from analysis.facts import Facts
from analysis.health.changes import EndpointChange
from analysis.health.own import NONE_OWN, OwnChecks
from analysis.ingress import IngressRecord
from analysis.judging.forgery import plain_address
from daemonset.keeping import FORMAT, INDEX, VERSION, file_name, new_id, write_index
from daemonset.node.health_port import OUTCOMES
from daemonset.observation import SCHEMA_VERSION
from daemonset.wire import Frame, NatRows, PacketRows, Writer
from probe import __version__
from probe.cluster.timing import Clock
from probe.errors import UsageError, os_error


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """What `session.json` holds.

    `streams` are file names with their sizes in bytes; `created` is seconds since the epoch. `lacks` is what streams
    could not bring, by place, as far as they do not show it themselves. `clocks` is how far the places' clocks were
    ahead of that of the operator, by which the times of their streams are corrected when these are read. `clients`:
    the report is about these alone. `schema` is the version of the streams, `kernels` what the places run on. `id`
    tells this session from all others.
    """

    format: str = FORMAT
    version: int = VERSION
    complete: bool = False
    created: float = 0.0
    program: str = ""
    title: str | None = None
    service: str | None = None
    scenario: str | None = None
    proxy_mode: str = ""
    places: tuple[str, ...] = ()
    streams: dict[str, int] = {}
    facts: Facts = Facts(known=False)
    answers: tuple[dict[str, Any], ...] = ()
    asked: tuple[Asked, ...] = ()
    ingress: IngressRecord = IngressRecord()
    lacks: dict[str, str] = {}
    clocks: dict[str, Clock] = {}
    clients: tuple[str, ...] = ()
    schema: int = 0
    kernels: dict[str, str] = {}
    kubernetes: str = ""
    id: str = ""
    changes: tuple[EndpointChange, ...] = ()
    own: OwnChecks = NONE_OWN


#: Fields of `Meta` that `SessionFolder.finish` knows by itself.
OF_FOLDER = frozenset({"complete", "places", "schema"})


class _Header(msgspec.Struct):
    """As much of `session.json` as every version of it has."""

    format: str = ""
    version: int = 0


def check_new(path: Path | None) -> None:
    """Refuse a folder that holds something, before anything is done for it. Raises ProbeError."""
    if path is None:
        return
    try:
        occupied = path.exists() and any(path.iterdir())
    except OSError as error:
        raise os_error(error, f"record into {path}") from error
    if occupied:
        raise UsageError(f"cannot record into {path}: it is not empty; name a new folder")


class SessionFolder:
    """A session being recorded. Everything that cannot be written raises ProbeError."""

    def __init__(self, path: Path, meta: Meta) -> None:
        self.path = path
        self._meta = msgspec.structs.replace(meta, created=time.time(), program=__version__, id=new_id())
        self._streams: dict[str, BinaryIO] = {}
        self._sizes: dict[str, int] = {}
        check_new(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise os_error(error, f"record into {path}") from error
        self._write_index(self._meta)

    def stream(self, place: str) -> None:
        """Begin the stream of a place."""
        name = file_name(place)
        try:
            self._streams[place] = (self.path / name).open("xb", buffering=0)
        except OSError as error:
            raise os_error(error, f"write {self.path / name}") from error
        self._sizes[name] = 0

    def write(self, place: str, data: bytes) -> None:
        """Append to the stream of a place, all of it or ProbeError."""
        view = memoryview(data)
        name = file_name(place)
        try:
            while view:
                written = self._streams[place].write(view) or 0
                self._sizes[name] += written
                view = view[written:]
        except OSError as error:
            raise os_error(error, f"write {self.path / name}") from error

    def frames(self, place: str) -> Callable[[Frame], None]:
        """Begin the stream of a place that is written frame by frame; answers with what writes one."""
        self.stream(place)
        writer = Writer(partial(self.write, place))

        def write(frame: Frame) -> None:
            match frame:
                case PacketRows(rows, heads):
                    writer.packets(rows, heads)
                case NatRows(rows):
                    writer.nat(rows)
                case _:
                    writer.message(frame)

        return write

    def finish(self, **known: Any) -> Meta:
        """Mark the session as whole; nothing can be added after that. `known` are further fields of `Meta`."""
        self.close()
        meta = msgspec.structs.replace(
            self._meta,
            complete=True,
            streams=dict(self._sizes),
            places=tuple(self._streams),
            schema=SCHEMA_VERSION,
            **known,
        )
        self._write_index(meta)
        return meta

    def close(self) -> None:
        """Close the streams; without `finish` the session stays marked as cut off."""
        for stream in self._streams.values():
            stream.close()

    def _write_index(self, meta: Meta) -> None:
        try:
            write_index(self.path, meta)
        except OSError as error:
            raise os_error(error, f"write {self.path / INDEX}") from error


def read_meta(folder: Path) -> Meta:
    """What `session.json` says. Raises UsageError where it is none of ours, or of a later version."""
    path = folder / INDEX
    if not folder.exists():
        raise UsageError(f"{folder} does not exist; `probe capture --record DIR` records a session")
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder; give the folder of a recorded session, or captures as "
            "--tap KIND:NODE/INTERFACE=FILE"
        )
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} is not a recorded session: it has no {INDEX}; give the folder of --record"
        ) from error
    except OSError as error:
        raise os_error(error, f"read {path}") from error
    return parse_meta(text, path)


def parse_meta(text: bytes, path: Path) -> Meta:
    """What the text of a `session.json` says; `path` is what errors call it. Raises UsageError as `read_meta`."""
    try:
        header = msgspec.json.decode(text, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        header = _Header()
    if header.format != FORMAT:
        raise UsageError(f"{path} is not of a session that probe recorded; give the folder of --record")
    if header.version > VERSION:
        raise UsageError(
            f"{path.parent} was recorded by a newer probe (session version {header.version}, this one reads up to "
            f"{VERSION}); use that one"
        )
    try:
        meta = msgspec.json.decode(text, type=Meta)
        _check_addresses(meta.facts)
        _check_asked(meta.asked)
        _check_own(meta.own)
        Clients.of(meta.clients)
    except (ValueError, RecursionError) as error:  # msgspec's errors and Unicode's are ValueErrors
        raise UsageError(
            f"{path} is damaged: {error}; take another copy of the folder, or record again"
        ) from error
    return meta


def _check_addresses(facts: Facts) -> None:
    """Raise ValueError where an address of the facts is none."""
    for node in facts.nodes:
        check_addresses(node.addresses)
    for pod in facts.pods:
        check_addresses(pod.addresses)
    for service in facts.services:
        check_addresses((*service.cluster_ips, *service.external_ips))
        check_addresses(endpoint.address for endpoint in service.endpoints)
        check_addresses(balancer.address for balancer in service.balancers if balancer.address is not None)


def _check_asked(asked: Iterable[Asked]) -> None:
    """Raise ValueError where a request of ours names an address that is none."""
    for each in asked:
        for text in (each.source, each.destination):
            if plain_address(text) is None or not text.rpartition(":")[2].isdecimal() or text.count(":") == 0:
                raise ValueError(f"{text!a} is no address with a port")
        if each.saw is not None and plain_address(each.saw) is None:
            raise ValueError(f"{each.saw!a} is no address")


def _check_own(own: OwnChecks) -> None:
    """Raise ValueError where a socket or a time is none."""
    for address, port in own.sources:
        ip_address(address)
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"{port} is no port")
    for run in own.answers:
        if not 0 <= run.time <= run.until < 1 << 63 or run.times < 1:
            raise ValueError("a run of answers that never was")
    for reply in (
        reply for each in (own.asked.rounds if own.asked is not None else ()) for reply in each.replies
    ):
        if reply.outcome not in {*OUTCOMES, "not asked"} or not 0 <= reply.port <= 0xFFFF:
            raise ValueError("an answer that nobody gave")


def check_addresses(addresses: Iterable[str]) -> None:
    """Raise ValueError where one of them is no address, with or without the length of its prefix."""
    for address in addresses:
        ip_interface(address)


def stream_path(folder: Path, place: str) -> Path | None:
    """The stream of a place, or None where there is no such file."""
    path = folder / file_name(place)
    try:
        return path if path.is_file() else None
    except OSError:  # a name that no file can have
        return None


def stream_problems(folder: Path, meta: Meta) -> dict[str, str]:
    """What is wrong with the streams of a session, by place, as seen from outside of them."""
    problems: dict[str, str] = {}
    for place in meta.places:
        path, expected = stream_path(folder, place), meta.streams.get(file_name(place))
        size = path.stat().st_size if path is not None else None
        if size is None:
            problems[place] = f"the stream of {place} is missing from the session's folder"
        elif meta.complete and size != expected:
            problems[place] = f"the stream of {place} has {size} bytes; {expected} were recorded"
    return problems
