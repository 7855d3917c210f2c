"""The licence of each locked package as an SPDX expression, from what the package itself says, and docs/licences.md.

A package that does not say it, or not in words that name one licence, stands in `_READ` with where it was read.
Nothing is guessed: whoever has no licence known to us raises, and a test fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import Distribution

from bom.lock import Locked, read_lock
from bom.parts import (
    AGENT,
    CLUSTER,
    COMMAND,
    ELSEWHERE,
    IMAGE,
    LAB,
    TESTS,
    TUI,
    closure,
    environment,
    installed,
    wanted,
)

#: What packages write in the field `License`, where it means one licence of SPDX's list.
_FIELDS = {
    "apache": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache-2.0": "Apache-2.0",
    "apache software license": "Apache-2.0", "bsd-3-clause": "BSD-3-Clause", "isc": "ISC", "isc license": "ISC",
    "mit": "MIT", "mit license": "MIT", "mpl-2.0": "MPL-2.0", "psf-2.0": "PSF-2.0",
}  # fmt: skip

#: The same of classifiers. "BSD License" is not among them: there are several.
_CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}

#: Read in the packages' own files, by name.
_READ = {
    "atheris": "Apache-2.0",  # LICENSE of its repository; the wheel says nothing
    "colorama": "BSD-3-Clause",  # LICENSE.txt; it says "BSD License"
    "jinja2": "BSD-3-Clause",  # LICENSE.txt; it says "BSD License"
    "win-inet-pton": "LicenseRef-Public-Domain",  # "released into the public domain"; on Windows alone
}

_ORDER = (COMMAND, CLUSTER, AGENT, LAB, TUI)


class UnknownLicenceError(Exception):
    """A package whose licence is not known; the text says what to do."""


def licence(name: str, distribution: Distribution | None) -> str:
    """The SPDX expression of a package, by its name made one (PEP 503). Raises UnknownLicenceError."""
    if (read := _READ.get(name)) is not None:
        return read
    if distribution is not None:
        said = distribution.metadata
        for expression in said.get_all("License-Expression") or ():
            return str(expression)
        for words in said.get_all("License") or ():
            if (known := _FIELDS.get(words.strip().lower())) is not None:
                return known
        classifiers = (_CLASSIFIERS.get(each) for each in said.get_all("Classifier") or ())
        if found := [each for each in classifiers if each is not None]:
            return " OR ".join(sorted(set(found)))
    raise UnknownLicenceError(
        f"the licence of {name} is not known; read it in the package and add it to packaging/bom/licences.py"
    )


def parts_of(locked: tuple[Locked, ...], there: Mapping[str, Distribution]) -> dict[str, tuple[str, ...]]:
    """For each package, which parts of ours need it; what none does is for tests, or not for Linux at all."""
    needed = {part: closure(listed, there) for part, listed in wanted().items()}
    needed[AGENT] = closure(IMAGE, there)
    where = environment()
    parts: dict[str, tuple[str, ...]] = {}
    for each in locked:
        mine = tuple(part for part in _ORDER if each.key in needed[part])
        here = each.meant_for(where) or parts.get(each.key, (ELSEWHERE,)) != (ELSEWHERE,)
        parts[each.key] = mine or ((TESTS,) if here else (ELSEWHERE,))
    return parts


def table() -> str:
    """docs/licences.md's table: every locked package with its licence and who needs it."""
    locked, there = read_lock(), installed()
    parts = parts_of(locked, there)
    versions: dict[str, list[str]] = {}
    for each in locked:
        versions.setdefault(each.key, []).append(each.version)
    lines = ["| package | version | licence | needed by |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {' or '.join(listed)} | {licence(name, there.get(name))} | {', '.join(parts[name])} |"
        for name, listed in sorted(versions.items())
    ]
    return "\n".join(lines)
