"""requirements.lock → which versions are locked, and the digests of the files that each may come as."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = REPOSITORY / "requirements.lock"

_ENTRY = re.compile(r"(?m)^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?: *; *(?P<marker>[^\\\n]+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Locked:
    """One entry: `name` as the lock spells it, `digests` SHA-256 of every file that this version may come as."""

    name: str
    version: str
    marker: str | None
    digests: tuple[str, ...]

    @property
    def key(self) -> str:
        """The name as other packages may spell it too, made one (PEP 503)."""
        return canonicalize_name(self.name)

    def meant_for(self, environment: dict[str, str]) -> bool:
        """Whether that environment (PEP 508) gets this entry."""
        return self.marker is None or Marker(self.marker).evaluate(environment)


def read_lock(path: Path = LOCK) -> tuple[Locked, ...]:
    """All entries, in the order of the file."""
    text = path.read_text(encoding="utf-8")
    found = list(_ENTRY.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    return tuple(
        Locked(
            match["name"],
            match["version"],
            match["marker"].strip() if match["marker"] else None,
            tuple(_HASH.findall(text[match.start() : end])),
        )
        for match, end in zip(found, ends, strict=True)
    )
