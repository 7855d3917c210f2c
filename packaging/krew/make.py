"""The plugin for krew: `python packaging/krew/make.py --uri URL --homepage URL FOLDER`.

Writes the archive that URL is to lead to, and the manifest with its digest. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

from probe import __version__

HERE = Path(__file__).resolve().parent
LICENSE = HERE.parent.parent / "LICENSE"


def archive(version: str) -> bytes:
    """The launcher and the license as .tar.gz, without times and owners."""
    launcher = (HERE / "kubectl-client_ip").read_text(encoding="utf-8").replace("@VERSION@", version)
    packed = io.BytesIO()
    members = (
        ("LICENSE", LICENSE.read_bytes(), 0o644),
        ("kubectl-client_ip", launcher.encode(), 0o755),
    )
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data, mode in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def manifest(version: str, uri: str, homepage: str, digest: str) -> str:
    """The manifest of one release."""
    text = (HERE / "client-ip.yaml").read_text(encoding="utf-8")
    for name, value in (("VERSION", version), ("URI", uri), ("HOMEPAGE", homepage), ("SHA256", digest)):
        text = text.replace(f"@{name}@", value)
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def main() -> int:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uri", required=True, help="where the archive will be found")
    parser.add_argument("--homepage", required=True)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    packed = archive(__version__)
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "client-ip.tar.gz").write_bytes(packed)
    text = manifest(__version__, given.uri, given.homepage, sha256(packed).hexdigest())
    (given.folder / "client-ip.yaml").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
