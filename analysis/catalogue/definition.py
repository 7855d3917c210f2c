"""What a finding of one kind is in general; the catalogues hold one for each code."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.report import Severity

_PACKETS = "probe capture and probe analyze, from packets and the kernel's NAT records"
_GIVEN = "probe capture and probe analyze, from a configuration or log that was given, held against packets"
_RULES = "probe capture --trace-rules, from what the kernel says of its own rules"
_HEALTH = "probe health, probe capture and probe analyze, from the health checks that were watched"
_ASKED = "probe health, by asking each node"
_OBJECTS = "probe check, from the cluster's objects or files of them"
_ITSELF = "every capture, about itself"

#: By the last code of each span.
_SEEN = (
    (420, _PACKETS), (425, _RULES), (506, _PACKETS), (507, _GIVEN), (508, _PACKETS), (509, _GIVEN), (599, _PACKETS),
    (610, _HEALTH), (699, _ASKED), (799, _OBJECTS), (999, _ITSELF),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Definition:
    """One kind of finding. `explanation` and `fix` are whole sentences for a reader who is tired."""

    code: str
    severity: Severity
    title: str
    explanation: str
    fix: str

    @property
    def seen(self) -> str:
        """By which command it is found, and from what."""
        number = int(self.code.removeprefix("SIP"))
        return next(words for last, words in _SEEN if number <= last)

    @property
    def docs(self) -> str:
        """Where the finding is explained at length."""
        return f"docs/findings.md#{self.code.lower()}"
