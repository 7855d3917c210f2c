"""Ports in ranges, of which a configuration may name more than can be told one by one."""

from __future__ import annotations

from dataclasses import dataclass

#: Ports in ranges that one configuration can have, each as often as it is named; a few letters can name all 65,535.
MOST_OF_RANGES = 1000


@dataclass(slots=True)
class PortRanges:
    """How many ports the ranges of one configuration have named so far."""

    named: int = 0

    def admits(self, ports: range) -> bool:
        """Whether these may be told one by one, too; a single port is no range."""
        if len(ports) < 2:
            return True
        self.named += len(ports)
        return self.named <= MOST_OF_RANGES
