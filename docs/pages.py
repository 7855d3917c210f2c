"""What docs/ needs to become a site (a hook of MkDocs): a page for each finding, and links that stay within the site.

The documents are written to be read where they lie in the repository too, so they link to files beside docs/; the site
has no such files, and names them instead.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mkdocs.structure.files import File

from analysis.catalogue.findings import CATALOGUE
from docs.generate import finding_page

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>\.\./[^)]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the findings' pages into the navigation."""
    for entry in config.nav or []:
        if "Findings" in entry:
            entry["Findings"] += [{code: _place(code)} for code in sorted(CATALOGUE)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each finding, and the change log."""
    for code in CATALOGUE:
        files.append(File.generated(config, _place(code), content=finding_page(code)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Name files of the repository instead of linking to them."""
    return _LINK.sub(lambda link: link["text"], markdown)


def _place(code: str) -> str:
    return f"findings/{code}.md"
