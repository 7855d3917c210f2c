"""Labs for tests: skipped with a reason where this machine cannot have one."""

from __future__ import annotations

import pytest

from tests.lab.here import python_for_nobody, why_not


@pytest.fixture(autouse=True)
def lab_or_skip(request: pytest.FixtureRequest) -> None:
    """Tests marked `lab` need namespaces and tools."""
    if request.node.get_closest_marker("lab") and why_not():
        pytest.skip(why_not())


@pytest.fixture
def as_nobody() -> list[str]:
    """The start of a command line that runs our Python without privileges."""
    command = python_for_nobody()
    if command is None:
        pytest.skip("needs a Python that an unprivileged user can run")
    return command
