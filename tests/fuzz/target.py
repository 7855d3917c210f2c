"""The coverage-guided search for bytes that break an invariant, with atheris (libFuzzer).

    python -m tests.fuzz.target FOLDER -runs=100000      search on from a corpus
    python -m tests.fuzz.target FILE                     try one input again

libFuzzer's options are its own. An input that takes more than LIMIT seconds of CPU each time it is tried is a
defect like any other.
"""

from __future__ import annotations

import sys
import time

import atheris

with atheris.instrument_imports(
    include=[
        "daemonset.decode",
        "daemonset.wire",
        "daemonset.node",
        "daemonset.taps.pcap",
        "analysis.receivers",
        "probe.decoding.stream",
        "probe.objects",
        "probe.sessions.folder",
    ]
):
    from tests.fuzz.invariants import check

#: Seconds of CPU that one input may take, with the search's own instruments in the code.
LIMIT = 0.1
TRIES = 5


def one_input(data: bytes) -> None:
    """What libFuzzer calls."""
    started = time.process_time()
    check(data)
    if time.process_time() - started > LIMIT and min(spent(data) for _ in range(TRIES)) > LIMIT:
        raise AssertionError(f"an input of {len(data)} bytes takes longer than {LIMIT} s")


def spent(data: bytes) -> float:
    started = time.process_time()
    check(data)
    return time.process_time() - started


if __name__ == "__main__":
    check(b"\0\0")
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
