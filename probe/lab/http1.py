"""As much HTTP/1.1 as the lab's client needs (RFC 9112): GETs out, answers in, several on one connection. Sans I/O."""

from __future__ import annotations

import msgspec

_ANSWER_LIMIT = 1 << 20


class HttpAnswer(msgspec.Struct, frozen=True):
    """One answer; field names in lower case, the last of several with one name."""

    status: int | None
    fields: dict[str, str]
    body: bytes


def get(authority: str, path: str, fields: dict[str, str], *, last: bool) -> bytes:
    """One request; after the `last` one the server is to close."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {authority}", "User-Agent: probe-lab", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    lines += ["Connection: close"] if last else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


class Reader:
    """Takes answers out of a stream of bytes."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> None:
        """More of the stream. Raises ValueError beyond what an answer may measure."""
        self.rest += data
        if len(self.rest) > _ANSWER_LIMIT:
            raise ValueError(f"an answer of more than {_ANSWER_LIMIT} bytes")

    def take(self, *, ended: bool = False) -> HttpAnswer | None:
        """The next answer, or None where it has not wholly come; all that there is when the stream has `ended`."""
        head, found, body = self.rest.partition(b"\r\n\r\n")
        if not found:
            return self._all(head, b"") if ended and head else None
        fields = _fields(head)
        if "chunked" in fields.get("transfer-encoding", "").lower():
            whole = _chunks(body)
            if whole is None:
                return self._all(head, body) if ended else None
            content, self.rest = whole
            return HttpAnswer(_status(head), fields, content)
        if not fields.get("content-length", "").isdigit():
            return self._all(head, body) if ended else None
        length = int(fields["content-length"])
        if len(body) < length and not ended:
            return None
        self.rest = body[length:]
        return HttpAnswer(_status(head), fields, body[:length])

    def _all(self, head: bytes, body: bytes) -> HttpAnswer:
        self.rest = b""
        return HttpAnswer(_status(head), _fields(head), body)


def _status(head: bytes) -> int | None:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


def _fields(head: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _chunks(data: bytes) -> tuple[bytes, bytes] | None:
    """The content of a chunked body and what follows it; None where it has not wholly come. Trailers: none."""
    content = b""
    while True:
        line, found, rest = data.partition(b"\r\n")
        if not found:
            return None
        length = int(line.split(b";")[0], 16)
        if len(rest) < length + 2:
            return None
        if length == 0:
            return content, rest[2:]
        content, data = content + rest[:length], rest[length + 2 :]
