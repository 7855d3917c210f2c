"""Health checks of our own: what nodes answered their own agents, and from which sockets anybody of ours asked.

They are no load balancer's: what they were answered counts as the node's word, and they count for nothing else.
"""

from __future__ import annotations

import msgspec

from analysis.health.rounds import AskedRounds
from daemonset.observation import HealthAnswer


class OwnAnswer(msgspec.Struct, frozen=True):
    """A run of equal answers of one node's port, the first at `time` and the last at `until` (ns since the epoch).

    `answer` is "200", "503", …, "refused", "no answer" or "closed", as for a check that packets show.
    """

    time: int
    until: int
    times: int
    node: str
    port: int
    answer: str
    said: HealthAnswer | None = None


class OwnChecks(msgspec.Struct, frozen=True):
    """All of a session. `sources`: address and port of sockets from which we asked while it was captured.

    `reasons`: what is missing. `asked`: what was asked in rounds, of all nodes and from several sides.
    """

    answers: tuple[OwnAnswer, ...] = ()
    sources: tuple[tuple[str, int], ...] = ()
    reasons: tuple[str, ...] = ()
    asked: AskedRounds | None = None


NONE_OWN = OwnChecks()
