"""The report as Prometheus's text format, for the textfile collector of node_exporter and its like.

Every family has one meaning, HELP and TYPE (Prometheus, "Exposition formats", text-based format 0.0.4). All are gauges:
they tell of the last capture, not of all there were. Each verdict is always there, at 0 too, so that an alert on one
need not care whether it has ever occurred; when the capture ended is there as well, so that a check which no longer
runs is not taken for one that is well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from analysis.report import Report, Verdict
from probe import __version__
from probe.render.escape import escape

PREFIX = "client_ip_probe_"

_Sample = tuple[Mapping[str, str], float]

#: Longest value of a label, in characters.
_LABEL = 200


def to_metrics(report: Report, now: float) -> str:
    """All families of a report; `now`: when it was made, in seconds since the epoch."""
    return "".join(line + "\n" for line in _lines(report, now))


def _lines(report: Report, now: float) -> Iterator[str]:
    service = {"service": report.service or ""}
    summary, capture = report.summary, report.capture
    verdicts = [({**service, "verdict": each.value}, getattr(summary, each.value)) for each in Verdict]
    yield from _family(
        "connections", "Connections of the last capture, by what became of the client's address.", verdicts
    )
    yield from _family(
        "cross_node_connections",
        "Connections of the last capture that were forwarded from one node to another.",
        [(service, summary.cross_node)],
    )
    yield from _family(
        "source_replaced_connections",
        "Connections of the last capture whose source address was replaced, by where and by what.",
        [({**service, **who}, number) for who, number in _replaced(report)],
    )
    yield from _family(
        "finding_connections",
        "Connections that a finding of the last capture is about; 0: it is about none in particular.",
        [
            ({**service, "code": each.code, "severity": each.severity.value}, each.journeys)
            for each in report.findings
        ],
    )
    yield from _family(
        "capture_complete",
        "Whether the last capture missed nothing that it should have seen: 1 or 0.",
        [(service, capture.complete)],
    )
    yield from _family(
        "capture_observations",
        "Packets and NAT records of the last capture.",
        [(service, capture.observations)],
    )
    yield from _family(
        "capture_kernel_drops",
        "Packets that kernels dropped before the last capture saw them.",
        [(service, capture.kernel_drops)],
    )
    yield from _family(
        "capture_sample",
        "Of so many TCP connections the last capture watched one.",
        [(service, capture.sample)],
    )
    yield from _family(
        "exit_code",
        "Exit code of the last capture: 0 preserved, 3 lost or an error, 4 inconclusive.",
        [(service, report.exit_code)],
    )
    yield from _family(
        "last_capture_timestamp_seconds", "When the last capture ended, by the epoch.", [(service, now)]
    )
    yield from _family("build_info", "The probe that wrote this; always 1.", [({"version": __version__}, 1)])


def _replaced(report: Report) -> Iterator[tuple[dict[str, str], int]]:
    """Where and by what sources were replaced, with the number of connections; of all journeys, by their paths."""
    journeys = {journey.id: journey for journey in report.journeys}
    counted: Counter[tuple[str, str]] = Counter()
    for path in report.paths:
        if (journey := journeys.get(path.example)) is not None:
            for place in {(snat.node or "", snat.mechanism) for snat in journey.snat}:
                counted[place] += path.count
    for (node, mechanism), number in sorted(counted.items()):
        yield {"node": node, "mechanism": mechanism}, number


def _family(name: str, said: str, samples: Sequence[_Sample]) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {said}"
    yield f"# TYPE {PREFIX}{name} gauge"
    written: dict[str, float] = {}
    for labels, value in samples:
        inside = ",".join(f'{key}="{_label(text)}"' for key, text in labels.items())
        written[inside] = written.get(inside, 0) + value  # two values may look the same once they are cut
    for inside, value in written.items():
        yield f"{PREFIX}{name}{{{inside}}} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _label(text: str) -> str:
    return escape(text, limit=_LABEL).replace("\\", "\\\\").replace('"', '\\"')
