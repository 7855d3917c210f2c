"""Truth under loss: degraded sessions of the lab's scenarios and of a real cluster's captures, and their verdicts."""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

from probe.errors import UnavailableError
from probe.lab import ProxyMode, list_scenarios
from prove.degrading import HARMS
from prove.originals import Original, played, recorded
from prove.row import Row
from prove.verdicts import another, settled

#: Scenarios of the short form: one for each way in which an address is kept or lost.
SHORT = (
    "cluster-remote", "local-preserved", "local-no-endpoint", "hairpin-lb-ip", "lb-tcp-no-proxy", "proxy-v2-ok",
    "proxy-unused", "proxy-unexpected", "xff-untrusted", "xff-keepalive", "proxy-chain", "udp-dns",
)  # fmt: skip

#: Degraded sessions for each harm, of the short and of the long form.
_FEW, _MANY = 100, 1_000

_DETAILS = 3


@dataclass
class Count:
    """What came of many degraded sessions."""

    sessions: int = 0
    telling: int = 0  # sessions that give a verdict where nothing is degraded
    given: float = 0.0  # of how many of its verdicts a session still gives, summed over these
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Count) -> None:
        """Take another's in."""
        self.sessions += other.sessions
        self.telling += other.telling
        self.given += other.given
        self.wrong += other.wrong


def tried(original: Original, harm: str, draws: range) -> Count:
    """Degrade one session in one way, once for each of these draws."""
    count = Count()
    full = original.whole
    verdicts = settled(full)
    for number in draws:
        dice = random.Random(f"{original.name}/{harm}/{number}")  # noqa: S311 - to be made again
        where = f"{original.name}, {harm}, draw {number}"
        try:
            partial = original.judged(*HARMS[harm](original.recording, original.facts, dice))
        except Exception:  # whatever it is, it is what is looked for
            count.wrong.append(f"{where}: {traceback.format_exc(limit=-1).splitlines()[-1]}")
            continue
        count.sessions += 1
        if verdicts:
            count.telling += 1
            count.given += min(settled(partial), verdicts) / verdicts
        count.wrong += [
            f"{where}: {journey.client} {journey.verdict}, {journey.reason}"
            for journey in another(full, partial, truth=original.truth, left_open=original.left_open)
        ]
    return count


def shared_out(sessions: range, originals: int, harm: str) -> dict[int, range]:
    """Which draws of which originals a harm's sessions are: all originals have their turn before one comes again.

    Each harm begins at another original, for where there are fewer sessions than originals.
    """
    begin = list(HARMS).index(harm) * originals // len(HARMS)
    shares: dict[int, range] = {}
    for number in sessions:
        original, draw = (begin + number) % originals, number // originals
        shares[original] = range(shares[original].start if original in shares else draw, draw + 1)
    return shares


def rows(
    *,
    long: bool,
    evidence: Path | None,
    sessions: int | None = None,
    first: int = 0,
    harms: Sequence[str] | None = None,
    scenarios: Sequence[str] | None = None,
    keep: Path | None = None,
) -> list[Row]:
    """One row for each harm, or for each of `harms`. Raises ProbeError.

    `first`: how many sessions of each harm were tried already, with which to go on. `keep`: where recordings of the
    lab are kept, and taken from.
    """
    harms = harms or tuple(HARMS)
    modes: tuple[ProxyMode, ...] = ("iptables", "nftables") if long else ("iptables",)
    originals = list(recorded(evidence)) if evidence is not None else []
    again = f"python -m prove truth{' --long' if long else ''}"
    problem = ""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        try:
            originals += played(scenarios or (list_scenarios() if long else SHORT), modes, pool, keep)
        except UnavailableError as error:
            problem = f"no lab: {error}"
        if not originals:
            return [
                Row(f"sessions: {harm}", 0, 0, again=again, skipped=problem or "no recordings")
                for harm in harms
            ]
        wanted = sessions or (_MANY if long else _FEW)
        found: list[Row] = []
        for harm in harms:
            shares = shared_out(range(first, first + wanted), len(originals), harm)
            total = Count()
            those = [originals[number] for number in shares]
            for count in pool.map(tried, those, repeat(harm), shares.values()):
                total.add(count)
            found.append(_row(harm, total, again, f"; {problem}" if problem else ""))
    return found


def _row(harm: str, total: Count, again: str, lacking: str) -> Row:
    share = total.given / total.telling if total.telling else 0.0
    return Row(
        f"sessions: {harm}",
        total.sessions,
        len(total.wrong),
        f"{share:.0%} of a session's verdicts still given{lacking}",
        again,
        tuple(total.wrong[:_DETAILS]),
    )
