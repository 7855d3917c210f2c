"""The map of a report: clients, load balancers, nodes and pods, and the ways that connections took, drawn in SVG.

Places stand in columns, from outside in. Each way has a row of its own in every place each time it passes, so no two
labels share a spot; and where a way passes a column by, the places of that column stand below its line. On each arrow
stands the source address that the packets carried there; where it is not the one before, it is marked and said in
words as well. Only what packets showed is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from analysis.report import Hop, Journey, Path
from probe.render.html.markup import Markup, element
from probe.render.style import count

#: Ways that are drawn; more would be no picture any longer.
WAYS = 10

_COLUMNS = ("Clients", "Load balancers", "Nodes", "Pods")
_WIDTH, _GAP, _HEAD, _ROW, _SPACE, _TOP = 150, 170, 26, 36, 22, 40
_SHOWN = 19  # characters of an address that fit over an arrow
_APART = 9  # between what comes back into a place and what goes on from it

#: One row of a place: which way, and which of its stops.
_Row = tuple[int, int]


class Place(NamedTuple):
    """A column and a name in it."""

    column: int
    name: str


class Stop(NamedTuple):
    """A place that a way passes, and the source address of the packets that came there."""

    place: Place
    source: str
    leg: int


@dataclass
class _Box:
    """Where a place is drawn, and which ways have a row in it."""

    x: int = 0
    y: int = 0
    rows: list[_Row] = field(default_factory=list)

    @property
    def height(self) -> int:
        return _HEAD + _ROW * len(self.rows)

    def row(self, way: int, stop: int) -> int:
        """The height at which a way passes."""
        return self.y + _HEAD + _ROW * self.rows.index((way, stop)) + _ROW // 2


def stops(journey: Journey) -> list[Stop]:
    """The places of a journey in order, as far as packets showed them."""
    found: list[Stop] = []
    for hop in journey.hops:
        if hop.evidence != "packet" or hop.tap is None:
            continue
        place = _place(hop, journey)
        if not found or found[-1].place != place:
            found.append(Stop(place, _address(hop.source), hop.leg))
        elif found[-1].leg == hop.leg:
            continue
    return found


def draw(ways: Sequence[tuple[Path, Journey]]) -> Markup | None:
    """The map of these ways; None where no packet shows a place."""
    drawn = [(path, walked) for path, journey in ways[:WAYS] if (walked := stops(journey))]
    # Ways without a balancer stand above those with one, so that their lines do not cross its place.
    drawn.sort(key=lambda each: any(stop.place.column == 1 for stop in each[1]))
    if not drawn:
        return None
    boxes = _boxes(drawn)
    right = max(box.x for box in boxes.values()) + _WIDTH + 70
    bottom = max(box.y + box.height for box in boxes.values()) + 20
    columns = sorted({(place.column, box.x) for place, box in boxes.items()})
    told = "; ".join(_told(path, walked) for path, walked in drawn)
    return element(
        "svg",
        element("title", "Map of the observed paths"),
        element("desc", told),
        [element("text", _COLUMNS[column], x=x, y=20, class_="column") for column, x in columns],
        [_box(place, box) for place, box in boxes.items()],
        [_way(way, path, walked, boxes) for way, (path, walked) in enumerate(drawn)],
        [_labels(way, path, walked, boxes) for way, (path, walked) in enumerate(drawn)],
        role="img",
        aria_labelledby="map-title",
        viewBox=f"0 0 {right} {bottom}",
        width=right,
        height=bottom,
        xmlns="http://www.w3.org/2000/svg",
    )


def _place(hop: Hop, journey: Journey) -> Place:
    node = hop.node or "unknown"
    if hop.tap in {"client", "lb"}:
        return Place(0 if hop.tap == "client" else 1, node)
    if hop.tap != "pod":
        return Place(2, node)
    own = [each for each in journey.hops if each.leg == hop.leg and each.evidence == "packet"]
    opener = own[0] is hop  # the pod that asks
    address = _address(hop.source if opener else hop.destination)
    served = journey.endpoint and any(
        each.tap == "pod" and _address(each.destination) == address and each.leg == _service_leg(journey)
        for each in journey.hops
    )
    return Place(3, journey.endpoint if served and journey.endpoint else address)


def _service_leg(journey: Journey) -> int:
    behind = [hop.leg for hop in journey.hops if hop.point in {"http-header", "app", "log"}]
    return min(behind) - 1 if behind else max(hop.leg for hop in journey.hops)


def _address(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]") or endpoint


def _boxes(drawn: Sequence[tuple[Path, list[Stop]]]) -> dict[Place, _Box]:
    """Places in columns, each as high as the ways in it need."""
    boxes: dict[Place, _Box] = {}
    for way, (_, walked) in enumerate(drawn):
        for number, stop in enumerate(walked):
            boxes.setdefault(stop.place, _Box()).rows.append((way, number))
    columns = sorted({place.column for place in boxes})
    for column in columns:
        below = max([_TOP, *(y + _SPACE for y in _passing_by(column, drawn, boxes))])
        for place, box in boxes.items():
            if place.column == column:
                box.x, box.y = 10 + columns.index(column) * (_WIDTH + _GAP), below
                below += box.height + _SPACE
    return boxes


def _passing_by(
    column: int, drawn: Sequence[tuple[Path, list[Stop]]], boxes: dict[Place, _Box]
) -> Iterator[int]:
    """The heights of lines that pass a column by, from one before it to one behind it."""
    for way, (_, walked) in enumerate(drawn):
        for number, (before, after) in enumerate(pairwise(walked)):
            if before.place.column < column < after.place.column:
                yield boxes[before.place].row(way, number)


def _box(place: Place, box: _Box) -> Markup:
    return element(
        "g",
        element("title", f"{_COLUMNS[place.column]}: {place.name}"),
        element("rect", x=box.x, y=box.y, width=_WIDTH, height=box.height, rx=6, class_="place"),
        element("text", _short(place.name, 18), x=box.x + 10, y=box.y + 18, class_="name"),
    )


def _way(way: int, path: Path, walked: Sequence[Stop], boxes: dict[Place, _Box]) -> Markup:
    first = boxes[walked[0].place]
    return element(
        "g",
        element("title", _told(path, walked)),
        element("circle", cx=first.x + _WIDTH, cy=first.row(way, 0), r=4, class_="head"),
        [
            (element("path", d=arrow.line, class_="way"), element("path", d=arrow.head, class_="head"))
            for arrow in _arrows(way, walked, boxes)
        ],
        class_=str(path.verdict),
        data_path=path.shape,
    )


def _labels(way: int, path: Path, walked: Sequence[Stop], boxes: dict[Place, _Box]) -> Markup:
    """What stands on the arrows of a way: above those of all ways, so that none is struck out by another."""
    arrows = zip(_arrows(way, walked, boxes), pairwise(walked), strict=True)
    return element(
        "g",
        [_label(before, after, arrow.x, arrow.y) for arrow, (before, after) in arrows],
        class_=str(path.verdict),
        data_path=path.shape,
    )


class _Arrow(NamedTuple):
    """A line and its head as SVG paths, and where its label begins."""

    line: str
    head: str
    x: int
    y: int


def _arrows(way: int, walked: Sequence[Stop], boxes: dict[Place, _Box]) -> Iterator[_Arrow]:
    came_back = False
    for number, (before, after) in enumerate(pairwise(walked)):
        here, there = boxes[before.place], boxes[after.place]
        x, y = here.x + _WIDTH, here.row(way, number) + (_APART if came_back else 0)
        to, at = there.row(way, number + 1), x + 10
        came_back = there.x <= here.x
        if there.x < here.x:  # out again: by the side where it came in
            x, y, end, to, at = here.x, y + _APART, there.x + _WIDTH, to - _APART, here.x + 10
            line = f"M{x} {y} C{x - 60} {y} {end + 60} {to} {end + 8} {to}"
        elif came_back:  # to a neighbour: around on the right
            end, to = there.x + _WIDTH, to - _APART
            line = f"M{x} {y} C{x + 70} {y} {end + 70} {to} {end + 8} {to}"
        else:
            end, bend = there.x, there.x - _GAP  # straight on until the last gap
            line = f"M{x} {y} H{bend} C{bend + 90} {y} {end - 60} {to} {end - 8} {to}"
        head = f"M{end} {to} l{9 if came_back else -9} -5 v10 z"
        yield _Arrow(line, head, at, y + (4 if there.x < here.x else -5))


def _label(before: Stop, after: Stop, x: int, y: int) -> Markup:
    replaced = before.source != after.source
    said = f"{before.source} became {after.source}" if replaced else after.source
    mark = "≠ " if replaced else ""
    kind = "from replaced" if replaced else "from"
    return element("text", mark + _short(after.source, _SHOWN), element("title", said), x=x, y=y, class_=kind)


def _told(path: Path, walked: Sequence[Stop]) -> str:
    """A way in words, for those who do not see it."""
    parts = [walked[0].place.name]
    for before, after in pairwise(walked):
        changed = f", source replaced, was {before.source}" if before.source != after.source else ""
        parts.append(f"{after.place.name} (source {after.source}{changed})")
    return f"{path.verdict}, {count(path.count, 'connection')}: {' to '.join(parts)}"


def _short(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room // 2]}…{text[-(room // 2 - 1) :]}"
