"""Clocks: how far a node's differs from ours, told by what it says and when we heard that. Pure.

A node says at some moment "it is t". That moment lies between our sending of what it answers to and our receiving
of the answer, so that its clock is ahead of ours by at least `t - received` and by at most `t - sent`. Each further
exchange can only narrow this. What two exchanges say can contradict each other only where a clock was set between
them; then the later one counts, and that it was set is said.
"""

from __future__ import annotations

import msgspec

from probe.cluster.durations import seconds_text


class Clock(msgspec.Struct, frozen=True, rename="camel"):
    """How far a clock is ahead of ours, in nanoseconds: something between `least` and `most`."""

    least: int
    most: int
    was_set: bool = False

    @property
    def ahead(self) -> int:
        """The best guess: 0 where the clocks may agree, else the middle."""
        return 0 if self.least <= 0 <= self.most else (self.least + self.most) // 2

    @property
    def doubt(self) -> int:
        """How far the guess may be off."""
        return max(self.most - self.ahead, self.ahead - self.least)

    def __str__(self) -> str:
        doubt = f"±{seconds_text(self.doubt)}"
        if not self.ahead:
            return f"agrees with ours ({doubt})"
        return (
            f"is {seconds_text(abs(self.ahead))} {'ahead of' if self.ahead > 0 else 'behind'} ours ({doubt})"
        )


class ClockGauge:
    """Gathers exchanges with one node."""

    def __init__(self) -> None:
        self._least: int | None = None
        self._most: int | None = None
        self._was_set = False

    def exchanged(self, sent: int, said: int, received: int) -> None:
        """The node answered `said`, by its clock, to what we sent; all in nanoseconds since the epoch."""
        least, most = said - received, said - sent
        if most < least:  # our own clock was set back in between: this says nothing
            return
        if self._least is None or self._most is None:
            self._least, self._most = least, most
        elif least > self._most or most < self._least:
            self._least, self._most, self._was_set = least, most, True
        else:
            self._least, self._most = max(least, self._least), min(most, self._most)

    @property
    def clock(self) -> Clock | None:
        """What is known; None before the first exchange."""
        if self._least is None or self._most is None:
            return None
        return Clock(self._least, self._most, self._was_set)
