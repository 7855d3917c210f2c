"""What can go wrong with the lab that is nobody's defect: the environment's fault, or the scenario file's."""

from __future__ import annotations

from probe.errors import UnavailableError, UsageError


class LabError(UnavailableError):
    """The lab cannot run here, or has ended; one line: what happened; what to do about it."""


class ScenarioError(UsageError):
    """A scenario is unknown or its file is wrong; the line names the file and the key."""
