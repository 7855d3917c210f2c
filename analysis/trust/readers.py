"""Small configurations to settings: a ConfigMap, a command line with its environment, an object of a static file.

nginx.conf and haproxy.cfg are languages of their own and are read elsewhere. What is read here comes from people and
clusters: every function raises TrustError, in one line, for what the product would refuse or what cannot be meant.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from analysis.trust.model import (
    EnvoyCustomHeader,
    EnvoyTrust,
    EnvoyXff,
    Gunicorn,
    Hypercorn,
    IngressNginx,
    TraefikTrust,
    TrustError,
    Uvicorn,
)

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}  # Go's strconv.ParseBool
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}
_CLICK_TRUE = {"1", "true", "t", "yes", "y", "on"}  # click's BOOL, in any case
_CLICK_FALSE = {"0", "false", "f", "no", "n", "off", ""}

#: The first controller in which the forwarded field wins over the PROXY header (pull request 12768).
HEADER_WINS_SINCE = (1, 13)


def ingress_nginx(data: Mapping[str, object], version: tuple[int, int] | None = None) -> IngressNginx:
    """The settings in a ConfigMap's `data`, for a controller of that version (None: a current one)."""

    def flag(key: str) -> bool:
        written = _text(data.get(key, "false"), key)
        if written not in _TRUE | _FALSE:
            raise TrustError(f'{key}: {written[:80]!r} is neither "true" nor "false"')
        return written in _TRUE

    cidrs = [
        part.strip()
        for part in _text(data.get("proxy-real-ip-cidr", "0.0.0.0/0"), "proxy-real-ip-cidr").split(",")
    ]
    return IngressNginx(
        use_forwarded_headers=flag("use-forwarded-headers"),
        use_proxy_protocol=flag("use-proxy-protocol"),
        enable_real_ip=flag("enable-real-ip"),
        compute_full_forwarded_for=flag("compute-full-forwarded-for"),
        proxy_real_ip_cidr=tuple(part for part in cidrs if part),
        forwarded_for_header=_text(data.get("forwarded-for-header", ""), "forwarded-for-header")
        or "X-Forwarded-For",
        header_wins=version is None or version >= HEADER_WINS_SINCE,
    )


def uvicorn(
    arguments: Sequence[str], environ: Mapping[str, str] | None = None, version: tuple[int, int] = (0, 54)
) -> Uvicorn:
    """The settings of `uvicorn …`, from its arguments as the process gets them and its environment.

    Quotes in an argument are kept: a shell has taken away its own, and YAML takes none away inside a value.
    """
    given = environ or {}
    headers, allow = True, given.get("UVICORN_FORWARDED_ALLOW_IPS") or given.get("FORWARDED_ALLOW_IPS")
    if "UVICORN_PROXY_HEADERS" in given:
        headers = _click(given["UVICORN_PROXY_HEADERS"], "UVICORN_PROXY_HEADERS")
    for name, value in _options(arguments, {"--forwarded-allow-ips"}):
        if name == "--proxy-headers":
            headers = True
        elif name == "--no-proxy-headers":
            headers = False
        elif name == "--forwarded-allow-ips":
            allow = value
    return Uvicorn(headers, allow, version)


def gunicorn(
    arguments: Sequence[str],
    environ: Mapping[str, str] | None = None,
    version: tuple[int, int] = (23, 0),
    uvicorn_version: tuple[int, int] = (0, 54),
) -> Gunicorn:
    """The settings of `gunicorn …`: GUNICORN_CMD_ARGS first, then the arguments. A configuration file is not read."""
    given = environ or {}
    try:
        before = shlex.split(given.get("GUNICORN_CMD_ARGS", ""))
    except ValueError as error:
        raise TrustError(f"GUNICORN_CMD_ARGS: {error}: close the quotes") from error
    worker, proxy = "sync", False
    allow, senders = given.get("FORWARDED_ALLOW_IPS"), None
    valued = {"-k", "--worker-class", "--forwarded-allow-ips", "--proxy-allow-from"}
    for name, value in _options([*before, *arguments], valued):
        if name in {"-k", "--worker-class"}:
            worker = value
        elif name == "--forwarded-allow-ips":
            allow = value
        elif name == "--proxy-allow-from":
            senders = value
        elif name == "--proxy-protocol":
            proxy = True
    return Gunicorn(
        worker="uvicorn" if "uvicorn" in worker.lower() else "wsgi",
        allow=allow,
        proxy_protocol=proxy,
        proxy_allow=senders,
        version=version,
        uvicorn_version=uvicorn_version,
    )


def hypercorn(middleware: Mapping[str, object] | None) -> Hypercorn:
    """The settings of ProxyFixMiddleware: its keyword arguments, or None where the application does not use it.

    hypercorn's own configuration file and flags know nothing of forwarded fields.
    """
    if middleware is None:
        return Hypercorn()
    mode = middleware.get("mode", "legacy")
    if mode not in ("legacy", "modern"):
        raise TrustError(f"ProxyFixMiddleware: mode is legacy or modern, not {str(mode)[:80]!r}")
    hops = _number(middleware.get("trusted_hops", 1), "ProxyFixMiddleware trusted_hops")
    return Hypercorn("modern" if mode == "modern" else "legacy", hops)


def traefik(entry_point: Mapping[str, object]) -> TraefikTrust:
    """The settings of one entry point of the static configuration: proxyProtocol and forwardedHeaders."""
    has_proxy = entry_point.get("proxyProtocol") is not None
    proxy = _mapping(entry_point.get("proxyProtocol"), "proxyProtocol")
    forwarded = _mapping(entry_point.get("forwardedHeaders"), "forwardedHeaders")
    return TraefikTrust(
        proxy=has_proxy,
        proxy_trusted=_texts(proxy.get("trustedIPs"), "proxyProtocol.trustedIPs"),
        proxy_insecure=_flag(proxy.get("insecure"), "proxyProtocol.insecure"),
        forwarded_trusted=_texts(forwarded.get("trustedIPs"), "forwardedHeaders.trustedIPs"),
        forwarded_insecure=_flag(forwarded.get("insecure"), "forwardedHeaders.insecure"),
        not_append=_flag(forwarded.get("notAppendXForwardedFor"), "forwardedHeaders.notAppendXForwardedFor"),
    )


_PROXY_FILTER = "proxy_protocol"


def envoy(manager: Mapping[str, object], listener_filters: Sequence[object] = ()) -> EnvoyTrust:
    """The settings of an HTTP connection manager and of its listener's filters, as in a bootstrap or a config dump."""
    filters = [_mapping(one, "listener_filters") for one in listener_filters]
    proxies = [one for one in filters if _PROXY_FILTER in str(one.get("name", ""))]
    typed = _mapping(proxies[0].get("typed_config"), "typed_config") if proxies else {}
    extensions = _sequence(
        manager.get("original_ip_detection_extensions"), "original_ip_detection_extensions"
    )
    return EnvoyTrust(
        use_remote_address=_flag(manager.get("use_remote_address"), "use_remote_address"),
        trusted_hops=_number(manager.get("xff_num_trusted_hops", 0), "xff_num_trusted_hops"),
        skip_append=_flag(manager.get("skip_xff_append"), "skip_xff_append"),
        proxy_protocol=bool(proxies),
        proxy_optional=_flag(
            typed.get("allow_requests_without_proxy_protocol"), "allow_requests_without_proxy_protocol"
        ),
        detection=tuple(_extension(_mapping(one, "original_ip_detection_extensions")) for one in extensions),
    )


def _extension(written: Mapping[str, object]) -> EnvoyXff | EnvoyCustomHeader:
    typed = _mapping(written.get("typed_config"), "typed_config")
    kind = f"{typed.get('@type', '')} {written.get('name', '')}".lower()
    if "custom_header" in kind:
        name = _text(typed.get("header_name", ""), "header_name")
        if not name:
            raise TrustError("custom_header: header_name is missing")
        return EnvoyCustomHeader(name, typed.get("reject_with_status") is not None)
    if "xff" not in kind:
        raise TrustError(f"original_ip_detection_extensions: {kind[:80]!r} is neither xff nor custom_header")
    ranges = None
    if typed.get("xff_trusted_cidrs") is not None:
        listed = _sequence(_mapping(typed["xff_trusted_cidrs"], "xff_trusted_cidrs").get("cidrs"), "cidrs")
        ranges = tuple(_cidr(_mapping(one, "cidrs")) for one in listed)
    return EnvoyXff(
        trusted_hops=_number(typed.get("xff_num_trusted_hops", 0), "xff_num_trusted_hops"),
        trusted_cidrs=ranges,
        skip_append=_flag(typed.get("skip_xff_append", True), "skip_xff_append"),
    )


def _cidr(written: Mapping[str, object]) -> str:
    prefix = _text(written.get("address_prefix", ""), "address_prefix")
    return f"{prefix}/{_number(written.get('prefix_len', 0), 'prefix_len')}"


def client_traffic_policy(spec: Mapping[str, object]) -> EnvoyTrust:
    """What Envoy Gateway makes of the spec of a ClientTrafficPolicy (envoyproxy/gateway internal/xds/translator).

    numTrustedHops counts the proxies including the last one in front, so Envoy gets one less; both kinds of
    xForwardedFor append the connection's source.
    """
    detection = _mapping(spec.get("clientIPDetection"), "clientIPDetection")
    forwarded, custom = detection.get("xForwardedFor"), detection.get("customHeader")
    if forwarded is not None and custom is not None:
        raise TrustError("clientIPDetection: only one of xForwardedFor and customHeader may be set")
    proxy = _mapping(spec.get("proxyProtocol"), "proxyProtocol")
    enabled = (
        _flag(spec.get("enableProxyProtocol"), "enableProxyProtocol") or spec.get("proxyProtocol") is not None
    )
    extensions: tuple[EnvoyXff | EnvoyCustomHeader, ...] = ()
    if forwarded is not None:
        extensions = (_gateway_xff(_mapping(forwarded, "xForwardedFor")),)
    elif custom is not None:
        header = _mapping(custom, "customHeader")
        name = _text(header.get("name", ""), "customHeader.name")
        if not name:
            raise TrustError("customHeader: name is missing")
        extensions = (EnvoyCustomHeader(name, _flag(header.get("failClosed"), "customHeader.failClosed")),)
    return EnvoyTrust(
        use_remote_address=not extensions,
        proxy_protocol=enabled,
        proxy_optional=_flag(proxy.get("optional"), "proxyProtocol.optional"),
        detection=extensions,
    )


def _gateway_xff(written: Mapping[str, object]) -> EnvoyXff:
    hops, cidrs = written.get("numTrustedHops"), written.get("trustedCIDRs")
    if hops is not None and cidrs is not None:
        raise TrustError("xForwardedFor: only one of numTrustedHops and trustedCIDRs may be set")
    if cidrs is not None:
        return EnvoyXff(trusted_cidrs=_texts(cidrs, "trustedCIDRs"), skip_append=False)
    return EnvoyXff(trusted_hops=max(_number(hops or 0, "numTrustedHops") - 1, 0), skip_append=False)


def _options(arguments: Sequence[str], valued: set[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each option, written `--name value`, `--name=value` or `-nvalue`."""
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            if name in valued and not equals:
                value = _next(rest, name)
            yield name, value
        elif argument[:2] in valued:
            yield argument[:2], argument[2:] or _next(rest, argument)


def _next(rest: Iterator[str], name: str) -> str:
    value = next(rest, None)
    if value is None:
        raise TrustError(f"{name[:80]}: its value is missing")
    return value


def _click(written: str, name: str) -> bool:
    word = written.strip().lower()
    if word not in _CLICK_TRUE | _CLICK_FALSE:
        raise TrustError(f"{name}: {written[:80]!r} is neither true nor false")
    return word in _CLICK_TRUE


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TrustError(f"{name}: a text is expected, not {_kind(value)} (in a ConfigMap put it in quotes)")
    return value.strip()


def _flag(value: object, name: str) -> bool:
    if isinstance(value, Mapping) and set(value) == {"value"}:  # a BoolValue as protobuf writes it
        value = value["value"]
    if value is None:
        return False
    if not isinstance(value, bool):
        raise TrustError(f"{name}: true or false is expected, not {_kind(value)}")
    return value


def _number(value: object, name: str) -> int:
    if isinstance(value, Mapping) and set(value) == {"value"}:
        value = value["value"]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 32:
        raise TrustError(f"{name}: a whole number from 0 on is expected, not {_kind(value)}")
    return value


def _mapping(value: object, name: str) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TrustError(f"{name}: an object is expected, not {_kind(value)}")
    return value


def _sequence(value: object, name: str) -> Sequence[object]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TrustError(f"{name}: a list is expected, not {_kind(value)}")
    return value


def _texts(value: object, name: str) -> tuple[str, ...]:
    return tuple(_text(one, name) for one in _sequence(value, name))


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false"}.get(type(value), "this")
