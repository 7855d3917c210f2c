"""What can happen to a recording on its way: parts missing, doubled, late, out of order; clocks that are wrong.

Whatever of this happens, a verdict may become inconclusive and never another. Each degradation is drawn from a seed, so
that what failed can be made again. Those of `HARMS` do one thing each, and always; `lessened` and `disturbed` mix them.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec
import numpy as np

from analysis.facts import Facts
from analysis.recording import Recording

MILLISECOND = 1_000_000  # ns
SECOND = 1_000_000_000

#: ns by which a node's clock may be wrong here. Beyond a minute two nodes' views of a leg are two legs
#: (analysis.engine.legs).
CLOCK_OFF = 5 * SECOND

#: ns by which stamps may be late.
_LATE = (50_000, 5 * MILLISECOND, 200 * MILLISECOND, SECOND)

#: What is done to a recording and to what the cluster says of itself.
Harm = Callable[[Recording, Facts, random.Random], tuple[Recording, Facts]]


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


def without_packets(recording: Recording, dice: random.Random, share: float) -> Recording:
    """Without this share of the packets."""
    return without(recording, _kept(recording.packets, dice, share), _all(recording.nat), set())


def without_records(recording: Recording, dice: random.Random, share: float) -> Recording:
    """Without this share of the NAT records."""
    return without(recording, _all(recording.packets), _kept(recording.nat, dice, share), set())


def without_taps(recording: Recording, dice: random.Random, share: float) -> Recording:
    """Without this share of the taps."""
    taps = {number for number in range(len(recording.taps)) if dice.random() < share}
    return without(recording, _all(recording.packets), _all(recording.nat), taps)


def without_places(recording: Recording, dice: random.Random, share: float) -> Recording:
    """Without all that this share of the places saw."""
    places = sorted({*recording.nodes, *(tap.node for tap in recording.taps)})
    gone = {place for place in places if dice.random() < share}
    taps = {number for number, tap in enumerate(recording.taps) if tap.node in gone}
    records = np.array([recording.nodes[node] not in gone for node in recording.nat["node"]], dtype=bool)
    return without(recording, _all(recording.packets), records, taps)


def doubled(recording: Recording, dice: random.Random) -> Recording:
    """Packets twice, as a bridge or a retransmission has them."""
    packets = recording.packets
    more = packets[_kept(packets, dice, 1 - dice.choice([0.05, 0.3, 1]))].copy()
    late = dice.choice([1_000, 50_000, 200 * MILLISECOND])
    more["time"] += np.array([dice.randrange(late) for _ in more], dtype=np.uint64)
    return dataclasses.replace(recording, packets=np.concatenate([packets, more]))


def shuffled(recording: Recording, dice: random.Random) -> Recording:
    """Packets and NAT records that come in any order; each still says when it was."""
    packets, nat = list(range(len(recording.packets))), list(range(len(recording.nat)))
    dice.shuffle(packets)
    dice.shuffle(nat)
    return dataclasses.replace(
        recording,
        packets=recording.packets[packets] if packets else recording.packets,
        nat=recording.nat[nat] if nat else recording.nat,
    )


def shifted(recording: Recording, dice: random.Random) -> Recording:
    """Each place's clock wrong by up to `CLOCK_OFF`."""
    packets, nat = recording.packets.copy(), recording.nat.copy()
    for place in _places(recording):
        _move(recording, packets, nat, place, dice.randint(-CLOCK_OFF, CLOCK_OFF), since=0)
    return dataclasses.replace(recording, packets=packets, nat=nat)


def stepped(recording: Recording, dice: random.Random) -> Recording:
    """Clocks that are put right, or wrong, while packets are captured: from one on, times are later or earlier."""
    packets, nat = recording.packets.copy(), recording.nat.copy()
    if len(packets) == 0:
        return recording
    first, last = int(packets["time"].min()), int(packets["time"].max())
    for place in _places(recording):
        moment = dice.randint(first, last)
        _move(recording, packets, nat, place, dice.randint(-CLOCK_OFF, CLOCK_OFF), since=moment)
    return dataclasses.replace(recording, packets=packets, nat=nat)


def delayed(recording: Recording, dice: random.Random) -> Recording:
    """Packets that are stamped later than they passed, each by its own while, as by a busy host."""
    packets = recording.packets.copy()
    late, share = dice.choice(_LATE), dice.choice([0.1, 0.5, 1])
    packets["time"] += np.array(
        [dice.randrange(late) if dice.random() < share else 0 for _ in packets], dtype=np.uint64
    )
    return dataclasses.replace(recording, packets=packets)


def delayed_taps(recording: Recording, dice: random.Random) -> Recording:
    """Taps of which each stamps later by a while of its own, as a mirror port or a card with its own clock does."""
    packets = recording.packets.copy()
    late = np.array([dice.randrange(dice.choice(_LATE)) for _ in recording.taps], dtype=np.uint64)
    if len(packets):
        packets["time"] += late[packets["tap"]]
    return dataclasses.replace(recording, packets=packets)


def _places(recording: Recording) -> list[str]:
    return sorted({tap.node for tap in recording.taps})


def _move(
    recording: Recording, packets: np.ndarray, nat: np.ndarray, place: str, off: int, *, since: int
) -> None:
    """Move what one place saw from a moment on by `off` ns, in place."""
    there = np.isin(packets["tap"], [n for n, tap in enumerate(recording.taps) if tap.node == place])
    there &= packets["time"] >= since
    packets["time"][there] = (packets["time"][there].astype(np.int64) + off).astype(np.uint64)
    theirs = np.isin(nat["node"], [n for n, node in enumerate(recording.nodes) if node == place])
    theirs &= nat["time"] >= max(since, 1)  # a table that was read by hand does not say when
    nat["time"][theirs] = (nat["time"][theirs].astype(np.int64) + off).astype(np.uint64)


def _kept(rows: np.ndarray, dice: random.Random, share: float) -> np.ndarray:
    return np.array([dice.random() for _ in rows]) >= share


def _all(rows: np.ndarray) -> np.ndarray:
    return np.ones(len(rows), dtype=bool)


def lessened(recording: Recording, dice: random.Random) -> Recording:
    """Rows, taps, whole places and NAT records taken away at random."""
    lessened = without_packets(recording, dice, dice.choice([0, 0.05, 0.3, 0.6, 0.9]))
    lessened = without_records(lessened, dice, dice.choice([0, 0, 0.5, 1]))
    lessened = without_taps(lessened, dice, dice.choice([0, 0, 0.1, 0.4, 0.7]))
    return without_places(lessened, dice, 0.4) if dice.random() < 0.3 else lessened


def disturbed(recording: Recording, dice: random.Random) -> Recording:
    """Rows doubled, put down in another order, and by clocks that are wrong, some from the beginning, some later."""
    for harm in (doubled, shifted, stepped):
        if dice.random() < 0.6:
            recording = harm(recording, dice)
    return shuffled(recording, dice)


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


def _of_recording(harm: Callable[[Recording, random.Random], Recording]) -> Harm:
    return lambda recording, facts, dice: (harm(recording, dice), facts)


#: How much is taken away where something is.
_SHARES = (0.02, 0.1, 0.3, 0.6, 0.9)

HARMS: Mapping[str, Harm] = MappingProxyType(
    {
        "packets lost": _of_recording(lambda told, dice: without_packets(told, dice, dice.choice(_SHARES))),
        "taps lost": _of_recording(lambda told, dice: without_taps(told, dice, dice.choice(_SHARES[1:]))),
        "places lost": _of_recording(lambda told, dice: without_places(told, dice, dice.choice([0.2, 0.5]))),
        "NAT records lost": _of_recording(
            lambda told, dice: without_records(told, dice, dice.choice([0.3, 1]))
        ),
        "packets doubled": _of_recording(doubled),
        "any order": _of_recording(shuffled),
        "clocks off by up to 5 s": _of_recording(shifted),
        "clocks stepped by up to 5 s": _of_recording(stepped),
        "packets stamped up to 1 s late": _of_recording(delayed),
        "taps that stamp up to 1 s late": _of_recording(delayed_taps),
        "objects forgotten": lambda told, facts, dice: (told, forgetful(facts, dice)),
        "all of it": lambda told, facts, dice: (
            lessened(disturbed(told, dice), dice),
            forgetful(facts, dice),
        ),
    }
)
