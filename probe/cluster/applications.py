"""The servers behind a Service or an ingress, and what they believe by the command lines in their pods.

One answer is given for all of them, so all have to be known and to be told the same; otherwise there is none, and
the remark says why. Only what bears on trust is kept of a command line: the rest can hold passwords.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from analysis.ingress import Application
from analysis.trust import readers
from analysis.trust.inspection import lists
from analysis.trust.model import TrustError
from probe.cluster.command_lines import UnknownCommandError, environment, plain_command, unknown_variables
from probe.cluster.fields import Json, ObjectsError, key_of, objects, plain
from probe.cluster.reading import Reading

#: Variables that decide whom uvicorn and gunicorn believe.
VARIABLES = (
    "FORWARDED_ALLOW_IPS",
    "UVICORN_FORWARDED_ALLOW_IPS",
    "UVICORN_PROXY_HEADERS",
    "GUNICORN_CMD_ARGS",
)

_KEPT = ("--proxy", "--no-proxy", "--forwarded", "-k", "--worker-class")
_SERVERS = ("uvicorn", "gunicorn")
_RUNNERS = frozenset({"python", "python3", "uv", "run", "poetry", "pipenv", "-m", "opentelemetry-instrument"})


def read_application(reading: Reading, pods: Sequence[Json]) -> Application | None:
    """What the servers in these pods believe; None where that is not one known thing."""
    found: dict[Application, str] = {}
    for pod in pods:
        try:
            application = _application(pod)
        except (UnknownCommandError, TrustError, ObjectsError) as error:
            reading.remark(
                f"whom the application in pod {key_of(pod)} believes is not known: {plain(str(error), 160)}; "
                "--app-server says it"
            )
            return None
        found.setdefault(application, key_of(pod))
    if len(found) > 1:
        reading.remark(
            f"the applications in pods {' and '.join(list(found.values())[:2])} are not told the same; --app-server "
            "says which one is meant"
        )
    return next(iter(found)) if len(found) == 1 else None


def _application(pod: Json) -> Application:
    problem = UnknownCommandError("it has no container")
    for container in objects(pod, "spec.containers"):
        try:
            words = plain_command(container)
        except UnknownCommandError as error:
            problem = error
            continue
        server, arguments = _server(words)
        if server:
            if missing := unknown_variables(container) & set(VARIABLES):
                raise UnknownCommandError(f"the value of {min(missing)} comes from elsewhere")
            if container.get("envFrom"):
                raise UnknownCommandError("variables of its environment come from elsewhere (envFrom)")
            environ = {name: value for name, value in environment(container).items() if name in VARIABLES}
            return _known(server, arguments, environ)
        problem = UnknownCommandError(f"it is neither uvicorn nor gunicorn but {plain(words[0], 40)}")
    raise problem


def _server(words: Sequence[str]) -> tuple[str, list[str]]:
    """The server that a command runs, with its arguments; "" where it is another one."""
    for at, word in enumerate(words[:6]):
        program = word.rpartition("/")[2]
        if program in _SERVERS:
            return program, list(words[at + 1 :])
        if program not in _RUNNERS and not program.startswith("python3."):
            break
    return "", []


def _known(server: str, arguments: list[str], environ: Mapping[str, str]) -> Application:
    kept = _relevant(arguments)
    settings = [f"{name}={value}" for name, value in environ.items() if name != "GUNICORN_CMD_ARGS"]
    command = shlex.join([*settings, server, *kept])[:512]
    if server == "uvicorn":
        uvicorn = readers.uvicorn(arguments, environ)
        lists(uvicorn)
        return Application(command, uvicorn=uvicorn)
    if any(argument in {"-c", "--config"} or argument.startswith("--config=") for argument in arguments):
        raise UnknownCommandError("gunicorn reads a configuration file")
    gunicorn = readers.gunicorn(arguments, environ)
    lists(gunicorn)
    return Application(command, gunicorn=gunicorn)


def _relevant(arguments: Sequence[str]) -> list[str]:
    """The options that bear on trust, with their values."""
    kept: list[str] = []
    for at, argument in enumerate(arguments):
        if not argument.startswith(_KEPT):
            continue
        kept.append(argument)
        following = arguments[at + 1] if at + 1 < len(arguments) else "-"
        if "=" not in argument and not following.startswith("-") and argument != "--proxy-headers":
            kept.append(following)
    return kept
