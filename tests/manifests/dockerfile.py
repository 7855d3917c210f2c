"""A Dockerfile, read and built without Docker.

The base image is stood in for by this machine's own programs and Python, mounted read-only under an empty root;
everything else is as it says there: RUN is run by /bin/sh in that root, COPY takes what .dockerignore lets
through. It needs user namespaces and, for pip, the package index. An instruction that is not known is an error.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_OF_THE_MACHINE = ("bin", "etc", "lib", "lib32", "lib64", "opt", "sbin", "usr", "dev", "proc")
_PIP = Path("/environment")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its keyword and the rest of its line."""

    keyword: str
    rest: str


def read(path: Path) -> list[Instruction]:
    """The instructions, without comments, continued lines joined."""
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(" ", 1)) for line in joined.splitlines() if line.strip()]


@dataclass
class Image:
    """A stage: its files, and what is said about how it runs."""

    root: Path
    base: str
    folder: str = "/"
    variables: dict[str, str] = field(default_factory=dict)
    user: str = "0"
    labels: dict[str, str] = field(default_factory=dict)
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Where a path of the image is on this machine."""
        return self.root / os.path.normpath(f"{self.folder}/{name}" if name[0] != "/" else name).lstrip("/")

    def run(self, command: str) -> None:
        """Run a command line in the root. Raises `subprocess.CalledProcessError`."""
        mounts = []
        for source, place in _mounted().items():
            below = shlex.quote(str(self.root / str(place).lstrip("/")))
            mounts.append(f"mount --rbind {shlex.quote(str(source))} {below}")
            mounts.append(f"mount -o remount,bind,ro {below}")
        script = f"cd {shlex.quote(self.folder)} && {command}"
        chroot = shlex.join(["chroot", str(self.root), "/bin/sh", "-c", script])
        subprocess.run(
            [
                "unshare",
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-ec",
                "\n".join([*mounts, f"exec {chroot}"]),
            ],
            check=True,
            capture_output=True,
            text=True,
            env=self._environment(),
        )

    def _environment(self) -> dict[str, str]:
        """The image's, with what this machine says of its package index and keeps in its cache."""
        ours = {
            key: value
            for key, value in os.environ.items()
            if key.lower().startswith(("pip_", "http", "no_proxy"))
        }
        path = f"{sys.base_prefix}/bin:{os.environ['PATH']}"
        cache = {"PIP_NO_CACHE_DIR": "0", "PIP_CACHE_DIR": "/cache", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return {"PATH": path, "HOME": "/build", "PYTHONPATH": str(_PIP), **self.variables, **ours, **cache}


def build(context: Path, folder: Path) -> dict[str, Image]:
    """Build every stage below a folder; answers with them by name, the last one under ""."""
    arguments: dict[str, str] = {}
    stages: dict[str, Image] = {}
    image: Image | None = None
    for number, instruction in enumerate(read(context / "Dockerfile")):
        rest = _VARIABLE.sub(lambda found: arguments[found[1]], instruction.rest)
        if instruction.keyword == "ARG":
            name, _, default = rest.partition("=")
            arguments[name] = default
        elif instruction.keyword == "FROM":
            base, _, name = rest.partition(" AS ")
            image = stages[name] = Image(folder / f"stage{number}", base)
            _lay_base(image)
        else:
            assert image is not None, "something stands before FROM"
            _follow(image, instruction.keyword, rest, context, stages)
    return stages


def _follow(image: Image, keyword: str, rest: str, context: Path, stages: dict[str, Image]) -> None:
    match keyword:
        case "RUN":
            image.run(rest)
        case "COPY":
            _copy(image, rest.split(), context, stages)
        case "WORKDIR":
            image.folder = rest
            image.path(".").mkdir(parents=True, exist_ok=True)
        case "ENV":
            image.variables.update(_pairs(rest))
        case "LABEL":
            image.labels.update(_pairs(rest))
        case "USER":
            image.user = rest
        case "ENTRYPOINT":
            image.entry = json.loads(rest)
        case "CMD":
            image.command = json.loads(rest)
        case _:
            raise AssertionError(f"what does {keyword} do?")


def _pairs(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(text))  # type: ignore[misc] # of two, or it fails


def _lay_base(image: Image) -> None:
    image.root.mkdir()
    if image.base == "scratch":
        return
    for place in _mounted().values():
        (image.root / str(place).lstrip("/")).mkdir(parents=True)
    for name in ("tmp", "cache"):
        (image.root / name).mkdir()
    for name in _OF_THE_MACHINE:
        if (link := Path("/", name)).is_symlink():
            (image.root / name).symlink_to(link.readlink())


def _mounted() -> dict[Path, Path]:
    """Folders of this machine that stand in for the base image, and where they are in it.

    Python's own may lie in one of the others. It has pip there, here only its environment may have it.
    """
    folders = [Path("/", name) for name in _OF_THE_MACHINE]
    mounted = {folder: folder for folder in folders if folder.is_dir() and not folder.is_symlink()}
    prefix = Path(sys.base_prefix)
    if not any(prefix.is_relative_to(folder) for folder in mounted):
        mounted[prefix] = prefix
    specification = importlib.util.find_spec("pip")
    assert specification is not None, "there is no pip"
    assert specification.origin is not None
    return {**mounted, Path(specification.origin).parent: _PIP / "pip"}


def _copy(image: Image, words: list[str], context: Path, stages: dict[str, Image]) -> None:
    stage = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
    source, destination = [word for word in words if not word.startswith("--")]
    target = image.path(destination)
    if stage is not None:
        shutil.copytree(stages[stage].path(source), target, symlinks=True, dirs_exist_ok=True)
        return
    ignored = _ignored_by(context / ".dockerignore")
    assert not ignored(source), f"{source} is not sent to the builder"
    if (context / source).is_file():
        shutil.copy2(context / source, target / source if destination.endswith("/") else target)
        return

    def leave_out(folder: str, names: list[str]) -> list[str]:
        below = Path(folder).relative_to(context)
        return [name for name in names if ignored(str(below / name))]

    shutil.copytree(context / source, target, ignore=leave_out)


def _ignored_by(path: Path) -> Callable[[str], bool]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]

    def ignored(name: str) -> bool:
        verdict = False
        for line in lines:
            pattern = line.removeprefix("!")
            parts = Path(name).parts
            parents = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
            if any(_matches(parent, pattern) for parent in parents):
                verdict = not line.startswith("!")
        return verdict

    return ignored


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatch(name.rpartition("/")[2], pattern.removeprefix("**/"))
    return name.count("/") == pattern.count("/") and fnmatch.fnmatch(name, pattern)
