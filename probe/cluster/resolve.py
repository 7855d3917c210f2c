"""PUBLISHED SIGNATURE, work in progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.facts import Facts, Service
from analysis.ingress import IngressRecord
from probe.cluster.lister import Lister
from probe.cluster.selection import Selection


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that the cluster says about what is to be watched.

    `objects` is a List as kubectl prints it, without what the analysis does not read; `ports` is every port at
    which a connection of the Service can be met, on either side of NAT; `remarks` is what could not be read.
    """

    objects: dict[str, Any]
    facts: Facts
    service: Service
    ports: tuple[int, ...]
    remarks: tuple[str, ...]
    ingress: IngressRecord = IngressRecord()


#: All that is listed: (group and version, plural, whether it is looked for in every namespace). For RBAC.
READS: tuple[tuple[str, str], ...] = ()


def gather(lister: Lister, selection: Selection) -> Gathered:
    """Resolve what was selected. Raises UnavailableError where there is no such thing, or it is not exposed."""
    raise NotImplementedError
