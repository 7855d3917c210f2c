"""What a decoder raises: its own error, and nothing else, whatever the bytes are."""

from __future__ import annotations


class DecodeError(ValueError):
    """Bytes that are not what they were decoded as."""


class ProxyProtocolError(DecodeError):
    """A PROXY protocol header that a strict receiver must refuse.

    `rule` is the section of proxy-protocol.txt (revision 2026/04/27) that is broken. `offset` is the first
    byte that no valid header could have at its place, counted from the start of the header.
    """

    def __init__(self, rule: str, offset: int, what: str) -> None:
        super().__init__(f"spec section {rule}, byte {offset}: {what}")
        self.rule = rule
        self.offset = offset
        self.what = what


class NotProxyProtocolError(ProxyProtocolError):
    """The bytes begin with neither signature: this is something else than a PROXY header."""
