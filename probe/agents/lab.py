"""Agents as processes in the lab's network namespaces, one for every client, balancer and node."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO

from probe.agents.source import Agent
from probe.lab import PIPE, Lab, LabProcess, Place

_CHUNK = 1 << 18
_END_WITHIN = 5.0  # seconds until an agent that was asked to end is made to
_LAST_WORDS = 4096


class LabAgent:
    """One agent process."""

    def __init__(self, place: str, process: LabProcess, complaints: IO[bytes]) -> None:
        self.place = place
        self._process = process
        self._complaints = complaints
        self._closed = False
        self._complaint: str | None = None

    def read(self) -> bytes:
        """What it has written since."""
        stream = self._process.stdout
        if stream is None or stream.closed:
            return b""
        data = stream.read1(_CHUNK) if hasattr(stream, "read1") else stream.read(_CHUNK)
        if not data:
            stream.close()
        return bytes(data)

    def stop(self) -> None:
        """SIGTERM: send what is left, say goodbye."""
        self._process.terminate()

    def close(self) -> str | None:
        """Wait a little where it has said goodbye, else kill. What it complained of where it ended badly."""
        if not self._closed:
            self._closed = True
            self._end()
            self._complaint = self._last_words()
            self._complaints.close()
        return self._complaint

    def _end(self) -> None:
        stream = self._process.stdout
        finished = stream is None or stream.closed
        try:
            self._process.wait(_END_WITHIN if finished else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str | None:
        if self._process.returncode == 0:
            return None
        end = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(end - _LAST_WORDS, 0))
        lines = self._complaints.read().decode("utf-8", "backslashreplace").strip().splitlines()
        return lines[-1] if lines else f"the agent ended with code {self._process.returncode}"


class LabSource:
    """Agents for all places of a running lab.

    ports: what the kernel filter passes, whichever side of NAT they stand on. sample N: of N TCP connections one.
    rules: whether agents tell the packet filter of their place as a whole.
    tracing: what agents are told of tracing the rules that packets meet; clients have none.
    """

    def __init__(
        self,
        lab: Lab,
        ports: Sequence[int],
        sample: int = 1,
        *,
        rules: bool = False,
        tracing: Sequence[str] = (),
    ) -> None:
        self._lab = lab
        self._sample = sample
        self._ports = ports
        self._rules = rules
        self._tracing = tracing

    def start(self) -> Sequence[Agent]:
        """Start them all. Raises LabError."""
        return [self._start(place) for place in self._lab.places()]

    def _start(self, place: Place) -> LabAgent:
        command = [
            sys.executable,
            "-m",
            "daemonset.agent",
            "--node",
            place.name,
            "--role",
            place.role,
            "--heads",
        ]
        command += [part for port in self._ports for part in ("--port", str(port))]
        command += ["--sample", f"1/{self._sample}"] if self._sample > 1 else []
        command += ["--rules"] if self._rules else []
        command += self._tracing if place.role != "client" else ()
        complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the agent does
        process = self._lab.spawn(place.name, command, stdout=PIPE, stderr=complaints.fileno())
        return LabAgent(place.name, process, complaints)
