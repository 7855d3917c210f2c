"""Kinds of objects by the API's own names, and the paths under which they are found (API concepts, "Resource URIs")."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote


class Resource(NamedTuple):
    """A kind: "apps/v1", "daemonsets", "DaemonSet". A subresource is written "pods/exec"."""

    group_version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def singular(self) -> str:
        """The kind for a sentence."""
        return self.kind or self.plural.removesuffix("s")


NAMESPACES = Resource("v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("v1", "nodes", "Node", namespaced=False)
PODS = Resource("v1", "pods", "Pod")
EVENTS = Resource("v1", "events", "Event")
DAEMON_SETS = Resource("apps/v1", "daemonsets", "DaemonSet")
SERVICE_ACCOUNTS = Resource("v1", "serviceaccounts", "ServiceAccount")
CONSTRAINTS = Resource(  # OpenShift's alone
    "security.openshift.io/v1", "securitycontextconstraints", "SecurityContextConstraints", namespaced=False
)

#: Everything that a session may have put on a cluster, in the order in which it is best taken away: what runs first,
#: the namespace last.
INSTALLABLE = (DAEMON_SETS, PODS, SERVICE_ACCOUNTS, CONSTRAINTS, NAMESPACES)

_BY_KIND = {(resource.group_version, resource.kind): resource for resource in INSTALLABLE}


def resource_of(group_version: str, kind: str) -> Resource:
    """The resource of a kind that can be installed. Raises KeyError for another."""
    return _BY_KIND[group_version, kind]


def resource_path(resource: Resource, namespace: str | None = None, name: str = "") -> str:
    """The path of a kind in one namespace or, with None, in all of them; or of one object."""
    root = "api" if "/" not in resource.group_version else "apis"
    parts = [root, resource.group_version]
    if namespace is not None and resource.namespaced:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(resource.plural)
    if name:
        parts.append(quote(name, safe=""))
    return "/" + "/".join(parts)
