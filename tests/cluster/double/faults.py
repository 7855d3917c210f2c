"""What goes wrong, by the will of a test. All of it may be changed while the double runs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Faults:
    """Nothing is wrong unless said so."""

    #: (verb, resource) that the user may not: ("create", "daemonsets"), ("get", "pods/exec").
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    #: Tokens that are accepted; None: the one of the kubeconfig, for ever.
    tokens: set[str] | None = None
    #: Requests that are answered 503 before they are served again.
    unavailable: int = 0
    #: Watches that are told 410 in their first event.
    gone: int = 0
    #: Watches end after so many events, as a server's do that restarts; None: they last.
    watch_events: int | None = None
    #: Subprotocols that the server speaks, its favourite first.
    protocols: tuple[str, ...] = ("v5.channel.k8s.io", "v4.channel.k8s.io")

    #: By node: why its pod does not come. "unschedulable", "image", "not-ready", "no-pod", "crash", "slow".
    pods: dict[str, str] = field(default_factory=dict)
    #: Pod Security level of namespaces that say nothing of their own; what hostNetwork needs is "privileged".
    pod_security: str = ""
    #: That label on namespaces does not count: a policy of the cluster's own is stricter.
    strict_policy: bool = False

    #: By node: bytes of standard output after which the stream is dropped without a word.
    drop_after: dict[str, int] = field(default_factory=dict)
    #: By node: seconds between messages of standard output.
    slow: dict[str, float] = field(default_factory=dict)
    #: By node: standard input is not passed on, as where a connection hangs.
    deaf: set[str] = field(default_factory=set)
    #: Streams that are refused with 500 before one is opened.
    exec_errors: int = 0
    #: By node: how far its clock is ahead, in nanoseconds.
    clocks: dict[str, int] = field(default_factory=dict)
    #: Seconds that objects take to go once they are deleted.
    finalizing: float = 0.05
    #: Namespaces never finish to go.
    stuck: bool = False
