"""The command line: which commands there are, and how each of them may end.

Commands live in `probe.commands`, one file each. They return nothing: they end by falling off their end, by
`typer.Exit(code)`, or by raising a `ProbeError`. This file turns every end into an exit code and, where there
is something to say, one line on stderr. It imports nothing that captures, analyses or speaks to a cluster, so
that `probe --help` and shell completion answer at once.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from daemonset.shortage import is_shortage
from probe import __version__
from probe.commands import (
    agent,
    analyze,
    capture,
    check,
    cleanup,
    completion,
    decode,
    demo,
    doctor,
    explain,
    export,
    health,
    lab,
    manifests,
    schema,
    version,
)
from probe.errors import ExitCode, ProbeError, os_error
from probe.memory import memory_left
from probe.output import end_progress, flush, forget_stdout, note, put
from probe.render.escape import escape

#: Objects that come before garbage is looked for. A report is made of very many, hardly any of which is garbage;
#: looking for it as often as Python does by itself takes a tenth of a large analysis.
_UNTIL_COLLECTED = 200_000

#: Bytes below which libraries that we load do not fail in order but end the process.
_LEAST_MEMORY = 160 << 20

_MORE_MEMORY = "free some, or raise the limit (ulimit -v, or that of the container)"

EPILOG = (
    "Exit codes: 0 preserved, or all well · 1 a defect of probe · 2 usage · 3 a client address lost, or a "
    "finding of level error · 4 inconclusive · 5 the environment does not allow it · 130 interrupted."
)

app = typer.Typer(
    name="probe",
    help="Where did the client's IP address get lost? Watch one connection at every point where its source "
    "address could change, on every node at once, and see where, by what and why.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # as kubectl prints help; boxes leave half a terminal of 80 columns to the words
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        put(f"probe {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="PROBE_DEBUG", help="Show the traceback of a defect.")
    ] = False,
    version_: Annotated[  # noqa: ARG001 - its callback has ended the command
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options that stand before any command."""
    if debug:
        os.environ["PROBE_DEBUG"] = "1"  # one switch, seen by every process of ours


app.command(short_help="Lose a client's address and keep it, with real packets.")(demo.demo)
app.command(short_help="Watch connections on every node at once, and judge them.")(capture.capture)
app.command()(analyze.analyze)
app.command(short_help="Say from objects alone what loses clients' addresses.")(check.check)
app.command(short_help="Say whether health checks keep clients from wrong nodes.")(health.health)
app.command(short_help="Write recorded sessions as tables, or anonymized.")(export.export)
app.command()(decode.decode)
app.command()(explain.explain)
app.command()(schema.schema)
app.command(short_help="Print what a standing installation places on a cluster.")(manifests.manifests)
app.command(short_help="Remove from a cluster what captures left there.")(cleanup.cleanup)
app.command(short_help="Say what this machine lacks, and the way to the cluster.")(doctor.doctor)
app.command(short_help="Print versions: probe, its schemas, libraries and tools.")(version.version)
app.command(short_help="Print a script that completes commands in a shell.")(completion.completion)
app.add_typer(lab.app, name="lab", short_help="Play scenarios in a small cluster of network namespaces.")
app.command(
    short_help="Watch this machine (started by `probe capture`).",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)(agent.agent)


def main() -> None:
    """Entry point of `probe` and of the kubectl plugin `kubectl client-ip`."""
    gc.set_threshold(_UNTIL_COLLECTED)
    # numpy would start a thread for each processor, for nothing
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = _run(sys.argv[1:])
    end_progress()
    try:
        flush()
    except ProbeError as error:
        code = _complain(str(error), error.exit_code)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run one command line; every way in which it can end becomes an exit code."""
    for left in memory_left():
        if left.size < _LEAST_MEMORY:
            return _complain(f"there is too little memory: {left}; {_MORE_MEMORY}", ExitCode.ENVIRONMENT)
    name = "kubectl client-ip" if Path(sys.argv[0]).name.startswith("kubectl-") else "probe"
    try:
        command = _without_types(typer.main.get_command(app))
        result = command.main(
            arguments, prog_name=name, standalone_mode=False, complete_var="_PROBE_COMPLETE"
        )
        return result if isinstance(result, int) else ExitCode.OK
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except ProbeError as error:
        return _complain(str(error), error.exit_code)
    except TyperException as error:
        return _complain_usage(error, name)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:  # help or completion, onto a full disk
            forget_stdout()
            return _complain(str(os_error(error, "write to stdout")), ExitCode.ENVIRONMENT)
        return _unforeseen(error)
    except MemoryError as error:
        why = f" ({escape(str(error))})" if str(error) else ""
        remedy = "capture for a shorter time, or free memory and space for temporary files"
        return _complain(
            f"there is not enough room for so many observations{why}; {remedy}", ExitCode.ENVIRONMENT
        )
    except Exception as error:  # the last line of defence: it reports, and it ends
        return _unforeseen(error)


def _without_types(command: Any) -> Any:
    """The commands, whose help names arguments by what they are, without the type that Python reads them as."""
    for each in getattr(command, "commands", {}).values():
        _without_types(each)
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda **_: ""
    return command


def _complain(text: str, code: int) -> int:
    note(f"probe: {text}")
    return code


def _complain_usage(error: TyperException, name: str) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else name
    text = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # no command was given, and the help is what it says
        put(text)
        return ExitCode.USAGE
    text = _plainly(text.rstrip("."))
    return _complain(f"{text}{'' if text.endswith('?') else ';'} see '{command} --help'", ExitCode.USAGE)


def _plainly(text: str) -> str:
    """A complaint of the library that reads the command line, without its own inner words."""
    text = text.replace("Value error, ", "").replace("Input should be", "it should be")
    text = text.replace(". Did you mean", "; did you mean")
    return text[:1].lower() + text[1:]


def _unforeseen(error: Exception) -> int:
    if is_shortage(error):
        return _complain(f"there is too little memory to go on; {_MORE_MEMORY}", ExitCode.ENVIRONMENT)
    return _defect(error)


def _defect(error: Exception) -> int:
    if os.environ.get("PROBE_DEBUG", "").lower() not in {"", "0", "false", "no"}:
        import traceback

        for line in traceback.format_exc().splitlines():
            note(line)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _complain(
        f"this is a defect of probe: {what} (please report it with what `probe --debug …` prints)",
        ExitCode.DEFECT,
    )
