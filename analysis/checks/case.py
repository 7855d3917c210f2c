"""What is checked, as plain values: facts, and beside them what only objects say and no packet ever shows."""

from __future__ import annotations

import msgspec

from analysis.facts import Facts, Service
from analysis.ingress import Application, Ingress


class Spread(msgspec.Struct, frozen=True):
    """One rule that spreads the pods of a workload over the values of a node label, such as a host name or a zone.

    `hard` is whenUnsatisfiable: DoNotSchedule, or a required anti-affinity, which is a skew of one.
    """

    key: str
    hard: bool
    max_skew: int = 1
    anti_affinity: bool = False


class Ending(msgspec.Struct, frozen=True):
    """How a pod of a workload ends. Times are seconds.

    `serves` is how long it goes on serving after it was told to end (a preStop hook that sleeps, and the server's own
    grace), None where that cannot be read. `grace` is terminationGracePeriodSeconds. `how` is in words.
    """

    grace: int = 30
    serves: float | None = 0.0
    hook: float | None = 0.0
    how: str = ""


class Workload(msgspec.Struct, frozen=True):
    """What keeps the pods of a Service: a Deployment, StatefulSet or DaemonSet, or a Pod that nothing keeps.

    `replicas` is None for a DaemonSet; with an autoscaler it is the fewest that it keeps. `foreign` are constraints
    whose selector does not hold the pods' own labels, by which they spread nothing.
    """

    kind: str
    namespace: str
    name: str
    replicas: int | None = 1
    spreads: tuple[Spread, ...] = ()
    foreign: tuple[str, ...] = ()
    node_selector: dict[str, str] = {}
    host_network: bool = False
    readiness: bool = True
    gates: tuple[str, ...] = ()
    ending: Ending = Ending()
    labels: dict[str, str] = {}
    containers: int = 1

    @property
    def shown(self) -> str:
        """As kubectl names it: `deployment/web`."""
        return f"{self.kind.lower()}/{self.name}"


class Budget(msgspec.Struct, frozen=True):
    """A PodDisruptionBudget; numbers or percentages as they are written, "" where they are not."""

    namespace: str
    name: str
    minimum: str = ""
    unavailable: str = ""


class Party(msgspec.Struct, frozen=True):
    """A Service with what stands behind it. `policy` is externalTrafficPolicy as written, "" where it is not."""

    service: Service
    workloads: tuple[Workload, ...] = ()
    budgets: tuple[Budget, ...] = ()
    policy: str = ""


class Case(msgspec.Struct, frozen=True):
    """Everything that the checks look at.

    `entry` is the Service by which traffic comes in; `apps` those that an ingress passes requests on to. `product` is
    the ingress's, "" where the entry leads to the application itself. `ingress` and `application` are None where they
    are not known; `ingress_problem` and `application_problem` then say why. `ingress_refused` is what the product
    itself would refuse of its settings. `provider` is who makes the balancer, "" where nothing tells, and
    `provider_source` how it is known. `balancers` are addresses or ranges from which the balancer speaks;
    `balancer_lag` is after how many seconds it leaves a node alone whose check fails. `live` tells a cluster, of which
    all is seen, from files, of which the rest may stand elsewhere. `lacking` are kinds that could not be read, with
    the reason. `routed` is what leads to the entry where no Service in front of it could be named. `gated` is whether
    the namespace of the entry has readiness gates put into its pods, None: not known.
    """

    facts: Facts
    entry: Party
    apps: tuple[Party, ...] = ()
    product: str = ""
    ingress: Ingress | None = None
    ingress_problem: str = ""
    ingress_refused: str = ""
    application: Application | None = None
    application_problem: str = ""
    provider: str = ""
    provider_source: str = ""
    balancers: tuple[str, ...] = ()
    balancer_lag: float | None = None
    live: bool = True
    lacking: dict[str, str] = {}
    routed: str = ""
    gated: bool | None = None

    @property
    def direct(self) -> bool:
        """Whether the entry leads to the application itself."""
        return not self.product

    def unread(self, *kinds: str) -> str:
        """Why one of these kinds could not be read; "" where all were."""
        return next((self.lacking[kind] for kind in kinds if kind in self.lacking), "")
