"""Packages → a bill of materials in CycloneDX 1.6 (ECMA-424), as plain values.

The same input gives the same text: the time is SOURCE_DATE_EPOCH's or left out, and the serial number follows from
the contents.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from bom.licences import licence
from bom.lock import Locked, read_lock
from bom.parts import environment

SPEC = "1.6"

#: Within these the serial numbers of our bills are unique (RFC 9562, version 5).
_OURS = uuid.uuid5(uuid.NAMESPACE_DNS, "client-ip-probe")


class MaterialError(Exception):
    """What is there is not what is locked; the text says what to do."""


def bill(
    subject: Mapping[str, Any],
    packages: Mapping[str, tuple[str, ...]],
    there: Mapping[str, Distribution],
    direct: Iterable[str],
    more: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The bill of `subject` (a component), which needs `direct`, and each package what stands beside its name.

    `more` are components that are no packages. Raises MaterialError and UnknownLicenceError.
    """
    where = environment()
    locked = {each.key: each for each in read_lock() if each.meant_for(where)}
    components = [_package(name, locked, there) for name in packages] + [dict(each) for each in more]
    dependencies = [{"ref": subject["bom-ref"], "dependsOn": [_ref(name, locked) for name in sorted(direct)]}]
    dependencies += [
        {"ref": _ref(name, locked), "dependsOn": [_ref(each, locked) for each in needs if each in packages]}
        for name, needs in packages.items()
    ]
    metadata: dict[str, Any] = {
        "lifecycles": [{"phase": "build"}],
        "tools": {"components": [{"type": "application", "name": "client-ip-probe packaging/sbom.py"}]},
        "component": dict(subject),
    }
    if (epoch := os.environ.get("SOURCE_DATE_EPOCH")) is not None:
        metadata = {"timestamp": datetime.fromtimestamp(int(epoch), UTC).isoformat(), **metadata}
    body = {"version": 1, "metadata": metadata, "components": components, "dependencies": dependencies}
    serial = uuid.uuid5(_OURS, json.dumps(body, sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{serial}",
        **body,
    }


def ours(name: str, version: str, kind: str) -> dict[str, Any]:
    """The component that a bill is about: `kind` is CycloneDX's word, application or container."""
    purl = f"pkg:pypi/{name}@{version}" if kind == "application" else f"pkg:oci/{name}@{version}"
    return {
        "type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl, "licenses": _licences("MIT"),
    }  # fmt: skip


def interpreter(version: str) -> dict[str, Any]:
    """CPython, which is in the image and no package."""
    purl = f"pkg:generic/python@{version}"
    return {
        "type": "platform", "bom-ref": purl, "name": "python", "version": version, "purl": purl,
        "licenses": _licences("PSF-2.0"),
    }  # fmt: skip


def library(root: Path, path: Path) -> dict[str, Any]:
    """A shared library of the system that the image holds, by its digest: its package is not known there."""
    place = f"/{path.relative_to(root)}"
    return {
        "type": "file", "bom-ref": f"file:{place}", "name": place,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
    }  # fmt: skip


def _package(name: str, locked: Mapping[str, Locked], there: Mapping[str, Distribution]) -> dict[str, Any]:
    entry, found = locked.get(name), there.get(name)
    if entry is None:
        raise MaterialError(f"{name} is needed and not in requirements.lock; run make lock")
    if found is None or found.version != entry.version:
        has = "it is not installed" if found is None else f"{found.version} is installed"
        raise MaterialError(f"{name} {entry.version} is locked and {has}; install requirements.lock first")
    ref = _ref(name, locked)
    return {
        "type": "library",
        "bom-ref": ref,
        "name": entry.name,
        "version": entry.version,
        "purl": ref,
        "licenses": _licences(licence(name, found)),
        "externalReferences": [
            {
                "type": "distribution",
                "url": ref,
                "comment": "installed from one of the files with these digests (requirements.lock)",
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in entry.digests],
            }
        ],
    }


def _ref(name: str, locked: Mapping[str, Locked]) -> str:
    return f"pkg:pypi/{name}@{locked[name].version}" if name in locked else f"pkg:pypi/{name}"


def _licences(expression: str) -> list[dict[str, Any]]:
    """One of SPDX's list by its id, anything else as an expression."""
    one = " " not in expression and not expression.startswith("LicenseRef-")
    return [{"license": {"id": expression}}] if one else [{"expression": expression}]
