"""PROXY headers for people: one block a header, one line a fact."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from analysis.report import Severity, Verdict
from probe.render.style import Paper

if TYPE_CHECKING:
    from analysis.receivers import Reception
    from probe.decoding.answer import Answer, Seen

_LABEL = 14
_VALUE_LIMIT = 64  # bytes of a value that has no meaning to show


def to_text(answer: Answer, stream: TextIO, where: str = "") -> str:
    """One answer, and those behind it, as `stream` can show it; `where` says which input it belongs to."""
    paper = Paper(stream)
    for one in (answer, *answer.next):
        _block(paper, one, where)
    return paper.written


def _block(paper: Paper, answer: Answer, where: str) -> None:
    paper.print(*_headline(paper, answer), *((f"  {where}", "dim") for _ in where[:1]))
    if answer.seen:
        paper.paragraph("", _place(answer.seen), indent=4, style="dim")
    if answer.error:
        paper.paragraph("", answer.error, indent=4)
    for label, value in _facts(answer):
        paper.paragraph(label.ljust(_LABEL), value, indent=4, label_style="dim")
    sign, style = paper.glyph(Severity.WARNING)
    for warning in answer.warnings:
        paper.paragraph(sign, warning, indent=4, label_style=style)
    _receivers(paper, answer.receivers)


_SIGNS: dict[str, Verdict | Severity] = {
    "accepted": Verdict.PRESERVED,
    "refused": Verdict.LOST,
    "waits": Verdict.INCONCLUSIVE,
    "not measured": Severity.INFO,
}


def _receivers(paper: Paper, receivers: tuple[Reception, ...]) -> None:
    """Who takes the header, who does not, and of whom it is not known, those of one reason together."""
    if not receivers:
        return
    paper.paragraph("receivers", "", indent=4, label_style="dim")
    for verdict, kind in _SIGNS.items():
        groups: dict[str, list[str]] = {}
        for one in receivers:
            if one.verdict == verdict:
                groups.setdefault(one.detail, []).append(f"{one.name} {one.version}")
        sign, style = paper.glyph(kind)
        for detail, names in groups.items():
            label = f"{sign} {verdict.ljust(12)}"
            paper.paragraph(label, "; ".join(names), indent=6, label_style=style)
            paper.paragraph(" " * len(label), detail, indent=6, style="dim")


def _headline(paper: Paper, answer: Answer) -> tuple[str | tuple[str, str], ...]:
    if not answer.ok:
        name = f"PROXY v{answer.version} header" if answer.version else "header"
        if answer.error:
            return paper.glyph(Verdict.LOST), f" {name} in error"
        return paper.glyph(Verdict.INCONCLUSIVE), f" {name} cut short"
    kind = f"{answer.family}/{answer.transport}"
    return (
        paper.glyph(Verdict.PRESERVED),
        (f" PROXY v{answer.version}", "bold"),
        f"  {answer.command} {kind}, {answer.length} bytes",
    )


def _place(seen: Seen) -> str:
    time = datetime.fromtimestamp(seen.time, UTC).strftime("%H:%M:%S.%f")
    interface = f" {seen.interface}" if seen.interface else ""
    return f"packet {seen.packet}, {time}{interface}, {seen.source} → {seen.destination}"


def _facts(answer: Answer) -> Iterator[tuple[str, str]]:
    if not answer.ok:
        return
    yield "source", answer.source or "none: the connection's own address counts"
    if answer.destination:
        yield "destination", answer.destination
    for tlv in answer.tlvs:
        yield tlv["name"], _value(tlv)


def _value(tlv: dict[str, Any]) -> str:
    decoded, size = tlv["decoded"], len(tlv["value"]) // 2
    if tlv["name"] == "CRC32C":
        return f"0x{tlv['value']}, verified"
    if tlv["name"] == "NOOP":
        return f"{size} bytes of padding"
    if isinstance(decoded, dict):
        parts = [f"{key} {value}" for key, value in decoded.items() if key != "tlvs"]
        others = [part for part in decoded["tlvs"] if part["decoded"] is None]
        return ", ".join(parts + [f"{part['name']} {_bytes(part['value'])}" for part in others])
    if isinstance(decoded, list):
        return ", ".join(decoded)
    return _bytes(tlv["value"]) if decoded is None else str(decoded)


def _bytes(value: str) -> str:
    size = len(value) // 2
    shown = f"0x{value[: 2 * _VALUE_LIMIT]}" if value else "empty"
    return shown if size <= _VALUE_LIMIT else f"{shown}… ({size} bytes)"
