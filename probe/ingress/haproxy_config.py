"""What a HAProxy configuration says of its listeners: PROXY header, TLS, whom it believes, what it sends onward.

A frontend takes connections and hands them to backends; a listen section is both. Settings come from the defaults
section that is named, or else from the last one above (configuration manual, chapter 4). Rules of the frontend are
applied before those of the backend, and where the backends of one frontend differ in what matters, nothing is claimed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from analysis.ingress import Ingress, Kind, Listener, Upstream, canonical
from analysis.ports import is_port
from analysis.trust.model import HaproxyRule, HaproxyTrust
from probe.ingress.errors import ConfigError
from probe.ingress.haproxy_grammar import Section, Setting, parse
from probe.ingress.port_ranges import MOST_OF_RANGES, PortRanges

#: Both, since HAProxy 1.5.
VERSIONS = (1, 2)

_FORWARDED_FOR = "X-Forwarded-For"
_HEADER_OF = re.compile(
    r"(?:req\.|req_)?(?:f?hdr)(?:_ip)?\((?P<name>[A-Za-z0-9-]+)(?:,(?P<at>-?[0-9]{1,3}))?\)", re.IGNORECASE
)
_ABOUT_CLIENT = re.compile(
    r"^(x-forwarded-for|forwarded|x-real-ip|true-client-ip|x-original-forwarded-for)$", re.IGNORECASE
)
_FAMILY_PREFIX = re.compile(r"^(ipv[46]@|tcp[46]?@)")
_SENDS = {
    "send-proxy": 1,
    "send-proxy-v2": 2,
    "send-proxy-v2-ssl": 2,
    "send-proxy-v2-ssl-cn": 2,
    "no-send-proxy": 0,
    "no-send-proxy-v2": 0,
}


@dataclass(slots=True)
class _Proxy:
    """A frontend, backend or listen section with its defaults in front."""

    section: Section
    settings: list[Setting] = field(default_factory=list)
    acls: dict[str, tuple[str, ...] | None] = field(default_factory=dict)  # None: not about sources

    @property
    def takes(self) -> bool:
        """Whether it is the side that connections come in on."""
        return self.section.kind in {"frontend", "listen"}

    def named(self, *words: str) -> Iterator[Setting]:
        """The settings that begin with these words."""
        return (each for each in self.settings if each.words[: len(words)] == words)


def haproxy_ingress(text: str, file: str) -> Ingress:
    """The listeners of a configuration. Raises ConfigError where it has none, or a line cannot be read."""
    proxies = list(_proxies(parse(text)))
    backends = {each.section.name: each for each in proxies if each.section.kind in {"backend", "listen"}}
    notes: list[str] = []
    listeners: list[Listener] = []
    ranges = PortRanges()
    for proxy in proxies:
        if proxy.takes:
            listeners += _listeners(proxy, backends, notes, ranges)
    if not listeners and not notes:
        raise ConfigError('it has no "bind", so no connections arrive here')
    return Ingress(Kind.HAPROXY, tuple(listeners), file, tuple(notes))


def _proxies(sections: Iterable[Section]) -> Iterator[_Proxy]:
    defaults: dict[str, list[Setting]] = {}
    last: list[Setting] = []
    for section in sections:
        if section.kind == "defaults":
            last = [*defaults.get(section.base, []), *section.settings] if section.base else section.settings
            defaults[section.name] = last
        elif section.kind in {"frontend", "backend", "listen"}:
            above = defaults.get(section.base, []) if section.base else last
            proxy = _Proxy(section, [*above, *section.settings])
            for setting in proxy.named("acl"):
                _add_acl(proxy.acls, setting.words)
            yield proxy


def _add_acl(acls: dict[str, tuple[str, ...] | None], words: tuple[str, ...]) -> None:
    """`acl NAME src ADDRESS…`; several of one name are alternatives."""
    if len(words) < 4:
        return
    sources = _sources(words[2:])
    before = acls.get(words[1], ())
    acls[words[1]] = None if sources is None or before is None else (*before, *sources)


def _sources(words: tuple[str, ...]) -> tuple[str, ...] | None:
    """The prefixes of `src ADDRESS…`, None where it tests something else, or reads them from a file."""
    if words[:1] != ("src",) or any(word.startswith("-") for word in words):
        return None
    return words[1:]


def _listeners(
    proxy: _Proxy, backends: dict[str, _Proxy], notes: list[str], ranges: PortRanges
) -> Iterator[Listener]:
    behind = list(_behind(proxy, backends))
    trusts = {_trust(proxy, backend) for backend in behind or [proxy]}
    remarks: list[str] = []
    if len(trusts) != 1:
        remarks.append("its backends differ in whom they believe or what they send onward")
    if any(
        each.conditional for each in (*proxy.settings, *(each for one in behind for each in one.settings))
    ):
        remarks.append("some of its lines stand between .if and .endif")
    base = next(iter(trusts)) if len(trusts) == 1 else None
    expects, remark = _expects(proxy)
    remarks += remark
    upstreams = tuple(each for backend in behind for each in _servers(backend))
    for setting in proxy.named("bind"):
        places, words = setting.words[1:2], setting.words[2:]
        accept = "accept-proxy" in words
        expected = True if accept else expects
        trust = replace(base, accept_proxy=accept) if base else None
        for address, port in _places(places[0] if places else "", setting, notes, ranges):
            yield Listener(
                port=port,
                addresses=(address,) if address else (),
                proxy_protocol=expected,
                versions=VERSIONS if expected is not False else None,
                tls="ssl" in words,
                mode=_mode(proxy),
                haproxy=trust,
                forwards=_forwards(trust) if trust else (),
                upstreams=upstreams,
                name=proxy.section.name,
                line=setting.line,
                notes=tuple(remarks),
            )


def _behind(proxy: _Proxy, backends: dict[str, _Proxy]) -> Iterator[_Proxy]:
    """The backends that a frontend hands requests to, as far as they are named in full."""
    if proxy.section.kind == "listen" and any(proxy.named("server")):
        yield proxy
    names = [
        each.words[1]
        for word in ("use_backend", "default_backend")
        for each in proxy.named(word)
        if each.words[1:]
    ]
    for name in dict.fromkeys(names):
        if name in backends:
            yield backends[name]


def _mode(proxy: _Proxy) -> Literal["http", "tcp"]:
    modes = [each.words[1] for each in proxy.named("mode") if each.words[1:]]
    return "http" if modes and modes[-1] == "http" else "tcp"


def _expects(proxy: _Proxy) -> tuple[bool | None, list[str]]:
    """Whether `tcp-request connection expect-proxy layer4` applies: to all, to some (None), or not at all."""
    found = list(proxy.named("tcp-request", "connection", "expect-proxy"))
    if not found:
        return False, []
    if any(len(each.words) <= 4 and not each.conditional for each in found):
        return True, []
    return None, [f"line {found[0].line}: a PROXY header is expected under a condition only"]


def _trust(front: _Proxy, back: _Proxy) -> HaproxyTrust:
    both = [front] if front is back else [front, back]
    forward = [option for proxy in both for option in proxy.settings if "forwardfor" in option.words[1:3]]
    option = forward[-1].words if forward and forward[-1].words[0] == "option" else ()
    expected: list[str] = []
    for each in front.named("tcp-request", "connection", "expect-proxy"):
        sources, _ = _condition(each.words[4:], front.acls)
        expected += sources or ()
    return HaproxyTrust(
        mode=_mode(front),
        expect_proxy_from=tuple(expected),
        forward_for=bool(option),
        forward_for_except=_after(option, "except"),
        forward_for_header=(_after(option, "header") or (_FORWARDED_FOR,))[0],
        forward_for_if_none="if-none" in option,
        rules=tuple(rule for proxy in both for rule in _rules(proxy)),
        sends_proxy=any(upstream.sends for upstream in _servers(back)),
    )


def _after(words: tuple[str, ...], key: str) -> tuple[str, ...]:
    return words[words.index(key) + 1 :][:1] if key in words else ()


def _rules(proxy: _Proxy) -> Iterator[HaproxyRule]:
    for setting in proxy.named("tcp-request"):
        if (
            "set-src" in setting.words
        ):  # before any header is read: it depends on what this model does not hold
            yield HaproxyRule("set-src", "", " ".join(setting.words[2:]), conditional=True)
    for setting in proxy.named("http-request"):
        rule = _rule(setting, proxy.acls)
        if rule is not None:
            yield rule


def _rule(setting: Setting, acls: dict[str, tuple[str, ...] | None]) -> HaproxyRule | None:
    """A rule that bears on the client's address, None for all others."""
    action, *rest = setting.words[1:] or ("",)
    cut = next((at for at, word in enumerate(rest) if word in {"if", "unless"}), len(rest))
    arguments = rest[:cut]
    sources, odd = _condition(tuple(rest[cut:]), acls)
    odd = odd or setting.conditional
    if action == "set-src":
        found = _HEADER_OF.fullmatch("".join(arguments[:1]))
        if found is None:
            return HaproxyRule("set-src", "", " ".join(arguments), sources=sources, conditional=True)
        return HaproxyRule(
            "set-src", found["name"], occurrence=int(found["at"] or -1), sources=sources, conditional=odd
        )
    if not arguments or not _ABOUT_CLIENT.match(arguments[0]):
        return None
    value = " ".join(arguments[1:])
    match action:
        case "set-header" | "add-header" | "del-header":
            return HaproxyRule(action, arguments[0], value, sources=sources, conditional=odd)
        case "replace-header" | "replace-value":
            return HaproxyRule("set-header", arguments[0], value, sources=sources, conditional=True)
        case _:
            return None


def _condition(
    words: tuple[str, ...], acls: dict[str, tuple[str, ...] | None]
) -> tuple[tuple[str, ...] | None, bool]:
    """The sources that `if { src … }` or `if NAME` admits, None for all; and whether it is of another kind."""
    if not words:
        return None, False
    if words[0] == "if" and words[1:2] == ("{",) and words[-1] == "}" and words.count("{") == 1:
        sources = _sources(words[2:-1])
    elif words[0] == "if" and len(words) == 2:
        sources = acls.get(words[1])
    else:
        sources = None
    return sources, sources is None


def _forwards(trust: HaproxyTrust) -> tuple[tuple[str, str], ...]:
    option = ((trust.forward_for_header.lower(), "%[src]"),) if trust.forward_for else ()
    return (*option, *((rule.name.lower(), rule.value) for rule in trust.rules if rule.action != "set-src"))


def _servers(proxy: _Proxy) -> Iterator[Upstream]:
    default = 0
    for setting in proxy.settings:
        match setting.words:
            case ("default-server", *words):
                default = _sent(words, default)
            case ("server", name, place, *words):
                check = _after(tuple(words), "port") if "check" in words else ()
                number = int(check[0]) if check and is_port(check[0]) else 0
                yield Upstream(canonical(_FAMILY_PREFIX.sub("", place)), _sent(words, default), name, number)
            case _:
                pass


def _sent(words: list[str], before: int) -> int:
    for word in words:
        before = _SENDS.get(word, before)
    return before


def _places(text: str, setting: Setting, notes: list[str], ranges: PortRanges) -> Iterator[tuple[str, int]]:
    """Address ("" for every one) and port of each part of a `bind`. Raises ConfigError where there is none."""
    if not text:
        raise ConfigError('"bind" names no address or port', line=setting.line)
    for part in text.split(","):
        place = _FAMILY_PREFIX.sub("", part)
        address, _, ports = place.rpartition(":")
        first, _, last = ports.partition("-")
        if "$" in place or "@" in place or "/" in place:
            notes.append(f"line {setting.line}: bind {part} is not followed")
            continue
        if not all(is_port(each) and 0 < int(each) < 1 << 16 for each in (first, last or first)):
            raise ConfigError(f'"bind {part[:60]}" has no port', line=setting.line)
        address = {"*": "0.0.0.0", "": "0.0.0.0"}.get(address, canonical(address.strip("[]")))  # noqa: S104 - its own meaning
        every = address == "::" and "v4v6" in setting.words
        span = range(int(first), int(last or first) + 1)
        if not ranges.admits(span):
            notes.append(
                f"line {setting.line}: bind {part} is not followed: more than {MOST_OF_RANGES} ports in ranges"
            )
            continue
        for port in span:
            yield "" if every else address, port
