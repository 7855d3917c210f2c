"""An ingress's configuration from a file: what kind it is shows in its text, never in its name."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from analysis.ingress import Ingress, Listener
from analysis.trust.inspection import lists
from analysis.trust.model import TrustError
from probe.errors import UsageError, os_error
from probe.ingress.errors import ConfigError
from probe.ingress.haproxy_config import haproxy_ingress
from probe.ingress.haproxy_grammar import SECTIONS
from probe.ingress.nginx_config import nginx_ingress
from probe.ingress.nginx_files import (
    DUMP_MARK,
    SIZE_LIMIT,
    Lookup,
    Part,
    dump_parts,
    in_folder,
    in_parts,
    read_tree,
)
from probe.ingress.objects import Data, objects_ingresses
from probe.render.escape import escape, file_text

_FORMS = (
    "an nginx.conf, what `nginx -T` prints, a haproxy.cfg, or the ConfigMap of ingress-nginx as YAML or JSON"
)

_UNKNOWN_TRUST = "it is not known whom"

_OBJECT = re.compile(r"^(?:apiVersion|kind|items)[ \t]*:", re.MULTILINE)
_NGINX = re.compile(r"[;{}][ \t\r]*(?:#.*)?$", re.MULTILINE)


def read_config(path: Path) -> list[Ingress]:
    """The ingresses that a file configures, mostly one. Raises ProbeError with file and line."""
    return parse_config(_text(path), file_text(path), in_folder(path))


def parse_config(text: str, name: str, lookup: Lookup) -> list[Ingress]:
    """The same of a text; `name` is what errors call it, `lookup` finds what it includes. Raises UsageError."""
    try:
        return [_checked(each) for each in _ingresses(text, name, lookup)]
    except ConfigError as error:
        file = error.file or name
        place = f"{file} line {error.line}" if error.line else file
        said = f"--ingress-config {place}: {error}"
        said = said if ";" in said else f"{said}; give a file as the server runs with"
        raise UsageError(escape(said)) from error  # it may quote the file


def _checked(ingress: Ingress) -> Ingress:
    """Without the trust of listeners whose lists no rule can be applied to, which is noted instead."""
    checked = [_checked_listener(each) for each in ingress.listeners]
    notes = [note for listener in checked for note in listener.notes if note.startswith(_UNKNOWN_TRUST)]
    return msgspec.structs.replace(
        ingress, listeners=tuple(checked), notes=tuple(dict.fromkeys((*ingress.notes, *notes)))
    )


def _checked_listener(listener: Listener) -> Listener:
    try:
        if listener.trust is not None:
            lists(listener.trust)
    except TrustError as error:
        note = f"{_UNKNOWN_TRUST} port {listener.port} (line {listener.line}) believes: {error}"
        return msgspec.structs.replace(
            listener,
            nginx=None,
            haproxy=None,
            ingress_nginx=None,
            envoy=None,
            traefik=None,
            notes=(*listener.notes, note),
        )
    return listener


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise os_error(error, f"read {path}") from error
    if len(data) > SIZE_LIMIT:
        raise UsageError(
            f"--ingress-config {path}: it is longer than {SIZE_LIMIT >> 20} MiB; expected {_FORMS}"
        )
    if b"\0" in data:
        raise UsageError(f"--ingress-config {path}: it is not text; expected {_FORMS}")
    if not data.strip():
        raise UsageError(f"--ingress-config {path}: it is empty; expected {_FORMS}")
    # A byte that is no UTF-8 stands in a comment, if anywhere: it is no reason to refuse a configuration.
    return data.decode("utf-8-sig", errors="replace")


def _ingresses(text: str, name: str, lookup: Lookup) -> list[Ingress]:
    first = _first_word(text)
    if text.lstrip()[:1] in {"{", "["} or _OBJECT.search(text):
        return objects_ingresses(text, name, _embedded)
    if DUMP_MARK.search(text):
        main, *others = dump_parts(text, name)
        return [nginx_ingress(read_tree(main, in_parts(others, main.name)), name)]
    if first in SECTIONS and not _nginx_section(text, first):
        return [haproxy_ingress(text, name)]
    if _NGINX.search(text):
        return [_nginx(Part(name, text, name), lookup)]
    raise ConfigError(f"it is none of the kinds that are known; expected {_FORMS}")


def _nginx(main: Part, lookup: Lookup) -> Ingress:
    return nginx_ingress(read_tree(main, lookup), main.shown)


def _nginx_section(text: str, first: str) -> bool:
    """Whether the word opens a block, as nginx would have it; no section of HAProxy does."""
    return re.search(rf"^[ \t]*{re.escape(first)}[^\n;]*[{{;]", text, re.MULTILINE) is not None


def _first_word(text: str) -> str:
    for line in text.split("\n"):
        words = line.split("#", 1)[0].split()
        if words:
            return words[0]
    return ""


def _embedded(data: Data, file: str, name: str) -> Ingress | None:
    """An ingress out of a ConfigMap whose keys are its files, as an image's volume mounts them."""
    shown = {key: f"{file} (ConfigMap {name}, {key})" for key in data}
    if "haproxy.cfg" in data:
        try:
            return haproxy_ingress(data["haproxy.cfg"], shown["haproxy.cfg"])
        except ConfigError as error:
            raise ConfigError(str(error), file=shown["haproxy.cfg"], line=error.line) from error
    if "nginx.conf" not in data:
        return None
    others = [Part(key, text, shown[key]) for key, text in data.items() if key != "nginx.conf"]
    return _nginx(Part("nginx.conf", data["nginx.conf"], shown["nginx.conf"]), in_parts(others))
