"""What speaks of people, replaced in everything that a report is made from: messages, rows, facts, logs, requests.

A session's folder is rewritten frame by frame (`probe.anonymous.session`); a recording that is in memory as a whole, so
that every output that is made of it speaks of nobody (`probe.anonymous.given`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import msgspec
import numpy as np

from analysis.asked import Asked
from analysis.engine.gathering import Rows
from analysis.facts import Facts
from analysis.health.own import OwnChecks
from analysis.ingress import Application, IngressRecord, LogEntry
from analysis.recording import Recording
from daemonset.observation import NAT, PACKET, Head, HttpHead, Layout, ProxyHeader, RowBytes, TlsHello, Tlv
from daemonset.wire import Frame, NatRows, PacketRows
from probe.anonymous.addresses import Addresses
from probe.anonymous.words import Words
from probe.sessions.folder import Meta

T = TypeVar("T")

#: Fields of `Meta` and of messages that hold names, words of ours, or what this program itself wrote.
_NOT_SEARCHED = frozenset({"format", "program", "created", "version", "id", "streams"})

#: Of a title: the name of a kubeconfig's context, which may be an account's or a person's, and a URL that was asked.
_CONTEXT, _URL = re.compile(r", context .*"), re.compile(r"https?://\S+")

#: An annotation that says how, and not who: words, numbers and lists of them.
_SETTING = re.compile(r"(?!.*\d{9})[A-Za-z0-9*_,=/ -]{0,60}")


class Anonymizer:
    """Replaces what speaks of people. The same key makes the same of the same, in whatever file it stands."""

    def __init__(self, key: bytes) -> None:
        self.addresses = Addresses(key)
        self.words = Words(key)
        self._files: dict[str, str] = {}

    def frame(self, frame: Frame) -> Frame:
        """A frame of a stream."""
        match frame:
            case PacketRows(rows, heads):
                return PacketRows(self._bytes(rows, PACKET), tuple(self.head(head) for head in heads))
            case NatRows(rows):
                return NatRows(self._bytes(rows, NAT))
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

    def file(self, name: str, called: str | None = None) -> str:
        """Another name for a file, by which it is called in texts too from now on."""
        if name and name not in self._files:
            ending = re.search(r"\.\w{1,8}$", name)
            self._files[name] = called or f"file-{self.words.token(name)[:8]}{ending[0] if ending else ''}"
        return self._files.get(name, name)

    def recording(self, recording: Recording) -> Recording:
        """A recording as a whole. Names of its taps and nodes are searched too: they may be addresses."""
        counts = ("losses", "rule_counts", "conntrack_counts")
        searched = {
            name: self._searched(getattr(recording, name))
            for name in (*counts, "gaps", "streams", "tracings", "rule_hits")
        }
        return replace(
            recording,
            **searched,
            taps=self._searched(recording.taps),
            nodes=self._searched(recording.nodes),
            packets=self._rows(recording.packets),
            nat=self._rows(recording.nat),
            heads=tuple(self.head(head) for head in recording.heads),
            topologies=self._searched(recording.topologies),
            expected_nodes=self._searched(recording.expected_nodes),
            rules=self._searched(recording.rules),
        )

    def facts(self, facts: Facts) -> Facts:
        """What the cluster says of itself: names and labels stay, a balancer's host and what its settings name go."""
        services = tuple(
            msgspec.structs.replace(
                service,
                balancers=tuple(
                    msgspec.structs.replace(each, hostname=self.words.host(each.hostname))
                    if each.hostname
                    else each
                    for each in service.balancers
                ),
                annotations={
                    name: value if _SETTING.fullmatch(value) else self.words.token(value)
                    for name, value in service.annotations.items()
                },
            )
            for service in facts.services
        )
        return self.searched(msgspec.structs.replace(facts, services=services))

    def asked(self, asked: tuple[Asked, ...]) -> tuple[Asked, ...]:
        """Requests of ours."""
        return self.searched(
            tuple(
                msgspec.structs.replace(
                    each,
                    token=self.words.token(each.token),
                    forged=tuple((name, self._field(name, value)) for name, value in each.forged),
                    detail="",
                )
                for each in asked
            )
        )

    def ingress(self, record: IngressRecord) -> IngressRecord:
        """What configurations and logs say. Lines of logs are left out: they hold more than is read from them."""
        ingresses = tuple(
            msgspec.structs.replace(each, file=self.file(each.file)) for each in record.ingresses
        )
        entries = tuple(self._entry(each) for each in record.entries)
        application = record.application
        if application is not None:
            application = msgspec.structs.replace(application, command=_program(application))
        return self.searched(
            msgspec.structs.replace(record, ingresses=ingresses, entries=entries, application=application)
        )

    def own(self, own: OwnChecks) -> OwnChecks:
        """Health checks of ours. Of what came in the place of a status line nothing is kept."""
        if own.asked is None:
            return self.searched(own)
        rounds = tuple(
            replace(
                each,
                replies=tuple(
                    msgspec.structs.replace(reply, start=_status_line(reply.start)) for reply in each.replies
                ),
            )
            for each in own.asked.rounds
        )
        asked = msgspec.structs.replace(own.asked, rounds=rounds)
        return self.searched(msgspec.structs.replace(own, asked=asked))

    def title(self, title: str | None) -> str | None:
        """The title of a report, without a context's name and without what was asked."""
        if title is None:
            return None
        return self.addresses.text(_URL.sub("a URL", _CONTEXT.sub("", title)))

    def line(self, text: str, context: str = "") -> str:
        """A line about what is going on, without a context's name and without what is asked."""
        if context:
            text = text.replace(f"context {context}", "context")
        return self._text(_URL.sub("a URL", text))

    def meta(self, meta: Meta) -> dict[str, Any]:
        """The fields of a session's index."""
        kept = msgspec.structs.replace(
            meta,
            asked=self.asked(meta.asked),
            answers=(),
            ingress=self.ingress(meta.ingress),
            facts=self.facts(meta.facts),
            title=self.title(meta.title),
            own=self.own(meta.own),
        )
        done = _NOT_SEARCHED | {"asked", "ingress", "facts", "title", "own"}
        mine = {name: getattr(kept, name) for name in kept.__struct_fields__ if name not in _NOT_SEARCHED}
        return {name: value if name in done else self._searched(value) for name, value in mine.items()}

    def _entry(self, entry: LogEntry) -> LogEntry:
        return msgspec.structs.replace(
            entry,
            request=self.words.start_line(entry.request) if entry.request is not None else None,
            request_id=self.words.token(entry.request_id) if entry.request_id is not None else None,
            file=self.file(entry.file),
            text="",
        )

    def _searched(self, value: Any) -> Any:
        match value:
            case str():
                other = self._text(value)
                return value if other == value else other  # an enumeration stays one
            case msgspec.Struct():
                changed = {
                    name: other
                    for name in value.__struct_fields__
                    if (other := self._searched(mine := getattr(value, name))) is not mine
                }
                return msgspec.structs.replace(value, **changed) if changed else value
            case _ if is_dataclass(value) and not isinstance(value, type):
                return replace(
                    value, **{each.name: self._searched(getattr(value, each.name)) for each in fields(value)}
                )
            case tuple() if hasattr(value, "_fields"):
                return type(value)(*map(self._searched, value))
            case tuple() | list():
                return type(value)(map(self._searched, value))
            case frozenset():
                return frozenset(map(self._searched, value))
            case Mapping():
                return {self._searched(key): self._searched(each) for key, each in value.items()}
        return value

    def _text(self, text: str) -> str:
        for name in sorted(self._files, key=len, reverse=True):
            text = text.replace(name, self._files[name])
        return self.addresses.text(text)

    def _bytes(self, rows: RowBytes, layout: Layout) -> bytes:
        return self._rows(np.frombuffer(rows, dtype=layout.dtype())).tobytes()

    def _rows(self, rows: Rows) -> Rows:
        table = rows.copy()
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
        return table

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


def _status_line(start: str) -> str:
    return " ".join(start.split(" ")[:2]) if start.startswith("HTTP/") else ""


def _program(application: Application) -> str:
    """The program of a command line, without what it is given: what it believes is kept beside it."""
    words = (word for word in application.command.split() if "=" not in word)
    return next(words, "").rpartition("/")[2]
