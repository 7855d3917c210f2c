"""scapy as its documentation shows it: count the packets of an interface until SIGTERM, print how many."""

from __future__ import annotations

import signal
import sys

from scapy.layers import inet, l2  # noqa: F401 - so that it dissects
from scapy.sendrecv import AsyncSniffer

counted = 0


def count(_: object) -> None:
    global counted  # noqa: PLW0603 - a script
    counted += 1


def listening() -> None:
    print("listening", file=sys.stderr, flush=True)


signal.signal(signal.SIGTERM, lambda *_: None)
sniffer = AsyncSniffer(
    iface=sys.argv[1], filter=sys.argv[2], store=False, prn=count, started_callback=listening
)
sniffer.start()
signal.pause()
sniffer.stop()
print(counted)
