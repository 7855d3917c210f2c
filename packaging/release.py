"""Everything of a release that is no image: `python packaging/release.py FOLDER` (`make dist`).

Writes the wheel, bills of materials of what an operator installs and of the packages in the agents' image, and the
digests of all of them (SHA256SUMS, as `sha256sum --check` reads it). With `--uri` and `--homepage` also the plugin for
krew. The same sources and SOURCE_DATE_EPOCH (by default the time of the last commit) give the same bytes, on whatever
machine and in whatever folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent

SUMS = "SHA256SUMS"


def source_date() -> str:
    """Seconds since the epoch: SOURCE_DATE_EPOCH, or when the last commit was made."""
    if (given := os.environ.get("SOURCE_DATE_EPOCH")) is not None:
        return given
    command = ["git", "-C", REPOSITORY, "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit("release: this is no clone with commits; set SOURCE_DATE_EPOCH to a time in seconds")
    return done.stdout.strip()


def build(folder: Path, krew: tuple[str, str] | None = None) -> list[Path]:
    """Fill the folder, which may exist and be empty; `krew` is (uri, homepage). Answers with what was written."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"release: {folder} is not empty; name a new folder")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": source_date()}

    def run(*command: str | Path) -> None:
        subprocess.run([sys.executable, *command], cwd=REPOSITORY, env=environment, check=True)

    run("-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    for of in ("operator", "agent"):
        run(HERE / "sbom.py", of, folder / f"{of}.cdx.json")
    if krew is not None:
        run(HERE / "krew/make.py", "--uri", krew[0], "--homepage", krew[1], folder)
    written = sorted(folder.iterdir())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in written]
    (folder / SUMS).write_text("".join(lines), encoding="ascii")
    return [*written, folder / SUMS]


def main() -> int:
    """Build, and say what has been written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uri", help="where krew will find the plugin's archive")
    parser.add_argument("--homepage")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    if (given.uri is None) != (given.homepage is None):
        parser.error("--uri and --homepage go together")
    for path in build(given.folder, (given.uri, given.homepage) if given.uri is not None else None):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
