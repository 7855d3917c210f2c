"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test judges time (a busy machine is no fault of the code), and none leaves anything behind.
settings.register_profile(
    "searching", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
# The same examples each time, so that a change fails for what it changed; `make search` looks for new ones.
settings.register_profile("repeatable", settings.get_profile("searching"), derandomize=True)
settings.load_profile("repeatable")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def evidence() -> Path:
    """Captures of a real Kubernetes that stand beside the repository; skips where they do not."""
    folder = REPOSITORY.parent / "shared" / "evidence"
    if not folder.is_dir():
        pytest.skip(f"needs the captures of a real Kubernetes in {folder.name}/ beside the repository")
    return folder
