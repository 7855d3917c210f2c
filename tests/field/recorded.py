"""A recording that is made once, whichever of pytest's workers needs it first."""

from __future__ import annotations

import fcntl
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Recording = TypeVar("Recording")


def once(
    factory: pytest.TempPathFactory, worker: str, name: str, make: Callable[[Path], Recording]
) -> Recording:
    """What `make` made in a folder of its own, now or before; `worker` is pytest-xdist's `worker_id`."""
    base = factory.getbasetemp()
    shared = base if worker == "master" else base.parent  # the one folder of all workers of this run
    folder = shared / f"field-{name}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = folder / "recording"
        if not kept.exists():
            kept.write_bytes(pickle.dumps(make(folder / "captures")))
        recording: Recording = pickle.loads(kept.read_bytes())
    return recording
