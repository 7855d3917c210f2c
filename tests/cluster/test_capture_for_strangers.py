"""`probe capture --anonymize` on a cluster: what is told meanwhile is of the same strangers as what it leaves."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from probe.sessions.folder import read_meta
from tests.cli.helpers import ended, start
from tests.cluster.conftest import Stage

pytestmark = pytest.mark.lab

#: As people call their clusters.
CONTEXT = "alice@acme-prod"


def lab_addresses(stage: Stage) -> set[str]:
    """All that the cluster's objects and its clients have, in the lab's networks."""
    text = json.dumps(stage.lab.objects()) + "".join(
        json.dumps(list(host.addresses.values())) for host in stage.lab.plan.hosts
    )
    found = set(re.findall(r"(?:172\.30|10\.244|10\.96)(?:\.\d{1,3}){2}", text))
    assert len(found) > 4
    return found


def secret(folder: Path) -> Path:
    """A key that is the same each time: of a new one, some address becomes another true one by chance, one day."""
    file = folder / "key"
    file.write_bytes(bytes(range(32)))
    return file


def as_people_call_it(stage: Stage) -> None:
    config = json.loads(stage.kubeconfig.read_text())
    config["contexts"][0]["name"] = config["current-context"] = CONTEXT
    stage.kubeconfig.write_text(json.dumps(config))


def test_whatever_is_told_of_a_cluster_is_of_others(
    lab_stage: Callable[[str], Stage], tmp_path: Path
) -> None:
    stage, folder = lab_stage("cluster-remote"), tmp_path / "session"
    as_people_call_it(stage)
    written = {form: tmp_path / f"out.{form}" for form in ("html", "markdown", "events", "w")}
    running = stage.start(
        "capture", "svc/web", "--duration", "60s", "--anonymize", "--key", secret(tmp_path), "--record", folder,
        "-o", "json",
        "--html", written["html"], "--markdown", written["markdown"], "--events", written["events"], "-w", written["w"],
    )  # fmt: skip
    running.until("watching for")
    answers = stage.lab.send()
    running.until("so far: ", f"{len(answers)} lost", "(node1, kube-proxy masquerade)")
    running.interrupt()
    ending = running.ending()
    assert ending.code == 3, ending.err
    assert [each["verdict"] for each in ending.json["journeys"]] == ["lost"] * len(answers)
    assert ended(start("analyze", folder, "-o", "json")).json == ending.json
    told = [json.loads(line) for line in written["events"].read_text().splitlines()]
    assert {each["name"] for each in told[0]["places"]} == {"node1", "node2", "node3"}
    assert told[-1]["verdicts"]["lost"] == len(answers)
    made = {form: path.read_bytes() for form, path in written.items()}
    made |= {path.name: path.read_bytes() for path in folder.iterdir()}
    made |= {"out": ending.out.encode(), "err": ending.err.encode()}
    for name, data in made.items():
        for word in (*lab_addresses(stage), CONTEXT, "acme"):
            assert not re.search(rb"(?<![\w.])" + re.escape(word.encode()) + rb"(?!\w|\.\d)", data), (
                name,
                word,
            )


def test_a_kill_while_it_is_captured_leaves_a_folder_of_nobody(
    lab_stage: Callable[[str], Stage], tmp_path: Path
) -> None:
    stage, folder = lab_stage("cluster-remote"), tmp_path / "session"
    running = stage.start(
        "capture",
        "svc/web",
        "--duration",
        "60s",
        "--anonymize",
        "--key",
        secret(tmp_path),
        "--record",
        folder,
    )
    running.until("watching for")
    answers = stage.lab.send()
    running.until(f"{len(answers)} connections")
    running.interrupt(signal.SIGKILL)
    running.ending()
    for command in stage.double.server.started:
        stage.double.wait_for(command)
    meta = read_meta(folder)
    assert not meta.complete
    assert meta.facts.known
    everything = b"".join(path.read_bytes() for path in folder.iterdir()).decode()
    assert not [each for each in lab_addresses(stage) if f'"{each}"' in everything]
    report = ended(start("analyze", folder, "-o", "json")).json
    assert any("cut off" in reason for reason in report["capture"]["reasons"])
