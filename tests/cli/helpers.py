"""How a command ended, commands as processes of their own, and captures made by hand."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PCAP_HEADER = struct.Struct("<IHHiIII")
ETHERNET, LINUX_SLL2, USB = 1, 276, 220


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def complains(self, code: int, *words: str) -> None:
        """Assert one line on stderr with these words, nothing on stdout, and the exit code."""
        assert self.out == "", "a result was printed although there is none"
        lines = self.err.splitlines()
        assert len(lines) == 1, f"expected one line, got: {self.err}"
        assert lines[0].startswith("probe: ")
        assert "Traceback" not in self.err
        assert "defect" not in self.err
        for word in words:
            assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
        assert self.code == code, self.err


Probe = Callable[..., Ending]


#: Takes from root what lets it read everything, and from others nothing.
MORTAL = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def start(*arguments: str | Path, mortal: bool = False, **options: Any) -> subprocess.Popen[bytes]:
    """Start `probe ARGUMENTS…` as a process of its own, its output to pipes unless told otherwise."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": "/", **options}
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("PROBE_DEBUG", None)
    code = "from probe.cli import main; main()"
    command = [*(MORTAL if mortal else []), sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, **options)


def ended(process: subprocess.Popen[bytes]) -> Ending:
    """Wait for the end of a process of `start`."""
    out, err = process.communicate(timeout=60)
    return Ending(process.returncode, (out or b"").decode(), (err or b"").decode())


def pcap(path: Path, *packets: bytes, link: int = ETHERNET) -> Path:
    """Write a little-endian microsecond pcap, one packet a second."""
    data = PCAP_HEADER.pack(0xA1B2C3D4, 2, 4, 0, 0, 262144, link)
    for number, packet in enumerate(packets):
        data += struct.pack("<IIII", 1_760_000_000 + number, 0, len(packet), len(packet)) + packet
    path.write_bytes(data)
    return path


def syn(source: str = "192.0.2.10", port: int = 40112, seq: int = 1000) -> bytes:
    """An Ethernet frame with a TCP SYN from a client to 172.30.0.11:30080."""
    tcp = struct.pack("!HHIIBBHHH", port, 30080, seq, 0, 5 << 4, 2, 64240, 0, 0)
    src, dst = (bytes(map(int, text.split("."))) for text in (source, "172.30.0.11"))
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0x4000, 64, 6, 0) + src + dst
    return b"\x02" * 6 + b"\x04" * 6 + b"\x08\x00" + ip + tcp
