"""What a capture on a cluster needs, looked at from the operator's machine: a way there, an answer, permissions.

Permissions are asked of the API server itself (SelfSubjectAccessReview, authorization.k8s.io/v1): that changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from analysis.report import Severity
from probe.cluster.client import Api
from probe.cluster.kubeconfig import load_access
from probe.cluster.resources import Resource
from probe.doctor import Check
from probe.errors import UnavailableError
from probe.manifests.objects import MAY_INSTALL, MAY_LOOK
from probe.render.escape import escape

_REVIEWS = Resource(
    "authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)

#: Seconds for one answer of the API server: a doctor's visit is no capture.
_PATIENCE = 15.0


class Right(NamedTuple):
    """A verb on a resource, subresource after a slash; None: over all namespaces."""

    verb: str
    group: str
    resource: str


#: What each of the two roles is for, as far as one right stands for the rest of it.
LOOK = (
    Right("list", "", "nodes"),
    Right("list", "", "pods"),
    Right("list", "", "services"),
    Right("list", "discovery.k8s.io", "endpointslices"),
)
INSTALL = (
    Right("create", "", "namespaces"),
    Right("create", "apps", "daemonsets"),
    Right("create", "", "pods/exec"),
)


def cluster_checks(kubeconfig: Path | None, context: str | None, gravity: Severity) -> Iterator[Check]:
    """A context, its API server, what its user may do. What is configured and does not work is an error."""
    try:
        access = load_access(kubeconfig, context)
    except UnavailableError as error:
        given = kubeconfig is not None or context is not None
        severity = Severity.ERROR if given else gravity
        yield Check(
            "cluster", "kubeconfig", severity, str(error),
            "name a cluster with --kubeconfig and --context; the lab and analyses need none",
        )  # fmt: skip
        return
    yield Check("cluster", "kubeconfig", None, f"context {access.context}, namespace {access.namespace}")
    try:
        with Api.connect(kubeconfig, context) as api:
            yield from _answers(api)
    except (UnavailableError, TimeoutError) as error:
        yield _unreachable(access.server, error)


def _answers(api: Api) -> Iterator[Check]:
    request = api.request("GET", "/version", ("get", Resource("v1", "version", "version"), None))
    try:
        told = api.run(request, within=_PATIENCE)
    except (UnavailableError, TimeoutError) as error:
        yield _unreachable(api.server, error)
        return
    yield Check("cluster", "API server", None, f"{api.server} is {escape(str(told.get('gitVersion')), 60)}")
    yield _rights(api, "reading", LOOK, "may look", MAY_LOOK)
    yield _rights(api, "installing", INSTALL, "may install", MAY_INSTALL)


def _unreachable(server: str, error: Exception) -> Check:
    what = str(error) or f"{server} did not answer within {_PATIENCE:g} s"
    return Check(
        "cluster", "API server", Severity.ERROR, what,
        "check --context, the network to it and its credentials with `kubectl version`",
    )  # fmt: skip


def _rights(api: Api, name: str, rights: tuple[Right, ...], words: str, role: str) -> Check:
    try:
        missing = [f"{right.verb} {right.resource}" for right in rights if not _may(api, right)]
    except (UnavailableError, TimeoutError) as error:
        what = str(error) or "the API server did not answer in time"
        fix = f"`kubectl auth can-i --list` may tell; a capture says what is missing; the role is {role}"
        return Check("cluster", name, Severity.WARNING, f"not checked, because {what}", fix)
    if missing:
        fix = f'ask who runs the cluster for the role "{words}", {role} of `probe manifests`'
        if rights is INSTALL:
            fix += "; or use agents that are there with --installed, or single pods with --debug-node"
        return Check("cluster", name, Severity.ERROR, f"you may not {', '.join(missing)}", fix)
    return Check(
        "cluster", name, None, f"you may {', '.join(f'{each.verb} {each.resource}' for each in rights)}"
    )


def _may(api: Api, right: Right) -> bool:
    resource, _, sub = right.resource.partition("/")
    attributes = {"verb": right.verb, "group": right.group, "resource": resource}
    attributes |= {"subresource": sub} if sub else {}
    body = {
        "apiVersion": _REVIEWS.group_version,
        "kind": _REVIEWS.kind,
        "metadata": {},
        "spec": {"resourceAttributes": attributes},
    }
    path = f"/apis/{_REVIEWS.group_version}/{_REVIEWS.plural}"
    request = api.request("POST", path, ("create", _REVIEWS, None), body=body)
    answer = api.run(request, within=_PATIENCE)
    return bool((answer.get("status") or {}).get("allowed"))
