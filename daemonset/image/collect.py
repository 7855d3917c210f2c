"""Put together the file system of the agent's image: `python3 collect.py --packages DIR --agent DIR ROOT`.

The Dockerfile runs this in its build stage; the image is what lies in ROOT and nothing else. In there are the
interpreter that runs this, its standard library as far as an agent may want it, the shared libraries that these
load, and in /agent the packages and the agent. There is no shell, no package manager and no compiler.

The same input gives the same files: modules are compiled beforehand with hashes in place of times (the image is
read-only where it runs, so it could not keep what it compiles), and every time is SOURCE_DATE_EPOCH's.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Of the standard library: what is for people who write programs, draw windows or install packages.
#: SQLite and OpenSSL stay, unused: pyroute2 imports them.
_NOT_NEEDED = (
    "__pycache__", "config-*", "curses", "dbm", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "test", "tests", "tkinter", "turtledemo", "turtle.py", "venv",
    "_crypt.*.so", "_ctypes_test.*.so", "_curses*.so", "_dbm.*.so", "_gdbm.*.so",
    "_test*.so", "_tkinter.*.so", "_xxtestfuzz.*.so", "nis.*.so", "readline.*.so", "xxlimited*.so",
)  # fmt: skip

#: Of packages: their own tests, manuals, command lines, what compiles against them, and scapy's rarer protocols.
_NOT_OF_PACKAGES = (
    "__pycache__", "bin", "contrib", "f2py", "include", "share", "tests", "*.a", "*.h", "*.lib", "*.pyi",
)  # fmt: skip

#: Of the agent: what does not run on a node.
_NOT_OF_AGENT = ("__pycache__", "image", "manifests")

_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)")  # a line of ldd(1)
_USERS = "root:x:0:0:root:/:/nonexistent\nagent:x:65532:65532:agent:/:/nonexistent\n"
_GROUPS = "root:x:0:\nagent:x:65532:\n"


def main() -> int:
    """Fill the folder; answers 0."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--packages", type=Path, required=True, help="where pip put the packages")
    parser.add_argument("--agent", type=Path, required=True, help="the package daemonset")
    parser.add_argument("root", type=Path, help="where the image's files go")
    arguments = parser.parse_args()
    collect(arguments.packages, arguments.agent, arguments.root)
    return 0


def collect(packages: Path, agent: Path, root: Path) -> None:
    """Fill `root`, which may exist and be empty."""
    root = root.resolve()
    interpreter, site = _copy_python(root), root / "agent"
    shutil.copytree(packages, site, ignore=shutil.ignore_patterns(*_NOT_OF_PACKAGES))
    shutil.copytree(agent, site / "daemonset", ignore=shutil.ignore_patterns(*_NOT_OF_AGENT))
    loading = (
        root / "usr/local/bin/python3",
        *interpreter.rglob("*.so"),
        *site.rglob("*.so"),
        *site.rglob("*.so.*"),
    )
    _copy_libraries(root, loading)
    for name, text in (("passwd", _USERS), ("group", _GROUPS)):
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc" / name).write_text(text)
    for name in ("proc", "sys", "dev", "tmp"):
        (root / name).mkdir(exist_ok=True)
    for folder in (interpreter, site):
        _compile(root, folder)
    _set_times(root, int(os.environ.get("SOURCE_DATE_EPOCH", "0")))


def _copy_python(root: Path) -> Path:
    """The interpreter below /usr/local, wherever it is here; answers with its library's folder."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    binaries = root / "usr/local/bin"
    binaries.mkdir(parents=True)
    shutil.copy2(Path(sys.base_prefix) / "bin" / version, binaries / version)
    (binaries / "python3").symlink_to(version)
    library = root / "usr/local/lib" / version
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=shutil.ignore_patterns(*_NOT_NEEDED))
    return library


def _copy_libraries(root: Path, programs: Iterable[Path]) -> None:
    """What these load from the system, into the loader's own folder: it is searched without any configuration."""
    needed = {library for program in programs for library in _libraries(program)}
    folder = next(library for library in sorted(needed) if library.name.startswith("libc.so")).parent
    for library in sorted(needed):
        if library.is_relative_to(root):
            continue  # a package's own, which it finds by itself
        loader = library.name.startswith("ld-")
        place = root / str(library if loader else folder / library.name).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, place)
        place.chmod(0o755)


def _libraries(program: Path) -> Iterator[Path]:
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    if "not found" in listed:
        raise SystemExit(f"collect: {program} needs what is not here:\n{listed}")
    yield from map(Path, _LIBRARY.findall(listed))


def _compile(root: Path, folder: Path) -> None:
    """Compile every module, without the name of this folder in it. What cannot be compiled is not imported."""
    compileall.compile_dir(
        folder,
        quiet=2,
        stripdir=str(root),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        workers=1,
    )


def _set_times(root: Path, seconds: int) -> None:
    for path in (root, *root.rglob("*")):
        os.utime(path, (seconds, seconds), follow_symlinks=False)


if __name__ == "__main__":
    sys.exit(main())
