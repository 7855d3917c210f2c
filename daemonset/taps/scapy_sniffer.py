"""scapy's sniffer, imported without what only its console needs.

Importing scapy reads the routes of the machine and a list of the makers of 50,000 network cards (17 MiB of
memory, a tenth of a second), makes ~/.config and writes what it read to ~/.cache/scapy. An agent on a node
writes no files, and a lab starts ten of them at once; so the list is empty here, and there is no home. Whoever
imported scapy before in the same process keeps what is loaded.
"""

from __future__ import annotations

import os
import os.path
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_FOLDERS = {"XDG_CONFIG_HOME": "/dev/null/none", "XDG_CACHE_HOME": "/dev/null/none"}  # cannot be made
_MAKERS = "wireshark/manuf"  # where scapy looks for a newer list than its own
_TABLES: dict[str, Any] = {"scapy.libs.manuf": "", "scapy.libs.bluetoothids": {}}


@contextmanager
def _without_tables() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _FOLDERS}
    exists = os.path.exists
    absent = [name for name in _TABLES if name not in sys.modules]
    for name in absent:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__["DATA"] = _TABLES[name]
    os.environ.update(_FOLDERS)
    os.path.exists = lambda path: not str(path).endswith(_MAKERS) and exists(path)
    try:
        from scapy.config import conf  # noqa: PLC0415 - the order matters

        conf.route_autoload = conf.route6_autoload = False
        yield
    finally:
        os.path.exists = exists
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        for name in absent:
            del sys.modules[name]


with _without_tables():
    from scapy.sendrecv import AsyncSniffer
    from scapy.sessions import DefaultSession
    from scapy.supersocket import SuperSocket

__all__ = ["AsyncSniffer", "DefaultSession", "SuperSocket"]
