"""Every edge case of which the reading is settled, with its bytes and what the specification says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemonset.decode.proxy_protocol import NotProxyProtocolError, ProxyProtocolError, decode

TABLE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "proxy-receivers.json"

#: Rows whose bytes alone do not show the case: what the measurement sent behind them belongs to it.
BEHIND = {"v1_cr": b"GET / HTTP/1.1\r\n", "none_http": b"GET / HTTP/1.1\r\n"}


def rows() -> list[Any]:
    if not TABLE.is_file():
        reason = "needs the table of edge cases in shared/data beside the repository"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason), id="no-table")]
    return [pytest.param(row, id=row["name"]) for row in json.loads(TABLE.read_text())["edges"]]


def verdict(data: bytes) -> str:
    try:
        header = decode(data)
    except NotProxyProtocolError:
        return "not-proxy"
    except ProxyProtocolError:
        return "error"
    if header is None:
        return "incomplete"
    return "ok with a warning" if header.warnings else "ok"


@pytest.mark.parametrize("row", rows())
def test_the_decoder_says_what_the_specification_says(row: dict[str, Any]) -> None:
    data = bytes.fromhex(row["hex"]) + BEHIND.get(row["name"], b"")
    free = row["spec"] in {"ambiguous", "free"}
    assert verdict(data) == ("ok with a warning" if free else row["spec"]), row["why"]


@pytest.mark.parametrize("row", rows())
def test_every_shorter_piece_of_a_valid_header_asks_for_more(row: dict[str, Any]) -> None:
    data = bytes.fromhex(row["hex"])
    if verdict(data) not in {"ok", "ok with a warning"} or len(data) > 600:
        return
    header = decode(data)
    assert header is not None
    assert {verdict(data[:end]) for end in range(header.length)} == {"incomplete"}
