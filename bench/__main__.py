"""`python -m bench [ROW ...]`: measure, print a table for people and one for docs/.

Rows are B1, B2 (capture), B3 (cost to a node and its traffic), B4 (a sample), B5 (a stalled reader), B6 (from
observations to verdicts), B6L (the same, larger; only where it is named), B7 (start-up), B8 (an agent's memory), B9
(decoding), B10 (many agents), CT (the kernel's NAT records); without any, all. Every figure stands beside a peer's from
the same run: trust the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from bench import agents, capture, correlation, decode, nat_records, startup, strain, traffic
from bench.row import Row, markdown_table, text_table

SUITES: dict[str, Callable[[], Iterable[Row]]] = {
    "B1": capture.costs,
    "B2": capture.losses,
    "B3": traffic.rows,
    "B4": traffic.sampled,
    "B5": strain.stalled,
    "B6": correlation.rows,
    "B6L": correlation.large,
    "B7": startup.rows,
    "B8": strain.memory,
    "B9": decode.rows,
    "B10": agents.rows,
    "CT": nat_records.rows,
}
ON_REQUEST = {"B6L"}
_PACKAGES = ("scapy", "numpy", "msgspec", "duckdb", "pyroute2", "proxy-protocol")


def main(argv: list[str]) -> int:
    """Exit code 0 where every bar that could be measured is met, 1 where one is not."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument(
        "rows", nargs="*", choices=[*SUITES, []], metavar="ROW", help=f"of {', '.join(SUITES)}"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the Markdown to a file")
    arguments = parser.parse_args(argv)
    wanted = arguments.rows or [name for name in SUITES if name not in ON_REQUEST]
    suites = dict.fromkeys(SUITES[name] for name in wanted)
    rows = [row for suite in suites for row in _told(suite)]
    rows = [row for row in rows if row.id in wanted]
    facts = machine()
    print(f"\n{facts}\n\n{text_table(rows)}\n")
    markdown = f"{facts}\n\n{markdown_table(rows)}\n"
    if arguments.markdown:
        arguments.markdown.write_text(markdown)
    else:
        print(markdown)
    return 1 if any(row.met is False for row in rows) else 0


def _told(suite: Callable[[], Iterable[Row]]) -> Iterable[Row]:
    print(f"measuring {suite.__module__} …", file=sys.stderr)
    return suite()


def machine() -> str:
    """What the figures were measured on, in one paragraph."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return (
        f"{today}. {os.cpu_count()} CPUs ({model}), Linux {platform.release()}, Python {platform.python_version()}, "
        f"{versions}, {_first_line('tcpdump', '--version')}, {_first_line('dumpcap', '--version')}. "
        f"Load when it ended: {os.getloadavg()[0]:.1f}."
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _first_line(*command: str) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return f"no {command[0]}"
    return (said.stdout or said.stderr).partition("\n")[0].strip().rstrip(".")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
