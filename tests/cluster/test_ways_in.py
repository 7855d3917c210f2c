"""Ways to the cluster and from the operator: TLS with certificates, and requests sent from here."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.cluster.agents import nodes, scripted_agent, web_service
from tests.cluster.conftest import Stage
from tests.cluster.double import Double, Faults
from tests.cluster.double.certificates import Certificates
from tests.cluster.double.double import namespaces
from tests.cluster.double.execution import ScriptExecutor
from tests.cluster.test_refusals import refused


@pytest.fixture
def secure_stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose server speaks TLS and wants the user's certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path / "certificates"
    folder.mkdir()
    faults = Faults()
    objects = [*namespaces("default", "kube-system"), *nodes("node1", "node2"), *web_service()]
    with Double(objects, ScriptExecutor(scripted_agent(faults)), faults, Certificates(folder)) as double:
        stage = Stage(double, tmp_path)
        yield stage
        stage.close()


def test_requests_and_streams_go_over_tls_with_the_users_certificate(secure_stage: Stage) -> None:
    ending = secure_stage.start("capture", "svc/web", "--duration", "1s", "-o", "json").ending()
    assert ending.json["capture"]["complete"] is True, ending.err
    assert secure_stage.double.left() == []


def test_a_server_of_another_authority_is_not_spoken_to(secure_stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    config = json.loads(secure_stage.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["certificate-authority-data"] = Certificates(
        tmp_path / "other"
    ).authority_data
    secure_stage.kubeconfig.write_text(json.dumps(config))
    refused(secure_stage.start("capture", "svc/web").ending(), 5, "certificate", "not accepted", "kubeconfig")


class Echo(BaseHTTPRequestHandler):
    """Answers who asks."""

    def do_GET(self) -> None:
        body = json.dumps({"ip": self.client_address[0]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_requests_are_sent_from_the_operators_own_machine(stage: Stage, tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/debug/ip"
        ending = stage.start(
            "capture",
            "svc/web",
            "--duration",
            "1s",
            "--send",
            url,
            "--count",
            "2",
            "--record",
            tmp_path / "s",
        ).ending()
        server.shutdown()
    assert "request 2 of 2 from 127.0.0.1:" in ending.err
    asked = json.loads((tmp_path / "s" / "session.json").read_text())["asked"]
    assert [each["saw"] for each in asked] == ["127.0.0.1", "127.0.0.1"]


def test_a_host_that_is_not_found_is_told_before_anything_is_placed(stage: Stage) -> None:
    ending = stage.start("capture", "svc/web", "--send", "http://nowhere.invalid/").ending()
    refused(ending, 5, "--send http://nowhere.invalid/", "nowhere.invalid is not found")
    assert ("create", "namespaces") not in stage.double.server.requests
