"""The agent: `python -m daemonset.agent --node NAME` writes what a node sees to standard output.

The stream is daemonset/wire.py's. It begins with Hello, Topology and Taps; Ready says that every tap is open,
so traffic may begin; Bye that it ended in order.

It listens on no port, writes no file, leaves nothing, and ends by itself: when the time is over, on SIGTERM or
SIGINT, when nobody reads its output any more, or (with --lifeline) when its standard input ends, falls silent, or
says so.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import signal
import stat
import sys
from collections.abc import Sequence

USAGE, NOT_ALLOWED = 2, 5

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent; answers with the exit code: 0, 2 for usage, 5 where the environment does not allow it."""
    arguments = _parser().parse_args(argv)
    output = sys.stdout.fileno()
    if os.isatty(output):
        return _complain("standard output is a terminal: send the stream to a program or a file", USAGE)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start a thread for each processor
    try:
        from daemonset.capture import Capture, Options  # noqa: PLC0415 - scapy is not loaded for --help
        from daemonset.lifeline import Lifeline  # noqa: PLC0415 - the same
        from daemonset.observation import TapKind  # noqa: PLC0415 - the same
    except ImportError as error:
        return _complain(f"{error}: install client-ip-probe[agent]", NOT_ALLOWED)
    options = Options(
        node=arguments.node,
        role=TapKind("nic" if arguments.role == "node" else arguments.role),
        ports=_flat(arguments.port),
        health_ports=_flat(arguments.health_port),
        duration=arguments.duration,
        heads=arguments.heads,
        snaplen=arguments.snaplen,
        pods=arguments.pods,
        conntrack=arguments.conntrack,
        loopback=arguments.loopback,
        trace=arguments.trace_rules,
        sample=arguments.sample,
    )
    _do_not_block(output)
    _reuse_memory()
    try:
        lifeline = None if arguments.lifeline is None else Lifeline(sys.stdin.fileno(), arguments.lifeline)
        with Capture(options, output, lifeline) as capture:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda number, _: capture.stop(signal.Signals(number).name))
            capture.run()
    except BrokenPipeError:
        _forget(output)
        return 0  # nobody reads: nothing more to do
    except PermissionError:
        return _complain(
            "packet sockets need the capability NET_RAW: run as root or in a pod that has it", NOT_ALLOWED
        )
    except OSError as error:
        return _complain(f"{error.strerror or error}", NOT_ALLOWED)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="probe agent",
        description="Write what this node sees of a Service to standard output.",
        allow_abbrev=False,
    )
    parser.add_argument("--node", required=True, metavar="NAME", help="what the observations call this node")
    parser.add_argument(
        "--role", choices=("node", "client", "lb"), default="node", help="what this is (default: node)"
    )
    for name, what in (
        ("--port", "of the Service, on any side of NAT (default: all TCP)"),
        ("--health-port", "where health checks are answered; their HTTP heads are kept"),
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
    parser.add_argument("--duration", type=_positive, metavar="S", help="end after so many seconds")
    parser.add_argument("--heads", action="store_true", help="keep HTTP request and response heads")
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
        type=_positive,
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


def _positive(text: str) -> float:
    seconds = float(text) if text.replace(".", "", 1).isdecimal() else 0.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"not a duration: {text!a}")
    return seconds


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


def _forget(output: int) -> None:
    """Leave nothing behind that Python would try to flush into the closed pipe."""
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - a descriptor is what counts
        os.dup2(nothing.fileno(), output)


def _complain(text: str, code: int) -> int:
    print(f"probe agent: {text}", file=sys.stderr)  # noqa: T201 - a command's complaint
    return code


if __name__ == "__main__":
    sys.exit(main())
