"""The report as one HTML file: nothing in it is obeyed, nothing leaves it, and everybody can use it."""

from __future__ import annotations

import re
import shutil
import subprocess
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from analysis.health.result import Checker, Event, Health, NodeHealth
from analysis.report import Journey, Report
from probe.render.html.page import to_html
from probe.render.html.page_map import Place, stops
from tests import hostile
from tests.cli.helpers import Probe
from tests.cli.reports import (
    MASQUERADED,
    START,
    blackholed_journey,
    chained_journey,
    lost_journey,
    preserved_journey,
    report,
)
from tests.cli.test_pcapng import given
from tests.cli.test_report_files import filled

values = pytest.mark.parametrize("value", hostile.VALUES.values(), ids=hostile.VALUES.keys())
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "br", "input", "col"}


HEALTH = Health(
    service="default/web",
    port=32100,
    checkers=(Checker("192.0.2.80", 32100, "health-check node port", "GET /healthz", ("node1",), 9, 3.0),),
    nodes=(NodeHealth("node1", 1, {"200": 7, "503": 2}, (0, 1), connections=5, served=4, failed=1, lost=1),),
    timeline=(Event(START, "node1", "answer", "answers 503, 0 endpoints"),),
    clients=5,
    lost=1,
    reasons=("node2 was not watched",),
)


def tapped(journey: Journey) -> Journey:
    """A journey whose hops name the kinds of their taps, as the analysis writes them."""
    hops = (
        msgspec.structs.replace(hop, tap=hop.point if hop.point != "dnat" else "nic")
        if hop.evidence == "packet"
        else hop
        for hop in journey.hops
    )
    return msgspec.structs.replace(journey, hops=tuple(hops))


def everything() -> Report:
    journeys = (lost_journey(), preserved_journey(), blackholed_journey(), chained_journey())
    told = report(*map(tapped, journeys), findings=(MASQUERADED,), reasons=("node9 has no tap",))
    return msgspec.structs.replace(told, health=HEALTH)


def hostile_page(value: bytes) -> str:
    return to_html(filled(everything(), value[:2000].decode("utf-8", "surrogateescape")))


class Page(HTMLParser):
    """Elements, attributes and text of a page, as a browser would see them; each element must be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


class TestHostile:
    @values
    def test_no_value_becomes_markup(self, value: bytes) -> None:
        plain, page = Page(hostile_page(b"x")), Page(hostile_page(value))
        assert Counter(tag for tag, _ in page.elements) == Counter(tag for tag, _ in plain.elements)
        names = {name for _, attributes in page.elements for name in attributes}
        assert names == {name for _, attributes in plain.elements for name in attributes}
        assert not [name for name in names if name.startswith("on") or name == "style"]
        hostile.safe_text(hostile_page(value))

    def test_the_values_do_arrive(self) -> None:
        assert hostile_page(b"MARK").count("MARK") > 100

    def test_nothing_is_asked_of_anybody(self) -> None:
        page = Page(to_html(everything()))
        assert not [
            attributes for _, attributes in page.elements if "src" in attributes or "xlink:href" in attributes
        ]
        assert [link["href"] for link in page.all("a")] == ["#paths"]
        assert not page.all("link")
        assert "url(" not in to_html(everything())

    def test_the_browser_is_told_to_obey_our_script_and_style_alone(self) -> None:
        text = to_html(everything())
        [policy] = [meta["content"] or "" for meta in Page(text).all("meta") if "http-equiv" in meta]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for name in ("style", "script"):
            [own] = re.findall(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
            assert f"{name}-src 'sha256-{b64encode(sha256(own.encode()).digest()).decode()}'" in policy


class TestContents:
    def test_each_path_has_its_hops_with_their_evidence(self) -> None:
        told = everything()
        page = Page(to_html(told))
        assert len(page.all("article")) == len(told.paths)
        text = "\n".join(page.text)
        for journey in told.journeys:
            assert f"Hops of {journey.id}" in text
            assert all(hop.source.removesuffix(":0") in text for hop in journey.hops)
        assert "kernel's NAT record" in text
        assert MASQUERADED.fix in text
        assert "node9 has no tap" in text

    def test_the_map_shows_the_places_and_where_the_address_changed(self) -> None:
        walked = stops(tapped(lost_journey()))
        assert [stop.place for stop in walked] == [
            Place(0, "client1"), Place(2, "node1"), Place(2, "node3"), Place(3, "default/web-2"),
        ]  # fmt: skip
        assert [stop.source for stop in walked] == ["192.0.2.10", "192.0.2.10", "172.30.0.11", "172.30.0.11"]
        text = "\n".join(Page(to_html(everything())).text)
        assert "192.0.2.10 became 172.30.0.11" in text
        assert "node3 (source 172.30.0.11, source replaced, was 192.0.2.10)" in text

    def test_health_checks_are_told_with_their_timeline(self) -> None:
        text = "\n".join(Page(to_html(everything())).text)
        for said in (
            "192.0.2.80 GET /healthz",
            "200 7x, 503 2x",
            "answers 503, 0 endpoints",
            "node2 was not watched",
        ):
            assert said in text

    def test_a_report_of_nothing_is_a_page_too(self) -> None:
        assert "connections were seen" in "".join(Page(to_html(report())).text)

    def test_it_is_written_beside_what_is_printed(self, probe: Probe, tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        assert probe("analyze", *given(), "--html", path).code == 3
        assert "172.30.0.101 became 172.30.0.11" in path.read_text(encoding="utf-8")


class TestForEverybody:
    def test_what_a_screen_reader_needs_is_there(self) -> None:
        page = Page(to_html(everything()))
        assert page.all("html")[0]["lang"] == "en"
        identities = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
        assert len(identities) == len(set(identities))
        for _, attributes in page.elements:
            assert attributes.get("aria-labelledby", identities[0]) in identities
        assert all(head.get("scope") == "col" for head in page.all("th"))
        assert len(page.all("svg")) == 2, "the map, and the timeline of health checks"
        for svg in page.all("svg"):
            assert svg["role"] == "img"
            assert svg.get("aria-labelledby") or svg.get("aria-label")
        [output] = page.all("output")
        assert output["aria-live"] == "polite"

    def test_no_verdict_is_told_by_colour_alone(self) -> None:
        text = to_html(everything())
        for sign in ("× lost", "× blackholed", "✓ preserved"):
            assert sign in text
        assert "(replaced)" in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
class TestBrowser:
    def dom(self, path: Path, profile: Path) -> str:
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", f"--user-data-dir={profile}", "--dump-dom", path.as_uri(),
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    def test_the_filter_works_and_no_name_does(self, tmp_path: Path) -> None:
        attack = '"><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'
        path = tmp_path / "page.html"
        path.write_text(to_html(filled(everything(), attack)), encoding="utf-8")
        page = Page(self.dom(path, tmp_path / "profile"))
        [form] = page.all("form")
        assert "hidden" not in form, "our own script did not run"
        assert "4 of 4 paths shown" in page.text
        assert len(page.all("script")) == 1
        assert not page.all("img")
        assert "owned" not in page.text, "the page's title was changed"
