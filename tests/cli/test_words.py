"""What people are told when something is wrong, and what help says: read once by the house's rules, each time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from probe import errors
from probe.cli import app
from probe.cluster.client import ApiError
from probe.lab.errors import LabError, ScenarioError
from tests.cli.helpers import Probe

REPOSITORY = Path(__file__).resolve().parents[2]

#: Errors that a command ends with; those of the cluster's and the lab's kin are among them.
KINDS = {"UsageError", "UnavailableError", "LabError", "ScenarioError", "ApiError", "ConflictError", "GoneError",
         "NotFoundError", "UnreachableError"}  # fmt: skip

#: What a message says where a value of the code stands in it.
VALUE = "⟨value⟩"

#: Words of Python and of our own making that an operator need not know.
JARGON = re.compile(
    r"\b(?:traceback|exception|errno|null|nonetype|dict|tuple|kwargs|argv|regex|msgspec|duckdb|asyncio|deserializ\w+|"
    r"enum|bool|str|int|object has no|invalid literal|does not appear to be|byte string|isn|netns|fd|stack|thread|"
    r"callback|coroutine|module named)\b",
    re.IGNORECASE,
)

#: What happened and what to do stand on two sides of one of these.
REMEDY = re.compile(r"(?:; |\? |[;:] ?⟨value⟩$)")


class Message(NamedTuple):
    """A message as it stands in the code, values left out."""

    place: str
    kind: str
    text: str


def spoken(node: ast.expr) -> str:
    """The text of an expression, with values left out; the longer branch of a choice."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(parts):
            return "".join(spoken(part) if isinstance(part, ast.Constant) else VALUE for part in parts)
        case ast.BinOp(left, ast.Add(), right):
            return spoken(left) + spoken(right)
        case ast.IfExp(_, body, orelse):
            return max(spoken(body), spoken(orelse), key=len)
    return VALUE


def messages() -> Iterator[Message]:
    for path in sorted((REPOSITORY / "probe").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            kind = ast.unparse(node.func).rpartition(".")[2]
            text = spoken(node.args[0])
            if kind in KINDS and text != VALUE:
                where = f"{path.relative_to(REPOSITORY)}:{node.lineno}"
                yield Message(where, kind, text)


MESSAGES = list(messages())


def test_the_kinds_are_those_that_end_a_command() -> None:
    for kind in (errors.UsageError, errors.UnavailableError, LabError, ScenarioError, ApiError):
        assert kind.__name__ in KINDS
        assert issubclass(kind, errors.ProbeError)
    assert len(MESSAGES) > 150, "they are not found any more"


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.place)
def test_a_message_is_one_line_in_plain_words(message: Message) -> None:
    text = message.text
    assert "\n" not in text
    assert not text.endswith("."), "it is no paragraph"
    assert text[0] == text[0].lower() or text.startswith(("Gateways", "Kubernetes")), "it follows `probe: `"
    words = re.sub(r"`[^`]*`", "", text)  # a command may hold what it likes
    assert not (found := JARGON.search(words)), f"{found[0] if found else ''} is no word of an operator"
    assert "  " not in text


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.place)
def test_a_message_says_what_to_do(message: Message) -> None:
    assert REMEDY.search(message.text), message.text


def test_no_message_holds_the_words_of_an_exception_of_the_system() -> None:
    """`str` of an OSError has its number and the path once more; of an ImportError, Python's words."""
    for path in sorted((REPOSITORY / "probe").rglob("*.py")):
        for handler in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(handler, ast.ExceptHandler) or handler.type is None or handler.name is None:
                continue
            caught = set(re.findall(r"\w+", ast.unparse(handler.type)))
            if not caught & {"OSError", "ImportError", "PermissionError", "FileNotFoundError"}:
                continue
            for node in ast.walk(handler):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    said = ast.unparse(node.exc.args[0]) if node.exc.args else ""
                    kind = ast.unparse(node.exc.func).rpartition(".")[2]
                    bare = re.search(rf"\{{{handler.name}\}}|str\({handler.name}\)", said)
                    assert kind not in KINDS or not bare, f"{path.name}:{node.lineno} shows {said}"


# ── stories of the most common mistakes ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("captrue", "no such command 'captrue'; did you mean 'capture'? see 'probe --help'"),
        ("capture web", "'web' has no type; give svc/web"),
        ("capture --count 0 svc/web", "invalid value for '--count': it should be greater than or equal to 1"),
        ("capture svc/web --duration 3x", "--duration: '3x' is no duration; write 30s, 2m or 1m30s"),
        ("capture svc/web --wait soon", "--wait: 'soon' is no duration; write 30s, 2m or 1m30s"),
        (
            "capture svc/web -n A_B",
            "-n 'A_B' is no name of a namespace; give lower-case letters, digits and -",
        ),
        ("capture --lab cluster-remot", "there is no scenario 'cluster-remot'; did you mean cluster-remote"),
        (
            "capture --lab cluster-remote --record FULL",
            "cannot record into FULL: it is not empty; name a new folder",
        ),
        (
            "health svc/web --watch --record FULL",
            "cannot record into FULL: it is not empty; name a new folder",
        ),
        (
            "capture svc/web --kubeconfig FULL/empty",
            "the kubeconfig FULL/empty holds no contexts; name the one",
        ),
        ("capture svc/web --kubeconfig none", "there is no kubeconfig none; name the one that kubectl uses"),
        ("analyze", "nothing to analyze; give the DIR of a recorded session, or captures as --tap"),
        ("analyze nowhere", "nowhere does not exist; `probe capture --record DIR` records a session"),
        (
            "analyze FULL",
            "FULL is not a recorded session: it has no session.json; give the folder of --record",
        ),
        (
            "analyze --tap nic:n/eth0=none.pcap",
            "cannot read none.pcap: No such file or directory; check the path",
        ),
        (
            "analyze --tap nic:n/eth0=FULL/zero",
            "FULL/zero is empty: not even the header of a capture is there; give",
        ),
        (
            "analyze --tap nic:n/e=FULL/zero --from-ip me",
            "--from-ip 'me' is no address; give ADDRESS or ADDRESS/LENGTH",
        ),
        ("analyze FULL -o xml", "invalid value for '-o' / '--output': 'xml' is not one of 'table', 'wide'"),
        (
            "analyze FULL --html none/x.html",
            "cannot write none/x.html: there is no folder none; make it, or name",
        ),
        ("analyze --tap nic:n/e=FULL/zero --objects FULL/empty", "FULL/empty is not JSON"),
        ("check svc/web -f none.yaml", "cannot read none.yaml: No such file or directory; check the path"),
        (
            "explain SIP102x",
            "there is no finding SIP102x; did you mean SIP102? `probe explain` lists all of them",
        ),
        ("decode none.pcap", "none.pcap is neither a file nor hex; check the path, or give a header in hex"),
        (
            "manifests --namespace A",
            "'A' cannot be a namespace; give lower-case letters, digits and - between them",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(
    probe: Probe, arguments: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL/zero").touch()
    (tmp_path / "FULL/empty").write_text("a: b\n")
    told = probe(*arguments.split())
    assert told.out == ""
    (said,) = told.err.splitlines()
    assert said.startswith(f"probe: {line}")
    assert told.code == (5 if "kubeconfig" in line else 2)


def test_the_agent_complains_in_one_line_too(probe: Probe) -> None:
    told = probe("agent", "--port", "many")
    assert told.err == "probe agent: argument --port: not a port: 'many'; see 'probe agent --help'\n"


# ── help ─────────────────────────────────────────────────────────────────────────────────────────────────────


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    command = command or typer.main.get_command(app)
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_help_fits_a_terminal_and_is_whole(probe: Probe, path: tuple[str, ...]) -> None:
    told = probe(*path, "--help").out
    for line in told.splitlines():
        assert len(line) <= 80, line
        assert not re.search(r"\w…|\w\.\.\.$", line), f"a word or a sentence is cut: {line}"
        assert not re.search(r"<(?:str|int|bool|list|path)\b|\[\[|Path\]", line, re.IGNORECASE), line


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_option_says_what_it_is_for(path: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    for parameter in command.params:
        said = (parameter.help or "").strip()
        assert said, f"{' '.join(path)} {parameter.name} has no help"
        assert said[0].isupper() or said.startswith(("bash", "svc/")), said
        assert re.search(r"[.\])]$", said), f"not a sentence: {said}"
