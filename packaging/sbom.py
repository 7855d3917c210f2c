"""A bill of materials (CycloneDX, JSON) of what a release holds.

    python packaging/sbom.py operator FILE              what `pipx install 'client-ip-probe[cluster]'` brings
    python packaging/sbom.py agent --root FOLDER FILE   the agents' image, whose file system lies in FOLDER

Packages are read where they are installed (this environment, or the image) and held against requirements.lock.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bom.cyclonedx import MaterialError, bill, interpreter, library, ours
from bom.licences import UnknownLicenceError
from bom.parts import IMAGE, OPERATOR, closure, installed, wanted
from probe import __version__


def operator_bill() -> dict[str, Any]:
    """Of the command with what speaks to a cluster."""
    there = installed()
    requirements = [text for part in OPERATOR for text in wanted()[part]]
    direct = {canonicalize_name(Requirement(text).name) for text in requirements}
    return bill(
        ours("client-ip-probe", __version__, "application"), closure(requirements, there), there, direct
    )


def agent_bill(root: Path | None) -> dict[str, Any]:
    """Of the agents' image whose file system is `root`; without that, of its packages alone."""
    there = installed([root / "agent"] if root is not None else None)
    packages = {name: needs for name, needs in closure(IMAGE, there).items() if name in IMAGE}
    more = _no_packages(root) if root is not None else []
    return bill(ours("client-ip-probe", __version__, "container"), packages, there, IMAGE, more)


def _no_packages(root: Path) -> list[dict[str, Any]]:
    found = [interpreter(_python(root))]
    libraries = (
        path
        for path in sorted(root.rglob("*"))
        if ".so" in path.suffixes and path.is_file() and not path.is_symlink()
    )
    inside = (root / "agent", root / "usr/local/lib")  # of a package, or of the interpreter
    return found + [
        library(root, path) for path in libraries if not any(path.is_relative_to(each) for each in inside)
    ]


def _python(root: Path) -> str:
    """The version of the interpreter that lies there, as it is written in itself or in its library."""
    for folder in sorted(root.glob("usr/local/lib/python3.*")):
        # A linker may have made it the end of a longer string.
        release = re.escape(folder.name.removeprefix("python")).encode()
        written = re.compile(rb"(?<![\d.])(" + release + rb"\.\d+)\0")
        for path in (root / "usr/local/bin" / folder.name, *sorted(root.rglob("libpython3.*"))):
            if found := written.search(path.read_bytes()):
                return found[1].decode()
    raise MaterialError(f"{root} is no file system of the agents' image; build it by the Dockerfile first")


def main() -> int:
    """Write the bill; answers 2 where what is there is not what is locked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("of", choices=("operator", "agent"))
    parser.add_argument("--root", type=Path, help="the file system of the agents' image")
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    if given.root is not None and given.of == "operator":
        parser.error("--root is of the agent's image; leave it out")
    try:
        made = operator_bill() if given.of == "operator" else agent_bill(given.root)
    except (MaterialError, UnknownLicenceError) as error:
        sys.stderr.write(f"sbom: {error}\n")
        return 2
    given.file.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
