"""The report as one HTML file: no request goes out from it, and nothing in it is obeyed but our own script and style.

Everything that is text is escaped by `probe.render.html.markup`. Besides, a policy in the file allows the browser one
style sheet and one script, by their digests, and no connection at all. Without the script all is there but the filter.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files

from analysis.report import Finding, Forgery, Hop, Journey, Path, Report, RuleSaid, Verdict
from probe import __version__
from probe.render.html.evidence import Evidence
from probe.render.html.markup import Content, Markup, document, element, raw, scrolling
from probe.render.html.page_evidence import evidence_of
from probe.render.html.page_health import health_section
from probe.render.html.page_map import WAYS, draw
from probe.render.rows import SAID, bare
from probe.render.style import count

_ORDER = (Verdict.LOST, Verdict.BLACKHOLED, Verdict.INCONCLUSIVE, Verdict.PRESERVED)
_SIGNS = {Verdict.LOST: "×", Verdict.BLACKHOLED: "×", Verdict.INCONCLUSIVE: "‼", Verdict.PRESERVED: "✓"}

#: Journeys of one path that are listed, and paths that are told; the JSON report has all.
_LISTED, _TOLD = 200, 500

#: Paths of which is shown what was recorded of each hop.
_WITH_EVIDENCE = 50

_EVIDENCE = {
    "packet": "packets",
    "conntrack": "kernel's NAT record",
    "header": "PROXY header or field",
    "log": "answer or log",
}

_Member = tuple[Path, Journey, Sequence[Journey]]


def to_html(report: Report, evidence: Evidence | None = None) -> str:
    """The whole report as a document of its own; with `evidence`, what was recorded of each hop."""
    style, script = (_own(name) for name in ("page.css", "page.js"))
    members = _members(report)
    title = f"Client addresses{f' of {report.service}' if report.service else ''}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        raw("style", style),
    )
    body = element(
        "body",
        element("a", "Skip to the paths", href="#paths", class_="skip"),
        element("header", element("h1", title), _summary(report)),
        element(
            "main",
            _map(members),
            _paths(members, report, evidence),
            _findings(report.findings),
            health_section(report.health) if report.health is not None else None,
            _forgeries(report),
        ),
        _capture(report),
        raw("script", script),
    )
    return document(element("html", head, body, lang="en"))


def _own(name: str) -> str:
    return files("probe.render.html").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    digests = (f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in (style, script))
    own_style, own_script = digests
    return f"default-src 'none'; style-src {own_style}; script-src {own_script}; form-action 'none'; base-uri 'none'"


def _members(report: Report) -> list[_Member]:
    """Each path with its example and the journeys that are told of it, the gravest first."""
    groups: dict[str, list[Journey]] = {}
    for journey in report.journeys:
        groups.setdefault(journey.shape, []).append(journey)
    by_id = {journey.id: journey for journey in report.journeys}
    known = [
        (path, by_id[path.example], groups.get(path.shape, []))
        for path in report.paths
        if path.example in by_id
    ]
    return sorted(known, key=lambda each: (_ORDER.index(each[0].verdict), -each[0].count))


def _summary(report: Report) -> list[Markup]:
    counted = [(verdict, getattr(report.summary, verdict.value)) for verdict in _ORDER]
    items = [
        element("li", element("b", f"{number:,}"), _verdict(verdict)) for verdict, number in counted if number
    ]
    if not items:
        items = [element("li", element("b", "0"), "connections were seen")]
    said = [element("p", report.title, class_="soft")] if report.title else []
    return [*said, element("ul", *items, class_="counts")]


def _verdict(verdict: Verdict) -> Markup:
    return element("span", f"{_SIGNS[verdict]} {verdict}", class_=f"verdict {verdict}")


def _map(members: Sequence[_Member]) -> Markup | None:
    drawn = draw([(path, journey) for path, journey, _ in members])
    if drawn is None:
        return None
    more = f" The first {WAYS} of {len(members)} paths are drawn." if len(members) > WAYS else ""
    return element(
        "section",
        element("h2", "Map", id="map-title"),
        element(
            "p",
            "On each arrow: the source address of the packets there; ≠ marks one that replaced another. Dashed: lost "
            f"or blackholed. Dotted: inconclusive.{more}",
            class_="soft",
        ),
        scrolling("Map", drawn),
    )


def _paths(members: Sequence[_Member], report: Report, evidence: Evidence | None) -> Markup:
    told = members[:_TOLD]
    notes = []
    if len(members) > len(told):
        notes.append(element("p", f"{count(len(members) - len(told), 'more path')} in the JSON report."))
    if report.journeys_omitted:
        notes.append(
            element("p", f"{report.journeys_omitted:,} connections are counted and not told one by one.")
        )
    articles = [
        _path(number, member, evidence if number <= _WITH_EVIDENCE else None)
        for number, member in enumerate(told, start=1)
    ]
    return element(
        "section", element("h2", "Paths", id="paths", tabindex=-1), _filter(told), *articles, *notes
    )


def _filter(members: Sequence[_Member]) -> Markup:
    verdicts = [verdict for verdict in _ORDER if any(path.verdict is verdict for path, *_ in members)]
    nodes = sorted({node for _, journey, _ in members for node in _nodes(journey)})
    return element(
        "form",
        element("label", "Verdict", _select("verdict", [str(verdict) for verdict in verdicts])),
        element("label", "Node", _select("node", nodes)),
        element("label", "Client", element("input", name="client", type="search", autocomplete="off")),
        element("button", "Show all", type="reset"),
        element("output", id="shown", aria_live="polite"),
        id="filter",
        hidden=True,
        aria_label="Filter the paths",
    )


def _select(name: str, values: Sequence[str]) -> Markup:
    options = [element("option", value, value=value) for value in values]
    return element("select", element("option", "all", value=""), *options, name=name)


def _nodes(journey: Journey) -> list[str]:
    return list(dict.fromkeys(hop.node for hop in journey.hops if hop.node))


def _path(number: int, member: _Member, evidence: Evidence | None) -> Markup:
    path, journey, group = member
    clients = {each.client.address for each in group if each.client}
    heading = f"path-{number}"
    to = f" to {journey.service}" if journey.service else ""
    return element(
        "article",
        element(
            "h3",
            _verdict(path.verdict),
            f" · Path {number} · {count(path.count, 'connection')}{to}",
            id=heading,
        ),
        _about(journey),
        _hops(journey),
        evidence_of(journey, evidence) if evidence is not None else None,
        _listed(group) if len(group) > 1 else None,
        data_path=path.shape,
        data_verdict=str(path.verdict),
        data_nodes=json.dumps(_nodes(journey)),
        data_clients=json.dumps(sorted(clients)),
        aria_labelledby=heading,
    )


def _about(journey: Journey) -> Markup:
    facts: list[tuple[str, Content]] = [("Why", journey.reason)] if journey.reason else []
    for snat in journey.snat:
        became = f"{snat.from_} became {snat.to}" if snat.from_ else f"the source is {snat.to}"
        rule = f", rule {snat.rule}" if snat.rule else ""
        facts.append(("Who", f"{snat.node or 'outside the cluster'}: {snat.mechanism}{rule}: {became}"))
    facts += [("Rule", _rule(told)) for told in journey.rules]
    if journey.client:
        facts.append(("Client", f"{journey.client.address}, port {journey.client.port}"))
    if journey.seen_by_app:
        facts.append(("Application sees", journey.seen_by_app))
    if journey.endpoint:
        facts.append(("Endpoint", journey.endpoint))
    if cross := journey.cross_node:
        facts.append(("Crosses nodes", f"{cross.from_} to {cross.to}, {cross.via}"))
    if header := journey.proxy_protocol:
        facts.append(
            ("PROXY header", f"version {header.version} {header.command}: {header.source or 'nobody'}")
        )
    if journey.confidence in {"medium", "low"}:
        facts.append(("Confidence", journey.confidence))
    facts += [("Also", line) for line in journey.support]
    for resolved in journey.resolved:
        takes = f"would take {resolved.client} for the client" if resolved.client else "would name no client"
        facts.append(("By configuration", f"{resolved.server} {takes}: {resolved.rule}"))
    if journey.findings:
        facts.append(("Findings", ", ".join(journey.findings)))
    if journey.display_filter:
        facts.append(("In Wireshark", element("code", journey.display_filter)))
    return element("dl", [(element("dt", name), element("dd", said)) for name, said in facts])


def _rule(rule: RuleSaid) -> list[str | Markup]:
    """A rule that the kernel named, or that counters leave, with what it is for."""
    where = (
        f"{rule.node}, in the pod with network namespace {rule.namespace}" if rule.namespace else rule.node
    )
    words = f"; {rule.words}" if rule.words else ""
    known = {"trace": "", "counters": " (by its counter)"}.get(rule.evidence, " (one of several that fit)")
    return [f"{where}, {rule.did}: ", element("code", rule.rule), words, known]


def _hops(journey: Journey) -> Markup:
    heads = ("Node", "At", "Source", "Destination", "Evidence", "After", "Note")
    start = min((hop.time for hop in journey.hops), default=0.0)
    caption = f"Hops of {journey.id}{_when(start)}"
    return scrolling(
        caption,
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", [element("th", head, scope="col") for head in heads])),
            element("tbody", [_hop(hop, start) for hop in journey.hops]),
        ),
    )


def _hop(hop: Hop, start: float) -> Markup:
    at = SAID.get(hop.point) or " ".join(filter(None, (hop.tap or hop.point, hop.interface)))
    at = "kernel NAT" if hop.evidence == "conntrack" else at
    after = f"{(hop.time - start) * 1e3:+.3f} ms" if hop.time else ""
    return element(
        "tr",
        element("td", hop.node or "–"),
        element("td", at),
        _end(hop, "source", hop.source),
        _end(hop, "destination", hop.destination),
        element("td", _EVIDENCE.get(hop.evidence, hop.evidence)),
        element("td", after, class_="time"),
        element("td", hop.note or ""),
    )


def _end(hop: Hop, name: str, text: str) -> Markup:
    if name not in hop.changed:
        return element("td", bare(text), class_="address")
    return element("td", bare(text), element("span", " (replaced)"), class_="address changed")


def _listed(group: Sequence[Journey]) -> Markup:
    rows = [
        element(
            "tr",
            element("td", each.id),
            element(
                "td", f"{each.client.address} {each.client.port}" if each.client else "–", class_="address"
            ),
            element("td", each.seen_by_app or "–", class_="address"),
            element("td", str(each.requests or "–")),
        )
        for each in group[:_LISTED]
    ]
    heads = element(
        "tr", [element("th", name, scope="col") for name in ("Journey", "Client", "Seen by", "Requests")]
    )
    more = element("p", f"and {len(group) - _LISTED:,} more") if len(group) > _LISTED else None
    shown = element("table", element("thead", heads), element("tbody", rows))
    said = f"{count(len(group), 'connection')} of this path"
    return element("details", element("summary", said), scrolling(said, shown), more)


def _findings(findings: Sequence[Finding]) -> Markup | None:
    if not findings:
        return None
    told = [
        element(
            "div",
            element(
                "h3",
                element("span", f"{each.severity} {each.code}", class_=f"verdict {each.severity}"),
                f" · {each.title}",
                f" ({count(each.journeys, 'connection')})" if each.journeys else "",
            ),
            element("p", each.detail),
            element("p", element("b", "Fix: "), each.fix),
            element("ul", [element("li", element("code", line)) for line in each.evidence])
            if each.evidence
            else None,
            element("p", "Confidence is medium: other faults look the same.")
            if each.confidence != "high"
            else None,
            element("p", "More: ", element("code", f"probe explain {each.code}"), class_="soft"),
            class_=f"finding is-{each.severity}",
        )
        for each in findings
    ]
    return element("section", element("h2", "Findings"), *told)


def _forgeries(report: Report) -> Markup | None:
    if not report.forgeries:
        return None
    heads = element(
        "tr", [element("th", name, scope="col") for name in ("Claim", "Value", "Outcome", "Believed")]
    )
    return element(
        "section",
        element("h2", "Forged claims"),
        scrolling(
            "Forged claims",
            element(
                "table", element("thead", heads), element("tbody", list(map(_forgery, report.forgeries)))
            ),
        ),
    )


def _forgery(forged: Forgery) -> Markup:
    return element(
        "tr",
        element("td", forged.claim),
        element("td", forged.value, class_="address"),
        element("td", str(forged.outcome)),
        element("td", f"{forged.reached} of {forged.requests}"),
    )


def _capture(report: Report) -> Markup:
    capture = report.capture
    state = "complete" if capture.complete else "incomplete"
    drops = f"{capture.kernel_drops:,} dropped by kernels" if capture.kernel_drops else "none dropped"
    return element(
        "footer",
        element("h2", "Capture"),
        element(
            "p",
            element(
                "span", state, class_="verdict preserved" if capture.complete else "verdict inconclusive"
            ),
            f" · {', '.join(capture.nodes) or 'no node'} · {count(capture.observations, 'observation')}, {drops}",
        ),
        element("ul", [element("li", reason) for reason in capture.reasons]) if capture.reasons else None,
        element("p", f"Written by probe {__version__}.", class_="soft"),
    )


def _when(time: float) -> str:
    """The time of a journey's beginning, in UTC; nothing where it is none that a calendar knows."""
    try:
        return f", {datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC" if time else ""
    except (ValueError, OverflowError, OSError):
        return ""
