"""The command line of an application's server, as `--app-server` takes it, to its rules of trust."""

from __future__ import annotations

import shlex

from analysis.ingress import Application
from analysis.trust import readers
from analysis.trust.model import TrustError
from probe.errors import UsageError

_EXAMPLE = "give it as the process has it, for example 'uvicorn app:main --forwarded-allow-ips 10.244.0.0/16'"


def read_application(command: str) -> Application:
    """What a server with this command line believes: `[NAME=VALUE …] [python -m] uvicorn|gunicorn ARGUMENTS`.

    Raises UsageError.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--app-server: a quote in it is not closed; {_EXAMPLE}") from error
    environ: dict[str, str] = {}
    while words and "=" in words[0] and words[0].partition("=")[0].isidentifier():
        name, _, value = words.pop(0).partition("=")
        environ[name] = value
    if len(words) > 2 and words[1] == "-m":
        words = words[2:]
    program = words[0].rpartition("/")[2] if words else ""
    try:
        if program == "uvicorn":
            return Application(command, uvicorn=readers.uvicorn(words[1:], environ))
        if program == "gunicorn":
            return Application(command, gunicorn=readers.gunicorn(words[1:], environ))
    except TrustError as error:
        raise UsageError(f"--app-server: {error}; {_EXAMPLE}") from error
    raise UsageError(f"--app-server: the servers known are uvicorn and gunicorn; {_EXAMPLE}")
