"""Ingress configuration out of Kubernetes objects: ingress-nginx's ConfigMap, or one that holds a whole nginx.conf.

Keys and defaults are those of ingress-nginx's documentation (user-guide/nginx-configuration/configmap). A ConfigMap
does not say on which ports the controller listens; its own defaults are 80 and 443 (--http-port, --https-port).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from analysis.ingress import Ingress, Kind, Listener
from analysis.trust.model import TrustError
from analysis.trust.readers import ingress_nginx
from probe.ingress.errors import ConfigError

#: Keys by which a ConfigMap is known to be ingress-nginx's.
KEYS = frozenset({
    "compute-full-forwarded-for", "enable-real-ip", "forwarded-for-header", "proxy-protocol-header-timeout",
    "proxy-real-ip-cidr", "real-ip-header", "real-ip-recursive", "use-forwarded-headers", "use-proxy-protocol",
})  # fmt: skip

PORTS = ((80, False), (443, True))
VERSIONS = (1, 2)

_DOCUMENT_END = re.compile(r"^---(?:[ \t][^\n]*)?$", re.MULTILINE)
_PLACE = re.compile(r", line (\d+), column \d+")

Data = dict[str, str]


def objects_ingresses(
    text: str, file: str, embedded: Callable[[Data, str, str], Ingress | None]
) -> list[Ingress]:
    """The ingress configurations in a file of objects, YAML or JSON. Raises ConfigError.

    `embedded` makes an Ingress of a ConfigMap whose keys are files, or None where there are none.
    """
    found: list[Ingress] = []
    for item in _items(text):
        data = _data(item)
        name = _name(item)
        if KEYS & set(data) or _controllers(name):
            found.append(_ingress_nginx(data, f"{file} (ConfigMap {name})"))
        elif (ingress := embedded(data, file, name)) is not None:
            found.append(ingress)
    if not found:
        raise ConfigError(
            "it holds no ConfigMap of ingress-nginx, and none with an nginx.conf or haproxy.cfg in it; give what "
            "`kubectl get configmap NAME -o yaml` prints"
        )
    return found


def _controllers(name: str) -> bool:
    """Whether a ConfigMap without any of the keys is the controller's, by the name that its manifests give it."""
    return name.rpartition("/")[2] in {
        "ingress-nginx-controller",
        "nginx-ingress-controller",
        "nginx-configuration",
    }


def _ingress_nginx(data: Data, file: str) -> Ingress:
    try:
        settings = ingress_nginx(data)
    except TrustError as error:
        raise ConfigError(str(error)) from error
    listeners = tuple(
        Listener(
            port=port,
            proxy_protocol=settings.use_proxy_protocol,
            versions=VERSIONS if settings.use_proxy_protocol else None,
            tls=tls,
            ingress_nginx=settings,
        )
        for port, tls in PORTS
    )
    return Ingress(Kind.INGRESS_NGINX, listeners, file, ("a ConfigMap names no ports; taken for 80 and 443",))


def _items(text: str) -> Iterator[Any]:
    """Every object of a file, of a List too."""
    for document in _documents(text):
        items = document.get("items") if isinstance(document, dict) else document
        yield from items if isinstance(items, list) else [document]


def _documents(text: str) -> Iterator[Any]:
    if text.lstrip()[:1] in {"{", "["}:
        try:
            yield msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigError(f"it is not JSON: {error}") from error
        return
    start = 0
    for mark in [*_DOCUMENT_END.finditer(text), None]:
        part = text[start : mark.start() if mark else len(text)]
        if part.strip():
            yield _yaml(part, text.count("\n", 0, start))
        start = mark.end() if mark else start


def _yaml(text: str, lines_before: int) -> Any:
    try:
        return msgspec.yaml.decode(text)
    except ImportError as error:
        raise ConfigError(
            "reading YAML needs PyYAML, which comes with the extra `cluster`; or give it as JSON (kubectl -o json)"
        ) from error
    except (msgspec.DecodeError, RecursionError, ValueError, ArithmeticError, TypeError) as error:
        # PyYAML tells the context, then the problem, each with its place on an indented line below it.
        told = str(error).split("\n")
        what = ([each for each in told if not each.startswith(" ")] or told)[-1]
        places = [int(found[1]) for each in told if (found := _PLACE.search(each))]
        line = lines_before + places[-1] if places else 0
        raise ConfigError(f"it is not YAML: {what[:120]}", line=line) from error


def _data(item: Any) -> Data:
    if (
        not isinstance(item, dict)
        or item.get("kind") != "ConfigMap"
        or not isinstance(item.get("data"), dict)
    ):
        return {}
    return {
        key: value for key, value in item["data"].items() if isinstance(key, str) and isinstance(value, str)
    }


def _name(item: Any) -> str:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    if not isinstance(metadata, dict):
        return ""
    return f"{metadata.get('namespace') or 'default'}/{metadata.get('name') or ''}"
