"""A client of the lab that ends before it was told what to send, as one that is killed."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from probe.lab import Lab, LabError


class _Ended(Lab):
    """A lab whose client has ended when its process is handed out."""

    def __init__(self) -> None:
        pass

    def spawn(self, *_: object, **_pipes: object) -> Any:
        process = subprocess.Popen(["false"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.wait()
        return process

    def _errands(self, *_: int) -> dict[str, list[Any]]:
        return {"client1": []}


def test_a_client_that_has_ended_is_no_defect_of_the_command() -> None:
    with pytest.raises(LabError, match="the client client1 failed in the lab"):
        _Ended()._send(0, 1)
