"""Make the captures of docs/examples anew: dumpcap and conntrack in the lab, as a person would use them.

    python docs/examples.py

The files are kept in the repository, so that what README.md and docs/ show of them can be checked anywhere.
Making them again changes ports, times and sequence numbers; run `make docs` after it.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from probe.lab import DEVNULL, PIPE, Lab, LabProcess, load_scenario

FOLDER = Path(__file__).resolve().parent / "examples"

#: Node port and target ports: either side of NAT, as the README tells people to.
FILTER = "tcp port 30080 or tcp port 8080 or tcp port 8081"

#: libpcap hands on what it has about once a second.
LAG = 2.0


def listen(lab: Lab, place: str, interface: str, file: Path) -> LabProcess:
    """Start dumpcap and wait until it hears. (Debian's tcpdump wants to change its user, which no lab allows.)"""
    command = ["dumpcap", "-q", "-P", "-i", interface, "-w", str(file), "-f", FILTER]
    process = lab.spawn(place, command, stderr=PIPE)
    assert process.stderr is not None
    while line := process.stderr.readline():
        if line.startswith(b"File:"):
            return process
    raise SystemExit(f"dumpcap did not start in {place}")


def record(
    scenario: str, taps: dict[str, tuple[str, str]], tables: dict[str, str], objects: str = ""
) -> None:
    """Play a scenario under dumpcap. taps: file → (place, interface); tables: file → place."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab.start(load_scenario(scenario)))
        dumps = [listen(lab, place, name, FOLDER / file) for file, (place, name) in taps.items()]
        wrong = [complaint for answer in lab.send() for complaint in answer.wrong]
        for file, place in tables.items():
            with (FOLDER / file).open("wb") as out:
                lab.spawn(place, ["conntrack", "-L"], stdout=out.fileno(), stderr=DEVNULL).wait()
        time.sleep(LAG)
        for dump in dumps:
            assert dump.stderr is not None
            dump.terminate()
            dump.stderr.read()
            dump.stderr.close()
            dump.wait()
        for file in taps:
            (FOLDER / file).chmod(0o644)
        if objects:
            (FOLDER / objects).write_text(json.dumps(lab.objects(), indent=1) + "\n", encoding="utf-8")
    if wrong:
        raise SystemExit("; ".join(wrong))


def main() -> int:
    """Make all of them."""
    FOLDER.mkdir(exist_ok=True)
    record(
        "cluster-remote",
        {
            "client1-eth0.pcap": ("client1", "eth0"),
            "node1-eth0.pcap": ("node1", "eth0"),
            "node2-eth0.pcap": ("node2", "eth0"),
            "node2-cni0.pcap": ("node2", "cni0"),
        },
        {"conntrack-node1.txt": "node1"},
        "objects.json",
    )
    record("proxy-v2-ok", {"proxy-v2.pcap": ("node2", "eth0")}, {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
