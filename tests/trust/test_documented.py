"""docs/trust.md tells every rule in the words of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.trust.products import RULES
from analysis.trust.rule import Rule

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_every_rule_is_documented(rule: Rule) -> None:
    assert f"| `{rule.key}` | {rule.words} | {rule.source} |" in PAGE.read_text(encoding="utf-8")
