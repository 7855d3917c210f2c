"""A request through a whole chain, and whether what was seen is what should have been."""

from __future__ import annotations

import pytest

from analysis.trust.evaluate import Hop, chain, differs, resolve
from analysis.trust.model import (
    Arrival,
    Claim,
    Fields,
    HaproxyTrust,
    IngressNginx,
    NginxRealIp,
    Relay,
    Settings,
    Uvicorn,
)

CLIENT, BALANCER, INGRESS = "203.0.113.5", "10.0.0.1", "10.244.1.7"
SPOOF: Fields = (("X-Forwarded-For", "6.6.6.6"),)


def believed(
    ingress: Settings, application: Settings, *, balancer: Settings, fields: Fields = ()
) -> list[str | None]:
    """Whom balancer, ingress and application take for the client."""
    hops = [
        Hop("balancer", BALANCER, balancer),
        Hop("ingress", INGRESS, ingress),
        Hop("application", "10.244.2.8", application),
    ]
    return [step.resolution.client for step in chain(hops, Arrival(CLIENT, None, fields))]


def test_every_server_knows_the_client() -> None:
    ingress = IngressNginx(use_proxy_protocol=True, proxy_real_ip_cidr=("10.0.0.0/8",))
    seen = believed(ingress, Uvicorn(allow=INGRESS), balancer=Relay(sends_proxy=True), fields=SPOOF)
    assert seen == [CLIENT, CLIENT, CLIENT]


def test_the_ingress_does_not_believe_the_balancer() -> None:
    ingress = IngressNginx(use_proxy_protocol=True, proxy_real_ip_cidr=("192.168.0.0/16",))
    assert believed(ingress, Uvicorn(allow=INGRESS), balancer=Relay(sends_proxy=True)) == [
        CLIENT,
        BALANCER,
        BALANCER,
    ]


def test_the_application_does_not_believe_the_ingress() -> None:
    ingress = IngressNginx(use_forwarded_headers=True, proxy_real_ip_cidr=("10.0.0.0/8",))
    assert believed(ingress, Uvicorn(), balancer=Relay("append")) == [CLIENT, CLIENT, INGRESS]


def test_quotes_that_yaml_kept_make_the_application_blind() -> None:
    """uvicorn's issue 1223."""
    ingress = IngressNginx(use_forwarded_headers=True, proxy_real_ip_cidr=("10.0.0.0/8",))
    assert believed(ingress, Uvicorn(allow="'*'"), balancer=Relay("append"))[2] == INGRESS
    assert believed(ingress, Uvicorn(allow="*"), balancer=Relay("append"))[2] == CLIENT


def test_an_application_that_believes_everybody_takes_the_forged_end_of_a_list_that_was_appended_to() -> None:
    ingress = NginxRealIp(sends=(("X-Forwarded-For", "$proxy_add_x_forwarded_for"),))
    careful, careless = Uvicorn(allow=f"{INGRESS},{BALANCER}"), Uvicorn(allow="*")

    assert believed(ingress, careful, balancer=Relay("append"), fields=SPOOF)[2] == CLIENT
    assert believed(ingress, careless, balancer=Relay("append"), fields=SPOOF)[2] == "6.6.6.6"


def test_a_header_that_is_refused_ends_the_chain() -> None:
    hops = [
        Hop("balancer", BALANCER, HaproxyTrust(mode="tcp", sends_proxy=True)),
        Hop("ingress", INGRESS, IngressNginx()),
        Hop("application", "10.244.2.8", Uvicorn()),
    ]
    steps = chain(hops, Arrival(CLIENT))

    assert [step.hop.name for step in steps] == ["balancer", "ingress"]
    assert steps[-1].resolution.refused
    assert steps[-1].resolution.rule_key == "nginx-unexpected"


def test_a_transparent_balancer_leaves_the_clients_address_in_the_packets() -> None:
    ingress = IngressNginx()
    assert believed(ingress, Uvicorn(allow=INGRESS), balancer=Relay(transparent=True)) == [
        CLIENT,
        CLIENT,
        CLIENT,
    ]


def test_what_the_settings_do_not_say_ends_the_chain() -> None:
    hops = [
        Hop("ingress", INGRESS, NginxRealIp(sends=(("X-Forwarded-For", "$some_map"),))),
        Hop("application", "10.244.2.8", Uvicorn(allow="*")),
    ]
    [step] = chain(hops, Arrival(CLIENT))
    assert (step.resolution.client, step.resolution.onward) == (CLIENT, None)


@pytest.mark.parametrize(
    ("seen", "different"),
    [
        ("203.0.113.5", False),
        ("203.0.113.5:4711", False),
        ("::ffff:203.0.113.5", False),
        (" 203.0.113.5", False),
        ("203.0.113.6", True),
        ("", True),
        ("unknown", True),
        (None, False),
    ],
)
def test_addresses_are_compared_as_addresses(seen: str | None, different: bool) -> None:
    expected = resolve(Relay(), Arrival("203.0.113.5"))
    assert differs(expected, seen) is different


def test_ipv6_addresses_are_compared_whatever_their_spelling() -> None:
    expected = resolve(
        Uvicorn(allow="*"), Arrival("::1", None, (("X-Forwarded-For", "[2001:DB8:0:0::5]:4711"),))
    )
    assert expected.by is Claim.FIELD
    assert not differs(expected, "2001:db8::5")
    assert differs(expected, "2001:db8::6")


def test_nothing_differs_from_what_cannot_be_told() -> None:
    assert not differs(resolve(NginxRealIp(("lb.example",)), Arrival(CLIENT)), "203.0.113.6")
