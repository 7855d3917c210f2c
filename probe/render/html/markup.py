"""HTML and SVG by construction: a text becomes markup in one place, and there it is escaped.

`element("td", text)` escapes `text`; only what `element` and `document` made is taken as it is. What a browser could
obey is no part of any text: control and format characters are shown as escapes (`probe.render.escape`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape as escape_html

from probe.render.escape import escape

#: Elements without content (HTML, "void elements").
_VOID = frozenset({"meta", "br", "input", "col"})


@dataclass(frozen=True, slots=True)
class Markup:
    """What is markup already."""

    text: str


Content = str | Markup | None | Iterable["Content"]


def element(name: str, /, *content: Content, **attributes: str | int | float | bool | None) -> Markup:
    """An element; `class_` stands for class, underscores for hyphens. True is an attribute without value."""
    written = [name]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(attribute)
        elif value is not None and value is not False:
            written.append(f'{attribute}="{_text(str(value))}"')
    start = f"<{' '.join(written)}>"
    return Markup(start if name in _VOID else f"{start}{''.join(_pieces(content))}</{name}>")


def scrolling(label: str, *content: Content) -> Markup:
    """A part that scrolls sideways where it is wider than the page, which the keyboard can do too."""
    return element("div", *content, class_="scroll", tabindex=0, role="group", aria_label=label)


def raw(name: str, text: str, /, **attributes: str) -> Markup:
    """An element whose content is ours and no markup: a script, a style sheet."""
    assert f"</{name}" not in text.lower()
    return Markup(element(name, **attributes).text.replace(f"></{name}>", f">{text}</{name}>"))


def document(*content: Content) -> str:
    """A whole document."""
    return "<!DOCTYPE html>\n" + "".join(_pieces(content)) + "\n"


def _pieces(content: Iterable[Content]) -> Iterable[str]:
    for piece in content:
        if isinstance(piece, Markup):
            yield piece.text
        elif isinstance(piece, str):
            yield _text(piece)
        elif piece is not None:
            yield from _pieces(piece)


def _text(text: str) -> str:
    return escape_html(escape(text, limit=20_000), quote=True)
