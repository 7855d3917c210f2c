"""docs/ becomes a site that a browser reads without asking anybody else."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.catalogue.findings import CATALOGUE
from tests.docs.documents import REPOSITORY


class Asked(HTMLParser):
    """What a page makes a browser fetch, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.append(given.get("href", ""))
        elif tag == "link" and given.get("rel") not in {"canonical", "prev", "next"}:
            self.fetched.append(given.get("href", ""))
        else:
            self.fetched += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]


def read(page: Path) -> Asked:
    asked = Asked()
    asked.feed(page.read_text(encoding="utf-8"))
    return asked


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make site` builds it; anything doubtful in it is an error."""
    folder = tmp_path_factory.mktemp("site")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder


def test_every_page_is_read_without_a_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(CATALOGUE)
    for page in pages:
        for target in read(page).fetched:
            assert "//" not in target, f"{page.name} fetches {target}"


def test_styles_fetch_nothing_from_elsewhere(site: Path) -> None:
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text(encoding="utf-8").replace('"', "").replace("'", "")


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_finding_has_a_page(site: Path, code: str) -> None:
    text = (site / "findings" / f"{code}.html").read_text(encoding="utf-8")
    assert code in text
    assert "Fix" in text


def test_links_stay_within_the_site(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for target in read(page).links:
            path = target.partition("#")[0]
            if path and not path.startswith(("https://", "http://", "mailto:")):
                assert (page.parent / path).exists(), f"{page.relative_to(site)} links to {target}"


def test_what_is_for_machines_is_left_out(site: Path) -> None:
    assert not list(site.rglob("*.py"))
    assert not (site / "examples").exists()
