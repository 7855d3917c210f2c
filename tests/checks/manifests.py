"""The seed's manifests, with one thing changed: `seed().set("Service/web", "spec.type", "NodePort").codes()`."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any, Self

from analysis.checks.result import CheckReport, Status
from analysis.checks.run import run
from probe.checking.documents import read_documents
from probe.checking.files import FileLister
from probe.checking.gathering import Given, gather_case
from probe.cluster.lister import Lister
from probe.cluster.selection import parse

SEED = Path(__file__).resolve().parents[2] / "docs" / "examples" / "seed"

CONTROLLER = "Service/ingress-nginx-controller"
CONFIG = "ConfigMap/ingress-nginx-controller"
DEPLOYMENT = "Deployment/ingress-nginx-controller"
WEB = "Service/web"
APP = "Deployment/web"

#: From where the seed's balancer speaks, and how long it takes to notice.
BALANCER = ("10.0.0.5/32",)
LAG = 15.0


class Manifests:
    """Objects by kind and name, to be changed and then checked."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = copy.deepcopy(items)

    def the(self, what: str) -> dict[str, Any]:
        """The object of that kind and name."""
        kind, _, name = what.partition("/")
        return next(item for item in self.items if (item["kind"], item["metadata"]["name"]) == (kind, name))

    def set(self, what: str, path: str, value: Any) -> Self:
        """Set a field at a dotted path; keys with dots are written with `|` between the steps."""
        *steps, last = path.split("|") if "|" in path else path.split(".")
        place: Any = self.the(what)
        for step in steps:
            place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
        return self

    def drop(self, what: str, path: str = "") -> Self:
        """Take a field away, or the whole object."""
        if not path:
            self.items.remove(self.the(what))
            return self
        *steps, last = path.split("|") if "|" in path else path.split(".")
        place: Any = self.the(what)
        for step in steps:
            place = place[int(step)] if isinstance(place, list) else place[step]
        del place[last]
        return self

    def annotate(self, key: str, value: str) -> Self:
        """An annotation of the controller's Service."""
        return self.set(CONTROLLER, f"metadata|annotations|{key}", value)

    def add(self, item: dict[str, Any]) -> Self:
        """One more object."""
        self.items.append(item)
        return self

    def report(self, target: str = "svc/ingress-nginx-controller", namespace: str = "ingress-nginx", *,
               lister: Lister | None = None, **given: Any) -> CheckReport:  # fmt: skip
        """What the checks say."""
        known = Given(**{"balancers": BALANCER, "balancer_lag": LAG, "live": False, **given})
        selection = parse(target, namespace)
        case, way, remarks = gather_case(lister or FileLister(self.items, namespace), selection, known)
        return run(case, way=way, remarks=remarks)

    def codes(self, **given: Any) -> set[str]:
        """The codes of all findings."""
        return codes(self.report(**given))

    def written(self, folder: Path) -> Path:
        """The objects as a file."""
        path = folder / "all.json"
        path.write_text(
            json.dumps({"apiVersion": "v1", "kind": "List", "items": self.items}), encoding="utf-8"
        )
        return path


def codes(report: CheckReport) -> set[str]:
    """The codes of a report."""
    return {result.code for result in report.results if result.code is not None}


def open_checks(report: CheckReport) -> dict[str, str]:
    """The checks that could not be made, with the reason."""
    return {each.check: each.detail for each in report.results if each.status is Status.NOT_CHECKED}


def seed() -> Manifests:
    """The seed as its files have it."""
    return Manifests(_items())


@functools.cache
def _items() -> list[dict[str, Any]]:
    return read_documents([SEED]).items
