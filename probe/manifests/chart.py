"""The Helm chart and the kustomize base, as files, from the objects of `probe.manifests.objects`.

A template of the chart is the object itself, written as YAML, in which some lines are replaced by what Helm
fills in. So whatever changes in the source changes in the chart; and a line that is no longer there to be
replaced, or is there twice, is a defect that shows at once.
"""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from textwrap import indent
from typing import Any

import msgspec

from probe import __version__
from probe.manifests.objects import CONFIG_NAMESPACES, IMAGE, NAMESPACE, Object, installation, roles

#: Names of files below a folder, and what they hold.
Files = dict[str, str]

_VALUES = """\
# Where the agents run. The chart makes this namespace itself, labelled for Pod Security, so install the release
# into another one (`helm install -n kube-system …`), or set createNamespace to false.
namespace: {namespace}
createNamespace: true

# What the nodes pull: your registry's name of the image, best with its digest.
image: {image}
imagePullPolicy: IfNotPresent
imagePullSecrets: []  # names of Secrets in the namespace

# Labels of the nodes on which agents run, beside kubernetes.io/os: linux.
nodeSelector: {nodeSelector}
priorityClassName: ""

# A privileged container, for nodes on which the four capabilities are not enough.
privileged: {privileged}

# SecurityContextConstraints and the SELinux type spc_t; seLinuxType alone serves other nodes with SELinux.
openshift: {openshift}
seLinuxType: {seLinuxType}

resources:
{resources}
# "May look" and "may install"; bind them to whom you trust. ConfigMaps are read in these namespaces alone.
roles:
  create: {roles}
  configNamespaces: {configNamespaces}
"""

_NOTES = """\
The agents' pods in namespace {{ .Values.namespace }} sleep until one is asked to watch its node:

  kubectl exec -i -n {{ .Values.namespace }} POD -- python3 -m daemonset.agent --node NODE --lifeline >NODE.probe
"""


def to_yaml(objects: list[Object]) -> str:
    """Kubernetes objects as YAML documents."""
    return "---\n".join(map(_dump, objects))


def to_json(objects: list[Object]) -> str:
    """Kubernetes objects as one List."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2) + "\n"


def kustomize_base(objects: list[Object]) -> Files:
    """A kustomize base of these objects, a file for each."""
    files: Files = {}
    for item in objects:
        name = f"{item['kind'].lower()}-{item['metadata']['name']}"
        if item["kind"] == "Role":
            name += f"-{item['metadata']['namespace']}"  # the same name in several
        files[f"{name}.yaml"] = _dump(item)
    resources = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    return {"kustomization.yaml": _dump(resources), **files}


def helm_chart(**settings: Any) -> Files:
    """The chart. Its values give what `installation` and `roles` give; `settings` are other defaults for them."""
    return {
        "Chart.yaml": _dump(_CHART),
        "values.yaml": _values(**settings),
        "values.schema.json": json.dumps(_SCHEMA, indent=2) + "\n",
        "templates/NOTES.txt": _NOTES,
        "templates/namespace.yaml": _namespace(),
        "templates/scc.yaml": _constraints(),
        "templates/serviceaccount.yaml": _replace(_dump(_made("ServiceAccount")), _IN_NAMESPACE),
        "templates/daemonset.yaml": _daemons(),
        "templates/roles.yaml": _roles(),
    }


_DEFAULTS: Object = {
    "namespace": NAMESPACE,
    "image": IMAGE,
    "nodeSelector": {},
    "privileged": False,
    "openshift": False,
    "seLinuxType": "",
    "roles": True,
    "configNamespaces": list(CONFIG_NAMESPACES),
}

_CHART: Object = {
    "apiVersion": "v2",
    "name": "client-ip-probe",
    "description": "Agents that watch where a client's address is lost; they sleep until a session asks.",
    "type": "application",
    "version": __version__,
    "appVersion": __version__,
    "kubeVersion": ">=1.27.0-0",
}


def _values(**settings: Any) -> str:
    (container,) = _made("DaemonSet")["spec"]["template"]["spec"]["containers"]
    written = {key: json.dumps(value, ensure_ascii=False) for key, value in {**_DEFAULTS, **settings}.items()}
    return _VALUES.format(resources=indent(_dump(container["resources"]), "  "), **written)


_TEXT, _BOOLEAN, _TEXTS = (
    {"type": "string"},
    {"type": "boolean"},
    {"type": "array", "items": {"type": "string"}},
)

#: A misspelt value is an error, not a default.
_SCHEMA: Object = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "global": {"type": "object"},  # a parent chart's
        "namespace": {"type": "string", "minLength": 1},
        "createNamespace": _BOOLEAN,
        "image": {"type": "string", "minLength": 1},
        "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        "imagePullSecrets": _TEXTS,
        "nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
        "priorityClassName": _TEXT,
        "privileged": _BOOLEAN,
        "openshift": _BOOLEAN,
        "seLinuxType": _TEXT,
        "resources": {"type": "object"},
        "roles": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"create": _BOOLEAN, "configNamespaces": _TEXTS},
        },
    },
}


# ── templates ────────────────────────────────────────────────────────────────────────────────────────────────

_IN_NAMESPACE = (f"  namespace: {NAMESPACE}\n", "  namespace: {{ .Values.namespace }}\n")

_NODE_SELECTOR = """\
{{- with .Values.nodeSelector }}
        {{- toYaml . | nindent 8 }}
{{- end }}
"""

_BEFORE_CONTAINERS = """\
{{- with .Values.priorityClassName }}
      priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.imagePullSecrets }}
      imagePullSecrets:
{{- range . }}
      - name: {{ . | quote }}
{{- end }}
{{- end }}
"""

_SELINUX = """\
{{- if .Values.seLinuxType }}
          seLinuxOptions:
            type: {{ .Values.seLinuxType | quote }}
{{- else if .Values.openshift }}
          seLinuxOptions:
            type: spc_t
{{- end }}
"""


def _namespace() -> str:
    plain, openshift = (_made("Namespace", openshift=wanted) for wanted in (False, True))
    name = (f"  name: {NAMESPACE}\n", "  name: {{ .Values.namespace }}\n")
    text = _either(".Values.openshift", _dump(openshift), _dump(plain), name)
    return _when(".Values.createNamespace", text)


def _constraints() -> str:
    privileged, narrow = (
        _made("SecurityContextConstraints", openshift=True, privileged=wanted) for wanted in (True, False)
    )
    user = (f":{NAMESPACE}:", ":{{ .Values.namespace }}:")
    return _when(".Values.openshift", _either(".Values.privileged", _dump(privileged), _dump(narrow), user))


def _daemons() -> str:
    daemons = _made("DaemonSet")
    pods = daemons["spec"]["template"]
    (container,) = pods["spec"]["containers"]
    return _replace(
        _dump(daemons),
        _IN_NAMESPACE,
        (f"image: {IMAGE}\n", "image: {{ .Values.image | quote }}\n"),
        ("imagePullPolicy: IfNotPresent\n", "imagePullPolicy: {{ .Values.imagePullPolicy }}\n"),
        _after(_lines(pods["spec"]["nodeSelector"], 8), _NODE_SELECTOR),
        _after("dnsPolicy: Default\n", _BEFORE_CONTAINERS),
        (_lines(container["resources"], 10), "          {{- toYaml .Values.resources | nindent 10 }}\n"),
        (_lines(container["securityContext"], 10), _security()),
        _after(_lines(pods["metadata"]["annotations"], 8), _apparmor_annotation()),
    )


def _security() -> str:
    """The security context in its three forms; which one, the values and the server's version say."""
    privileged, new, old = (
        _lines(_container(**settings)["securityContext"], 10)
        for settings in ({"privileged": True}, {}, {"kubernetes": (1, 29)})
    )
    assert new.startswith(old), "what older servers do not know stands last"
    since = _when(_NEW_ENOUGH, new.removeprefix(old))
    return _if_else(".Values.privileged", privileged, old + since) + _SELINUX


def _apparmor_annotation() -> str:
    pods = _made("DaemonSet", kubernetes=(1, 29))["spec"]["template"]
    written = _lines(pods["metadata"]["annotations"], 8)
    common = _lines(_made("DaemonSet")["spec"]["template"]["metadata"]["annotations"], 8)
    return _when(f"not (or .Values.privileged ({_NEW_ENOUGH}))", written.removeprefix(common))


def _roles() -> str:
    look, config, install = map(_dump, roles())
    install = _either(".Values.openshift", _dump(roles(openshift=True)[-1]), install)
    (namespace,) = CONFIG_NAMESPACES
    each = _replace(config, (f"  namespace: {namespace}\n", "  namespace: {{ . | quote }}\n"))
    configs = f"{{{{- range .Values.roles.configNamespaces }}}}\n---\n{each}{{{{- end }}}}\n"
    return _when(".Values.roles.create", f"{look}{configs}---\n{install}")


#: Servers from 1.30 on know AppArmor as a field (probe.manifests.objects).
_NEW_ENOUGH = 'semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version'


def _made(kind: str, **settings: Any) -> Object:
    """The object of this kind of a standing installation."""
    (found,) = (item for item in installation(namespace=NAMESPACE, **settings) if item["kind"] == kind)
    return found


def _container(**settings: Any) -> Object:
    (container,) = _made("DaemonSet", **settings)["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def _when(condition: str, text: str) -> str:
    return f"{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n"


def _if_else(condition: str, yes: str, no: str) -> str:
    if yes and no:
        return f"{{{{- if {condition} }}}}\n{yes}{{{{- else }}}}\n{no}{{{{- end }}}}\n"
    return _when(condition, yes) if yes else _when(f"not {condition}", no)


def _either(condition: str, yes: str, no: str, *edits: tuple[str, str]) -> str:
    """Two texts as one: lines that they share once, the rest under the condition."""
    ours, theirs = (text.splitlines(keepends=True) for text in (yes, no))
    text = ""
    for _, i, j, k, m in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        same = ours[i:j] == theirs[k:m]
        text += "".join(ours[i:j]) if same else _if_else(condition, "".join(ours[i:j]), "".join(theirs[k:m]))
    return _replace(text, *edits)


def _replace(text: str, *edits: tuple[str, str]) -> str:
    """Put one text in another's place, which must be there exactly once."""
    for old, new in edits:
        assert text.count(old) == 1, f"{text.count(old)} times {old!r}"
        text = text.replace(old, new)
    return text


def _after(old: str, new: str) -> tuple[str, str]:
    return old, old + new


def _lines(value: Any, spaces: int) -> str:
    return indent(_dump(value), " " * spaces)


def _dump(value: Any) -> str:
    return msgspec.yaml.encode(value).decode()
