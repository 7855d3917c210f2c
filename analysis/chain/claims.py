"""What the fields of a request head say about who the client is: claims, each of which anybody can write.

X-Forwarded-For is a list to which each proxy adds the address that it was asked from, the nearest proxy last;
Forwarded (RFC 7239) says the same in another grammar. The others hold one address each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from analysis.asked import TOKEN_HEADER
from analysis.hops.addresses import integer
from daemonset.observation import HttpHead

#: Fields that hold one address, in the order in which servers commonly prefer them.
SINGLE = (
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-client-ip",
    "x-envoy-external-address",
)

_forwarded_for = re.compile(r"""for=(?:"([^"]*)"|([^;,\s]*))""", re.IGNORECASE).findall


def address_in(text: str) -> int | None:
    """The address of "ip", "ip:port", "[ip]" or "[ip]:port"; None where it is none of these."""
    bare = text.strip().strip('"')
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        return integer(bare)
    except ValueError:
        return None


@dataclass(frozen=True)
class Claims:
    """The claims of one request. `chain` is X-Forwarded-For in order, all its fields joined (RFC 9110 §5.3)."""

    chain: tuple[str, ...] = ()
    forwarded: tuple[str, ...] = ()  # for= of Forwarded, in order
    singles: tuple[tuple[str, str], ...] = ()
    token: str | None = None
    request_id: str | None = None

    @classmethod
    def of(cls, head: HttpHead) -> Claims:
        """The claims of a request head."""
        chain: list[str] = []
        forwarded: list[str] = []
        singles: list[tuple[str, str]] = []
        token = request_id = None
        for name, value in head.fields:
            if name == "x-forwarded-for":
                chain += [entry.strip() for entry in value.split(",") if entry.strip()]
            elif name == "forwarded":
                forwarded += [quoted or bare for quoted, bare in _forwarded_for(value)]
            elif name in SINGLE:
                singles.append((name, value))
            elif name == TOKEN_HEADER:
                token = token or value
            elif name == "x-request-id":
                request_id = request_id or value
        return cls(tuple(chain), tuple(forwarded), tuple(singles), token or None, request_id or None)

    @cached_property
    def addresses(self) -> frozenset[int]:
        """Every address that is claimed to be a client's or a proxy's."""
        texts = (*self.chain, *self.forwarded, *(value for _, value in self.singles))
        return frozenset(found for text in texts if (found := address_in(text)) is not None)

    def __bool__(self) -> bool:
        return bool(self.chain or self.forwarded or self.singles)

    def single(self, name: str) -> str | None:
        """The first value of one of the fields that hold one address."""
        return next((value for key, value in self.singles if key == name), None)


def own_words(told: Claims, received: Claims) -> tuple[str, ...]:
    """The addresses that a server itself named in a request that it made, given the request that it received.

    What it passed on as it came is not its word. Of a list, the entry that it put last is.
    """
    words: list[str] = []
    if told.chain and (told.chain != received.chain):
        words.append(told.chain[-1])
    if told.forwarded and told.forwarded != received.forwarded:
        words.append(told.forwarded[-1])
    words += [value for name, value in told.singles if received.single(name) != value]
    return tuple(dict.fromkeys(words))
