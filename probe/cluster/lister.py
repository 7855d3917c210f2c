"""What reading a cluster needs of a client: one call that lists one kind of objects.

The call takes the API's own names, so that a client of any make, a folder of files or a test can answer it.
"""

from __future__ import annotations

from typing import Any, Protocol

from probe.errors import UnavailableError

Json = dict[str, Any]


class ForbiddenError(UnavailableError):
    """The user may not do this with that resource (HTTP 403). `resource` is written "pods" or "pods/exec"."""

    def __init__(self, verb: str, resource: str, namespace: str | None = None) -> None:
        where = f"in namespace {namespace}" if namespace else "in the whole cluster"
        super().__init__(
            f"you may not {verb} {resource} {where}; ask for the role that `probe manifests` prints"
        )
        self.verb = verb
        self.resource = resource
        self.namespace = namespace


class AbsentError(UnavailableError):
    """The cluster does not know this kind of object (HTTP 404 for the whole resource): its CRD is not installed."""

    def __init__(self, group_version: str, plural: str) -> None:
        super().__init__(f"the cluster has no {plural} of {group_version}; install what serves them")
        self.group_version = group_version
        self.plural = plural


class Lister(Protocol):
    """A client of the API server, as far as gathering facts is concerned."""

    def list(self, group_version: str, plural: str, namespace: str | None) -> list[Json]:
        """Every object of a kind: ("v1", "services", None) for all namespaces or of a cluster-wide kind.

        Objects as the API gives them; `kind` and `apiVersion` of each may be missing, as in its lists. Raises
        ForbiddenError, AbsentError, or another ProbeError where the cluster does not answer.
        """
        ...
