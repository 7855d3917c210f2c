"""The sender as a process: one JSON `Order` a line on stdin, one JSON `Asked` a line on stdout, in the same order.

It ends where stdin ends or nobody reads stdout any more; it exits 2 on a line that is no order.
"""

from __future__ import annotations

import signal
import sys

import msgspec

from probe.sending.exchange import send
from probe.sending.orders import Order


def main() -> int:
    """Read orders, send each before the next is read."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    decoder = msgspec.json.Decoder(Order)
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            order = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            sys.stderr.write(f"line {number} is no order: {error}\n")
            return 2
        sys.stdout.buffer.write(msgspec.json.encode(send(order)) + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
