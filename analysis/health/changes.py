"""What a watch of EndpointSlices told: how many endpoints a node had, and since when."""

from __future__ import annotations

import msgspec


class EndpointChange(msgspec.Struct, frozen=True):
    """From `time` on (ns, by the watcher's clock) a node had so many endpoints of the Service.

    `terminating` counts those that are shutting down and still serve (KEP-1669).
    """

    time: int
    node: str
    ready: int
    terminating: int = 0
    service: str = ""  # namespace/name

    @property
    def words(self) -> str:
        """In words."""
        ready = f"{self.ready} ready endpoint{'' if self.ready == 1 else 's'}"
        return ready + (f", {self.terminating} terminating and still serving" if self.terminating else "")
