"""Pages of the documentation site that are made: of the repository's own files, and of docstrings. See mkdocs.yml."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, Final, cast

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent

READABLE: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files beside docs/ and the pages that they become."""

WHOLE: Final = ("anykms.aio", "anykms.errors", "anykms.provider")
"""Modules of which every public name is in the reference: their names are not in ``anykms`` itself."""


def homes() -> dict[str, tuple[str, ...]]:
    """The modules that hold the names in ``anykms.__all__``, read without importing anything."""
    tree = ast.parse((ROOT / "src" / "anykms" / "__init__.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            found: dict[str, tuple[str, ...]] = ast.literal_eval(node.value)
            return found
    raise LookupError("anykms/__init__.py has no table _HOMES")


def reference() -> dict[str, str]:
    """The pages of the reference: path and text."""
    pages: dict[str, str] = {}
    known: dict[str, tuple[str, ...]] = {**homes(), **dict.fromkeys(WHOLE, ())}
    for module, names in sorted(known.items()):
        shown = "" if module in WHOLE else f"    options:\n      members: [{', '.join(names)}]\n"
        pages[f"reference/{module.removeprefix('anykms.')}.md"] = f"# {module}\n\n::: {module}\n{shown}"
    return pages


def readable(text: str) -> str:
    """A file beside docs/ as a page in docs/: its links lead to the pages."""
    for name, page in READABLE.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text.replace("](docs/", "](")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the reference into the navigation."""
    nav = cast("list[dict[str, object]]", config.nav)  # pyright: ignore[reportUnknownMemberType] # any YAML
    for entry in nav:
        if "Reference" in entry:
            entry["Reference"] = [
                {"anykms." + page.removeprefix("reference/").removesuffix(".md"): page}
                for page in reference()
            ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made to what lies in docs/."""
    made = {page: readable((ROOT / name).read_text("utf-8")) for name, page in READABLE.items()}
    for page, text in {**made, **reference()}.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to code, which work in the repository, lead to the reference where there is a page, else nowhere."""

    def led(link: re.Match[str]) -> str:
        module = link["path"].removeprefix("src/anykms/").removesuffix(".py").replace("/", ".")
        target = f"reference/{module}.md"
        if files.get_file_from_path(target) is None:
            return link["text"]
        return f"[{link['text']}]({'../' * page.file.src_uri.count('/')}{target})"

    return _TO_CODE.sub(led, markdown)


_TO_CODE: Final = re.compile(
    r"\[(?P<text>[^\]]+)\]\((?:\.\./)+(?P<path>(?:src|providers|tests|contract_tests|benchmarks)/[^)]+)\)"
)


class Doctests(griffe.Extension):
    """Examples in docstrings as code: Markdown takes their ``>>>`` for quotations."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence every paragraph that is a doctest."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", obj.docstring.value, flags=re.MULTILINE
            )
