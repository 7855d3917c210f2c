"""The kind of a header: which form it has, and what about it is out of the ordinary.

    classify ─ line ────▶ kinds_v1 ─┐
             ├ binary ──▶ kinds_v2 ─┼─▶ Kind(form, features, length)
             └ anything else ───────┘

Receivers were measured on single headers, not on all that there are. A kind says of which measured ones a header
is one more. Rules of this file and of the two beside it:

1. A form is a way that a header takes through a receiver: another version, another command, another part of the
   grammar. Measurements of one form say nothing about another.
2. A feature is one thing out of the ordinary within a form: a rule that is broken, an option that is used, a
   value that some receivers look at. An ordinary header of a form has none.
3. What no measurement has is a feature too, so that nothing passes for ordinary that is not.
4. Addresses, ports and texts that no rule tells apart are of one kind.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A header's form, its features in words, and its length in bytes where receivers limit that (else 0).

    `end` is where the header ends in the bytes that were classified; behind it the payload begins.
    """

    form: str
    features: frozenset[str]
    length: int
    end: int

    def within(self, other: Kind) -> bool:
        """Whether `other` has all that is out of the ordinary here, and is no shorter."""
        return self.form == other.form and self.features <= other.features and self.length <= other.length

    def told(self) -> str:
        """The kind in words."""
        size = f" of {self.length} bytes" if self.length else ""
        features = f" with {', '.join(sorted(self.features))}" if self.features else ""
        return f"{self.form}{size}{features}"
