"""The lab for people: what scenarios there are, the story of one, what was answered, the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from probe.lab import Answer, Result, Scenario
from probe.playing.play import Played
from probe.render.style import Paper, count


def list_text(scenarios: Sequence[Scenario], stream: TextIO) -> str:
    """Names and titles."""
    paper = Paper(stream)
    width = max((len(scenario.name) for scenario in scenarios), default=0)
    for scenario in scenarios:
        paper.paragraph(paper.pad(scenario.name, width), scenario.title, indent=0)
    return paper.written


def story_text(scenario: Scenario, stream: TextIO, prefix: str = "") -> str:
    """What is about to be seen."""
    paper = Paper(stream)
    paper.print()
    title = f"{prefix}{scenario.title}"
    paper.print((title, "bold"))
    paper.print(("=" * min(len(title), paper.columns), "bold"))
    for block in scenario.story.strip().split("\n\n"):
        paper.paragraph("", " ".join(block.split()), indent=0)
    paper.print()
    return paper.written


def answers_text(played: Played, stream: TextIO) -> str:
    """What the application itself said: the truth that needs no probe."""
    paper = Paper(stream)
    paper.print(("What the application itself answered:", "bold"))
    for answer in played.answers:
        paper.print("  ", *_answer(answer))
    paper.print()
    return paper.written


def _answer(answer: Answer) -> list[str | tuple[str, str]]:
    result = answer.result
    asked = f"{answer.place} {result.source} called {_target(result)}: "
    if result.seen is None:
        return [
            asked,
            (f"{result.outcome}, HTTP {result.status}" if result.status else result.outcome, "yellow"),
        ]
    own = result.seen == result.source
    return [asked, '"you are ', (result.seen, "green" if own else "bold red"), '"']


def _target(result: Result) -> str:
    return (
        f"[{result.target}]:{result.target_port}"
        if ":" in result.target
        else f"{result.target}:{result.target_port}"
    )


def outcome_text(played: Played, wrong: Sequence[str], stream: TextIO) -> str:
    """Whether a scenario came out as it must, and what did not."""
    paper = Paper(stream)
    name, mode = played.scenario.name, played.plan.proxy_mode
    total = count(len(played.answers), "request")
    if not wrong:
        paper.paragraph("✓", f"{name}, {mode}: {total}, all as expected", indent=0, label_style="green")
        return paper.written
    paper.paragraph("×", f"{name}, {mode}: {total}, not as expected", indent=0, label_style="bold red")
    for complaint in wrong:
        paper.paragraph("·", complaint)
    return paper.written


def tour_start(stream: TextIO) -> str:
    """What the tour is about."""
    paper = Paper(stream)
    paper.print(("Where does the client's IP address get lost?", "bold"))
    paper.print()
    paper.paragraph(
        "",
        "A small cluster of network namespaces is built on this machine: real kernel NAT as kube-proxy sets "
        "it up, real servers, and an application that answers with the address that it sees. Packets are "
        "watched at every point on every node at the same time.",
        indent=0,
    )
    paper.print()
    paper.paragraph(
        "",
        "A path below is read from top to bottom: under each machine, the places where the connection was "
        "seen, with the source and destination that its packets had there. kernel NAT is the kernel's own "
        "record (conntrack).",
        indent=0,
    )
    return paper.written


def tour_end(stream: TextIO) -> str:
    """Where to go from here."""
    paper = Paper(stream)
    paper.print()
    paper.print(("Next:", "bold"))
    for command, what in (
        ("probe lab list", "more scenarios: PROXY protocol, overlays, load balancers, blackholes"),
        ("probe demo --scenario NAME", "play one of them"),
        ("probe explain SIP101", "what a finding means"),
        ("probe analyze --help", "judge captures of your own cluster"),
    ):
        paper.paragraph(paper.pad(command, 26), what)
    return paper.written
