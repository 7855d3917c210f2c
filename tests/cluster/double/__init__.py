"""A double of the Kubernetes API server: real HTTP, real WebSockets, and as much of the API as a session uses.

    store.py      objects, versions, watches, as etcd and the API machinery keep them
    server.py     the paths, verbs, Status answers, pages and streams of the real server
    nodes.py      what the DaemonSet controller, the scheduler and kubelets do with pods
    execution.py  pods/exec: commands run for real, in the lab's namespaces or as a script
    faults.py     everything that can go wrong, by the test's own will

It follows the API's documentation. The tests marked `cluster` are for a real server.
"""

from tests.cluster.double.double import Double
from tests.cluster.double.faults import Faults

__all__ = ["Double", "Faults"]
