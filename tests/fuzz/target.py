"""The coverage-guided search for bytes that break a reader, with atheris (libFuzzer), group by group.

    python -m tests.fuzz.target GROUP FOLDER INPUTS [OPTION ...]   search on from FOLDER/READER, reader by reader
    python -m tests.fuzz.target READER FILE                        try one input again

Only the readers of one group are loaded and instrumented, and of all that is loaded only our own packages. Each
reader is tried in a process of its own, which is forked once, when everything is loaded; it gets its share of
INPUTS, and exactly that. What broke is left as FOLDER/found-READER-…; options are libFuzzer's own.

An input is a defect too where it takes more than CPU seconds of this process each time that it is tried, or where the
process grows by more than GROWTH for it.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

from tests.fuzz.reader import GROUPS, Reader

#: Seconds of CPU that one input may take, with the search's own instruments in the code.
LIMIT = 0.1
TRIES = 5

#: By how much one input may raise the peak of the process, and what the process may have in all, in MiB.
GROWTH, MOST = 32, 512

_WHOLE = 10_000  # the sum of all shares


def readers_of(group: str) -> tuple[Reader, ...]:
    """The readers of a group, instrumented."""
    with atheris.instrument_imports(include=["daemonset", "analysis", "probe"]):
        readers: tuple[Reader, ...] = importlib.import_module(f"tests.fuzz.of_{group}").READERS
    return readers


def watched(reader: Reader) -> Callable[[bytes], None]:
    """What libFuzzer calls."""
    highest = peak()

    def one_input(data: bytes) -> None:
        nonlocal highest
        started = time.process_time()
        reader(data)
        if time.process_time() - started > LIMIT and min(spent(reader, data) for _ in range(TRIES)) > LIMIT:
            raise AssertionError(f"an input of {len(data)} bytes takes longer than {LIMIT} s")
        before, highest = highest, peak()
        if highest - before > GROWTH:
            raise AssertionError(f"an input of {len(data)} bytes takes {highest - before} MiB")

    return one_input


def spent(reader: Reader, data: bytes) -> float:
    """Seconds of CPU for one input."""
    started = time.process_time()
    reader(data)
    return time.process_time() - started


def peak() -> int:
    """The most that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def search(reader: Reader, folder: Path, runs: int, options: list[str]) -> int:
    """Try one reader in a process of its own; answers with its exit code."""
    child = os.fork()
    if child == 0:
        corpus = folder / reader.name
        corpus.mkdir(exist_ok=True)
        reader(b"\0")
        gc.freeze()  # what is loaded is not looked through again and again
        limits = [
            f"-max_len={reader.longest + 1}",
            "-timeout=30",
            "-report_slow_units=3600",  # by the clock, which goes on while others have the processor
            f"-rss_limit_mb={MOST}",
            "-print_final_stats=1",
        ]
        kept = [f"-artifact_prefix={folder}/found-{reader.name}-"]
        sys.stderr.write(f"READER {reader.name}\n")
        atheris.Setup([sys.argv[0], str(corpus), f"-runs={runs}", *limits, *kept, *options], watched(reader))
        atheris.Fuzz()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def shares(readers: tuple[Reader, ...], inputs: int) -> Iterator[tuple[Reader, int]]:
    """Each reader with its part of all inputs, one at least."""
    for reader in readers:
        yield reader, max(inputs * reader.share // _WHOLE, 1)


def main(named: str, place: str, *more: str) -> int:
    """Search, or try one input."""
    if named not in GROUPS:
        found = next(reader for group in GROUPS for reader in readers_of(group) if reader.name == named)
        watched(found)(Path(place).read_bytes())
        return 0
    inputs, *options = more
    codes = [
        search(reader, Path(place), runs, options) for reader, runs in shares(readers_of(named), int(inputs))
    ]
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
