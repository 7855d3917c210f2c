"""How long the sniffer sleeps: as long as queues stay far from full."""

from __future__ import annotations

import pytest

from daemonset.taps.sniffer import _FULL_ENOUGH, FAST_PACE, PACE, _pace


@pytest.mark.parametrize("fill", [0.0, 0.01, _FULL_ENOUGH])
def test_a_queue_that_is_far_from_full_is_left_alone_for_long(fill: float) -> None:
    assert _pace(0.02, fill) == PACE


def test_the_next_drain_meets_a_queue_that_is_full_enough() -> None:
    assert _pace(PACE, 2 * _FULL_ENOUGH) == pytest.approx(PACE / 2)
    assert _pace(PACE / 2, 2 * _FULL_ENOUGH) == pytest.approx(PACE / 4)


def test_after_a_long_silence_a_full_queue_does_not_call_for_patience() -> None:
    assert _pace(3600.0, 1.0) == PACE


def test_it_is_never_in_more_of_a_hurry_than_this() -> None:
    assert _pace(0.001, 1.0) == FAST_PACE
