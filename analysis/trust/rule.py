"""A rule of the tables: what a server does in one case, in words, and where that is written down."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.trust.model import Claim, Fields, Resolution


@dataclass(frozen=True, slots=True)
class Rule:
    """`key` names the rule in documents and tests; `source` is a URL, a file of the project, or an RFC section."""

    key: str
    words: str
    source: str


def believe(
    rule: Rule,
    claim: Claim,
    client: str,
    onward: Fields | None = (),
    *,
    field: str = "",
    onward_proxy: str | None = None,
) -> Resolution:
    """The server takes `client` for the client, on the strength of `claim`."""
    return Resolution(client, claim, rule.words, rule.source, onward, onward_proxy, field, rule_key=rule.key)


def refuse(rule: Rule) -> Resolution:
    """The server closes the connection or answers with an error."""
    return Resolution(None, Claim.NOBODY, rule.words, rule.source, refused=True, rule_key=rule.key)


def unknown(rule: Rule, onward: Fields | None = None, field: str = "") -> Resolution:
    """The settings do not say enough."""
    return Resolution(None, Claim.NOBODY, rule.words, rule.source, onward, field=field, rule_key=rule.key)
