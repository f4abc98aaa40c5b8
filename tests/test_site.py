"""The documentation site: built without a warning, whole, and loading nothing from anywhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import anykms

ROOT = Path(__file__).resolve().parent.parent
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data", "video": "src"}
"""Attributes whose address a browser loads by itself; of a ``link`` those of some relations."""
LOADING_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload"}


@dataclass
class Page(HTMLParser):
    """What one page of HTML names."""

    text: str
    ids: set[str] = field(default_factory=set[str])
    links: list[str] = field(default_factory=list[str])
    loaded: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADING and LOADING[tag] in found:
            self.loaded.append(found[LOADING[tag]])
        if tag == "link" and LOADING_LINKS & set(found.get("rel", "").split()):
            self.loaded.append(found["href"])


def built(site: Path) -> dict[Path, Page]:
    """The site, built by the command that a reader would use; its pages."""
    done = subprocess.run(  # noqa: S603 # our own documents
        [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html")}


def dead_links(site: Path, pages: dict[Path, Page]) -> list[str]:
    """Links and loaded files that lead nowhere inside the site, anchors included."""
    found: list[str] = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are absolute: it is shown at any address
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or not target.is_relative_to(site):
                found.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                found.append(f"{path.relative_to(site)}: {link}: no such anchor")
    return found


def from_elsewhere(site: Path, pages: dict[Path, Page]) -> list[str]:
    """What a page or style sheet would load from another host."""
    found = [
        f"{path.relative_to(site)}: {address}"
        for path, page in pages.items()
        for address in page.loaded
        if urlsplit(address).netloc
    ]
    for sheet in site.rglob("*.css"):
        addresses = re.findall(
            r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')]+)", sheet.read_text("utf-8")
        )
        found += [f"{sheet.relative_to(site)}: {address}" for address in addresses]
    # The theme's script would fetch Mermaid for a diagram.
    found += [str(path.relative_to(site)) for path, page in pages.items() if 'class="mermaid"' in page.text]
    return found


def test_the_site(tmp_path: Path) -> None:
    # One test, for it is one build.
    site = tmp_path.resolve() / "site"
    pages = built(site)

    expected = {
        site / path.relative_to(ROOT / "docs").with_suffix("") / "index.html"
        for path in (ROOT / "docs").rglob("*.md")
    }
    assert expected <= pages.keys()
    home = pages[site / "index.html"]
    named = {(site / link).resolve() / "index.html" for link in home.links if not urlsplit(link).scheme}
    assert expected - named == set(), "a page is not in the navigation"
    assert "One key API for AWS KMS" in home.text

    reference = {
        name for path, page in pages.items() if "reference" in path.parts for name in page.ids if "." in name
    }
    public = {f"{getattr(anykms, name).__module__}.{name}" for name in anykms.__all__}
    assert public - reference == set(), "a public name is not in the reference"
    assert {"anykms.errors.SealError", "anykms.aio.AsyncKeyring", "anykms.provider.Provider"} <= reference
    hidden = {name for name in reference if re.search(r"\._[a-z]", name)}
    assert hidden == set()
    assert "_trails" not in pages[site / "reference" / "keyset" / "index.html"].text

    trust = pages[site / "reference" / "trust" / "index.html"].text
    assert "Raises:" in trust
    assert "<blockquote>" not in trust, "a doctest is shown as a quotation"

    assert (site / "conformance.html").read_bytes() == (ROOT / "docs" / "conformance.html").read_bytes()
    assert dead_links(site, pages) == []
    assert from_elsewhere(site, pages) == []


def test_what_is_wrong_with_a_site_is_found(tmp_path: Path) -> None:
    site = tmp_path.resolve()
    (site / "a.html").write_text(
        '<a href="b.html">1</a><a href="nowhere.html">2</a><a href="b.html#gone">3</a><a href="#here" id="here">4</a>'
        '<script src="https://cdn.example/x.js"></script><link rel="stylesheet" href="//fonts.example/f.css">'
        '<a href="https://example.com">5</a><img src="missing.png">'
    )
    (site / "b.html").write_text('<pre class="mermaid">graph</pre>')
    (site / "style.css").write_text(
        "@import 'https://fonts.example/g.css'; a { background: url(//img.example/i.png) }"
    )
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    assert dead_links(site, pages) == [
        "a.html: nowhere.html",
        "a.html: b.html#gone: no such anchor",
        "a.html: missing.png",
    ]
    assert from_elsewhere(site, pages) == [
        "a.html: https://cdn.example/x.js",
        "a.html: //fonts.example/f.css",
        "style.css: https://fonts.example/g.css",
        "style.css: //img.example/i.png",
        "b.html",
    ]
