"""Ports as anybody writes them: what `int` would take for more than that, or refuse."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.chain.claims import Claims
from analysis.chain.forwarded import naming
from analysis.health.arrivals import status_of
from analysis.ingress import port_of
from analysis.ports import is_port


@example("²")
@example("9" * 5000)
@example("٣")
@given(st.text(max_size=8))
def test_what_is_a_port_is_a_number(text: str) -> None:
    if is_port(text):
        assert 0 <= int(text) < 100_000


@pytest.mark.parametrize("odd", ["²", "9" * 5000, "-1", "", "8_0"])
def test_no_port_is_made_of_what_is_none(odd: str) -> None:
    assert port_of(f"192.0.2.1:{odd}") is None
    word = naming(Claims(chain=(f"192.0.2.1:{odd}",)))
    assert word is not None
    assert word.port is None


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.0 503", 503),
        ("HTTP/1.1 ²²² OK", None),
        ("HTTP/1.1 " + "9" * 5000, None),
        ("HTTP/1.1", None),
        ("GET /200 HTTP/1.1", None),
    ],
)
def test_a_status_is_three_digits(line: str, status: int | None) -> None:
    assert status_of(line) == status
