"""The lifeline: standard input, by which whoever started the agent says that it is still wanted.

A beat is any byte but `END`; each read of beats is answered with a `Ready` that carries the node's time, so that the
other side learns how the clocks differ. `END` asks for an end in order, for those who cannot close this one channel
without closing all. Its end, or silence for too long, means that nobody is there any more.
"""

from __future__ import annotations

import enum
import math
import os
import time

BEAT = b"."
END = b"\x04"  # EOT, ISO 646

_MANY = 4096


class Pull(enum.Enum):
    """What was felt at the lifeline."""

    NOTHING = ""
    BEAT = "beat"
    CUT = "lifeline cut"
    END = "asked to"
    SILENT = "lifeline silent"


class Lifeline:
    """Standard input as a lifeline. `silence`: seconds without a beat after which it counts as cut."""

    def __init__(self, descriptor: int, silence: float = math.inf) -> None:
        self.descriptor = descriptor
        self._silence = silence
        # Silence counts from the first beat's due time on, by a clock that goes on while the machine sleeps.
        self._heard = time.clock_gettime(time.CLOCK_BOOTTIME)

    def remaining(self) -> float | None:
        """Seconds until silence has been too long; None: for ever."""
        if math.isinf(self._silence):
            return None
        return max(0.0, self._heard + self._silence - time.clock_gettime(time.CLOCK_BOOTTIME))

    def feel(self, ready: bool) -> Pull:
        """What has happened to it; `ready`: there is something to read."""
        if ready:
            data = os.read(self.descriptor, _MANY)
            if not data:
                return Pull.CUT
            self._heard = time.clock_gettime(time.CLOCK_BOOTTIME)
            return Pull.END if END in data else Pull.BEAT
        return Pull.SILENT if self.remaining() == 0 else Pull.NOTHING
