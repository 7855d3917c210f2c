"""Label selectors: what `-l` takes, and what objects hold in `matchLabels`.

The grammar is that of Kubernetes (concepts/overview/working-with-objects/labels): requirements joined by commas, each
`key`, `!key`, `key=value`, `key==value`, `key!=value`, `key in (a,b)` or `key notin (a,b)`. Objects are held against
it here, so that one list of a kind serves every question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

#: Longest selector that is read, in characters.
LIMIT = 4096

_KEY = r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)?"
_EQUALS = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_WORD = re.compile(_VALUE)
_PART = re.compile(r"(?:[^,()]|\([^()]*\))+")


class SelectorError(ValueError):
    """The text is no label selector; says why, in one line."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on a label. A label that is absent meets "notin", as it does "!=" (Kubernetes' own rule)."""

    key: str
    operator: str  # in, notin, exists, absent
    values: tuple[str, ...] = ()

    def met_by(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels meets it."""
        match self.operator:
            case "exists":
                return self.key in labels
            case "absent":
                return self.key not in labels
            case "in":
                return self.key in labels and labels[self.key] in self.values
            case _:
                return labels.get(self.key) not in self.values


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements of a selector, and the text that they were read from."""

    requirements: tuple[Requirement, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    def admits(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(each.met_by(labels) for each in self.requirements)


def parse_selector(text: str) -> Selector:
    """The selector that a text stands for. Raises SelectorError."""
    if len(text) > LIMIT:
        raise SelectorError(f"a selector of more than {LIMIT} characters is too long")
    if not text.strip():
        raise SelectorError("it is empty; write KEY=VALUE")
    found: list[Requirement] = []
    at = 0
    while at <= len(text):
        part = _PART.match(text, at)
        if part is None:
            raise SelectorError("something is missing beside a comma or a bracket; write KEY=VALUE,KEY=VALUE")
        found.append(_requirement(part.group().strip()))
        at = part.end()
        if at == len(text):
            break
        if text[at] != ",":
            raise SelectorError("the brackets do not match; write KEY in (VALUE,VALUE)")
        at += 1
    return Selector(tuple(found), ", ".join(text.split(",")) if " " not in text else text.strip())


def _requirement(part: str) -> Requirement:
    if met := _SET.fullmatch(part):
        values = tuple(value.strip() for value in met[3].split(","))
        if not all(_WORD.fullmatch(value) for value in values):
            raise SelectorError(f"{part[:80]!a} lists what is no label value")
        return Requirement(met[1], met[2], values)
    if met := _EQUALS.fullmatch(part):
        return Requirement(met[1], "notin" if met[2] == "!=" else "in", (met[3],))
    if met := _EXISTS.fullmatch(part):
        return Requirement(met[2], "absent" if met[1] else "exists")
    raise SelectorError(
        f"{part[:80]!a} is no requirement; write KEY=VALUE, KEY!=VALUE or KEY in (VALUE,VALUE)"
    )
