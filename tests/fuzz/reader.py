"""What is tried: a reader, what holds for whatever it reads, and its part of all inputs.

1. A decoder answers, says that it needs more, or raises its own documented error.
2. Fed whole or in pieces, what it says is the same.
3. What it gives fits into the schema, and its size is bounded by its input's and by fixed limits.
4. None takes longer than a moment, or makes the process grow (`target.py` watches both).

The first byte of an input is a number that a check may do with what it likes: a size of pieces, a kind; the rest is
what is read. The modules `of_*` each have one group of readers, which one process tries one after the other. No check
opens a file, but for `kubeconfigs`, whose reader can do nothing else and has a small part for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

#: The groups, each the module `of_…` with its readers.
GROUPS = ("packets", "kernel", "agents", "files", "clusters", "servers")


class Reader(NamedTuple):
    """`share` is how many of ten thousand inputs it gets: more where they are cheap and come from anybody."""

    check: Callable[[bytes, int], None]
    share: int
    longest: int = 2048  # bytes of one input

    @property
    def name(self) -> str:
        """What inputs and rows are called by."""
        return self.check.__name__

    def __call__(self, data: bytes) -> None:
        """Try one input."""
        if data:
            self.check(data[1:], data[0])


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes; as a whole for 0."""
    step = size or len(data) or 1
    for at in range(0, len(data), step):
        yield data[at : at + step]


def one_line(error: Exception) -> None:
    """What is said of it can be shown as it is, and has an end."""
    assert str(error).isprintable(), repr(str(error))
    assert len(str(error)) < 4096
