"""A recorded session → the same session of other people: each message, each row and the index, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from daemonset.observation import NAT, PACKET, Head, HttpHead, Layout, ProxyHeader, TlsHello, Tlv
from daemonset.wire import (
    Frame,
    NatRows,
    PacketRows,
    RowBytes,
    TruncatedError,
    WireError,
    Writer,
    read_stream,
)
from probe.anonymous.addresses import Addresses
from probe.anonymous.words import Words
from probe.errors import UsageError, os_error
from probe.folder import Meta, SessionFolder, read_meta, stream_path

T = TypeVar("T")

#: Fields of `Meta` and of messages that hold names, words of ours, or what this program itself wrote.
_NOT_SEARCHED = frozenset({"format", "program", "created", "version", "id", "streams"})


class Anonymizer:
    """Replaces what speaks of people. The same key makes the same of the same, in whatever file it stands."""

    def __init__(self, key: bytes) -> None:
        self.addresses = Addresses(key)
        self.words = Words(key)

    def frame(self, frame: Frame) -> Frame:
        """A frame of a stream."""
        match frame:
            case PacketRows(rows, heads):
                return PacketRows(self._rows(rows, PACKET), tuple(self.head(head) for head in heads))
            case NatRows(rows):
                return NatRows(self._rows(rows, NAT))
            case _:
                return self.searched(frame)

    def searched(self, value: T) -> T:
        """A value of any kind with the addresses in all its texts replaced."""
        return self._searched(value)  # type: ignore[no-any-return] # of the kind that came in

    def head(self, head: Head) -> Head:
        """What first bytes said, without their bytes."""
        return msgspec.structs.replace(
            head,
            proxy=tuple(self._proxy(each) for each in head.proxy),
            proxy_error=self.addresses.text(head.proxy_error) if head.proxy_error is not None else None,
            http=self._http(head.http) if head.http is not None else None,
            more=tuple(self._http(each) for each in head.more),
            tls=self._tls(head.tls) if head.tls is not None else None,
            raw=b"",
            echo=self.addresses.text(head.echo) if head.echo is not None else None,
        )

    def meta(self, meta: Meta) -> dict[str, Any]:
        """The fields of a session's index."""
        asked = tuple(
            msgspec.structs.replace(
                each,
                token=self.words.token(each.token),
                forged=tuple((name, self._field(name, value)) for name, value in each.forged),
                detail="",
            )
            for each in meta.asked
        )
        entries = tuple(
            msgspec.structs.replace(
                each,
                request=self.words.start_line(each.request) if each.request is not None else None,
                request_id=self.words.token(each.request_id) if each.request_id is not None else None,
            )
            for each in meta.ingress.entries
        )
        ingress = msgspec.structs.replace(meta.ingress, entries=entries)
        kept = msgspec.structs.replace(meta, asked=asked, answers=(), ingress=ingress)
        fields = {name: getattr(kept, name) for name in kept.__struct_fields__ if name not in _NOT_SEARCHED}
        return {name: self._searched(value) for name, value in fields.items()}

    def _searched(self, value: Any) -> Any:
        match value:
            case str():
                return self.addresses.text(value) if "." in value or ":" in value else value
            case msgspec.Struct():
                changed = {
                    name: other
                    for name in value.__struct_fields__
                    if (other := self._searched(mine := getattr(value, name))) is not mine
                }
                return msgspec.structs.replace(value, **changed) if changed else value
            case tuple() if hasattr(value, "_fields"):
                return type(value)(*map(self._searched, value))
            case tuple() | list():
                return type(value)(map(self._searched, value))
            case Mapping():
                return {self._searched(key): self._searched(each) for key, each in value.items()}
        return value

    def _rows(self, rows: RowBytes, layout: Layout) -> bytes:
        table = np.frombuffer(rows, dtype=layout.dtype()).copy()
        names = {name.removesuffix("_hi") for name in table.dtype.names or () if name.endswith("_hi")}
        for name in sorted(names):
            pairs = np.stack([table[f"{name}_hi"], table[f"{name}_lo"]], axis=1)
            distinct, where = np.unique(pairs, axis=0, return_inverse=True)
            others = [
                self.addresses.word(int(high), int(low)) if high or low else (0, 0) for high, low in distinct
            ]
            replaced = np.array(others, dtype=np.uint64).reshape(-1, 2)[where.reshape(-1)]
            table[f"{name}_hi"], table[f"{name}_lo"] = replaced[:, 0], replaced[:, 1]
        if "digest" in (table.dtype.names or ()):
            distinct, where = np.unique(table["digest"], return_inverse=True)
            made = [self.words.digest(int(each)) for each in distinct]
            table["digest"] = np.array(made, dtype=np.uint64)[where.reshape(-1)]
        return table.tobytes()

    def _proxy(self, header: ProxyHeader) -> ProxyHeader:
        return msgspec.structs.replace(
            header,
            source=self.addresses.text(header.source) if header.source is not None else None,
            destination=self.addresses.text(header.destination) if header.destination is not None else None,
            tlvs=tuple(Tlv(each.type, each.name, self.words.opaque(each.value)) for each in header.tlvs),
            warnings=tuple(map(self.addresses.text, header.warnings)),
        )

    def _http(self, head: HttpHead) -> HttpHead:
        return HttpHead(
            self.words.start_line(head.start),
            tuple((name, self._field(name, value)) for name, value in head.fields),
        )

    def _field(self, name: str, value: str) -> str:
        if name in {"proxy", "proxy-v2"} or self.words.is_of_addresses(name.lower()):
            return self.addresses.text(value)
        return self.words.value(name.lower(), value)

    def _tls(self, hello: TlsHello) -> TlsHello:
        name = self.words.host(hello.server_name) if hello.server_name is not None else None
        return TlsHello(self.words.opaque(hello.random), name)


def anonymize(folder: Path, target: Path, key: bytes) -> Meta:
    """Write the session in `folder` anew into `target`, an empty or new folder, without what speaks of people.

    What its streams lacked, they lack again. Raises ProbeError.
    """
    meta, mask = read_meta(folder), Anonymizer(key)
    if target.resolve() == folder.resolve():
        raise UsageError(f"{target} is the session itself; name a new folder")
    fields = mask.meta(meta)
    fresh = SessionFolder(target, Meta(facts=fields["facts"], title=fields["title"]))
    for place in meta.places:
        name = mask.searched(place)  # nodes may be called by their address
        fresh.stream(name)
        writer = Writer(partial(fresh.write, name))
        path = stream_path(folder, place)
        for frame in _whole_frames(path) if path is not None else ():
            _write(writer, mask.frame(frame))
    del fields["complete"], fields["places"], fields["schema"]
    if not meta.complete:
        fresh.close()
        return meta
    return fresh.finish(**fields)


def _whole_frames(path: Path) -> Iterator[Frame]:
    """The frames up to where a stream is damaged or cut off."""
    try:
        yield from read_stream(path)
    except (TruncatedError, WireError):
        return
    except OSError as error:
        raise os_error(error, f"read {path}") from error


def _write(writer: Writer, frame: Frame) -> None:
    match frame:
        case PacketRows(rows, heads):
            writer.packets(rows, heads)
        case NatRows(rows):
            writer.nat(rows)
        case _:
            writer.message(frame)
