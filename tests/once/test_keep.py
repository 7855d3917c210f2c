"""What `probe capture` keeps, and how it is asked to."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from daemonset.observation import Hello, Ruleset
from daemonset.wire import read_stream
from probe.commands.options import Format, split_output
from probe.errors import UsageError
from tests.cli.helpers import ended, start
from tests.lab.here import why_not


@pytest.mark.parametrize(
    ("given", "form", "folder"),
    [
        ([], Format.TABLE, None),
        (["json"], Format.JSON, None),
        (["session"], Format.TABLE, "session"),
        (["./json"], Format.TABLE, "json"),
        (["/tmp/a", "yaml"], Format.YAML, "/tmp/a"),
        (["wide", "kept/today"], Format.WIDE, "kept/today"),
    ],
)
def test_a_format_and_a_folder(given: list[str], form: Format, folder: str | None) -> None:
    assert split_output(given) == (form, Path(folder) if folder else None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["jsom"], "'jsom' is no format; give table, wide, json, jsonl, yaml, or ./jsom for a folder"),
        (["jsonpath={.items}"], "is no format"),
        (["name"], "is no format"),
        ([""], "is no format"),
        (["json", "yaml"], "given twice, json and yaml"),
        (["a", "b"], "given twice, a and b"),
    ],
)
def test_what_may_be_a_slip_is_no_folder(given: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=r".*") as error:
        split_output(given)
    assert words in str(error.value)


def test_two_folders_are_one_too_many(tmp_path: Path) -> None:
    ending = ended(
        start("capture", "--lab", "local-preserved", "--record", tmp_path / "a", "--output", tmp_path / "b")
    )
    ending.complains(2, "--record", "--output", "give one of them")


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_a_session_holds_the_rules_that_its_nodes_had(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "kept"
    options = ("--lab", "local-preserved", "--proxy-mode", mode, "--output", folder, "-o", "json")
    live = ended(start("capture", *options))
    assert live.code == 0, live.err
    index = json.loads((folder / "session.json").read_text())
    assert set(index["kernels"]) == set(index["places"])
    frames = list(read_stream(folder / "node1.probe"))
    (said,) = (frame for frame in frames if isinstance(frame, Ruleset))
    assert said.refused == ""
    assert said.omitted == 0
    assert {"dnat", "masquerade"} <= {rule.action for rule in said.rules}
    if mode == "nftables":
        assert any(": goto" in element for each in said.sets for element in each.elements)
    hello = frames[0]
    assert isinstance(hello, Hello)
    assert hello.agent.startswith("probe ")
    assert kept_rows(folder, "packets") == live.json["capture"]["observations"] - kept_rows(folder, "nat")
    assert kept_rows(folder, "rules") > 0
    later = ended(start("analyze", folder, "-o", "json"))
    assert later.json == live.json, "the report later is the report then"


def kept_rows(folder: Path, table: str) -> int:
    """Rows of a table at rest, counted by an engine that knows nothing of us."""
    row = duckdb.execute(f"select count(*) from read_parquet('{folder}/{table}.parquet')").fetchone()
    assert row is not None
    return int(row[0])
