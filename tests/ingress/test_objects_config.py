"""Configuration out of Kubernetes objects: ingress-nginx's ConfigMap, or a whole nginx.conf in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.ingress import Kind
from analysis.trust.model import IngressNginx
from probe.errors import UsageError
from probe.ingress.config import read_config

YAML = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: ingress-nginx-controller, namespace: ingress-nginx}
data:
  use-proxy-protocol: "true"
  use-forwarded-headers: "true"
  proxy-real-ip-cidr: "10.0.0.0/8, 192.168.0.1"
  forwarded-for-header: X-Client
---
kind: Secret
"""


def test_the_configmap_of_ingress_nginx(tmp_path: Path) -> None:
    file = tmp_path / "cm"
    file.write_text(YAML)
    (ingress,) = read_config(file)
    assert ingress.kind is Kind.INGRESS_NGINX
    assert [(each.port, each.tls, each.proxy_protocol) for each in ingress.listeners] == [
        (80, False, True),
        (443, True, True),
    ]
    assert ingress.listeners[0].trust == IngressNginx(
        use_proxy_protocol=True,
        use_forwarded_headers=True,
        proxy_real_ip_cidr=("10.0.0.0/8", "192.168.0.1"),
        forwarded_for_header="X-Client",
    )
    assert "names no ports" in ingress.notes[0]


@pytest.mark.parametrize("shape", ["alone", "list", "array"])
def test_json_alone_and_in_lists(shape: str, tmp_path: Path) -> None:
    one = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"use-proxy-protocol": "false"}}
    whole: object = {
        "alone": one,
        "list": {"kind": "List", "items": [{"kind": "Pod"}, one, 3]},
        "array": [one],
    }[shape]
    file = tmp_path / "objects.json"
    file.write_text(json.dumps(whole))
    (ingress,) = read_config(file)
    assert [each.proxy_protocol for each in ingress.listeners] == [False, False]
    assert ingress.file == f"{file} (ConfigMap default/c)"


def test_the_controllers_own_configmap_may_be_empty(tmp_path: Path) -> None:
    file = tmp_path / "cm.json"
    file.write_text('{"kind": "ConfigMap", "metadata": {"name": "ingress-nginx-controller"}}')
    (ingress,) = read_config(file)
    assert ingress.listeners[0].trust == IngressNginx()


def test_an_nginx_conf_in_a_configmap_with_its_includes(tmp_path: Path) -> None:
    data = {
        "nginx.conf": "http { include /etc/nginx/conf.d/*.conf; include more.conf; }",
        "conf.d": "not this one",
        "more.conf": "server { listen 8081 proxy_protocol; }",
    }
    file = tmp_path / "cm.json"
    file.write_text(json.dumps({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}))
    (ingress,) = read_config(file)
    assert [(each.port, each.proxy_protocol) for each in ingress.listeners] == [(8081, True)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: ConfigMap\nmetadata: [\n  a: b: c\n", ["line 3", "not YAML"]),
        ("kind: x\n---\na: 1\n---\nb: [}\n", ["line 5", "not YAML"]),
        ('{"kind": "ConfigMap", }', ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        ("kind: Pod\n", ["no ConfigMap", "kubectl get configmap"]),
        (YAML.replace('"true"', '"yes"', 1), ["use-proxy-protocol", "yes"]),
        ('kind: ConfigMap\ndata: {haproxy.cfg: "bind :80"}\n', ["haproxy.cfg) line 1", "before any section"]),
        ('kind: ConfigMap\ndata: {nginx.conf: "http {"}\n', ["nginx.conf) line 1", "no closing"]),
        ("kind: ConfigMap\ndata: &a [*a]\n", ["no ConfigMap"]),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "objects"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config(file)
    told = str(caught.value)
    assert told.startswith(f"--ingress-config {file}")
    assert "\n" not in told
    for word in words:
        assert word in told
