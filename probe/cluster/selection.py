"""What is to be watched, as it is written on the command line: `svc/NAME`, `ingress/NAME`, `gateway/NAME`, `-l`.

Types are spelled as kubectl takes them: singular, plural and short name, in any case, with or without version and
group (`ingresses.v1.networking.k8s.io/web`).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from probe.cluster.labels import Selector, SelectorError, parse_selector
from probe.errors import UsageError

EXAMPLES = "give svc/NAME, ingress/NAME, gateway/NAME or -l KEY=VALUE"

#: Longest name of an object, in characters (a DNS subdomain, RFC 1123 §2.1).
NAME_LIMIT = 253


class Wanted(enum.StrEnum):
    """The kinds of objects that lead to a Service."""

    SERVICE = "service"
    INGRESS = "ingress"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Selection:
    """An object by its name, or all of its kind that a selector admits; one of `name` and `selector` is set."""

    kind: Wanted
    namespace: str
    name: str = ""
    selector: Selector | None = None

    def __str__(self) -> str:
        """As kubectl would take it: "svc/web -n shop", or "svc -l app=web -n shop"."""
        short = {Wanted.SERVICE: "svc", Wanted.INGRESS: "ingress", Wanted.GATEWAY: "gateway"}[self.kind]
        what = f"{short}/{self.name}" if self.name else f"{short} -l {self.selector}"
        return f"{what} -n {self.namespace}"


_TYPES = {
    "svc": Wanted.SERVICE, "service": Wanted.SERVICE, "services": Wanted.SERVICE,
    "ing": Wanted.INGRESS, "ingress": Wanted.INGRESS, "ingresses": Wanted.INGRESS,
    "gtw": Wanted.GATEWAY, "gateway": Wanted.GATEWAY, "gateways": Wanted.GATEWAY,
}  # fmt: skip

_GROUPS = {
    Wanted.SERVICE: {""},
    Wanted.INGRESS: {"networking.k8s.io"},
    Wanted.GATEWAY: {"gateway.networking.k8s.io"},
}

#: Other kinds that people will try, and what to give in their place.
_OTHERS = {
    "pod": "the Service in front of the pod",
    "po": "the Service in front of the pod",
    "pods": "the Service in front of the pod",
    "deploy": "the Service in front of it",
    "deployment": "the Service in front of it",
    "deployments": "the Service in front of it",
    "gw": "the Service of Istio's own Gateway, or gateway/NAME for one of the Gateway API",
    "httproute": "its gateway",
    "httproutes": "its gateway",
    "route": "the Service of the router",
    "routes": "the Service of the router",
    "ingressroute": "the Service of Traefik",
    "ingressroutes": "the Service of Traefik",
    "endpoints": "the Service itself",
    "ep": "the Service itself",
}

_VERSION = re.compile(r"v[1-9][0-9]*(?:(?:alpha|beta)[1-9][0-9]*)?")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")


def means_object(text: str) -> bool:
    """Whether `TYPE/NAME` begins with a type of object, so that no folder is meant."""
    word = text.partition("/")[0].lower().partition(".")[0]
    return "/" in text and (word in _TYPES or word in _OTHERS)


def parse(text: str | None, namespace: str, *, label: str | None = None) -> Selection:
    """What `TYPE/NAME`, or `[TYPE] -l SELECTOR`, asks for. Raises UsageError, in one line."""
    if text is None and label is None:
        raise UsageError(f"nothing is said to be watched; {EXAMPLES}, or --lab SCENARIO")
    if text is not None and "/" in text:
        if label is not None:
            raise UsageError("a name cannot be given together with -l; give one of them")
        written, _, name = text.partition("/")
        kind = _kind(written, text)
        return Selection(kind, _namespace(namespace), _name(name, kind))
    kind = Wanted.SERVICE if text is None else _kind(text, text)
    if label is None:
        raise UsageError(f"{_shown(text)} lacks a name; {EXAMPLES}")
    try:
        return Selection(kind, _namespace(namespace), selector=parse_selector(label))
    except SelectorError as error:
        raise UsageError(f"-l {_shown(label)}: {error}") from error


def _kind(written: str, whole: str | None) -> Wanted:
    word, _, rest = written.lower().partition(".")
    kind = _TYPES.get(word)
    if kind is None:
        if instead := _OTHERS.get(word):
            raise UsageError(
                f"{_shown(whole)} does not say which Service is meant; give {instead}, as svc/NAME"
            )
        if whole is not None and "/" not in whole and _NAME.fullmatch(whole):
            raise UsageError(f"{_shown(whole)} has no type; give svc/{_shown(whole, quote=False)}")
        raise UsageError(f"{_shown(written)} is not a type that leads to a Service; {EXAMPLES}")
    version, _, group = rest.partition(".")
    if not _VERSION.fullmatch(version):
        group = rest
    if group and group not in _GROUPS[kind]:
        raise UsageError(
            f"{_shown(written)}: {kind.value} of the group {_shown(group)} is not known; {EXAMPLES}"
        )
    return kind


def _name(name: str, kind: Wanted) -> str:
    if not name:
        raise UsageError(f"{kind.value}/ lacks a name; {EXAMPLES}")
    if len(name) > NAME_LIMIT or not _NAME.fullmatch(name):
        raise UsageError(f"{_shown(name)} is no name of an object; give lower-case letters, digits, . and -")
    return name


def _namespace(namespace: str) -> str:
    if len(namespace) > 63 or "." in namespace or not _NAME.fullmatch(namespace):
        raise UsageError(
            f"-n {_shown(namespace)} is no name of a namespace; give lower-case letters, digits and -"
        )
    return namespace


def _shown(text: str | None, *, quote: bool = True) -> str:
    """A word of the command line, bounded, on one line, with nothing that a terminal would obey."""
    bounded = ascii((text or "")[:80])
    return bounded if quote else bounded[1:-1]
