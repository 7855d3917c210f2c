"""Folders of pcaps and conntrack lists, named as the captures beside the repository are, as a recording."""

from __future__ import annotations

from pathlib import Path

from analysis.recording import Recording, RecordingBuilder
from daemonset.decode.packet import Batch
from daemonset.node.conntrack import parse_text
from daemonset.observation import Tap, TapKind
from daemonset.taps.pcap import read_tap

KINDS = {"eth0": TapKind.NIC, "cni0": TapKind.BRIDGE}


def tap_of(name: str) -> Tap:
    """`client-eth0`, `lb-eth0`, `node1-cni0` or `pod-node2-ingress` as a tap."""
    place, _, rest = name.partition("-")
    if place == "pod":
        node, _, pod = rest.partition("-")
        return Tap(node, TapKind.POD, pod)
    kind = TapKind(place) if place in {"client", "lb"} else KINDS[rest]
    return Tap(place, kind, rest)


def load_flow(folder: Path) -> Recording:
    """One flow's captures."""
    builder = RecordingBuilder()
    for file in sorted(folder.glob("*.pcap")):
        tap = tap_of(file.stem)
        stream = builder.stream(tap.node)
        batch = Batch()
        read_tap(file, stream.tap(tap), batch)
        stream.packets(*batch.take())
    for file in sorted(folder.glob("conntrack-*.txt")):
        rows, skipped = parse_text(file.read_text())
        assert not skipped
        builder.stream(file.stem.partition("-")[2]).nat(rows)
    return builder.build()
