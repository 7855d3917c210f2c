"""Other words in the place of those that may speak of a person: hosts, paths, ids. Keyed, the same for the same word.

Names of nodes, pods and Services stay: they are what a report is about, and its reader has to find his way in them.
"""

from __future__ import annotations

from hashlib import blake2b

from analysis.chain.journeys import CHECKERS
from analysis.chain.onward import ECHO_PATHS

#: Paths that are asked by machines; an analysis knows them by name.
_PATHS = frozenset({"/", "*", "/healthz", "/livez", "/readyz", "/health", "/ping", *ECHO_PATHS})

#: Fields whose values are addresses, and texts around them.
_ADDRESSES = frozenset(
    {
        "cf-connecting-ip", "fastly-client-ip", "forwarded", "true-client-ip", "x-client-ip", "x-cluster-client-ip",
        "x-envoy-external-address", "x-forwarded-for", "x-original-forwarded-for", "x-real-ip",
    }
)  # fmt: skip

#: Fields whose values say nothing of anybody.
_PLAIN = frozenset({"x-forwarded-proto", "x-forwarded-port", "x-forwarded-scheme", "x-forwarded-ssl"})


class Words:
    """The words that one key makes."""

    def __init__(self, key: bytes) -> None:
        self._key = blake2b(key, digest_size=32, person=b"probe-words").digest()

    def digest(self, value: int) -> int:
        """Another digest of a payload; none stays none."""
        return int.from_bytes(self._mac(value.to_bytes(8, "little"), 8), "little") or 1 if value else 0

    def opaque(self, data: bytes) -> bytes:
        """Other bytes, as many."""
        made = b"".join(
            self._mac(bytes((number & 0xFF, number >> 8)) + data, 32) for number in range(-(-len(data) // 32))
        )
        return made[: len(data)]

    def token(self, text: str) -> str:
        """Another id."""
        return self._mac(text.encode("utf-8", "surrogatepass"), 12).hex() if text else ""

    def host(self, text: str) -> str:
        """Another host name, under a name that nobody can have (RFC 2606)."""
        return f"h{self.token(text)[:10]}.example" if text else ""

    def start_line(self, text: str) -> str:
        """A start line with another target; status lines stay, without their words."""
        words = text.split(" ")
        if text.startswith("HTTP/") or len(words) < 2:
            return " ".join(words[:2])
        path, query, _ = words[1].partition("?")
        other = path if path in _PATHS else f"/{self.token(path)[:10]}"
        return " ".join([words[0], f"{other}?{self.token(words[1])[:6]}" if query else other, *words[2:]])

    def is_of_addresses(self, name: str) -> bool:
        """Whether the value of a field is made of addresses."""
        return name in _ADDRESSES

    def value(self, name: str, text: str) -> str:
        """Another value of a field that holds no addresses."""
        if name in _PLAIN:
            return text
        if name == "user-agent":
            return next((known for known in CHECKERS if text.startswith(known)), "anonymous")
        return (
            self.host(text)
            if name in {"host", "via", "x-forwarded-host", "x-forwarded-server"}
            else self.token(text)
        )

    def _mac(self, data: bytes, size: int) -> bytes:
        return blake2b(data, key=self._key, digest_size=size).digest()
