"""Requests of our own: each from a known socket, with a token, and with forged claims where that is asked for.

    what a person wrote ─ target.py, claims.py ─▶ orders.py ─▶ exchange.py ─ echo.py ─▶ analysis.asked.Asked

The sender needs no privilege, no cluster and no lab: it runs where the operator is. `python -m probe.sending` is
the same as a process of its own, so that it can run in a network namespace.
"""

from probe.sending.claims import CLAIMS, Claim, check_spoof, claims_of
from probe.sending.exchange import send
from probe.sending.orders import Order, make_orders, told
from probe.sending.target import Target, parse_url

__all__ = [
    "CLAIMS",
    "Claim",
    "Order",
    "Target",
    "check_spoof",
    "claims_of",
    "make_orders",
    "parse_url",
    "send",
    "told",
]
