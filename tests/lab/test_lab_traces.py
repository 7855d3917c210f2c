"""Rules are traced without privileges as well: in user namespaces, the kernel's trace is ours."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.lab.here import REPOSITORY

pytestmark = pytest.mark.lab


def test_no_privilege_is_needed(as_nobody: list[str]) -> None:
    done = subprocess.run(
        [*as_nobody, "-m", "probe", "capture", "--lab", "cluster-remote", "--trace-rules", "-o", "json"],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    journeys = json.loads(done.stdout)["journeys"]
    assert all("KUBE-POSTROUTING" in snat["rule"] for journey in journeys for snat in journey["snat"])
    assert all("marked by table ip nat chain KUBE-EXT-" in journey["snat"][0]["rule"] for journey in journeys)
