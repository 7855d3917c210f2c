"""What the readers of all servers' log lines share: how an entry is made, and values of a hostile line as addresses."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple

from analysis.ingress import TEXT_LIMIT, Kind, LogEntry, Problem, canonical
from probe.ingress.lines import Line
from probe.ingress.times import Moment


class Said(NamedTuple):
    """A line was understood; `entry` is None where it is about no connection (starting up, reloading).

    What the lines `instead_of` seemed to say is taken back: they were part of this entry.
    """

    entry: LogEntry | None = None
    instead_of: tuple[int, ...] = ()


#: Values by which logs say that there is none.
_NONE = frozenset({"", "-", '"-"', "<NOSRV>", "null"})

#: The signature of a version 2 header as servers log what they took for a request line: nginx skips the leading line
#: ends, then meets the zero byte (escaped or not, by the log's format).
_SIGNATURE_V2 = ("\0", "\\x00", "\\u0000", "\r\n\r\n\0", "\\x0D\\x0A\\x0D\\x0A\\x00", "#15#12#15#12#00")
_SIGNATURE_V1 = ("PROXY TCP4 ", "PROXY TCP6 ", "PROXY UNKNOWN")

#: The beginning of a TLS record that holds a handshake (RFC 8446 §5.1).
_SIGNATURE_TLS = ("\x16\x03", "\\x16\\x03", "\\u0016\\u0003", "\\u0016\x03")


def entry(line: Line, kind: Kind, own: Moment | None = None, **values: Any) -> Said:
    """An entry for a line, its texts bounded. `own` is the line's own time; the finer and zoned one of all counts."""
    stamp = _better(own, line.written)
    bounded: dict[str, Any] = {
        key: _bounded(value) if isinstance(value, str) else value for key, value in values.items()
    }
    return Said(
        LogEntry(
            kind=kind,
            time=stamp.time if stamp else None,
            zoned=stamp.zoned if stamp else True,
            server=bounded.pop("server", "") or line.server,
            line=line.number,
            text=_bounded(line.text),
            **bounded,
        )
    )


def _better(own: Moment | None, written: Moment | None) -> Moment | None:
    if own is None or written is None:
        return own or written
    return written if (written.zoned, written.fine) > (own.zoned, own.fine) else own


def _bounded(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}…"


def told(text: str | None) -> str | None:
    """A value, None where the log says that there is none."""
    return None if text is None or text in _NONE else text


@lru_cache(maxsize=4096)  # a log names few addresses, and each of them thousands of times
def address(text: str | None) -> str | None:
    """An address alone, canonical; None where the text is none."""
    if not text or len(text) > 64:
        return None
    host = text.strip("[]")
    try:
        ip_address(host)
    except ValueError:
        return None
    return canonical(host)


def endpoint(host: str | None, port: str | int | None) -> str | None:
    """ "ip:port" of two texts, or "ip" where the port is none; None where the address is none."""
    found = address(host)
    number = port_number(port)
    if found is None or number is None:
        return found
    return f"[{found}]:{number}" if ":" in found else f"{found}:{number}"


def port_number(text: str | int | None) -> int | None:
    """A port from 1 to 65535, else None."""
    digits = str(text)
    if text is None or len(digits) > 5 or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits) if 0 < int(digits) < 1 << 16 else None


def joined(text: str | None) -> str | None:
    """ "ip:port" out of one text, "[ip]:port" too; None where it is none."""
    if not text or len(text) > 64:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not text.startswith("[")):
        return address(text)
    return endpoint(host, port)


def status_code(text: str | int | None) -> int | None:
    """An HTTP status, else None."""
    digits = str(text)
    return int(digits) if len(digits) == 3 and digits.isascii() and digits.isdigit() else None


def problem_of_request(request: str | None, status: int | None) -> Problem | None:
    """What a refused request line was, as far as the little of it that a log keeps tells."""
    if status is None or not 400 <= status < 500 or request is None:
        return None
    if request.startswith((*_SIGNATURE_V2, *_SIGNATURE_V1)):
        return Problem.HEADER_UNEXPECTED
    if request.startswith(_SIGNATURE_TLS):
        return Problem.TLS_ON_PLAIN
    return {497: Problem.PLAIN_ON_TLS}.get(status)
