"""What a client can forge, for people: each forged claim, and whether the application took it for true."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.report import Forged, Forgery, Severity
from probe.render.style import Paper, count

_SIGNS = {
    Forged.REACHED: Severity.ERROR,
    Forged.UNKNOWN: Severity.WARNING,
    Forged.NOT_REACHED: Severity.INFO,
}
_SAID = {
    Forged.REACHED: "reached the application as the client's address",
    Forged.UNKNOWN: "it is not known whether the application believed it",
    Forged.NOT_REACHED: "the application did not take it for the client's address",
}
_TOGETHER = {Forged.UNKNOWN: "not known", Forged.NOT_REACHED: "not believed"}


def print_forgeries(paper: Paper, forgeries: Sequence[Forgery]) -> None:
    """A section of its own, those that were believed first; the others by name only, unless there is room."""
    paper.print()
    paper.print(("What a client can forge", "bold"))
    for outcome, sign in _SIGNS.items():
        members = [each for each in forgeries if each.outcome is outcome]
        if outcome in _TOGETHER and not paper.wide and len(members) > 1:
            glyph, _ = paper.glyph(sign)
            names = dict.fromkeys(each.claim for each in members)
            paper.paragraph(f"{glyph} {_TOGETHER[outcome]}", ", ".join(names))
            if outcome is Forged.UNKNOWN:
                for witness in members[0].evidence[:1]:  # why it is not known
                    paper.paragraph("Seen", witness, indent=4)
            continue
        for each in members:
            _forgery(paper, each)


def _forgery(paper: Paper, forgery: Forgery) -> None:
    glyph, style = paper.glyph(_SIGNS[forgery.outcome])
    text = f"{forgery.value}: {_SAID[forgery.outcome]}"
    if forgery.requests > 1:
        text += f" ({forgery.reached} of {count(forgery.requests, 'request')} believed)"
    paper.paragraph(f"{glyph} {forgery.claim}", text, style=style)
    for witness in forgery.evidence if paper.wide else forgery.evidence[:1]:
        paper.paragraph("Seen", witness, indent=4)
