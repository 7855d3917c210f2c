"""One filter for all sockets of a capture: eBPF with a map where the kernel takes it, else the classic program.

An eBPF program is loaded for each socket, with a number of its own, and all use one map. Whoever may not load one is
told so once, in `refused`, and watches with the classic program: that passes less of a connection's first payloads, and
more of connections outside of a sample, which are dropped later.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from itertools import count
from typing import Any

from daemonset.taps import bpf, ebpf, kernel_filter
from daemonset.taps.remembered import FIRST_PAYLOADS, Memory

#: Directions of connections at one tap that are remembered; 14 MiB of the kernel's memory.
ENTRIES = 1 << 17


class Filter:
    """The filter of `kernel_filter.listing` with these options. Raises ValueError as that does.

    `program` is the classic one. `refused` says why connections are not remembered; "": they are, or need not be.
    """

    def __init__(self, ports: Collection[int], *, heads: bool, sample: int, **options: Any) -> None:
        self._first = FIRST_PAYLOADS if heads else 0
        self._options = {"ports": ports, "heads": heads, "sample": sample, **options}
        self._numbers = count()
        self._map: ebpf.Map | None = None
        self.refused = ""
        self.program = kernel_filter.build(**self._options)
        if self._first or sample > 1:
            self._remember()

    @property
    def remembers(self) -> bool:
        """Whether the kernel took the program with the map."""
        return self._map is not None

    def attach(self, sock: socket.socket) -> None:
        """Filter the socket's packets from now on. Raises OSError where the kernel refuses even the classic program."""
        try:
            program = self._load()
        except OSError:
            program = None
        if program is None:
            bpf.attach(sock, self.program)
            return
        try:
            ebpf.attach(sock, program)
        finally:
            os.close(program)

    def close(self) -> None:
        """Sockets keep what they have."""
        if self._map is not None:
            self._map.close()
            self._map = None

    def _remember(self) -> None:
        try:
            self._map = ebpf.Map(ENTRIES)
            tried = self._load()
        except OSError as error:
            self.close()
            self.refused = error.strerror or str(error)
        else:
            if tried is not None:
                os.close(tried)

    def _load(self) -> int | None:
        """A program for one more socket; None where nothing is remembered. Raises OSError."""
        if self._map is None:
            return None
        memory = Memory(self._first, next(self._numbers))
        return ebpf.load(kernel_filter.listing(**self._options, memory=memory), self._map)
