"""Times as logs write them, as seconds since the epoch; pure text in, numbers out.

A time without a zone is read as if it were UTC, and `zoned` says so: whoever compares it must allow for every zone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

_MONTHS = {
    "Jan": 1, "Feb": 2, "Mar": 3, "Apr": 4, "May": 5, "Jun": 6,
    "Jul": 7, "Aug": 8, "Sep": 9, "Oct": 10, "Nov": 11, "Dec": 12,
}  # fmt: skip

#: RFC 3339, with a space for the T as well; without an offset it has no zone.
RFC3339 = (
    r"(?P<y>\d{4})-(?P<mo>\d\d)-(?P<d>\d\d)[T ](?P<h>\d\d):(?P<mi>\d\d):(?P<s>\d\d)(?P<f>[.,]\d{1,12})?"
    r"(?P<z>Z|[+-]\d\d:?\d\d)?"
)
_RFC3339 = re.compile(RFC3339, re.ASCII)

#: The Common Log Format's, which HAProxy writes with milliseconds and without a zone.
_CLF = re.compile(
    r"(?P<d>\d{1,2})/(?P<mon>[A-Z][a-z]{2})/(?P<y>\d{4}):(?P<h>\d\d):(?P<mi>\d\d):(?P<s>\d\d)(?P<f>\.\d{1,9})?"
    r"(?: (?P<z>[+-]\d{4}))?",
    re.ASCII,
)
_NGINX = re.compile(
    r"(?P<y>\d{4})/(?P<mo>\d\d)/(?P<d>\d\d) (?P<h>\d\d):(?P<mi>\d\d):(?P<s>\d\d)(?P<f>)(?P<z>)"
)
_SECONDS = re.compile(r"\d{9,10}(?:\.\d{1,9})?|\d{13}|\d{16}|\d{19}", re.ASCII)


class Moment(NamedTuple):
    """A time: seconds since the epoch, whether its zone was told, and whether it is finer than a second."""

    time: float
    zoned: bool = True
    fine: bool = True


def moment(text: str) -> Moment | None:
    """A time in any of the forms, None where the text is none of them."""
    for form in (_RFC3339, _CLF, _NGINX):
        found = form.fullmatch(text)
        if found is not None:
            return _from_parts(found)
    return seconds(text)


def seconds(text: str) -> Moment | None:
    """Seconds since the epoch with any fraction; whole milli-, micro- and nanoseconds by their number of digits."""
    if not _SECONDS.fullmatch(text):
        return None
    whole = text.partition(".")[0]
    return Moment(float(text) / 10.0 ** (max(len(whole), 10) - 10), fine=text != whole or len(whole) > 10)


def _from_parts(found: re.Match[str]) -> Moment | None:
    parts = found.groupdict()
    month = _MONTHS.get(parts["mon"], 0) if "mon" in parts else int(parts["mo"])
    zone = parts["z"]
    try:
        clock = datetime(
            int(parts["y"]), month, int(parts["d"]), int(parts["h"]), int(parts["mi"]), min(int(parts["s"]), 59),
            tzinfo=_zone(zone),
        )  # fmt: skip
        fraction = float("0." + parts["f"][1:]) if parts["f"] else 0.0
        return Moment(clock.timestamp() + fraction, bool(zone), bool(parts["f"]))
    except (ValueError, OverflowError):  # the 31st of February, an offset of 99 hours
        return None


def _zone(text: str | None) -> timezone:
    if not text or text == "Z":
        return UTC
    sign = -1 if text[0] == "-" else 1
    digits = text[1:].replace(":", "")
    return timezone(sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:])))
