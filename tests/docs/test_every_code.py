"""Every code has its page: what it means, its path, how it is seen, what to do; and `probe explain` prints the same."""

from __future__ import annotations

import io
import re

import pytest

from analysis.catalogue.findings import CATALOGUE
from analysis.catalogue.pictures import PATHLESS, picture, rows
from probe.lab import list_scenarios, load_scenario
from probe.render.catalogue import definition_text
from tests.analysis.test_findings import NEAR, STORIES
from tests.checks.mistakes import MISTAKES
from tests.checks.test_check_codes import PAIRS
from tests.docs.documents import DOCUMENTS

#: Codes whose case is one of objects, which no packet has to pass.
OF_OBJECTS = frozenset(code for code in CATALOGUE if code.startswith("SIP7"))


def section(code: str) -> str:
    """The text under a code's heading in docs/findings.md."""
    (found,) = re.findall(rf"(?ms)^### {code} · .*?(?=^<a id|^## |\Z)", DOCUMENTS["docs/findings.md"])
    return str(found)


def shown(code: str) -> str:
    """What `probe explain CODE` prints, as one line."""
    return " ".join(definition_text(CATALOGUE[code], io.TextIOWrapper(io.BytesIO(), "utf-8")).split())


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_a_page_says_what_it_means_how_it_is_seen_and_what_to_do(code: str) -> None:
    definition, text = CATALOGUE[code], section(code)
    for said in (definition.title, definition.explanation, f"**Seen** by {definition.seen}", definition.fix):
        assert said in text
        assert " ".join(said.replace("**Seen** by ", "").split()) in shown(code)


@pytest.mark.parametrize("code", sorted(set(CATALOGUE) - PATHLESS - OF_OBJECTS))
def test_where_it_is_about_a_path_there_is_a_picture_of_it(code: str) -> None:
    assert f"```text\n{picture(code)}\n```" in section(code)
    assert len(rows(code)) >= 1
    marks = [said[:1] for _, _, said in rows(code)]
    assert ("×" in marks) or CATALOGUE[code].severity == "info", "an error stands somewhere on the way"
    assert marks.count("×") <= 1, "and in one place"
    for place, _, _ in rows(code):
        assert place in shown(code)


def test_only_what_is_about_no_path_has_no_picture() -> None:
    assert {code for code in CATALOGUE if not rows(code)} == PATHLESS | OF_OBJECTS


def test_every_code_has_a_story_that_leads_to_it_and_one_nearby_that_does_not() -> None:
    """That they do is held where they are told: tests/analysis/test_findings.py and tests/checks."""
    assert set(STORIES) | set(PAIRS) | {mistake.code for mistake in MISTAKES} == set(CATALOGUE)
    assert set(NEAR) == set(STORIES)


def test_every_code_that_a_scenario_demands_names_one_that_shows_it() -> None:
    for name in list_scenarios():
        scenario = load_scenario(name)
        told = [code for request in scenario.requests for code in request.expect.findings]
        told += scenario.health_expect.findings if scenario.health_expect is not None else ()
        for code in told:
            assert "**In the lab.** `probe capture --lab " in section(code)
