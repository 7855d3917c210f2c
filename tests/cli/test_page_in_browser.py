"""The HTML report in a real browser: by keyboard, narrow, dark, printed, with hostile names, and held against axe."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from analysis.health.result import Outage
from analysis.report import Forged, Forgery, Report, RuleSaid
from probe.render.html.evidence import Evidence
from probe.render.html.page import to_html
from tests import hostile
from tests.analysis.story import Story, cluster
from tests.analysis.test_stories import MASQUERADED, NODE_PORT, POD, REMOTE, C
from tests.cli.browser import CHROMIUM, Browser
from tests.cli.reports import START
from tests.cli.test_page import everything
from tests.cli.test_report_files import filled

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


def whole() -> Report:
    """A report with something in every part of the page."""
    told = everything()
    rule = RuleSaid("node1", "snat", "-A KUBE-POSTROUTING -j MASQUERADE", "kube-proxy replaces the source")
    journeys = tuple(msgspec.structs.replace(each, rules=(rule,)) for each in told.journeys)
    outage = Outage(
        "node1", 3, START + 1, None, None, START + 2, None, 4, 1, 3, 5, None, 2.0, 2.0, None, None
    )
    assert told.health is not None
    nodes = tuple(msgspec.structs.replace(each, outages=(outage,)) for each in told.health.nodes)
    health = msgspec.structs.replace(told.health, nodes=nodes)
    forged = Forgery("x-forwarded-for", "203.0.113.7", Forged.REACHED, 1, 1)
    return msgspec.structs.replace(told, journeys=journeys, health=health, forgeries=(forged,))


def opened(browser: Browser, tmp_path: Path, text: str) -> Browser:
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    browser.requests.clear()
    browser.complaints.clear()
    browser.media()
    browser.width(1280)
    browser.open(path)
    return browser


def with_evidence() -> str:
    story = Story(cluster()).connection(REMOTE).conntrack("node1", (C, NODE_PORT), (MASQUERADED, POD))
    return to_html(story.report(), Evidence(story.recording()))


class TestAccessibility:
    """axe-core's rules, run in a page whose own policy is set aside for it."""

    @pytest.fixture
    def axe(self, browser: Browser) -> Iterator[str]:
        package = pytest.importorskip("axe_core_python")
        browser.call("Page.setBypassCSP", enabled=True)
        yield Path(package.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
        browser.call("Page.setBypassCSP", enabled=False)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1280, 380])
    @pytest.mark.parametrize("page", ["whole", "evidence", "hostile", "nothing"])
    def test_no_rule_is_broken(
        self, browser: Browser, axe: str, tmp_path: Path, scheme: str, width: int, page: str
    ) -> None:
        told = {
            "whole": lambda: to_html(whole()),
            "evidence": with_evidence,
            "hostile": lambda: to_html(filled(whole(), "\"><img src=x onerror=alert(1)>\u202e'")),
            "nothing": lambda: to_html(msgspec.structs.replace(whole(), journeys=(), paths=(), findings=())),
        }[page]()
        opened(browser, tmp_path, told)
        browser.media(scheme=scheme)
        browser.width(width)
        browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        browser.run(f"{axe}\n;0")
        found = json.loads(
            browser.run(
                "axe.run().then((told) => JSON.stringify({passes: told.passes.length, "
                "violations: told.violations.map((each) => [each.id, each.nodes.map((node) => node.html)])}))"
            )
        )
        assert found["violations"] == []
        assert found["passes"] > 15, "axe did look"


class TestKeyboard:
    def test_the_first_stop_skips_to_the_paths(self, browser: Browser, tmp_path: Path) -> None:
        opened(browser, tmp_path, to_html(whole()))
        browser.key("Tab", 9)
        assert browser.run("document.activeElement.textContent") == "Skip to the paths"
        browser.key("Enter", 13, "\r")
        assert browser.run("document.activeElement.id") == "paths"

    def test_evidence_is_unfolded_by_enter(self, browser: Browser, tmp_path: Path) -> None:
        opened(browser, tmp_path, with_evidence())
        for _ in range(30):
            browser.key("Tab", 9)
            if browser.run("document.activeElement.tagName") == "SUMMARY":
                break
        assert "What was recorded" in browser.run("document.activeElement.textContent")
        browser.key("Enter", 13, "\r")
        assert browser.run("document.activeElement.parentElement.open")

    def test_everything_that_scrolls_can_be_reached(self, browser: Browser, tmp_path: Path) -> None:
        opened(browser, tmp_path, with_evidence())
        browser.width(380)
        browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        left_out = browser.run(
            "[...document.querySelectorAll('*')].filter((each) => each.scrollWidth > each.clientWidth + 1 && "
            "['auto', 'scroll'].includes(getComputedStyle(each).overflowX) && each.tabIndex < 0)"
            ".map((each) => each.outerHTML.slice(0, 80))"
        )
        assert left_out == []


def test_no_arrow_strikes_out_what_stands_on_another(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, to_html(whole()))
    order = browser.run(
        "[...document.querySelectorAll('svg .way, svg text.from')].map((each) => each.tagName).join(' ')"
    )
    assert re.fullmatch("(path ?)+(text ?)+", order), "what is drawn later lies above"


class TestFilter:
    def shown(self, browser: Browser) -> tuple[int, int, str]:
        return tuple(  # type: ignore[return-value]
            browser.run(
                "[document.querySelectorAll('article:not([hidden])').length, "
                "document.querySelectorAll('svg g[data-path]:not([hidden]):has(.way)').length, "
                "document.getElementById('shown').textContent]"
            )
        )

    def choose(self, browser: Browser, name: str, value: str) -> None:
        browser.run(
            f"form.elements[{name!r}].value = {value!r}; "
            "form.dispatchEvent(new Event('input', {bubbles: true}))"
        )

    def test_by_verdict_node_and_client(self, browser: Browser, tmp_path: Path) -> None:
        opened(browser, tmp_path, to_html(whole()))
        assert self.shown(browser) == (4, 4, "4 of 4 paths shown")
        self.choose(browser, "verdict", "preserved")
        assert self.shown(browser) == (1, 1, "1 of 4 paths shown")
        self.choose(browser, "node", "node3")
        assert self.shown(browser) == (0, 0, "0 of 4 paths shown")
        browser.run("form.reset(), new Promise((done) => setTimeout(done))")
        assert self.shown(browser)[2] == "4 of 4 paths shown"
        self.choose(browser, "client", "192.0.2.")
        assert self.shown(browser)[2] == "4 of 4 paths shown"
        self.choose(browser, "client", "203.0.113.")
        assert self.shown(browser)[2] == "0 of 4 paths shown"


class TestHostile:
    @pytest.mark.parametrize(
        "name", ["a script", "an attribute", "the end of a comment", "an entity", "right to left"]
    )
    def test_no_name_in_any_field_does_anything(self, browser: Browser, tmp_path: Path, name: str) -> None:
        text = hostile.VALUES[name].decode("utf-8", "surrogateescape")
        opened(browser, tmp_path, to_html(filled(whole(), text)))
        assert browser.requests == [f"file://{tmp_path}/report.html"]
        assert browser.complaints == []
        assert browser.run("[document.scripts.length, document.images.length, document.links.length]") == [
            1,
            0,
            1,
        ]
        assert browser.run("document.getElementById('shown').textContent") == "4 of 4 paths shown"


class TestLooks:
    def test_a_phone_scrolls_no_page_sideways(self, browser: Browser, tmp_path: Path) -> None:
        for text in (to_html(whole()), with_evidence()):
            opened(browser, tmp_path, text)
            browser.width(380)
            browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")

    def test_dark_is_dark(self, browser: Browser, tmp_path: Path) -> None:
        opened(browser, tmp_path, to_html(whole()))
        light = browser.run("getComputedStyle(document.body).backgroundColor")
        browser.media(scheme="dark")
        assert browser.run("getComputedStyle(document.body).backgroundColor") != light

    def test_print_unfolds_everything_and_leaves_out_the_filter(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        opened(browser, tmp_path, with_evidence())
        browser.media(kind="print")
        browser.run("dispatchEvent(new Event('beforeprint'))")
        assert browser.run("[...document.querySelectorAll('details')].every((each) => each.open)")
        assert browser.run("getComputedStyle(document.getElementById('filter')).display") == "none"
        browser.width(718)  # A4 less a centimetre on each side, in CSS pixels
        assert browser.run("document.documentElement.scrollWidth") <= 718, "the page is cut at its right edge"
        told = browser.call("Page.printToPDF")
        assert len(told["data"]) > 10_000

    def test_a_picture_of_it_has_a_map_and_a_timeline(self, browser: Browser, tmp_path: Path) -> None:
        """What can be asserted of a picture: it is one, of the whole page, and both drawings have a size in it."""
        opened(browser, tmp_path, to_html(whole()))
        browser.screenshot(tmp_path / "page.png")
        width, height = struct.unpack(">II", (tmp_path / "page.png").read_bytes()[16:24])
        assert (width, height > 1500) == (1280, True)
        sizes = browser.run(
            "[...document.querySelectorAll('svg')].map((each) => each.getBoundingClientRect().height)"
        )
        assert len(sizes) == 2
        assert min(sizes) > 50
