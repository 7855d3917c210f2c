"""A capture while it goes on, as lines for a terminal: a pure function of what is known at one moment.

What does not fit is counted, worst first: places that miss something stand before those that do not, and no line is
wider or the whole higher than the terminal. Nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from analysis.report import Severity, Verdict
from probe.render.escape import escape, plain
from probe.render.style import GLYPHS, count

#: Below this there is no room for a view; lines of progress serve there.
LEAST_COLUMNS, LEAST_ROWS = 32, 8

_FINDINGS = 5
_NAME = 28  # cells of a place's name, at most
_HEADS = ("taps", "packets", "connections", "dropped")
_ORDER = (Verdict.LOST, Verdict.BLACKHOLED, Verdict.INCONCLUSIVE, Verdict.PRESERVED)


@dataclass(frozen=True, slots=True)
class Seen:
    """What has come from one place: a node, or a host of the lab. `connections` began while it was watched."""

    name: str
    taps: int = 0
    packets: int = 0
    connections: int = 0
    dropped: int = 0
    trouble: str = ""  # why it is not watched, or no longer


@dataclass(frozen=True, slots=True)
class Found:
    """A finding of connections so far, with how many of them it is about."""

    code: str
    severity: Severity
    title: str
    connections: int


@dataclass(frozen=True, slots=True)
class State:
    """All that a view shows. `verdicts` are of connections whose packets have come; none before the first judgement."""

    title: str
    doing: str = ""
    elapsed: float = 0.0  # seconds
    places: tuple[Seen, ...] = ()
    connections: int = 0  # each counted once, wherever it was seen
    verdicts: tuple[tuple[Verdict, int], ...] | None = None
    blame: str = ""  # where addresses were lost, and by what
    judged: float | None = None  # seconds ago
    findings: tuple[Found, ...] = ()  # newest first


def draw(state: State, columns: int, rows: int, *, ascii_only: bool = False) -> list[Text]:
    """At most `rows` lines of at most `columns` cells each."""
    pen = _Pen(columns, ascii_only)
    head = [pen.line((f"{state.title} · {_clock(state.elapsed)}", "bold"))]
    foot = [*_verdicts(pen, state), *_findings(pen, state.findings)]
    if state.doing:
        foot.append(pen.line((f"· {state.doing}", "dim")))
    room = rows - len(head) - len(foot) - 1
    while room < 2 and len(foot) > 2:  # a low terminal keeps verdicts and what is going on
        del foot[-2]
        room += 1
    places = _places(pen, state, max(room, 0))
    return [*head, *places, *foot][:rows]


def summary_lines(state: State, columns: int, *, ascii_only: bool = False) -> list[Text]:
    """What stands above everything else: the title, what was counted, verdicts, and what is going on."""
    pen = _Pen(columns, ascii_only)
    lines = [
        pen.line((f"{state.title} · {_clock(state.elapsed)}", "bold")),
        _sum(pen, state),
        *_verdicts(pen, state),
    ]
    return [*lines, pen.line((f"· {state.doing}", "dim"))] if state.doing else lines


class _Pen:
    """Writes lines that fit and are safe."""

    def __init__(self, columns: int, ascii_only: bool) -> None:
        self.columns = columns
        self._ascii = ascii_only

    def safe(self, text: str) -> str:
        shown = escape(text)
        return plain(shown) if self._ascii else shown

    def fit(self, text: str, room: int) -> str:
        """`text`, made safe, in at most so many cells; what is cut says so."""
        shown = self.safe(text)
        if cell_len(shown) <= room:
            return shown
        mark = "..." if self._ascii else "…"
        return set_cell_size(shown, max(room - len(mark), 0)) + mark if room > len(mark) else mark[:room]

    def line(self, *parts: tuple[str, str]) -> Text:
        """One line of (text, style)."""
        line, left = Text(no_wrap=True, overflow="crop"), self.columns
        for text, style in parts:
            shown = self.fit(text, left)
            line.append(shown, style)
            left -= cell_len(shown)
            if left <= 0:
                break
        return line


def _places(pen: _Pen, state: State, room: int) -> list[Text]:
    """A table of places in at most `room` lines, its last line the sum of all."""
    if not state.places or room < 2:
        return [_sum(pen, state)][:room]
    ordered = sorted(state.places, key=lambda each: (not each.trouble, -each.dropped, each.name))
    shown = ordered if len(ordered) <= room - 2 else ordered[: room - 2]
    width = min(max(cell_len(pen.safe(each.name)) for each in shown) if shown else 4, _NAME)
    narrow = pen.columns < width + sum(len(head) + 2 for head in _HEADS)
    lines = [pen.line((pen.fit("NODE", width).ljust(width) + _cells(_HEADS, narrow).upper(), "bold"))]
    for each in shown:
        name = pen.fit(each.name, width)
        name += " " * (width - cell_len(name))
        if each.trouble:
            lines.append(pen.line((name, ""), (f"  × {each.trouble}", "bold red")))
            continue
        numbers = (each.taps, each.packets, each.connections, each.dropped)
        cells = _cells([f"{number:,}" for number in numbers], narrow)
        lines.append(pen.line((name + cells, "yellow" if each.dropped else "")))
    return [*lines, _sum(pen, state, len(ordered) - len(shown))]


def _cells(texts: Sequence[str], narrow: bool) -> str:
    """The columns of a row; a narrow terminal has those of packets and drops alone."""
    pairs = [(text, head) for text, head in zip(texts, _HEADS, strict=True)]
    kept = [pairs[1], pairs[3]] if narrow else pairs
    return "".join(f"  {text:>{len(head)}}" for text, head in kept)


def _sum(pen: _Pen, state: State, more: int = 0) -> Text:
    packets, dropped = (sum(getattr(each, name) for each in state.places) for name in ("packets", "dropped"))
    missing = sum(1 for each in state.places if each.trouble)
    parts = [f"and {count(more, 'more place')}"] if more else []
    parts += [count(len(state.places), "place"), count(state.connections, "connection")]
    parts.append(count(packets, "packet"))
    line = [(", ".join(parts), "dim")]
    if dropped:
        line.append((f", {dropped:,} dropped by kernels", "yellow"))
    if missing:
        line.append((f", {count(missing, 'place')} not watched", "bold red"))
    return pen.line(*line)


def _verdicts(pen: _Pen, state: State) -> list[Text]:
    if state.verdicts is None:
        return [pen.line(("no verdict yet", "dim"))]
    counted = dict(state.verdicts)
    parts: list[tuple[str, str]] = []
    for verdict in _ORDER:
        if number := counted.get(verdict):
            glyph, style = GLYPHS[verdict]
            word = "not certain yet" if verdict is Verdict.INCONCLUSIVE else verdict.value
            parts.append((f"{'  ' if parts else ''}{glyph} {number:,} {word}", style))
    if not parts:
        return [pen.line(("no verdict yet", "dim"))]
    if state.judged is not None:
        parts.append((f"  as of {state.judged:.0f} s ago", "dim"))
    lines = [pen.line(*parts)]
    if state.blame and counted.get(Verdict.LOST):
        lines.append(pen.line((f"  lost at: {state.blame}", "")))
    return lines


def _findings(pen: _Pen, findings: Sequence[Found]) -> list[Text]:
    lines = []
    for found in findings[:_FINDINGS]:
        glyph, style = GLYPHS[found.severity]
        text = f"  {found.title} ({count(found.connections, 'connection')})"
        lines.append(pen.line((f"{glyph} {found.code}", style), (text, "")))
    if len(findings) > _FINDINGS:
        lines.append(pen.line((f"and {count(len(findings) - _FINDINGS, 'earlier finding')}", "dim")))
    return lines


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(int(seconds), 0), 60)
    return f"{minutes}:{rest:02}"
