"""`probe doctor cluster`: a way to the cluster, an answer, and what the user may do there."""

from __future__ import annotations

import re
from typing import Any

from probe.errors import ExitCode
from tests.cluster.conftest import Stage


def checks(stage: Stage, code: int) -> dict[str, Any]:
    ending = stage.start("doctor", "cluster", "-o", "json").ending()
    assert ending.code == code, ending.err
    assert "Traceback" not in ending.err
    return {each["name"]: each for each in ending.json["checks"]}


def test_all_is_well_and_nothing_was_changed(stage: Stage) -> None:
    before = len(stage.double.left())
    told = checks(stage, ExitCode.OK)
    assert {name: each["severity"] for name, each in told.items()} == {
        "kubeconfig": None, "API server": None, "reading": None, "installing": None,
    }  # fmt: skip
    assert "v1.36.0" in told["API server"]["detail"]
    assert len(stage.double.left()) == before


def test_a_right_that_is_missing_is_named_with_its_role(stage: Stage) -> None:
    stage.faults.forbidden = {("create", "daemonsets"), ("list", "endpointslices")}
    told = checks(stage, ExitCode.ENVIRONMENT)
    assert told["reading"]["detail"] == "you may not list endpointslices"
    assert "client-ip-probe-may-look" in told["reading"]["fix"]
    assert told["installing"]["detail"] == "you may not create daemonsets"
    assert "--installed" in told["installing"]["fix"]


def test_where_rights_cannot_be_asked_for_that_is_said(stage: Stage) -> None:
    stage.faults.forbidden = {("create", "selfsubjectaccessreviews")}
    told = checks(stage, ExitCode.OK)
    assert told["reading"]["severity"] == "warning"
    assert told["reading"]["detail"].startswith("not checked, because ")


def test_credentials_that_are_refused(stage: Stage) -> None:
    stage.faults.tokens = set()
    told = checks(stage, ExitCode.ENVIRONMENT)
    assert told["API server"]["severity"] == "error"
    assert "reading" not in told


def test_a_server_that_is_not_there(stage: Stage) -> None:
    text, changed = re.subn(r"(https?://[^:/]+):\d+", r"\1:1", stage.kubeconfig.read_text())
    assert changed
    stage.kubeconfig.write_text(text)
    told = checks(stage, ExitCode.ENVIRONMENT)
    assert told["API server"]["severity"] == "error"
    assert told["API server"]["fix"]
