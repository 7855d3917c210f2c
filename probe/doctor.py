"""Whether this machine allows what a person wants to do: each thing looked at, and what to do where it is not so.

Nothing is changed, and nothing needs root: what takes rights is tried inside a namespace of one's own, which goes away
with the attempt. What is wrong is an error where it was configured or asked for, else a warning: not everybody has a
cluster, and not everybody wants the lab.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from analysis.report import Severity
from probe.render.escape import escape
from probe.versions import LIBRARIES, SYSTEM_PATH, Tool, library, tool

#: What can be asked for by name.
AREAS = ("program", "cluster", "lab", "packets")

#: Seconds for one thing that is tried in a namespace.
_PATIENCE = 20.0

_NAMESPACES = (
    "run as root, or allow them: sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1 "
    "kernel.apparmor_restrict_unprivileged_userns=0 (those that exist); in a container: --privileged"
)

#: What the lab's nodes are made of: tried with the kernel, each with the module that is likely missing.
_KERNEL = (
    ("bridges", "ip link add bridge0 type bridge", "bridge"),
    ("veth pairs", "ip link add veth0 type veth peer name veth1", "veth"),
    ("VXLAN", "ip link add vxlan0 type vxlan id 1 dstport 4789", "vxlan"),
    ("nftables NAT", "nft 'table ip t { chain c { type nat hook postrouting priority 100; masquerade; }; }'",
     "nft_masq"),
    ("iptables NAT", "iptables -t nat -A POSTROUTING -j MASQUERADE", "nft_compat"),
)  # fmt: skip

#: Programs that the lab runs, by the Debian package that brings them.
_LAB_TOOLS = {"ip": "iproute2", "nft": "nftables", "iptables": "iptables", "nginx": "nginx-light",
              "haproxy": "haproxy", "unshare": "util-linux"}  # fmt: skip


class Check(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that was looked at. `severity` is None where it is as it should be; `fix` says what to do."""

    area: str
    name: str
    severity: Severity | None
    detail: str
    fix: str = ""


class Diagnosis(msgspec.Struct, frozen=True, rename="camel"):
    """All of them; `ok`: nothing that was configured or asked for is wrong."""

    ok: bool
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0, or 5: the environment does not allow it."""
        return 0 if self.ok else 5


#: What looks at the cluster, given whether it has to be there.
ClusterChecks = Callable[[Severity], Iterable[Check]]


def diagnose(areas: Sequence[str], cluster: ClusterChecks, progress: Callable[[str], None]) -> Diagnosis:
    """Look at these areas, or all. `cluster` is asked for its checks, because that takes libraries of its own."""
    gravity = Severity.ERROR if areas else Severity.WARNING
    looks: dict[str, Callable[[], Iterable[Check]]] = {
        "program": program_checks,
        "cluster": lambda: cluster(gravity),
        "lab": lambda: lab_checks(gravity),
        "packets": lambda: packet_checks(gravity),
    }
    checks: list[Check] = []
    for area in areas or AREAS:
        progress(f"looking at {area}")
        checks += looks[area]()
    return Diagnosis(all(each.severity is not Severity.ERROR for each in checks), tuple(checks))


def program_checks() -> Iterator[Check]:
    """The program itself: what every command needs."""
    yield Check("program", "Python", None, f"{sys.version.split()[0]} at {escape(sys.executable)}")
    yield _extra("", Severity.ERROR, "program")
    encoding = (sys.stdout.encoding or "ascii") if sys.stdout is not None else "none"
    if encoding.lower().replace("_", "-").startswith("utf"):
        yield Check("program", "characters", None, encoding)
    else:
        detail = f"the output's encoding is {escape(encoding)}: signs are spelled in ASCII"
        fix = "set a UTF-8 locale, such as LANG=C.UTF-8"
        yield Check("program", "characters", Severity.WARNING, detail, fix)
    plugin = shutil.which("kubectl-client_ip")
    if plugin is not None:
        yield Check("program", "kubectl plugin", None, f"`kubectl client-ip` is {escape(plugin)}")
    else:
        yield Check(
            "program", "kubectl plugin", Severity.WARNING, "kubectl finds no kubectl-client_ip on PATH",
            "put the folder of `probe` on PATH (`pipx ensurepath`); `probe` itself does the same",
        )  # fmt: skip


def lab_checks(gravity: Severity) -> Iterator[Check]:
    """What `probe demo` and `probe lab` need: Linux, namespaces, a kernel with NAT, nginx, HAProxy, libraries."""
    if not sys.platform.startswith("linux"):
        yield Check(
            "lab", "system", gravity, f"{escape(sys.platform)} has no network namespaces",
            "use a Linux machine, or a virtual one; captures on a cluster and analyses work here",
        )  # fmt: skip
        return
    yield _extra("lab", gravity, "lab")
    yield _extra("agent", gravity, "lab")
    for name, package in _LAB_TOOLS.items():
        yield _tool(name, gravity, "lab", f"install it: apt-get install {package}")
    yield from _kernel(gravity)


def packet_checks(gravity: Severity) -> Iterator[Check]:
    """What looks at packet files: none is needed to write them."""
    yield _tool("tshark", gravity, "packets", "install it: apt-get install tshark")
    yield _tool("wireshark", gravity, "packets", "--open shows packets with it; -w writes them without")


def _extra(extra: str, gravity: Severity, area: str) -> Check:
    found = [library(name, extra) for name in LIBRARIES[extra]]
    name = f"libraries for {extra}" if extra else "libraries"
    if missing := [each.name for each in found if each.version is None]:
        fix = f"install client-ip-probe[{extra}]" if extra else "install client-ip-probe again"
        return Check(area, name, gravity, f"missing: {', '.join(missing)}", fix)
    return Check(area, name, None, ", ".join(f"{each.name} {each.version}" for each in found))


def _tool(name: str, gravity: Severity, area: str, fix: str) -> Check:
    found: Tool = tool(name)
    if found.path is None:
        return Check(area, name, gravity, "not installed", fix)
    return Check(area, name, None, f"{found.version or 'version unknown'} at {escape(found.path)}")


def _kernel(gravity: Severity) -> Iterator[Check]:
    """Try what the lab does, in namespaces that nobody else sees."""
    why = _in_namespace("mount -t tmpfs lab /run")
    if why is not None:
        yield Check("lab", "namespaces", gravity, why, _NAMESPACES)
        return
    yield Check("lab", "namespaces", None, "this user may make them")
    for name, command, module in _KERNEL:
        why = _in_namespace(command)
        if why is None:
            yield Check("lab", name, None, "the kernel makes them")
        else:
            yield Check("lab", name, gravity, why, f"load the kernel's module: modprobe {module}")
    if Path("/proc/sys/net/bridge").is_dir():
        yield Check("lab", "bridge netfilter", None, "loaded")
    else:
        yield Check(
            "lab", "bridge netfilter", Severity.WARNING, "not loaded; a few scenarios ask for it",
            "load the kernel's module: modprobe br_netfilter",
        )  # fmt: skip


def _in_namespace(command: str) -> str | None:
    """Why a command fails in namespaces of its own; None where it does not."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_PATH])
    unshare = shutil.which("unshare", path=path)
    if unshare is None:
        return "there is no unshare to try it with"
    try:
        tried = subprocess.run(
            [unshare, "-Urmnpf", "--mount-proc", "sh", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "PATH": path, "LC_ALL": "C"},
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"it could not be tried: {escape(str(error), 200)}"
    if tried.returncode == 0:
        return None
    lines = tried.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
    return escape(lines[-1], 200) if lines else f"it failed with code {tried.returncode}"
