"""The seed is as it should be; each classic mistake, made alone, is found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.manifests import codes, open_checks, seed
from tests.checks.mistakes import MISTAKES, Mistake
from tests.cli.helpers import ended, start


def test_the_seed_is_well() -> None:
    report = seed().report()
    assert codes(report) == set()
    assert report.exit_code == 0
    assert set(open_checks(report)) == {"health-check"}, "files alone do not say which balancer it is"
    assert report.imbalance == 1.0
    assert [share.node for share in report.shares] == ["node1", "node2", "node3"]


def test_from_the_application_the_way_leads_to_the_controller() -> None:
    report = seed().report("svc/web", "shop")
    assert report.service == "svc/ingress-nginx-controller -n ingress-nginx"
    assert "ingress/web" in report.way


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_classic_mistake_is_found_by_name(mistake: Mistake) -> None:
    assert mistake.change(seed()).codes() == {mistake.code} | mistake.rest


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_command_finds_it_in_files(mistake: Mistake, tmp_path: Path) -> None:
    path = mistake.change(seed()).written(tmp_path)
    ending = ended(
        start("check", "-f", path, "-n", "ingress-nginx", "svc/ingress-nginx-controller", "--balancer", "10.0.0.5",
              "--fail-on", "warning", "-o", "json")
    )  # fmt: skip
    assert ending.code == 3, ending.err
    assert mistake.code in {result["code"] for result in ending.json["results"]}
