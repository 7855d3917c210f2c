"""The secret by which a session is anonymized."""

from __future__ import annotations

import secrets
from pathlib import Path

from probe.errors import UsageError, os_error

SIZE = 32  # bytes of a new key
LEAST = 16
MOST = 1 << 16


def read_key(file: Path | None) -> bytes:
    """The bytes of a file, or new ones that nobody keeps. Raises UsageError where there are too few to be secret."""
    if file is None:
        return secrets.token_bytes(SIZE)
    try:
        with file.open("rb") as opened:
            key = opened.read(MOST)
    except OSError as error:
        raise os_error(error, f"read {file}") from error
    if len(key.strip()) < LEAST:
        raise UsageError(
            f"{file} holds less than {LEAST} bytes; make a key with: head -c {SIZE} /dev/urandom > {file}"
        )
    return key
