"""The report as JUnit XML, as CI servers read it: one test case for each path, and one for each finding.

A path whose clients' addresses were lost or blackholed fails; an inconclusive one is an error of the capture, which CI
must not take for a pass either. A finding fails with severity error; others say what they say in `system-out`.
"""

from __future__ import annotations

from xml.sax.saxutils import escape as escape_xml
from xml.sax.saxutils import quoteattr

from analysis.report import Finding, Journey, Path, Report, Severity, Verdict
from probe.render.escape import escape
from probe.render.style import count

_KINDS = {
    Verdict.LOST: "failure",
    Verdict.BLACKHOLED: "failure",
    Verdict.INCONCLUSIVE: "error",
    Verdict.PRESERVED: "system-out",
}


def to_junit(report: Report) -> str:
    """One test suite. Without any journey it holds one error: nothing was verified."""
    journeys = {journey.id: journey for journey in report.journeys}
    cases = [_path(path, journeys[path.example]) for path in report.paths if path.example in journeys]
    inconclusive = sum(path.count for path in report.paths if path.verdict is Verdict.INCONCLUSIVE)
    if (untold := report.summary.inconclusive - inconclusive) > 0:
        said = f"{count(untold, 'connection')} of these paths were not judged one by one"
        cases.append(
            _case("journeys", "connections that are counted", _problem("error", "inconclusive", said))
        )
    if not report.summary.journeys:
        cases.append(
            _case("journeys", "connections were seen", _problem("error", "none", "no connection was seen"))
        )
    cases += map(_finding, report.findings)
    failures, errors = (sum(f"<{kind} " in case for case in cases) for kind in ("failure", "error"))
    name = f"client addresses, {report.service}" if report.service else "client addresses"
    head = f'<testsuite name={_quoted(name)} tests="{len(cases)}" failures="{failures}" errors="{errors}" skipped="0">'
    written = "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *cases, "</testsuite>"])
    return written + "\n"


def _path(path: Path, journey: Journey) -> str:
    to = journey.service or (journey.hops[0].destination if journey.hops else "nowhere")
    endpoint = f" at {journey.endpoint}" if journey.endpoint else ""
    client = journey.client.address if journey.client else "unknown"
    name = f"{path.shape}: {to}{endpoint}, {count(path.count, 'connection')}"
    text = "\n".join(
        [
            f"{path.verdict}: {journey.reason}",
            f"client {client}, application sees {journey.seen_by_app or 'unknown'}, example {journey.id}",
            *(f"{snat.node}: {snat.from_} became {snat.to} by {snat.mechanism}" for snat in journey.snat),
            *(
                f"{hop.node or '-'} {hop.point} {hop.interface or '-'}: {hop.source} > {hop.destination}"
                for hop in journey.hops
            ),
        ]
    )
    return _case("journeys", name, _problem(_KINDS[path.verdict], path.verdict, journey.reason, text))


def _finding(finding: Finding) -> str:
    text = "\n".join([finding.detail, f"Fix: {finding.fix}", *finding.evidence, finding.docs])
    kind = "failure" if finding.severity is Severity.ERROR else "system-out"
    title = f"{finding.code} {finding.title}"
    return _case("findings", title, _problem(kind, finding.code, finding.title, text))


def _case(group: str, name: str, inside: str) -> str:
    return f'  <testcase classname="probe.{group}" name={_quoted(name)}>{inside}</testcase>'


def _problem(kind: str, type_: str, message: str, text: str = "") -> str:
    attributes = "" if kind == "system-out" else f" type={_quoted(type_)} message={_quoted(message)}"
    return f"<{kind}{attributes}>{_text(text or message)}</{kind}>"


def _text(text: str) -> str:
    """Lines of characters that XML 1.0 knows, with the rest as escapes."""
    return escape_xml("\n".join(map(escape, text.split("\n"))))


def _quoted(text: str) -> str:
    return quoteattr(escape(text))
