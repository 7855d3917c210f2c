"""What captures in the lab need beyond the lab itself."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.lab.here import why_not


@pytest.fixture(autouse=True)
def field_or_skip(request: pytest.FixtureRequest) -> None:
    """tcpdump gives up its privileges, which only works outside the lab's own user namespace: as root."""
    if not request.node.get_closest_marker("lab"):
        return
    missing = [tool for tool in ("tcpdump", "conntrack", "nsenter") if shutil.which(tool) is None]
    reason = f"needs {', '.join(missing)}" if missing else why_not()
    if not reason and os.geteuid() != 0:
        reason = "needs root, to run tcpdump in the lab's network namespaces"
    if reason:
        pytest.skip(reason)
