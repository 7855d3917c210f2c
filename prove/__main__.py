"""`python -m prove [ROW ...]`: try what must never happen, many times, and print a table. See docs/reliability.md.

Rows: truth, kills, hostile, soak. Exit code 0 where nothing went wrong, 1 where something did, 2 and 5 as of `probe`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from probe.errors import ProbeError
from prove import hostile, kills, soak, truth
from prove.degrading import HARMS
from prove.row import Row, markdown, show

#: Where captures of a real cluster stand, if they do.
EVIDENCE = Path(__file__).resolve().parents[2] / "shared" / "evidence"

Proof = Callable[[argparse.Namespace], list[Row]]

PROOFS: dict[str, Proof] = {
    "truth": lambda given: truth.rows(
        long=given.long,
        evidence=given.evidence,
        sessions=given.sessions,
        first=given.tried,
        harms=given.harm,
        scenarios=given.scenario,
        keep=given.recordings,
    ),
    "kills": lambda given: kills.rows(long=given.long, times=given.kills),
    "hostile": lambda given: hostile.rows(long=given.long, inputs=given.inputs),
    "soak": lambda given: soak.rows(long=given.long, seconds=given.seconds),
}


def main(argv: list[str]) -> int:
    """Run the proofs that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m prove", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "rows", nargs="*", choices=[*PROOFS, []], metavar="ROW", help=f"of {', '.join(PROOFS)}"
    )
    parser.add_argument("--long", action="store_true", help="the long form: hours rather than minutes")
    parser.add_argument("--sessions", type=int, metavar="N", help="degraded sessions for each harm")
    parser.add_argument(
        "--harm", action="append", choices=HARMS, metavar="NAME",
        help=f"what is done to sessions; may come again: {', '.join(HARMS)}",
    )  # fmt: skip
    parser.add_argument(
        "--tried",
        type=int,
        default=0,
        metavar="N",
        help="go on where N sessions of each harm were tried already",
    )
    parser.add_argument(
        "--recordings",
        type=Path,
        metavar="DIR",
        help="keep the lab's recordings there, and take those that are there already: what failed fails again",
    )
    parser.add_argument(
        "--scenario",
        action="append",
        metavar="NAME",
        help="a scenario whose sessions are degraded; may come again",
    )
    parser.add_argument("--kills", type=int, metavar="N", help="kills of each kind")
    parser.add_argument("--inputs", type=int, metavar="N", help="hostile inputs")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long agents are soaked")
    parser.add_argument(
        "--evidence", type=Path, metavar="DIR", default=EVIDENCE if EVIDENCE.is_dir() else None,
        help="captures of a real cluster",
    )  # fmt: skip
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for docs/")
    given = parser.parse_args(argv)
    rows: list[Row] = []
    for name in given.rows or PROOFS:
        sys.stderr.write(f"trying {name} …\n")
        try:
            rows += PROOFS[name](given)
        except ProbeError as error:
            sys.stderr.write(f"prove: {error}\n")
            return int(error.exit_code)
    show(rows)
    if given.markdown is not None:
        given.markdown.write_text(markdown(rows) + "\n", encoding="utf-8")
    return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
