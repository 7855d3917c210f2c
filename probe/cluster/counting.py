"""What has come so far, counted as it arrives, for people who wait."""

from __future__ import annotations

import numpy as np

from daemonset.observation import PACKET, Loss, TcpFlag
from daemonset.wire import Frame, PacketRows

_HANDSHAKE = TcpFlag.SYN | TcpFlag.ACK | TcpFlag.RST


class Counts:
    """Packets, connections and losses of all streams.

    A connection is counted by the initial sequence number of its SYN, which no NAT rewrites: once, wherever it is
    seen. `flows` and `packets` are how many of each are wanted: both are kept in memory until they are judged.
    """

    def __init__(self, flows: int, packets: int) -> None:
        self.packets = 0
        self.dropped = 0
        self.nodes: set[str] = set()
        self._most_flows = flows
        self._most_packets = packets
        self._flows: set[int] = set()

    @property
    def flows(self) -> int:
        """Connections that began."""
        return len(self._flows)

    @property
    def limit(self) -> str | None:
        """The limit that is reached, in words."""
        if self.flows >= self._most_flows:
            return f"{self._most_flows:,} connections"
        return f"{self._most_packets:,} packets" if self.packets >= self._most_packets else None

    def take(self, place: str, frame: Frame) -> None:
        """One more frame of a stream."""
        match frame:
            case PacketRows(rows, _):
                table = np.frombuffer(rows, dtype=PACKET.dtype())
                self.packets += len(table)
                self.nodes.add(place)
                if self.flows < self._most_flows:
                    opening = (table["flags"] & _HANDSHAKE == TcpFlag.SYN) & (table["protocol"] == 6)
                    self._flows.update(table["seq"][opening].tolist())
            case Loss(_, _, dropped):
                self.dropped += dropped
            case _:
                pass

    def __str__(self) -> str:
        text = f"{self.flows:,} connections, {self.packets:,} packets on {len(self.nodes)} nodes"
        return text + (f", {self.dropped:,} dropped by kernels" if self.dropped else "")
