"""What a finding of one kind is in general; the catalogues hold one for each code."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.report import Severity


@dataclass(frozen=True, slots=True)
class Definition:
    """One kind of finding. `explanation` and `fix` are whole sentences for a reader who is tired."""

    code: str
    severity: Severity
    title: str
    explanation: str
    fix: str

    @property
    def docs(self) -> str:
        """Where the finding is explained at length."""
        return f"docs/findings.md#{self.code.lower()}"
