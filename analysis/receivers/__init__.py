"""Which receivers take a PROXY header, and which do not: what was measured, and what follows from it.

measured ─ cases of headers with what each receiver did ─┐
                                                         ├─▶ judge.receptions ─▶ Reception, one a receiver
classify ─ the kind of the header in question ───────────┘
"""

from analysis.receivers.judge import Reception, receptions
from analysis.receivers.measured import RECEIVERS, Receiver

__all__ = ["RECEIVERS", "Receiver", "Reception", "receptions"]
