"""What is to be watched, as people write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.cluster.labels import SelectorError, parse_selector
from probe.cluster.selection import Wanted, parse
from probe.errors import UsageError


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("svc/web", Wanted.SERVICE),
        ("service/web", Wanted.SERVICE),
        ("services/web", Wanted.SERVICE),
        ("SVC/web", Wanted.SERVICE),
        ("services.v1/web", Wanted.SERVICE),
        ("ing/web", Wanted.INGRESS),
        ("ingress/web", Wanted.INGRESS),
        ("ingresses.networking.k8s.io/web", Wanted.INGRESS),
        ("ingresses.v1.networking.k8s.io/web", Wanted.INGRESS),
        ("gtw/web", Wanted.GATEWAY),
        ("gateway/web", Wanted.GATEWAY),
        ("gateways.gateway.networking.k8s.io/web", Wanted.GATEWAY),
        ("gateways.v1beta1.gateway.networking.k8s.io/web", Wanted.GATEWAY),
    ],
)
def test_kubectls_spellings(text: str, kind: Wanted) -> None:
    found = parse(text, "shop", label=None)
    assert (found.kind, found.namespace, found.name) == (kind, "shop", "web")


def test_labels_alone_mean_services() -> None:
    found = parse(None, "shop", label="app=web,tier in (front, edge)")
    assert found.kind is Wanted.SERVICE
    assert str(found) == "svc -l app=web,tier in (front, edge) -n shop"
    assert parse("ingress", "shop", label="app=web").kind is Wanted.INGRESS


@pytest.mark.parametrize(
    ("text", "label", "says"),
    [
        (None, None, "give svc/NAME"),
        ("web", None, "give svc/web"),
        ("svc", None, "lacks a name"),
        ("svc/", None, "lacks a name"),
        ("svc/Web", None, "no name of an object"),
        ("svc/a b", None, "no name of an object"),
        ("svc/" + "a" * 300, None, "no name of an object"),
        ("pod/web", None, "Service in front of the pod"),
        ("gw/web", None, "Istio"),
        ("deploy/web", None, "Service in front"),
        ("gateways.networking.istio.io/web", None, "networking.istio.io"),
        ("elephant/web", None, "not a type"),
        ("svc/web", "app=web", "one of them"),
        (None, "app in (web", "-l"),
        (None, "=", "-l"),
        (None, "", "empty"),
    ],
)
def test_what_is_not_meant(text: str | None, label: str | None, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "shop", label=label)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_namespace_that_is_none() -> None:
    with pytest.raises(UsageError, match="-n"):
        parse("svc/web", "Shop")


@given(st.text(max_size=80) | st.sampled_from(["svc/", "-l", "a=b"]), st.text(max_size=80) | st.none())
def test_any_text_is_a_selection_or_one_line(text: str, label: str | None) -> None:
    try:
        said = str(parse(text, "shop", label=label).kind)
    except UsageError as error:
        said = str(error)
    assert said.isprintable()


@pytest.mark.parametrize(
    ("selector", "labels", "admits"),
    [
        ("app=web", {"app": "web"}, True),
        ("app==web", {"app": "api"}, False),
        ("app!=web", {}, True),
        ("app in (web,api)", {"app": "api"}, True),
        ("app in (web,api)", {}, False),
        ("app notin (web)", {}, True),
        ("app", {"app": ""}, True),
        ("!app", {"app": ""}, False),
        ("app=web,!canary", {"app": "web"}, True),
        ("app=web, tier=front", {"app": "web"}, False),
        ("app.kubernetes.io/name=web", {"app.kubernetes.io/name": "web"}, True),
        ("app=", {"app": ""}, True),
    ],
)
def test_selectors_mean_what_kubernetes_says(selector: str, labels: dict[str, str], admits: bool) -> None:
    assert parse_selector(selector).admits(labels) is admits


@given(st.text(alphabet="ab=!,() in\n/.-\x1b", max_size=60))
def test_any_text_is_a_selector_or_an_error(text: str) -> None:
    said = ""
    try:
        parse_selector(text)
    except SelectorError as error:
        said = str(error)
    assert said.isprintable()
