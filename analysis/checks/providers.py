"""Who makes the balancer of a Service, and what its annotations say: PROXY headers, health checks, HTTP, host names.

Annotations and the values that are taken are each controller's own: AWS (in-tree and aws-load-balancer-controller),
digitalocean-cloud-controller-manager, hcloud-cloud-controller-manager, OVHcloud, scaleway-cloud-controller-manager,
cloud-provider-openstack, linode-cloud-controller-manager. Defaults that are not written down in the object are left
out: what a controller of some version does by itself is not known from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

AWS = "service.beta.kubernetes.io/aws-load-balancer-"
DIGITALOCEAN = "service.beta.kubernetes.io/do-loadbalancer-"
HETZNER = "load-balancer.hetzner.cloud/"
OVH = "service.beta.kubernetes.io/ovh-loadbalancer-"
SCALEWAY = "service.beta.kubernetes.io/scw-loadbalancer-"
OPENSTACK = "loadbalancer.openstack.org/"
LINODE = "service.beta.kubernetes.io/linode-loadbalancer-"

#: Annotations by which a balancer's maker is known.
PREFIXES = {
    AWS: "AWS", DIGITALOCEAN: "DigitalOcean", HETZNER: "Hetzner", OVH: "OVH", SCALEWAY: "Scaleway",
    OPENSTACK: "OpenStack", LINODE: "Linode", "metallb.universe.tf/": "MetalLB", "metallb.io/": "MetalLB",
    "service.beta.kubernetes.io/azure-load-balancer-": "Azure", "kube-vip.io/": "kube-vip",
    "networking.gke.io/load-balancer-type": "Google Cloud", "svccontroller.k3s.cattle.io/": "k3s ServiceLB",
}  # fmt: skip

#: Classes of balancers, by their beginning.
CLASSES = {
    "service.k8s.aws/": "AWS", "metallb": "MetalLB", "io.cilium/": "Cilium", "kube-vip.io/": "kube-vip",
    "networking.gke.io/": "Google Cloud",
}  # fmt: skip

#: What a node's spec.providerID begins with.
CLOUDS = {
    "aws": "AWS", "digitalocean": "DigitalOcean", "hcloud": "Hetzner", "openstack": "OpenStack",
    "linode": "Linode", "scaleway": "Scaleway", "azure": "Azure", "gce": "Google Cloud", "k3s": "k3s ServiceLB",
}  # fmt: skip

#: Balancers that pass packets on and never write a PROXY header.
SILENT = frozenset({"MetalLB", "kube-vip", "Cilium", "k3s ServiceLB"})

#: Makers whose balancers send none unless an annotation of the Service says so. (Hetzner's controller has a default of
#: its own, which the Service does not show.)
STATED = frozenset({"AWS", "DigitalOcean", "OVH", "Scaleway", "OpenStack", "Linode"})

#: Balancers whose packets reach the nodes with the client's address.
PASSING = frozenset({"MetalLB", "kube-vip", "Cilium", "Google Cloud", "Azure"})

#: What Go's strconv.ParseBool takes for true.
TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


@dataclass(frozen=True, slots=True)
class Sends:
    """Whether a balancer sends PROXY headers: `on` None where no annotation says. `taken` are values that are right."""

    on: bool | None
    annotation: str = ""
    value: str = ""
    wrong: bool = False
    taken: str = ""
    ports: tuple[int, ...] = ()  # () for all


@dataclass(frozen=True, slots=True)
class Checking:
    """A balancer's health check as annotations have it: what they do not say is "" or None. Times are seconds."""

    protocol: str = ""
    port: str = ""
    path: str = ""
    off: bool = False
    interval: float | None = None
    threshold: int | None = None
    annotations: tuple[str, ...] = ()
    maker: str = ""  # whose annotations they are

    @property
    def by_port(self) -> bool:
        """Whether it says something else for each port of the Service (Scaleway: 80:…;443:…)."""
        return any(":" in each or ";" in each for each in (self.protocol, self.port, self.path))

    @property
    def lag(self) -> float | None:
        """The least time until a node whose check fails is left alone."""
        return self.interval * (self.threshold or 1) if self.interval is not None else None


def maker(annotations: Mapping[str, str], load_balancer_class: str) -> tuple[str, str]:
    """Who makes the balancer, and how that is known; "" for both where the Service does not say."""
    for begin, name in CLASSES.items():
        if load_balancer_class.startswith(begin):
            return name, f"loadBalancerClass {load_balancer_class}"
    for key in sorted(annotations):
        for begin, name in PREFIXES.items():
            if key.startswith(begin):
                return name, f"annotation {key}"
    return "", ""


def sends_proxy(annotations: Mapping[str, str]) -> Sends:
    """What the annotations say about PROXY headers."""
    for reader in (_aws, _digitalocean, _hetzner, _ovh, _scaleway, _openstack, _linode, _azure):
        found = reader(annotations)
        if found is not None:
            return found
    return Sends(None)


#: How to turn PROXY headers on, by maker: annotation and value.
TURN_ON = {
    "AWS": (f"{AWS}target-group-attributes", "proxy_protocol_v2.enabled=true"),
    "DigitalOcean": (f"{DIGITALOCEAN}enable-proxy-protocol", "true"),
    "Hetzner": (f"{HETZNER}uses-proxyprotocol", "true"),
    "OVH": (f"{OVH}proxy-protocol", "v2"),
    "Scaleway": (f"{SCALEWAY}proxy-protocol-v2", "true"),
    "OpenStack": (f"{OPENSTACK}proxy-protocol", "true"),
    "Linode": (f"{LINODE}default-proxy-protocol", "v2"),
}

#: How the status is made to hold a host name instead of an address, by maker.
HOSTNAMES = {
    "DigitalOcean": f"{DIGITALOCEAN}hostname",
    "Hetzner": f"{HETZNER}hostname",
    "Scaleway": f"{SCALEWAY}use-hostname",
    "OpenStack": f"{OPENSTACK}hostname",
    "Linode": f"{LINODE}hostname-only-ingress",
}


def _aws(annotations: Mapping[str, str]) -> Sends | None:
    key = f"{AWS}target-group-attributes"
    for part in annotations.get(key, "").split(","):
        name, _, value = part.strip().partition("=")
        if name.strip() == "proxy_protocol_v2.enabled":
            return Sends(value.strip() == "true", key, part.strip(), value.strip() not in {"true", "false"},
                         "proxy_protocol_v2.enabled=true")  # fmt: skip
    key = f"{AWS}proxy-protocol"
    if key in annotations:
        return Sends(annotations[key] == "*", key, annotations[key], annotations[key] != "*", "*")
    return None


def _boolean(annotations: Mapping[str, str], key: str) -> Sends | None:
    if key not in annotations:
        return None
    value = annotations[key]
    return Sends(value in TRUE, key, value, value not in TRUE | _FALSE, "true")


def _digitalocean(annotations: Mapping[str, str]) -> Sends | None:
    return _boolean(annotations, f"{DIGITALOCEAN}enable-proxy-protocol")


def _azure(annotations: Mapping[str, str]) -> Sends | None:
    return _boolean(annotations, "service.beta.kubernetes.io/azure-pls-proxy-protocol")


def _hetzner(annotations: Mapping[str, str]) -> Sends | None:
    return _boolean(annotations, f"{HETZNER}uses-proxyprotocol")


def _ovh(annotations: Mapping[str, str]) -> Sends | None:
    key, taken = f"{OVH}proxy-protocol", {"v1", "v2", "v2-ssl", "v2-ssl-cn"}
    if key not in annotations:
        return None
    value = annotations[key]
    return Sends(value in taken, key, value, value not in taken, "v2")


def _scaleway(annotations: Mapping[str, str]) -> Sends | None:
    kept: Sends | None = None
    for key in (f"{SCALEWAY}proxy-protocol-v2", f"{SCALEWAY}proxy-protocol-v1"):
        value = annotations.get(key)
        if value is None:
            continue
        numbers = [part.strip() for part in value.split(",")]
        if value == "*" or value in TRUE - {"1"}:
            return Sends(True, key, value)
        if all(part.isascii() and part.isdigit() and len(part) < 6 for part in numbers):
            return Sends(True, key, value, ports=tuple(map(int, numbers)))
        kept = kept or Sends(False, key, value, value not in _FALSE, "true")
    return kept


def _openstack(annotations: Mapping[str, str]) -> Sends | None:
    key = f"{OPENSTACK}proxy-protocol"
    if key not in annotations:
        return None
    value = annotations[key]
    on = value in TRUE or value in {"v1", "v2"}
    return Sends(on, key, value, not on and value not in _FALSE, "v2")


def _linode(annotations: Mapping[str, str]) -> Sends | None:
    """linode-cloud-controller-manager, docs/configuration/annotations.md; a port's own JSON wins over the default."""
    for key in sorted(annotations):
        port = key.removeprefix(f"{LINODE}port-")
        if port == key or not (port.isascii() and port.isdigit() and len(port) < 6):
            continue
        try:
            version = msgspec.json.decode(annotations[key][:4096], type=_LinodePort).proxy
        except (msgspec.DecodeError, RecursionError):
            continue
        if version in {"v1", "v2"}:
            return Sends(True, key, version, ports=(int(port),))
    for key in (f"{LINODE}default-proxy-protocol", f"{LINODE}proxy-protocol"):
        if key in annotations:
            value = annotations[key]
            return Sends(value in {"v1", "v2"}, key, value, value not in {"v1", "v2", "none"}, "v2")
    return None


#: Names of the parts of a health check, by prefix: protocol, port, path, interval, threshold.
_CHECKS = {
    AWS: ("healthcheck-protocol", "healthcheck-port", "healthcheck-path", "healthcheck-interval",
          "healthcheck-unhealthy-threshold"),
    DIGITALOCEAN: ("healthcheck-protocol", "healthcheck-port", "healthcheck-path",
                   "healthcheck-check-interval-seconds", "healthcheck-unhealthy-threshold"),
    HETZNER: ("health-check-protocol", "health-check-port", "health-check-http-path", "health-check-interval",
              "health-check-retries"),
    SCALEWAY: ("health-check-type", "health-check-port", "health-check-http-uri", "health-check-delay",
               "health-check-max-retries"),
    OPENSTACK: ("", "", "", "health-monitor-delay", "health-monitor-max-retries"),
    LINODE: ("check-type", "", "check-path", "check-interval", "check-attempts"),
}  # fmt: skip


def checking(annotations: Mapping[str, str]) -> Checking:
    """What the annotations say about health checks."""
    for begin, names in _CHECKS.items():
        values = [annotations.get(f"{begin}{name}", "") if name else "" for name in names]
        used = tuple(f"{begin}{name}" for name in names if name and f"{begin}{name}" in annotations)
        off = (
            annotations.get(f"{OPENSTACK}enable-health-monitor", "true") in _FALSE
            if begin == OPENSTACK
            else begin == LINODE and values[0] == "none"
        )
        if begin == OPENSTACK and off:
            used += (f"{OPENSTACK}enable-health-monitor",)
        if used:
            protocol = values[0].lower().replace("connection", "tcp").replace("http_body", "http")
            if values[1] or values[2]:
                protocol = protocol or _protocol_by_default(begin, annotations)
            return Checking(
                protocol,
                values[1],
                values[2],
                off,
                _seconds(values[3]),
                _whole(values[4]),
                used,
                PREFIXES[begin],
            )
    return Checking()


class _LinodePort(msgspec.Struct):
    """What is read of `port-N`."""

    proxy: str = msgspec.field(name="proxy-protocol", default="")


def _protocol_by_default(begin: str, annotations: Mapping[str, str]) -> str:
    """By what a check asks whose protocol is not said; "" where that depends on the policy.

    hcloud-cloud-controller-manager takes the Service's own protocol (internal/hcops/load_balancer.go), the others TCP
    (their pages of annotations).
    """
    if begin == HETZNER:
        return annotations.get(f"{HETZNER}protocol", "tcp").lower()
    return "tcp" if begin in {SCALEWAY, DIGITALOCEAN, LINODE} else ""


_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(s|m|ms)?")


def _seconds(written: str) -> float | None:
    met = _DURATION.fullmatch(written.strip())
    if met is None:
        return None
    return float(met[1]) * {"ms": 0.001, "m": 60.0}.get(met[2] or "s", 1.0)


def _whole(written: str) -> int | None:
    return int(written) if written.isascii() and written.isdigit() and len(written) < 5 else None


def reads_http(annotations: Mapping[str, str]) -> str:
    """The annotation by which the balancer reads HTTP and names the client in X-Forwarded-For, "" for none."""
    for key, values in (
        (f"{AWS}backend-protocol", {"http", "https"}),
        (f"{DIGITALOCEAN}protocol", {"http", "https", "http2"}),
        (f"{HETZNER}protocol", {"http", "https"}),
        (f"{LINODE}default-protocol", {"http", "https"}),
    ):
        value = annotations.get(key, "").lower()
        # An NLB knows no HTTP; its controller passes over the annotation.
        nlb = key.startswith(AWS) and annotations.get(f"{AWS}type", "") in {"nlb", "nlb-ip", "external"}
        passed = (
            key.startswith(DIGITALOCEAN) and annotations.get(f"{DIGITALOCEAN}tls-passthrough", "") in TRUE
        )
        if value in values and not nlb and not passed:
            return f"{key}: {value}"
    key = f"{OPENSTACK}x-forwarded-for"
    return f"{key}: {annotations[key]}" if annotations.get(key, "") in TRUE else ""


def ip_targets(annotations: Mapping[str, str]) -> bool:
    """Whether an NLB's targets are pods, not nodes."""
    return annotations.get(f"{AWS}nlb-target-type") == "ip" or annotations.get(f"{AWS}type") == "nlb-ip"


def keeps_client(annotations: Mapping[str, str]) -> bool:
    """Whether client IP preservation is turned on for an NLB's target group."""
    return "preserve_client_ip.enabled=true" in annotations.get(f"{AWS}target-group-attributes", "")
