"""The report for people: the verdict first, then each path, then what to do, then what was seen.

Journeys that took the same path are shown once, with their number. The order of the parts is by how soon a
reader needs them. Everything is said in words; colours and glyphs only repeat it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from analysis.report import Capture, Finding, Journey, Path, Report, Resolved, Severity, Snat, Verdict
from probe.render.forgeries import print_forgeries
from probe.render.health import print_health
from probe.render.path import Columns, columns, print_path
from probe.render.rows import endpoint_of, last_word
from probe.render.servers import servers
from probe.render.style import Paper, count

#: Paths and journeys beyond these are counted, not shown; the JSON holds all of them.
PATHS_SHOWN = 20
JOURNEYS_SHOWN = 200

ORDER = (Verdict.LOST, Verdict.BLACKHOLED, Verdict.INCONCLUSIVE, Verdict.PRESERVED)

VERDICT_STYLES = {
    Verdict.PRESERVED: "bold green",
    Verdict.LOST: "bold red",
    Verdict.BLACKHOLED: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
}


def to_text(report: Report, stream: TextIO, *, wide: bool = False, width: int | None = None) -> str:
    """The report as `stream` can show it; `wide` adds times, evidence and a table of every journey."""
    paper = Paper(stream, wide=wide, width=width)
    if report.title:
        paper.sentence("", report.title, indent=0, style="dim")
    _headline(paper, report)
    _paths(paper, report)
    if wide and report.journeys:
        _table(paper, report.journeys, report.journeys_omitted)
    if report.findings:
        print_findings(paper, report.findings)
    if report.health is not None:
        print_health(paper, report.health, timeline=wide)
    if report.forgeries:
        print_forgeries(paper, report.forgeries)
    print_capture(paper, report.capture)
    return paper.written


def _headline(paper: Paper, report: Report) -> None:
    summary = report.summary
    service = f" to {report.service}" if report.service else ""
    total = count(summary.journeys, "connection")
    verdict = _overall(report)
    others = [
        f"{number} {name}"
        for name, number in (
            ("preserved", summary.preserved),
            ("lost", summary.lost),
            ("blackholed", summary.blackholed),
            ("inconclusive", summary.inconclusive),
        )
        if number and name != verdict
    ]
    every = not others
    match verdict:
        case Verdict.PRESERVED:
            text = f"{_all(total, every)}{service} kept the client's address"
        case Verdict.LOST:
            text = f"{_part(summary.lost, total, every)}{service} lost the client's address"
        case Verdict.BLACKHOLED:
            text = f"{_part(summary.blackholed, total, every)}{service} got no answer at all"
        case _ if not summary.journeys:
            text = f"no client's connection{service} was seen"
        case _:
            number = f"{summary.inconclusive:,} of {total}" if others else total
            reasons = {journey.reason for journey in report.journeys if journey.verdict is verdict}
            why = f": {reasons.pop()}" if len(reasons) == 1 else ""
            text = f"nothing certain can be said of {number}{service}{why}"
    glyph, style = paper.glyph(verdict)
    tail = f" ({', '.join(others)})" if others else ""
    lead = f"{glyph} {verdict.upper()}"
    paper.paragraph(lead, text + tail, indent=0, style=style)


def _overall(report: Report) -> Verdict:
    summary = report.summary
    if summary.lost:
        return Verdict.LOST
    if summary.blackholed:
        return Verdict.BLACKHOLED
    if summary.inconclusive or not summary.journeys:
        return Verdict.INCONCLUSIVE
    return Verdict.PRESERVED


def _all(total: str, every: bool) -> str:
    return f"all {total}" if every and not total.startswith("1 ") else total


def _part(number: int, total: str, every: bool) -> str:
    return _all(total, every=True) if every else f"{number:,} of {total}"


def _paths(paper: Paper, report: Report) -> None:
    journeys = {journey.id: journey for journey in report.journeys}
    paths = sorted(
        (path for path in report.paths or _grouped(report.journeys) if path.example in journeys),
        key=lambda path: (ORDER.index(path.verdict), -path.count),
    )
    shown = paths[:PATHS_SHOWN]
    widths = columns(paper, [journeys[path.example] for path in shown])
    for number, path in enumerate(shown, start=1):
        paper.print()
        _path(paper, f"Path {number}", path, journeys[path.example], widths)
    if len(paths) > len(shown):
        rest = sum(path.count for path in paths[PATHS_SHOWN:])
        paper.print()
        paper.print(
            (f"and {count(len(paths) - len(shown), 'more path')} of {count(rest, 'connection')}", "dim"),
            ("; -o json has them all", "dim"),
        )


def _grouped(journeys: Iterable[Journey]) -> tuple[Path, ...]:
    """Paths by shape, for a report that does not bring them along."""
    groups: dict[tuple[str, Verdict], list[Journey]] = {}
    for journey in journeys:
        groups.setdefault((journey.shape or journey.id, journey.verdict), []).append(journey)
    return tuple(
        Path(shape=shape, count=len(members), verdict=verdict, example=members[0].id)
        for (shape, verdict), members in groups.items()
    )


def _path(paper: Paper, name: str, path: Path, journey: Journey, widths: Columns) -> None:
    glyph, style = paper.glyph(path.verdict)
    facts = [count(path.count, "connection")]
    if journey.protocol != "tcp":
        facts.append(journey.protocol)
    if journey.service:
        facts.append(f"to {journey.service}")
    if cross := journey.cross_node:
        facts.append(f"crosses nodes: {cross.from_} → {cross.to} ({cross.via})")
    if journey.requests > 1 and path.count == 1:
        facts.append(count(journey.requests, "request"))
    paper.paragraph(f"{glyph} {path.verdict}", f"{name} · {' · '.join(facts)}", indent=0, label_style=style)
    if path.count > 1:
        several = f", with {count(journey.requests, 'request')}" if journey.requests > 1 else ""
        paper.print((f"  shown is the first of them{several}", "dim"))
    print_path(paper, journey, widths)
    paper.print()
    if (header := journey.proxy_protocol) and header.source is None:
        paper.paragraph("PROXY header", f"v{header.version} {header.command}: it names nobody")
    _reasons(paper, journey)


def _reasons(paper: Paper, journey: Journey) -> None:
    """What the verdict rests on, who it was, and what configurations and logs say."""
    told_by_who = bool(journey.snat) and journey.verdict is Verdict.LOST
    if journey.reason and (paper.wide or not told_by_who):
        paper.sentence("Why ", journey.reason)
    for snat in journey.snat:
        # Below a header or a field that carries the client, a replaced packet source does no harm.
        paper.sentence("Also" if journey.verdict is Verdict.PRESERVED else "Who ", _who(snat))
        if snat.rule:
            paper.sentence("Rule", snat.rule)
    _rules(paper, journey)
    for line in servers(journey):
        paper.sentence("Who ", line)
    if journey.confidence in {"medium", "low"}:
        paper.sentence("Sure", f"confidence is {journey.confidence}{_doubt(journey)}")
    for line in journey.support:
        paper.sentence("Also", line)
    for resolved in journey.resolved:
        _resolved(paper, resolved, endpoint_of(journey))
    if journey.findings:
        paper.sentence("See ", ", ".join(journey.findings))
    if paper.wide and journey.display_filter:
        paper.sentence("Filt", journey.display_filter)


def _rules(paper: Paper, journey: Journey) -> None:
    """What the rules are for that the kernel named; `wide`, all of them as they stand."""
    label = "    " if any(snat.rule for snat in journey.snat) else "Rule"
    for said in journey.rules:
        inside = f", in the pod with network namespace {said.namespace}," if said.namespace else ""
        if paper.wide:
            paper.sentence("Rule", f"{said.node}{inside} {said.did}: {said.rule}")
        plain = said.did == "dnat" or (said.did == "snat" and said.owner == "kube-proxy")
        if said.words and not plain:
            paper.sentence(label, said.words)


def _who(snat: Snat) -> str:
    who = [snat.node, snat.mechanism or "something"]
    became = f"{snat.from_} became {snat.to}" if snat.from_ else f"the source is {snat.to}"
    return f"{', '.join(part for part in who if part)}: {became}"


def _doubt(journey: Journey) -> str:
    """What a verdict of less than high confidence leaves open."""
    word = last_word(journey)
    if journey.protocol != "tcp":
        return ": datagrams are followed by their payload, which two clients can share"
    if word is not None and word.point == "http-header":
        return ": what the application makes of what it is told was not heard"
    if journey.proxy_protocol is not None and word is None:
        return ": what the server makes of the header was not heard"
    return ""


def _resolved(paper: Paper, resolved: Resolved, endpoint: str) -> None:
    """Whom a server would take for the client by its configuration; what listens at a port is the endpoint."""
    named = {"port": f"{endpoint}, {resolved.server},", "application": "the application"}
    server = named.get(resolved.server.partition(" ")[0], resolved.server)
    outcome = {True: ", as was seen", False: ", which is not what was seen", None: ""}[resolved.agrees]
    takes = f"would take {resolved.client} for the client" if resolved.client else "would name no client"
    forgeable = "; whoever reaches it directly may claim any address" if resolved.forgeable else ""
    text = f"{server} {takes}{outcome}: {resolved.rule}{forgeable}"
    paper.sentence("Conf", text, style="yellow" if resolved.agrees is False else "")
    if paper.wide:
        paper.sentence("    ", resolved.source)


def _table(paper: Paper, journeys: tuple[Journey, ...], omitted: int) -> None:
    """Every journey on one line."""
    head = ("JOURNEY", "PROTOCOL", "CLIENT", "VERDICT", "SEEN BY APP", "ENDPOINT", "REQUESTS", "FINDINGS")
    rows = [head, *map(_row, journeys[:JOURNEYS_SHOWN])]
    widths = [min(max(len(paper.safe(row[n])) for row in rows), 48) for n in range(len(head))]
    paper.print()
    for row in rows:
        cells = [paper.pad(cell, width) for cell, width in zip(row, widths, strict=True)]
        paper.print(("  ".join(cells), "bold" if row is head else ""))
    if len(journeys) > JOURNEYS_SHOWN:
        paper.print((f"and {len(journeys) - JOURNEYS_SHOWN:,} more; -o jsonl has them", "dim"))
    if omitted:
        paper.print((f"and {omitted:,} more of the same paths, which are counted and not listed", "dim"))


def _row(journey: Journey) -> tuple[str, ...]:
    client = journey.client
    return (
        journey.id,
        journey.protocol,
        f"{client.address} {client.port}" if client else "-",
        journey.verdict,
        journey.seen_by_app or "-",
        journey.endpoint or "-",
        str(journey.requests or "-"),
        ",".join(journey.findings) or "-",
    )


def print_findings(paper: Paper, findings: tuple[Finding, ...]) -> None:
    """What is wrong, and what to do about it, gravest first."""
    order = list(Severity)
    paper.print()
    paper.print(("Findings", "bold"))
    for finding in sorted(findings, key=lambda each: order.index(each.severity)):
        glyph, style = paper.glyph(finding.severity)
        number = f" ({count(finding.journeys, 'connection')})" if finding.journeys else ""
        paper.paragraph(f"{glyph} {finding.code}", f"{finding.title}{number}", style=style)
        if finding.severity is not Severity.INFO or paper.wide:
            paper.paragraph("", finding.detail, indent=4)
            if finding.confidence != "high":
                doubt = (
                    "confidence is {}: other faults look the same; --ingress-log or --ingress-config can tell"
                )
                paper.paragraph("Sure", doubt.format(finding.confidence), indent=4)
            paper.paragraph("Fix ", finding.fix, indent=4)
        paper.paragraph("More", f"probe explain {finding.code}", indent=4)
        if paper.wide or _told_nowhere_else(finding):
            for witness in finding.evidence:
                paper.paragraph("Seen", witness, indent=4)


def _told_nowhere_else(finding: Finding) -> bool:
    """Whether nothing but its evidence says where it is: no path, nor the parts about health checks and the capture."""
    if finding.severity is Severity.INFO or finding.journeys:
        return False
    return not finding.code.startswith(("SIP6", "SIP9"))


def print_capture(paper: Paper, capture: Capture) -> None:
    """How much of the truth was seen."""
    paper.print()
    drops = f"{capture.kernel_drops:,} dropped by kernels" if capture.kernel_drops else "none dropped"
    state = "complete" if capture.complete else "incomplete"
    paper.paragraph(
        "Capture",
        f"{state} · {', '.join(capture.nodes) or 'no node'} · "
        f"{count(capture.observations, 'observation')}, {drops}",
        indent=0,
    )
    for part in _parts(capture):
        paper.paragraph("·", part, indent=2)
    for reason in capture.reasons:
        paper.paragraph("‼", reason, indent=2, style="yellow")


def _parts(capture: Capture) -> Iterable[str]:
    """What of all that happened this report is about, where that is not everything."""
    if capture.sample > 1:
        yield f"a sample: 1 of {capture.sample:,} TCP connections was watched, the same ones on every node"
    if capture.clients:
        left_out = [
            text
            for number, text in (
                (capture.other_clients, f"{count(capture.other_clients, 'connection')} of others"),
                (
                    capture.unknown_clients,
                    f"{count(capture.unknown_clients, 'connection')} of nobody knows whom",
                ),
            )
            if number
        ]
        tail = f"; left out: {' and '.join(left_out)}" if left_out else ""
        yield f"only connections of {', '.join(capture.clients)}{tail}"
