"""Objects of files in a cluster's place: they answer the same lists.

What is not in the files may stand elsewhere, so nothing is absent here, only not given. Templates of workloads
stand for the pods that they would make, where the files hold no pods of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from probe.cluster.fields import Json, ObjectsError, field, labels, name_of, namespace_of
from probe.cluster.reading import KINDS

#: Kinds that make pods by spec.template.
MAKERS = ("Deployment", "StatefulSet", "DaemonSet")

_PLURALS = {kind.kind: kind.plural for kind in KINDS}
_CLUSTER_WIDE = frozenset(kind.kind for kind in KINDS if not kind.namespaced)


class FileLister:
    """A lister over objects of files. Objects that name no namespace are in `home`, as `kubectl apply -n` has them."""

    def __init__(self, items: Iterable[Json], home: str) -> None:
        self.problems: list[str] = []
        self._by_plural: dict[str, dict[tuple[str, str], Json]] = defaultdict(dict)
        for item in items:
            self._put(item, home)
        self._pods_of_templates()

    def list(self, group_version: str, plural: str, namespace: str | None) -> list[Json]:
        """Every object of a kind; an object of another version of its group counts too."""
        group = group_version.rpartition("/")[0]
        return [
            item
            for item in self._by_plural[plural].values()
            if str(item.get("apiVersion", group_version)).rpartition("/")[0] == group
            and (namespace is None or namespace_of(item) == namespace)
        ]

    def _put(self, item: Json, home: str) -> None:
        kind = item["kind"]
        plural = _PLURALS.get(kind)
        if plural is None:
            return
        metadata = dict(item["metadata"])
        if kind not in _CLUSTER_WIDE and not metadata.get("namespace"):
            metadata["namespace"] = home
        placed = {**item, "metadata": metadata}
        try:
            key = (namespace_of(placed), name_of(placed))
        except ObjectsError as error:
            self.problems.append(f"{error}; the object is left out")
            return
        if key in self._by_plural[plural]:
            self.problems.append(f"{kind} {key[0]}/{key[1]} is given more than once; the last one counts")
        self._by_plural[plural][key] = placed

    def _pods_of_templates(self) -> None:
        pods = self._by_plural["pods"]
        for kind in MAKERS:
            for key, item in list(self._by_plural[_PLURALS[kind]].items()):
                try:
                    template = field(item, "spec.template", dict, {})
                    marks = labels(template)
                    spec = field(template, "spec", dict, {})
                    known = any(
                        namespace_of(pod) == key[0] and marks.items() <= labels(pod).items()
                        for pod in pods.values()
                    )
                except ObjectsError:
                    continue  # the reading that looks at the workload itself says what is wrong with it
                if marks and spec and not known:
                    pods[key] = {
                        "kind": "Pod",
                        "apiVersion": "v1",
                        "metadata": {"name": key[1], "namespace": key[0], "labels": marks},
                        "spec": spec,
                    }
