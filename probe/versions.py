"""Versions of everything that an answer can depend on: ours, Python's, the libraries', the kernel's, the tools'.

Libraries are looked up in the installation's records and not imported; tools are asked themselves, all at once.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import msgspec

from analysis.report import SCHEMA_VERSION as REPORT_SCHEMA
from daemonset.keeping import VERSION as SESSION_VERSION
from daemonset.observation import SCHEMA_VERSION as OBSERVATION_SCHEMA
from probe import __version__
from probe.render.escape import escape

#: What belongs to the whole program, and to each of its extras in pyproject.toml.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "": ("duckdb", "msgspec", "numpy", "pyyaml", "rich", "typer"),
    "cluster": ("aiohttp", "kubernetes"),
    "agent": ("pyroute2", "scapy"),
    "lab": ("fastapi", "uvicorn"),
    "tui": ("textual",),
}

#: Programs of the system, with how each is asked for its version.
TOOLS: dict[str, tuple[str, ...]] = {
    "ip": ("-V",),
    "nft": ("--version",),
    "iptables": ("--version",),
    "conntrack": ("--version",),
    "nginx": ("-v",),
    "haproxy": ("-v",),
    "tcpdump": ("--version",),
    "tshark": ("--version",),
    "wireshark": ("--version",),
    "kubectl": ("version", "--client"),
}

#: Where administration tools are even where a user's PATH does not say so.
SYSTEM_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")

_PATIENCE = 10.0  # seconds for one tool

_NUMBER = re.compile(r"v?(\d+(?:\.\d+)+[0-9A-Za-z.+~-]*)")


class Library(msgspec.Struct, frozen=True, rename="camel"):
    """A library; `version` is None where it is not installed. `extra`: which part of the program needs it."""

    name: str
    version: str | None
    extra: str | None = None


class Tool(msgspec.Struct, frozen=True, rename="camel"):
    """A program of the system. Both are None where it is absent, `version` where it does not say."""

    name: str
    path: str | None
    version: str | None


class Versions(msgspec.Struct, frozen=True, rename="camel"):
    """All of them."""

    probe: str
    report_schema: str
    observation_schema: int
    session_format: int
    python: str
    system: str  # kernel, release and machine
    distribution: str | None
    libraries: tuple[Library, ...]
    tools: tuple[Tool, ...]


def versions() -> Versions:
    """Of this installation on this machine."""
    system = platform.uname()
    with ThreadPoolExecutor(len(TOOLS)) as pool:
        tools = tuple(pool.map(tool, TOOLS))
    return Versions(
        probe=__version__,
        report_schema=REPORT_SCHEMA,
        observation_schema=OBSERVATION_SCHEMA,
        session_format=SESSION_VERSION,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{system.system} {system.release} {system.machine}",
        distribution=_distribution(),
        libraries=tuple(library(name, extra) for extra, names in LIBRARIES.items() for name in names),
        tools=tools,
    )


def library(name: str, extra: str = "") -> Library:
    """What the installation's records say of a library."""
    try:
        return Library(name, metadata.version(name), extra or None)
    except metadata.PackageNotFoundError:
        return Library(name, None, extra or None)


def tool(name: str) -> Tool:
    """Where a program is, and what it says of its version."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_PATH]))
    if path is None:
        return Tool(name, None, None)
    try:
        told = subprocess.run(
            [path, *TOOLS.get(name, ("--version",))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return Tool(name, path, None)
    found = _NUMBER.search(told.stdout[:2000].decode("utf-8", "replace"))
    return Tool(name, path, escape(found[1], 60) if found else None)


def _distribution() -> str | None:
    try:
        return escape(platform.freedesktop_os_release().get("PRETTY_NAME", ""), 100) or None
    except OSError:
        return None
