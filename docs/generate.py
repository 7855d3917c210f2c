"""Bring what README.md and docs/ show up to date: `make docs`, or `python docs/generate.py [FILE.md ...]`.

Two kinds of text are generated, in place:

1. Fenced blocks of the language `console`. Lines that begin with "$ " are commands ("> " continues one); the
   rest is what they print, without the lines of progress that a terminal overwrites. They are run in a folder
   that holds a copy of docs/examples, all blocks of one document in the same one.
2. What stands between `<!-- generated: NAME -->` and `<!-- end of generated -->`: text made from the code.

Ports, counts of observations and times differ from run to run. Where nothing else has changed the old text stays
(`canonical`), so that running this twice changes nothing. Fences of the language `sh` are not run; tests hold
them to a reason that is written above them.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from analysis.catalogue.findings import CATALOGUE
from analysis.catalogue.pictures import picture
from analysis.report import Capture, Report, Severity, Summary, Verdict
from probe.lab import list_scenarios, load_scenario
from probe.render.live import Found, Seen, State, draw
from probe.render.machines.metrics import PREFIX, to_metrics

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = REPOSITORY / "docs" / "examples"
COLUMNS = 80

#: A command that holds one of these needs the lab.
LAB_WORDS = ("probe demo", "probe lab run", "--lab ")

_BLOCK = re.compile(r"(?ms)^```console\n(?P<body>.*?)^```$")
_GENERATED = re.compile(
    r"(?ms)(?P<head>^<!-- generated: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(?P<foot>^<!-- end of generated -->$)"
)
_MARK = "\x1e"  # between the outputs of two commands

#: Ports that scenarios and examples give on purpose, other than those that kernels choose.
_GIVEN_PORTS = "30080|32100|10256|8080|8081|8000|5353"


class ShownError(Exception):
    """A block that cannot be brought up to date; the text says why."""


@dataclass(frozen=True)
class Shown:
    """One command of a console block, and what is said to come of it."""

    command: str
    output: str

    @property
    def needs_lab(self) -> bool:
        """Whether network namespaces are needed to run it."""
        return any(word in self.command for word in LAB_WORDS)


def documents() -> list[Path]:
    """Everything written for people, in the order of its paths."""
    top = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*top, *sorted((REPOSITORY / "docs").glob("*.md"))]


def shown_in(text: str) -> list[Shown]:
    """The commands of all console blocks of a document, in order."""
    return [shown for match in _BLOCK.finditer(text) for shown in _parse(match["body"])]


def run(commands: list[str], folder: Path) -> list[str]:
    """What commands print, run one after the other by one shell in `folder`."""
    script = "\n".join(f"{command}\n(s=$?; printf '{_MARK}'; exit $s)" for command in commands)
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"]),
        "HOME": str(folder),
        "COLUMNS": str(COLUMNS),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "TZ": "UTC",
    }
    done = subprocess.run(
        ["sh"],
        input=script.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=folder,
        check=False,
    )
    outputs = done.stdout.decode().split(_MARK)[:-1]
    if len(outputs) != len(commands):
        raise ShownError(f"only {len(outputs)} of {len(commands)} commands ended: {done.stdout.decode()}")
    return [_kept(output) for output in outputs]


def canonical(output: str) -> str:
    """An output without what differs from run to run: ports, counts, times, and the layout that follows them."""
    text = re.sub(rf":(?!(?:{_GIVEN_PORTS})\b)\d{{4,5}}\b", ":PORT", output)
    text = re.sub(r"\d+(?= observations)", "N", text)
    text = re.sub(r"(?m)^ +\+\d+\.\d{3}(?=  )|(?<=lag )\d+\.\d(?= s\b)", " TIME", text)
    text = re.sub(r"(?m)^(-rw\S+ .*)$", "FILE", text)
    return re.sub(r"\s+", " ", re.sub(r"\^+", "^", text)).strip()


def refreshed(text: str) -> str:
    """A document with all that is generated in it brought up to date."""
    shown = shown_in(text)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "work"
        shutil.copytree(EXAMPLES, folder)
        outputs = iter(run([each.command for each in shown], folder) if shown else [])
    text = _BLOCK.sub(lambda match: f"```console\n{_written(match['body'], outputs)}```", text)
    return _GENERATED.sub(lambda match: match["head"] + generated(match["name"]) + match["foot"], text)


def generated(name: str) -> str:
    """The text of a generated part. Raises ShownError where there is none of that name."""
    if name not in GENERATED:
        raise ShownError(f"nothing is known to generate {name}; there are {', '.join(GENERATED)}")
    return f"\n{GENERATED[name]().strip()}\n\n"


def generated_in(text: str) -> Iterator[tuple[str, str]]:
    """Name and present text of each generated part of a document."""
    return ((match["name"], match["body"]) for match in _GENERATED.finditer(text))


def _parse(body: str) -> Iterator[Shown]:
    command: list[str] = []
    output: list[str] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            if command:
                yield Shown("\n".join(command), "\n".join(output))
            command, output = [line[2:]], []
        elif line.startswith("> ") and command and not output:
            command.append(line[2:])
        elif command:
            output.append(line)
        else:
            raise ShownError(f"a console block begins without a command: {line}")
    if command:
        yield Shown("\n".join(command), "\n".join(output))


def _written(body: str, outputs: Iterator[str]) -> str:
    """The body of a console block with its new outputs."""
    lines: list[str] = []
    for shown in _parse(body):
        output = next(outputs)
        first, *more = shown.command.split("\n")
        lines += [f"$ {first}", *(f"> {line}" for line in more)]
        same = canonical(output) == canonical(shown.output)
        lines += (shown.output if same else output).splitlines()
    return "".join(f"{line}\n" for line in lines)


def _kept(output: str) -> str:
    """Without progress, which a terminal overwrites, and without empty lines at either end."""
    return "\n".join(line.rstrip() for line in output.split("\n") if not line.startswith("· ")).strip("\n")


# ── text made from the code ──────────────────────────────────────────────────────────────────────────────────────


def _findings() -> str:
    groups = {"1": "Who replaced the source address", "2": "Connections that reach nobody",
              "3": "PROXY protocol", "4": "How a connection went",
              "5": "Whom servers believe", "6": "Health checks", "7": "What the objects say before any packet",
              "9": "What the capture could not see"}  # fmt: skip
    parts: list[str] = []
    for code in sorted(CATALOGUE):
        if heading := groups.pop(code[3], ""):
            parts.append(f"## {heading}")
        parts += [f'<a id="{code.lower()}"></a>', f"### {code} · {CATALOGUE[code].title}", *_finding(code)]
    return "\n\n".join(parts)


def finding_page(code: str) -> str:
    """The page of one finding, for the site."""
    return "\n\n".join(
        [f"# {code} · {CATALOGUE[code].title}", *_finding(code), f"`probe explain {code}` shows the same."]
    )


def _finding(code: str) -> Iterator[str]:
    """What is said of one finding, in paragraphs."""
    finding = CATALOGUE[code]
    yield f"Severity: {finding.severity}"
    yield finding.explanation
    if drawn := picture(code):
        yield f"```text\n{drawn}\n```"
    yield f"**Seen** by {finding.seen}."
    yield f"**Fix.** {finding.fix}"
    if code in _pictures():
        yield _pictures()[code]


@cache
def _pictures() -> dict[str, str]:
    """For each code a scenario that shows it, with the path that its request takes there; the shortest file's first.

    The path is what the scenario itself demands, not what an analysis says of it.
    """
    found: dict[str, str] = {}
    scenarios = [load_scenario(name) for name in list_scenarios()]
    for scenario in sorted(scenarios, key=lambda each: (len(each.pods) + len(each.requests), each.name)):
        for request in scenario.requests:
            for code in request.expect.findings:
                found.setdefault(code, _picture(scenario.name, request.expect.hops, request.expect.verdict))
        for code in scenario.health_expect.findings if scenario.health_expect is not None else ():
            found.setdefault(code, _picture(scenario.name, (), ""))
    return found


def _picture(name: str, hops: tuple[str, ...], verdict: str) -> str:
    said = f"**In the lab.** `probe capture --lab {name}` shows it"
    return f"{said}:\n\n```text\n{' → '.join([*hops, verdict])}\n```" if hops else f"{said}."


def _scenarios() -> str:
    lines = ["| scenario | what happens | verdict |", "|---|---|---|"]
    for name in list_scenarios():
        scenario = load_scenario(name)
        verdicts = dict.fromkeys(request.expect.verdict for request in scenario.requests)
        lines.append(f"| `{name}` | {scenario.title} | {', '.join(verdicts)} |")
    return "\n".join(lines)


def _files() -> str:
    """Every file of the three floors with the first sentence of what it says of itself."""
    parts: list[str] = []
    for floor in ("daemonset", "analysis", "probe"):
        parts.append(f"### {floor}/")
        lines = ["| file | what it is |", "|---|---|"]
        for path in sorted((REPOSITORY / floor).rglob("*.py")):
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            if path.name != "__init__.py":
                lines.append(f"| `{path.relative_to(REPOSITORY)}` | {_first_sentence(said)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _first_sentence(said: str) -> str:
    paragraph = " ".join(said.partition("\n\n")[0].split())
    sentence = re.split(r"(?<=[^.]\.) (?=[A-Z`])", paragraph)[0]
    return sentence.replace("|", r"\|")


def _live_view() -> str:
    """What stands on a terminal during a capture, of three nodes made up for it."""
    state = State(
        "svc/web, context prod",
        doing="watching for 12 s more, Ctrl-C ends that",
        elapsed=83.0,
        places=(
            Seen("node1", taps=4, packets=1200, connections=57),
            Seen("node2", taps=3, packets=40, connections=2, dropped=7),
            Seen("node3", trouble="its pod is Pending"),
        ),
        connections=58,
        verdicts=((Verdict.PRESERVED, 12), (Verdict.LOST, 3), (Verdict.INCONCLUSIVE, 1)),
        blame="node2, kube-proxy masquerade",
        judged=3.0,
        findings=(Found("SIP101", Severity.ERROR, "kube-proxy replaced the client's address", 3),),
    )
    return "\n".join(["```text", *(line.plain for line in draw(state, 100, 24)), "```"])


def _metrics() -> str:
    """The families of --metrics with what each means, as their HELP says it."""
    nothing = Report(Capture(True, (), 0, 0, ()), Summary(), (), ())
    lines = ["| metric | what it says |", "|---|---|"]
    for line in to_metrics(nothing, 0.0).splitlines():
        if line.startswith("# HELP "):
            name, _, said = line.removeprefix("# HELP ").partition(" ")
            lines.append(f"| `{name.removeprefix(PREFIX)}` | {said} |")
    return "\n".join(lines)


def _licences() -> str:
    """Every locked package with its licence and who needs it."""
    sys.path.insert(0, str(REPOSITORY / "packaging"))
    from bom.licences import table  # noqa: PLC0415 - of packaging/, which is no package

    return table()


GENERATED: dict[str, Callable[[], str]] = {
    "findings": _findings,
    "scenarios": _scenarios,
    "files": _files,
    "live-view": _live_view,
    "metrics": _metrics,
    "licences": _licences,
}


def main(arguments: list[str]) -> int:
    """Rewrite the documents that are named, or all; say which of them changed."""
    for path in [Path(name).resolve() for name in arguments] or documents():
        before = path.read_text(encoding="utf-8")
        try:
            after = refreshed(before)
        except ShownError as error:
            sys.stderr.write(f"{path.name}: {error}\n")
            return 1
        if after != before:
            path.write_text(after, encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(REPOSITORY)} has changed\n")
    if not arguments:
        import manual  # noqa: PLC0415 - it stands beside this file, and needs the whole command line

        return manual.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
