"""What was asked of health ports, without a capture beside it, as a session's folder: for `probe health DIR`."""

from __future__ import annotations

from pathlib import Path

from analysis.health.own import OwnChecks
from probe.cluster.capturing import Prepared
from probe.health.rounds import Asked
from probe.sessions.folder import Meta, SessionFolder


def keep_asked(folder: Path, title: str, prepared: Prepared, asked: Asked) -> None:
    """Write the folder: no streams, the cluster's facts, and every round of asking. Raises ProbeError."""
    gathered = prepared.gathered
    meta = Meta(
        title=title,
        service=gathered.service.key,
        proxy_mode=gathered.facts.proxy_mode,
        facts=gathered.facts,
    )
    own = OwnChecks(sources=tuple(sorted(asked.sources)), asked=asked.kept)
    SessionFolder(folder, meta).finish(own=own)
