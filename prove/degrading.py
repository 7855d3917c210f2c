"""What can happen to a recording on its way: parts missing, doubled, late, out of order; clocks that are wrong.

Whatever of this happens, a verdict may become inconclusive and never another. Each degradation is drawn from a seed, so
that what failed can be made again.
"""

from __future__ import annotations

import dataclasses
import random

import msgspec
import numpy as np

from analysis.facts import Facts
from analysis.recording import Recording

MILLISECOND = 1_000_000  # ns
SECOND = 1_000_000_000

#: ns by which a node's clock may be wrong here. Beyond a minute two nodes' views of a leg are two legs (analysis.legs).
CLOCK_OFF = 5 * SECOND


def without(recording: Recording, packets: np.ndarray, nat: np.ndarray, taps: set[int]) -> Recording:
    """The recording with only these packets and records, and without these taps."""
    kept = [number for number in range(len(recording.taps)) if number not in taps]
    numbers = np.zeros(len(recording.taps), dtype=np.uint32)
    numbers[kept] = np.arange(len(kept))
    rows = recording.packets[packets & ~np.isin(recording.packets["tap"], list(taps))].copy()
    rows["tap"] = numbers[rows["tap"]]
    return dataclasses.replace(
        recording, packets=rows, nat=recording.nat[nat], taps=tuple(recording.taps[number] for number in kept)
    )


def lessened(recording: Recording, dice: random.Random) -> Recording:
    """Rows, taps, whole places and NAT records taken away at random."""
    rows = np.array([dice.random() for _ in recording.packets]) >= dice.choice([0, 0.05, 0.3, 0.6, 0.9])
    records = np.array([dice.random() for _ in recording.nat]) >= dice.choice([0, 0, 0.5, 1])
    share = dice.choice([0, 0, 0.1, 0.4, 0.7])
    taps = {number for number in range(len(recording.taps)) if dice.random() < share}
    if dice.random() < 0.3:
        gone = {node for node in recording.nodes if dice.random() < 0.4}
        taps |= {number for number, tap in enumerate(recording.taps) if tap.node in gone}
        records &= np.array([recording.nodes[node] not in gone for node in recording.nat["node"]], dtype=bool)
    return without(recording, rows, records, taps)


def disturbed(recording: Recording, dice: random.Random) -> Recording:
    """Rows doubled as a bridge or a retransmission does, put down in another order, and by clocks that are wrong."""
    packets, nat = recording.packets.copy(), recording.nat.copy()
    if len(packets) and dice.random() < 0.6:
        doubled = packets[np.array([dice.random() for _ in packets]) < dice.choice([0.05, 0.3, 1])].copy()
        late = dice.choice([1_000, 50_000, 200 * MILLISECOND])
        doubled["time"] += np.array([dice.randrange(late) for _ in doubled], dtype=np.uint64)
        packets = np.concatenate([packets, doubled])
    if dice.random() < 0.6:
        for place in sorted({tap.node for tap in recording.taps}):
            off = dice.randint(-CLOCK_OFF, CLOCK_OFF)
            there = np.isin(packets["tap"], [n for n, tap in enumerate(recording.taps) if tap.node == place])
            packets["time"][there] = (packets["time"][there].astype(np.int64) + off).astype(np.uint64)
            theirs = np.isin(nat["node"], [n for n, node in enumerate(recording.nodes) if node == place])
            theirs &= nat["time"] != 0  # a table that was read by hand does not say when
            nat["time"][theirs] = (nat["time"][theirs].astype(np.int64) + off).astype(np.uint64)
    order = list(range(len(packets)))
    dice.shuffle(order)
    return dataclasses.replace(recording, packets=packets[order] if order else packets, nat=nat)


def forgetful(facts: Facts, dice: random.Random) -> Facts:
    """Cluster facts without some of their objects, as where they may not be listed, or were listed too late.

    What is known of balancers stays: one that nobody names, watches or sees checking cannot be told from a client.
    """
    share = dice.choice([0, 0.1, 0.5, 1])
    pods = tuple(pod for pod in facts.pods if dice.random() >= share)
    nodes = tuple(node for node in facts.nodes if dice.random() >= share / 4)
    services = tuple(
        msgspec.structs.replace(
            service, endpoints=tuple(each for each in service.endpoints if dice.random() >= share / 2)
        )
        for service in facts.services
    )
    forgotten = msgspec.structs.replace(facts, pods=pods, nodes=nodes, services=services)
    if dice.random() < 0.3:
        forgotten = msgspec.structs.replace(forgotten, proxy_mode="", cluster_cidrs=())
    return forgotten
