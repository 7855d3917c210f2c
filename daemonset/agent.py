"""The agent: `python -m daemonset.agent --node NAME` writes what a node sees to standard output.

The stream is daemonset/wire.py's. It begins with Hello, Topology and Taps; Ready says that every tap is open,
so traffic may begin; Bye that it ended in order.

It listens on no port, writes no file, leaves nothing, and ends by itself: when the time is over, on SIGTERM or
SIGINT, when nobody reads its output any more, or (with --lifeline) when its standard input ends, falls silent, or
says so.

Told so with `--once --output DIR`, it keeps what it sees in a folder instead (`daemonset.once`): for whoever is on
the node and has no cluster's rights.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import platform
import signal
import stat
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from daemonset import capabilities
from daemonset.capabilities import DAC_OVERRIDE
from daemonset.shortage import is_shortage
from daemonset.spans import time_argument

if TYPE_CHECKING:
    from daemonset.capture import Options

USAGE, NOT_ALLOWED = 2, 5

_NO_MEMORY = (
    "there is not enough memory; let it have more, or watch fewer connections: name --port, or --sample 1/N"
)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent; answers with the exit code: 0, 2 for usage, 5 where the environment does not allow it."""
    known = parser()
    arguments = known.parse_args(argv)
    if arguments.node is None and not arguments.once:
        known.error("the following arguments are required: --node")
    if contradiction := _contradiction(arguments):
        return _complain(contradiction, USAGE)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start a thread for each processor
    try:
        from daemonset import capture, once  # noqa: F401, PLC0415 - scapy is not loaded for --help
        from daemonset.node import topology  # noqa: PLC0415 - the same

        topology.load()  # while everything may be read that root may read
    except ImportError as error:
        if is_shortage(error):
            return _complain(_NO_MEMORY, NOT_ALLOWED)
        return _complain(f"the package {error.name} is not here; install client-ip-probe[agent]", NOT_ALLOWED)
    try:
        return _keep(arguments) if arguments.once else _stream(arguments)
    except MemoryError:
        return _complain(_NO_MEMORY, NOT_ALLOWED)
    except OSError as error:
        return _complain(_refusal(error, arguments.output), NOT_ALLOWED)


def _refusal(error: OSError, output: str | None) -> str:
    """What the system refused, and what to do: of the folder that is written, of packet sockets, of anything else."""
    why, what = error.strerror or str(error), error.filename
    if output is not None and isinstance(what, str) and Path(what).is_relative_to(output):
        return f"cannot write {what}: {why}; name another folder"
    if isinstance(error, PermissionError) and what is None:
        return "packet sockets need the capability NET_RAW; run as root, or in a pod that has it"
    said = f"{what}: {why}" if what is not None else why
    return f"cannot watch this node: {said}; put that right, and start it again"


def _contradiction(arguments: argparse.Namespace) -> str | None:
    """What cannot be meant together."""
    if not arguments.once:
        if arguments.output is not None:
            return "--output keeps what --once sees; give --once too"
        if os.isatty(sys.stdout.fileno()):
            return (
                "standard output is a terminal; send the stream to a program or a file, or keep what is seen with "
                "--once --output DIR"
            )
        return None
    if arguments.output is None:
        return "--once keeps what it sees in a new folder; name it with --output DIR"
    if arguments.lifeline is not None:
        return "--lifeline is for an agent that somebody reads; --once ends when its time is over"
    return None


def _stream(arguments: argparse.Namespace) -> int:
    """What is seen, to standard output. Raises OSError."""
    from daemonset.capture import Capture  # noqa: PLC0415 - scapy is not loaded for --help
    from daemonset.lifeline import Lifeline  # noqa: PLC0415 - the same

    output = sys.stdout.fileno()
    nowhere = os.memfd_create("nowhere")  # later no file is opened for writing, not even /dev/null
    _do_not_block(output)
    _reuse_memory()
    kept = _give_up()
    try:
        lifeline = None if arguments.lifeline is None else Lifeline(sys.stdin.fileno(), arguments.lifeline)
        with Capture(_options(arguments), output, lifeline) as capture:
            capture.heed(signal.SIGTERM, signal.SIGINT)
            capture.confine(kept)
            capture.run()
    except BrokenPipeError:
        os.dup2(nowhere, output)  # nobody reads: nothing is left that Python would try to flush into the pipe
    return 0


def _keep(arguments: argparse.Namespace) -> int:
    """What is seen, into a folder. Raises OSError."""
    from daemonset import once  # noqa: PLC0415 - scapy is not loaded for --help
    from daemonset.keeping import OccupiedError  # noqa: PLC0415 - the same

    _reuse_memory()
    kept = _give_up(DAC_OVERRIDE)
    options = _options(arguments)
    options = replace(options, duration=options.duration or once.DURATION, limit=once.LIMIT)
    try:
        once.keep(options, Path(arguments.output), _say, kept)
    except OccupiedError:
        return _complain(f"{arguments.output} is not empty; name a new folder", USAGE)
    return 0


def _options(arguments: argparse.Namespace) -> Options:
    from daemonset.capture import Options  # noqa: PLC0415 - scapy is not loaded for --help
    from daemonset.observation import TapKind  # noqa: PLC0415 - the same

    return Options(
        node=arguments.node or platform.node().lower() or "localhost",
        role=TapKind("nic" if arguments.role == "node" else arguments.role),
        ports=_flat(arguments.port),
        health_ports=_flat(arguments.health_port),
        duration=arguments.duration,
        heads=arguments.once if arguments.heads is None else arguments.heads,
        snaplen=arguments.snaplen,
        pods=arguments.pods,
        conntrack=arguments.conntrack,
        loopback=arguments.loopback,
        trace=arguments.trace_rules,
        rules=arguments.rules or arguments.once,
        sample=arguments.sample,
        trace_ports=_flat(arguments.trace_port),
    )


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        """End with the code of a mistake on the command line."""
        self.exit(2, f"probe agent: {message}; see 'probe agent --help'\n")


def parser() -> argparse.ArgumentParser:
    """The options of the agent."""
    parser = _Parser(
        prog="probe agent",
        description="Write what this node sees of a Service to standard output, or keep it in a folder.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--node",
        metavar="NAME",
        help="what the observations call this node, as the cluster does (with --once: its host name, in lower case)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="watch by hand: for 30s where no --duration is given, into the folder of --output",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="with --once: a new folder, for `probe analyze DIR` on any machine"
    )
    parser.add_argument(
        "--role", choices=("node", "client", "lb"), default="node", help="what this is (default: node)"
    )
    for name, what in (
        ("--port", "of the Service, on any side of NAT (default: all TCP)"),
        ("--health-port", "where health checks are answered; their HTTP heads are kept"),
        ("--trace-port", "that --trace-rules is about (default: those of --port)"),
    ):
        parser.add_argument(
            name,
            nargs="+",
            type=_ports,
            action="extend",
            default=[],
            metavar="N",
            help=f"port or range A-B {what}",
        )
    parser.add_argument(
        "--duration", type=time_argument, metavar="TIME", help="end after this time: 30, 30s, 2m"
    )
    parser.add_argument(
        "--heads",
        action=argparse.BooleanOptionalAction,
        help="keep HTTP request and response heads (with --once: yes, else: no)",
    )
    parser.add_argument(
        "--snaplen",
        type=_snaplen,
        default=2048,
        metavar="N",
        help="bytes kept of a packet with a head (2048)",
    )
    parser.add_argument(
        "--sample",
        type=_sample,
        default=1,
        metavar="1/N",
        help="of N TCP connections one, by its initial sequence number: the same ones on every node; N is a power of "
        "two",
    )
    parser.add_argument("--loopback", action="store_true", help="listen to the loopback interface, too")
    parser.add_argument("--no-pods", dest="pods", action="store_false", help="do not listen inside pods")
    parser.add_argument(
        "--no-conntrack", dest="conntrack", action="store_false", help="do not read the kernel's NAT records"
    )
    parser.add_argument(
        "--rules",
        action="store_true",
        help="tell the node's packet filter as a whole, once (with --once: yes)",
    )
    parser.add_argument(
        "--trace-rules",
        nargs="?",
        const=64,
        default=0,
        type=_packets,
        metavar="N",
        help="let the kernel name the rules that the first N packets meet which begin connections (64)",
    )
    parser.add_argument(
        "--lifeline",
        nargs="?",
        const=math.inf,
        type=time_argument,
        metavar="S",
        help="end when standard input ends or, with S, when it has been silent for so many seconds",
    )
    return parser


def _flat(ranges: Sequence[range]) -> tuple[int, ...]:
    return tuple(sorted({port for ports in ranges for port in ports}))


def _ports(text: str) -> range:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise argparse.ArgumentTypeError(f"not a port: {text!a}")
    ports = range(int(first), int(last or first) + 1)
    if not ports or not 1 <= ports[0] <= ports[-1] <= 0xFFFF:
        raise argparse.ArgumentTypeError(f"not a port: {text!a}")
    return ports


def _snaplen(text: str) -> int:
    size = int(text) if text.isdecimal() else 0
    if not 256 <= size <= 65535:
        raise argparse.ArgumentTypeError(f"not between 256 and 65535: {text!a}")
    return size


def _packets(text: str) -> int:
    count = int(text) if text.isdecimal() and len(text) <= 5 else 0
    if not 1 <= count <= 10_000:
        raise argparse.ArgumentTypeError(f"not between 1 and 10000: {text!a}")
    return count


def _sample(text: str) -> int:
    one, slash, number = text.partition("/")
    size = int(number) if one == "1" and slash and number.isdecimal() and len(number) < 6 else 0
    if not 1 <= size <= 1 << 16 or size & (size - 1):
        raise argparse.ArgumentTypeError(f"not 1/N with a power of two up to 65536: {text!a}")
    return size


def _do_not_block(output: int) -> None:
    """A pipe or socket whose reader stalls must not stall us; files are written as they are."""
    mode = os.fstat(output).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        os.set_blocking(output, False)


def _reuse_memory() -> None:
    """Keep what is freed, up to 8 MiB, instead of giving it back to the kernel and faulting it in again.

    The columns of a block of packets are a megabyte; this saves a third of the time that decoding takes.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(_M_TRIM_THRESHOLD, 8 << 20)
        libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)


def _give_up(*but_for: int) -> str:
    """Go on with the capabilities that are needed; answers with their names, of those that there are."""
    try:
        left = capabilities.keep([*capabilities.NEEDED, *but_for])
    except OSError as error:
        return f"as started: {error.strerror}"
    return " ".join(name for number, name in capabilities.NEEDED.items() if number in left)


def _say(text: str) -> None:
    print(f"probe agent: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a command's words


def _complain(text: str, code: int) -> int:
    _say(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
