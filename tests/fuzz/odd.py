"""Sound values with something odd in them. Random bytes are hardly ever an object, so here an input is orders."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.cluster_facts.test_odd_objects import ODD, places

#: Bytes of orders that are carried out.
MOST_ORDERS = 24


class Base:
    """A value of lists and objects, and all the places in it at which something can be changed."""

    def __init__(self, value: Any) -> None:
        self._encoded = msgspec.msgpack.encode(value)
        self._places = places(value)

    def changed(self, orders: bytes) -> Any:
        """The value with up to eight changes, three bytes each: two of where, one of what stands there."""
        value = msgspec.msgpack.decode(self._encoded)
        for at in range(0, min(len(orders) - 2, MOST_ORDERS), 3):
            where = self._places[int.from_bytes(orders[at : at + 2], "big") % len(self._places)]
            _change(value, where, orders[at + 2])
        return value


def _change(value: Any, where: tuple[Any, ...], what: int) -> None:
    """Put an odd value there, or take away what stands there; nothing where the way there is gone."""
    inside = value
    for step in where[:-1]:
        inside = _inside(inside, step)
    if _inside(inside, where[-1]) is None:
        return
    if what < len(ODD):
        inside[where[-1]] = ODD[what]
    elif isinstance(inside, dict):
        del inside[where[-1]]


def _inside(value: Any, step: Any) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    return value[step] if isinstance(value, list) and isinstance(step, int) and step < len(value) else None
