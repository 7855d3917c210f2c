"""Which packages each part of us needs, and theirs: read from what packages say of themselves (Requires-Dist)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bom.lock import REPOSITORY

#: The parts of a release, each by what it needs besides the first; the rest of the lock is for tests and documents.
COMMAND, CLUSTER, AGENT, LAB, TUI, TESTS = "command", "cluster", "agent", "lab", "tui", "tests"
ELSEWHERE = "other systems"

#: What an operator installs: the command and what speaks to a cluster.
OPERATOR = (COMMAND, CLUSTER)

#: Of the agent's image, as its Dockerfile has it (`tests/manifests/test_image.py`).
IMAGE = ("msgspec", "numpy", "pyroute2", "scapy")


def environment() -> dict[str, str]:
    """The environment that is described (PEP 508): the image's Python on Linux, whatever machine this is."""
    fixed = {
        "implementation_name": "cpython", "os_name": "posix", "platform_machine": "x86_64",
        "platform_python_implementation": "CPython", "platform_system": "Linux",
        "python_full_version": "3.11.14", "python_version": "3.11", "sys_platform": "linux",
    }  # fmt: skip
    return {key: fixed.get(key, str(value)) for key, value in default_environment().items()}


def installed(folders: Iterable[Path] | None = None) -> dict[str, Distribution]:
    """What is installed, by name; in these folders alone where they are given."""
    found = distributions() if folders is None else distributions(path=[str(folder) for folder in folders])
    return {canonicalize_name(each.metadata["Name"]): each for each in found}


def wanted() -> dict[str, tuple[str, ...]]:
    """The requirements of each part, from pyproject.toml; the command's alone for those that build on it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: tuple(listed) for name, listed in project["optional-dependencies"].items()}
    return {COMMAND: tuple(project["dependencies"]), **extras}


def closure(requirements: Iterable[str], there: Mapping[str, Distribution]) -> dict[str, tuple[str, ...]]:
    """All that these need, each with what it needs itself; names that are not there stay without."""
    found: dict[str, tuple[str, ...]] = {}
    extras: dict[str, frozenset[str]] = {}
    left = [Requirement(text) for text in requirements]
    where = environment()
    while left:
        asked = left.pop()
        if asked.marker is not None and not asked.marker.evaluate({**where, "extra": ""}):
            continue
        name = canonicalize_name(asked.name)
        known = extras.get(name, frozenset())
        if name in found and asked.extras <= known:
            continue
        extras[name] = known | asked.extras
        needs = _needs(there.get(name), extras[name], where)
        found[name] = tuple(sorted({canonicalize_name(each.name) for each in needs}))
        left += needs
    return dict(sorted(found.items()))


def _needs(
    distribution: Distribution | None, extras: frozenset[str], where: dict[str, str]
) -> list[Requirement]:
    if distribution is None:
        return []
    found = []
    for text in distribution.requires or ():
        need = Requirement(text)
        marker = need.marker
        if marker is None or any(marker.evaluate({**where, "extra": extra}) for extra in ("", *extras)):
            need.marker = None  # it has been asked
            found.append(need)
    return found
