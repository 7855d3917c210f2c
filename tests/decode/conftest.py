"""Settings of the property tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No test judges time (a busy machine is no fault of the code), and none leaves anything behind.
settings.register_profile(
    "untimed", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")
