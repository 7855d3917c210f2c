"""What Traefik is told: the entry points of its static configuration (proxyProtocol, forwardedHeaders)."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.ingress import Ingress, Kind, Listener
from analysis.ports import is_port
from analysis.trust import readers
from analysis.trust.model import TraefikTrust
from probe.cluster.command_lines import environment
from probe.cluster.fields import key_of, objects
from probe.cluster.proxy import BOTH_VERSIONS, Proxy, ports_of_proxy, split_list
from probe.cluster.reading import Reading

_OPTIONS = {
    "proxyprotocol.trustedips": ("proxyProtocol", "trustedIPs"),
    "proxyprotocol.insecure": ("proxyProtocol", "insecure"),
    "forwardedheaders.trustedips": ("forwardedHeaders", "trustedIPs"),
    "forwardedheaders.insecure": ("forwardedHeaders", "insecure"),
    "forwardedheaders.notappendxforwardedfor": ("forwardedHeaders", "notAppendXForwardedFor"),
}


def traefik_settings(reading: Reading, proxy: Proxy) -> Ingress | None:
    """Entry points by their arguments or environment; Traefik takes its static configuration from one source only."""
    flags = {name.lower(): value for name, value in proxy.flags.items()}
    for pod in proxy.pods[:1]:
        for container in objects(pod, "spec.containers"):
            for name, value in environment(container).items():
                if name.startswith("TRAEFIK_ENTRYPOINTS_"):
                    flags.setdefault(name.removeprefix("TRAEFIK_").lower().replace("_", "."), value)
    if "configfile" in flags:
        reading.remark("Traefik is told its entry points by a file (--configfile), which is not read")
        return None
    points: dict[str, dict[str, str]] = {}
    for name, value in flags.items():
        words = name.split(".", 2)
        if words[0] == "entrypoints" and len(words) > 1:
            points.setdefault(words[1], {})[words[2] if len(words) > 2 else ""] = value
    if not points:
        reading.remark(
            "Traefik's pods name no entry points in their arguments; whom it believes is not known"
        )
        return None
    listeners = [
        each for name, options in points.items() if (each := _entry_point(name, options)) is not None
    ]
    wanted = {each.port for each in ports_of_proxy(proxy.service)}
    kept = tuple(each for each in listeners if each.port in wanted) or tuple(listeners)
    return Ingress(Kind.TRAEFIK, kept, f"arguments of pod {key_of(proxy.pods[0])}")


def _entry_point(name: str, options: Mapping[str, str]) -> Listener | None:
    host, _, rest = options.get("address", "").rpartition(":")
    port, _, protocol = rest.partition("/")
    if not is_port(port) or port == "0" or protocol.lower() == "udp":
        return None
    written: dict[str, dict[str, object]] = {}
    if options.get("proxyprotocol", "false").lower() == "true":
        written["proxyProtocol"] = {}
    for option, value in options.items():
        if option in _OPTIONS:
            section, key = _OPTIONS[option]
            listed = key == "trustedIPs"
            written.setdefault(section, {})[key] = (
                list(split_list(value)) if listed else value.lower() == "true"
            )
    trust: TraefikTrust = readers.traefik(written)
    notes = ("connections without a PROXY header are taken as well",) if trust.proxy else ()
    return Listener(
        port=int(port),
        addresses=(host.strip("[]"),) if host else (),
        proxy_protocol=None if trust.proxy else False,
        versions=BOTH_VERSIONS if trust.proxy else None,
        tls=any(option == "http.tls" or option.startswith("http.tls.") for option in options),
        name=name[:63],
        traefik=trust,
        notes=notes,
    )
