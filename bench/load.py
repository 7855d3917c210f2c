"""Open connections at a rate: `python -m bench.load ADDRESS PORT RATE SECONDS [BULK]`, prints one JSON object.

Each connection asks for one small page and ends. RATE 0: as many as come, 64 at a time. BULK: besides, one connection
after the other takes so many megabytes a second. A latency counts from when the connection was due, so that a sender
who is held up does not look fast.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from collections import deque

ASK = b"GET / HTTP/1.0\r\n\r\n"
ASK_BULK = b"GET /bulk HTTP/1.0\r\n\r\n"
AT_ONCE = 64
_MOST_AT_ONCE = 2000
_TICK = 0.001
_PATIENCE = 5.0  # seconds for the last answers
_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET | select.EPOLLRDHUP


class Load:
    """One run against one address."""

    def __init__(self, address: str, port: int, rate: int, seconds: float) -> None:
        self._to = (address, port)
        self._rate, self._seconds = rate, seconds
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._asked: set[int] = set()
        self._due: deque[float] = deque()
        self.latencies: list[float] = []
        self.failed = self.begun = 0

    def run(self) -> float:
        """Send and receive; answers with the seconds that it took to begin them all."""
        begin = time.perf_counter()
        end = begin + self._seconds
        while (now := time.perf_counter()) < end:
            self._begin(now, begin)
            self._answer(_TICK)
        took = time.perf_counter() - begin
        give_up = time.perf_counter() + _PATIENCE
        while self._open and time.perf_counter() < give_up:
            self._answer(_TICK)
        self.failed += len(self._open)
        for one, _ in self._open.values():
            one.close()
        self._poll.close()
        return took

    def _begin(self, now: float, begin: float) -> None:
        if not self._rate:
            due = [now] * (AT_ONCE - len(self._open))
        else:
            count = min(int((now - begin) * self._rate) - self.begun, _MOST_AT_ONCE - len(self._open))
            due = [begin + (self.begun + number + 1) / self._rate for number in range(count)]
        for moment in due:
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            one.connect_ex(self._to)
            self._open[one.fileno()] = one, moment
            self._poll.register(one.fileno(), _EVENTS)
            self.begun += 1

    def _answer(self, patience: float) -> None:
        for number, events in self._poll.poll(patience):
            one, moment = self._open[number]
            if events & select.EPOLLOUT and number not in self._asked and not events & select.EPOLLERR:
                self._asked.add(number)
                one.send(ASK)
            elif events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
                self._end(number, one, moment)

    def _end(self, number: int, one: socket.socket, moment: float) -> None:
        """The server has said all."""
        try:
            good = one.recv(4096).startswith(b"HTTP/1.1 200 ")
        except OSError:
            good = False
        one.close()
        del self._open[number]
        self._asked.discard(number)
        if good:
            self.latencies.append(time.perf_counter() - moment)
        else:
            self.failed += 1


class Bulk(threading.Thread):
    """Takes so many bytes a second until it is stopped; `taken` says how many came."""

    def __init__(self, address: str, port: int, rate: float) -> None:
        super().__init__(daemon=True)
        self._to, self._rate = (address, port), rate
        self.stop = threading.Event()
        self.connections = self.taken = 0

    def run(self) -> None:
        """Ask for the page again and again; what comes is counted by the kernel and thrown away (MSG_TRUNC)."""
        begin = time.monotonic()
        room = bytearray(1 << 20)
        while not self.stop.is_set():
            with socket.create_connection(self._to) as one:
                self.connections += 1
                one.sendall(ASK_BULK)
                while not self.stop.is_set() and (count := one.recv_into(room, len(room), socket.MSG_TRUNC)):
                    self.taken += count
                    self.stop.wait(max(0.0, begin + self.taken / self._rate - time.monotonic()))


def main(address: str, port: str, rate: str, seconds: str, bulk: str = "0") -> None:
    """Run it and say what came of it."""
    stream = Bulk(address, int(port), float(bulk) * 1e6)
    if float(bulk):
        stream.start()
    load = Load(address, int(port), int(rate), float(seconds))
    took = load.run()
    stream.stop.set()
    if stream.ident is not None:
        stream.join(_PATIENCE)
    ordered = sorted(load.latencies) or [0.0]
    said = {
        "connections": len(load.latencies),
        "failed": load.failed,
        "rate": len(load.latencies) / took,
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[len(ordered) * 99 // 100],
        "bulk_connections": stream.connections,
        "bulk": stream.taken / took,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
