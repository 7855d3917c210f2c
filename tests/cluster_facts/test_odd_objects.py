"""Whatever stands in the objects, gathering ends in facts or in one line; and nothing of it reaches a terminal raw."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis.facts import Facts
from analysis.ingress import IngressRecord
from probe.cluster.command_lines import LONGEST, command_line
from probe.cluster.lister import Json
from probe.errors import ProbeError
from probe.objects import ObjectsError, facts_from_objects
from tests.cluster_facts.cluster import INTERNAL, Cluster, app, configmap, kube_proxy, node, obj
from tests.cluster_facts.test_controllers import ingress, ingress_class, nginx
from tests.cluster_facts.test_gateways import ENVOY, gateway, policy, proxy
from tests.hostile import VALUES

TOLD = configmap("ingress-nginx-controller", {"use-proxy-protocol": "true"}, "ingress-nginx")
SHOP = [
    node(annotations={"k3s.io/node-args": '["server"]'}),
    kube_proxy(),
    configmap("cilium-config", {"kube-proxy-replacement": "false"}),
    obj("FelixConfiguration", "default", None, spec={"bpfEnabled": True}),
    *nginx(),
    TOLD,
    ingress_class(),
    ingress(addresses=[{"ip": "203.0.113.9"}]),
    *app("api", "10.244.1.20", spec=INTERNAL, container={"command": ["uvicorn", "main:app"]}),
]
EDGE = [
    *gateway("eg"),
    *proxy("front", ENVOY, "envoy-gateway-system"),
    policy("whole", {"clientIPDetection": {"xForwardedFor": {"numTrustedHops": 2}}}),
]

#: What somebody could store in the place of any value.
ODD: list[Any] = [
    None, True, False, 0, -1, 3, 80, 70_000, 1 << 70, 1e308, "", "web", "10.0.0.1", "::ffff:1.2.3.4", "0.0.0.0/0",
    "fe80::1%eth0", [], [None], [[]], [{}], {}, {"a": {}}, {"": ""}, "x" * 5000, "true", "Local", "$(A)", "'",
    "- &a [*a]", "²", "9" * 5000,
    *[value.decode("utf-8", "replace")[:2000] for value in VALUES.values()],
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside, as keys and indexes."""
    found = [path] if path else []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inside:
        found += places(below, (*path, key))
    return found


def changed(objects: list[Json], at: tuple[Any, ...], value: Any, *, away: bool) -> list[Json]:
    copied = copy.deepcopy(objects)
    inside: Any = copied
    for key in at[:-1]:
        inside = inside[key]
    if away and isinstance(inside, dict):
        del inside[at[-1]]
    else:
        inside[at[-1]] = value
    return copied


class Careless(Cluster):
    """A client that gives what it has, whatever that is."""

    def list(self, group_version: str, plural: str, namespace: str | None) -> list[Json]:
        del namespace
        kinds = {"endpointslices": "EndpointSlice", "ingresses": "Ingress", "ingressclasses": "IngressClass"}
        kinds |= {"gatewayclasses": "GatewayClass", "clienttrafficpolicies": "ClientTrafficPolicy"}
        kinds |= {"httproutes": "HTTPRoute", "felixconfigurations": "FelixConfiguration"}
        wanted = kinds.get(plural, plural.removesuffix("s"))
        return [
            item
            for item in self.items
            if not isinstance(item, dict) or str(item.get("kind", "")).lower() == wanted.lower()
        ]


def hold(objects: list[Json], asked: str) -> None:
    """Gathering ends in order, and what it says can be shown and kept."""
    try:
        found = Careless(objects).gather(asked)
    except ProbeError as caught:
        error: ProbeError | None = caught
    else:
        error = None
    if error is not None:
        assert str(error).isprintable(), repr(str(error))
        assert len(str(error)) < 2000
        return
    for remark in found.remarks:
        assert remark.isprintable(), repr(remark)
        assert len(remark) < 2000
    assert all(0 < port <= 0xFFFF for port in found.ports)
    assert msgspec.json.decode(msgspec.json.encode(found.facts), type=Facts) == found.facts
    assert msgspec.json.decode(msgspec.json.encode(found.ingress), type=IngressRecord) == found.ingress
    again = facts_from_objects(json.loads(json.dumps(found.objects)), [])
    assert again.services == found.facts.services


@settings(max_examples=150)
@given(st.data())
def test_an_ingress_among_odd_objects(data: st.DataObject) -> None:
    objects = SHOP
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places(objects)))
        objects = changed(objects, at, data.draw(st.sampled_from(ODD)), away=data.draw(st.booleans()))
    hold(objects, "ingress/shop")


@settings(max_examples=150)
@given(st.data())
def test_a_gateway_among_odd_objects(data: st.DataObject) -> None:
    objects = EDGE
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places(objects)))
        objects = changed(objects, at, data.draw(st.sampled_from(ODD)), away=data.draw(st.booleans()))
    hold(objects, "gateway/edge")


@settings(max_examples=200)
@example(
    {"kind": "Service", "metadata": {"name": "a", "labels": {"a": 1}}, "spec": {"ports": [{"port": 1 << 80}]}}
)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=20,
    )
)
def test_any_document_makes_facts_or_an_error(document: Any) -> None:
    with contextlib.suppress(ObjectsError):
        facts_from_objects(document)


def test_a_long_value_that_is_asked_for_many_times_is_cut() -> None:
    container = {"args": ["$(A)" * 16_000, "$(A)-$(B)"], "env": [{"name": "A", "value": "x" * LONGEST}]}
    assert [len(word) for word in command_line(container)] == [LONGEST, LONGEST]
    short = {"args": ["--a=$(A)/$(B)$(A)"], "env": [{"name": "A", "value": "1"}]}
    assert command_line(short) == ["--a=1/$(B)1"]
