"""The report as files: JSON, Markdown and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Final

from anykms_contract.results import MEANINGS, Cell, Clause, Explained, Report, Status, to_json

_WORDS: Final = {
    Status.PASSED: "passed",
    Status.UNSUPPORTED: "unsupported",
    Status.NOT_RUN: "not run",
    Status.DEVIATION: "deviation",
    Status.FAILED: "failed",
}
_SIGNS: Final = {
    Status.PASSED: "✓",
    Status.UNSUPPORTED: "·",
    Status.NOT_RUN: "○",
    Status.DEVIATION: "△",
    Status.FAILED: "✗",
}


def write_report(report: Report, path: Path) -> list[Path]:
    """Write ``path``.json, .md and .html; the directory is made. Returns the three."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {".json": to_json(report), ".md": markdown(report).encode(), ".html": html_page(report).encode()}
    written: list[Path] = []
    for ending, data in texts.items():
        target = path.with_name(path.name + ending)
        target.write_bytes(data)
        written.append(target)
    return written


def summary(report: Report) -> str:
    """One line: what there is, and what is wrong with it."""
    return (
        f"{len(report.providers)} provider{'' if len(report.providers) == 1 else 's'}, {len(report.clauses)} clauses: "
        f"{report.total(Status.PASSED)} cases passed, {report.total(Status.UNSUPPORTED)} unsupported, "
        f"{report.total(Status.NOT_RUN)} not run, {report.total(Status.DEVIATION)} deviations, "
        f"{report.total(Status.FAILED)} failed, {report.unexplained} unexplained"
    )


# Markdown


def markdown(report: Report) -> str:
    """The matrix as Markdown tables, and below it all that did not pass."""
    lines = [
        "# Conformance",
        "",
        f"anykms {_md(report.anykms)}, {_md(report.made_on)}. {summary(report)}.",
        "",
        "| provider | " + " | ".join(_WORDS.values()) + " | as tested |",
        "|---|" + "---|" * (len(_WORDS) + 1),
    ]
    for column in report.providers:
        counts = report.counts[column.label]
        numbers = " | ".join(str(counts.get(status, 0)) for status in _WORDS)
        lines.append(f"| {_md(column.label)} | {numbers} | {_md(column.description)} |")
    lines += [
        "",
        "A number counts cases. " + " ".join(f"{_WORDS[s].capitalize()}: {m}." for s, m in MEANINGS.items()),
    ]
    for group, clauses in groupby(report.clauses, key=lambda clause: clause.group):
        lines += ["", f"## {_md(group)}", ""]
        lines.append("| sentence | clause | " + " | ".join(_md(c.label) for c in report.providers) + " |")
        lines.append("|---|---|" + "---|" * len(report.providers))
        for clause in clauses:
            cells = (report.cell(clause.id, column.label) for column in report.providers)
            shown = " | ".join("" if cell is None else _numbers(cell) for cell in cells)
            lines.append(f"| {', '.join(clause.sentences)} | {_md(clause.text)} | {shown} |")
    for status in (Status.FAILED, Status.DEVIATION, Status.NOT_RUN):
        found = [(cell, other) for cell in report.cells for other in cell.others if other.status is status]
        if found:
            lines += ["", f"## {_WORDS[status].capitalize()}", ""]
            lines += [_md_explained(cell, other) for cell, other in found]
    return "\n".join(lines) + "\n"


def _numbers(cell: Cell) -> str:
    parts = [str(len(cell.passed))] if cell.passed else []
    parts += [f"{count} {_WORDS[status]}" for status, count in _counts(cell) if status is not Status.PASSED]
    return ", ".join(parts)


def _counts(cell: Cell) -> Iterator[tuple[Status, int]]:
    for status in Status:
        count = len(cell.passed) if status is Status.PASSED else 0
        count += sum(len(other.cases) for other in cell.others if other.status is status)
        if count:
            yield status, count


def _md_explained(cell: Cell, other: Explained) -> str:
    cases = "".join(f" [{case}]" for case in other.cases if case)
    text = f"- {cell.provider}: {cell.clause}{cases}: {other.reason}"
    if other.failure is not None:
        failure = other.failure
        text += f"{failure.error}: {failure.text}"
        text += f" (request ids: {', '.join(failure.request_ids)})" if failure.request_ids else ""
    return f"- {_md(text.removeprefix('- '))}"


def _md(text: str) -> str:
    """On one line, with nothing left that Markdown or HTML would read."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return (
        "".join(f"\\{c}" if c in "\\`*_[]|~" else c for c in line).replace("&", "&amp;").replace("<", "&lt;")
    )


# HTML


def html_page(report: Report) -> str:
    """The page. Everything that is data is escaped, and the page may load and send nothing."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    sections = "\n".join(
        _section(report, number, group, list(clauses))
        for number, (group, clauses) in enumerate(groupby(report.clauses, key=lambda clause: clause.group))
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>anykms: conformance</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#matrix">Skip to the clauses</a>
<header>
<h1>Conformance</h1>
<p>anykms {escape(report.anykms)}, {escape(report.made_on)}. {escape(summary(report))}.</p>
{_totals(report)}
</header>
{_filters(report)}
<main id="matrix">
{sections}
<p id="nothing" hidden>No clause fits these filters.</p>
</main>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return files("anykms_contract").joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _totals(report: Report) -> str:
    heads = "".join(f'<th scope="col" class="{s.value}">{w}</th>' for s, w in _WORDS.items())
    rows = "".join(
        f'<tr><th scope="row">{escape(column.label)}<span>{escape(column.description)}</span></th>'
        + "".join(
            f'<td class="{status.value if report.counts[column.label].get(status, 0) else "none"}" '
            f'data-label="{word}">{report.counts[column.label].get(status, 0)}</td>'
            for status, word in _WORDS.items()
        )
        + "</tr>"
        for column in report.providers
    )
    meanings = "".join(
        f'<dt class="{s.value}"><b aria-hidden="true">{_SIGNS[s]}</b> {_WORDS[s]}</dt><dd>{escape(m)}</dd>'
        for s, m in MEANINGS.items()
    )
    return (
        '<table class="totals"><caption>Cases by provider</caption><thead><tr><th scope="col">provider</th>'
        f'{heads}</tr></thead><tbody>{rows}</tbody></table>\n<dl class="legend">{meanings}</dl>'
    )


def _filters(report: Report) -> str:
    groups = "".join(
        f"<option>{escape(g)}</option>" for g, _ in groupby(report.clauses, key=lambda c: c.group)
    )
    statuses = "".join(
        f'<label><input type="checkbox" name="status" value="{s.value}" checked> {w}</label>'
        for s, w in _WORDS.items()
    )
    providers = "".join(
        f'<label><input type="checkbox" name="provider" value="{number}" checked> {escape(column.label)}</label>'
        for number, column in enumerate(report.providers)
    )
    return f"""<form id="filters" role="search" aria-label="Filter the clauses">
<p><label for="words">Words <kbd>/</kbd></label>
<input type="search" id="words" autocomplete="off" placeholder="rotation, C5.4, HS256 ...">
<label for="group">Group</label><select id="group"><option value="">all</option>{groups}</select></p>
<fieldset><legend>Outcomes</legend>{statuses}</fieldset>
<fieldset><legend>Providers</legend>{providers}</fieldset>
<p><output id="shown" aria-live="polite">{len(report.clauses)} of {len(report.clauses)} clauses</output>
<button type="reset">Show all</button></p>
</form>"""


def _section(report: Report, number: int, group: str, clauses: list[Clause]) -> str:
    heads = "".join(
        f'<th scope="col" data-provider="{n}">{escape(c.label)}</th>' for n, c in enumerate(report.providers)
    )
    rows = "\n".join(_row(report, clause) for clause in clauses)
    return (
        f'<section data-group="{escape(group)}" aria-labelledby="g{number}"><h2 id="g{number}">{escape(group)}</h2>'
        f'<table class="matrix"><thead><tr><th scope="col">clause</th>{heads}</tr></thead><tbody>\n{rows}\n'
        "</tbody></table></section>"
    )


def _row(report: Report, clause: Clause) -> str:
    cells = [report.cell(clause.id, column.label) for column in report.providers]
    shown = "".join(
        _cell(number, column.label, cell)
        for number, (column, cell) in enumerate(zip(report.providers, cells, strict=True))
    )
    details = "".join(_details(cell) for cell in cells if cell is not None)
    return (
        f'<tr data-clause="{escape(clause.id)}"><th scope="row">'
        f'<span class="sentences">{escape(", ".join(clause.sentences))}</span> {escape(clause.text)}'
        f"<details><summary>cases</summary><code>{escape(clause.id)}</code>{details}</details></th>{shown}</tr>"
    )


def _cell(number: int, label: str, cell: Cell | None) -> str:
    if cell is None:
        return (
            f'<td data-provider="{number}" data-label="{escape(label)}" data-statuses="" class="none">'
            "not collected</td>"
        )
    counts = list(_counts(cell))
    statuses = " ".join(status.value for status, _ in counts)
    parts = "".join(
        f'<span class="{status.value}"><b aria-hidden="true">{_SIGNS[status]}</b> {count} {_WORDS[status]}</span>'
        for status, count in sorted(counts, key=lambda found: found[0] is not cell.status)
    )
    return (
        f'<td data-provider="{number}" data-label="{escape(label)}" data-statuses="{statuses}" '
        f'class="{cell.status.value}">{parts}</td>'
    )


def _details(cell: Cell) -> str:
    items: list[str] = []
    if cell.passed:
        items.append(f"<li>passed{_cases(cell.passed)}</li>")
    for other in cell.others:
        reason = f": {escape(other.reason)}" if other.reason else ""
        items.append(
            f'<li class="{other.status.value}">{_WORDS[other.status]}{_cases(other.cases)}{reason}'
            f"{_failure(other)}</li>"
        )
    return f"<h3>{escape(cell.provider)}</h3><ul>{''.join(items)}</ul>"


def _cases(cases: Iterable[str]) -> str:
    named = [case for case in cases if case]
    return f": <small>{escape(', '.join(named))}</small>" if named else ""


def _failure(other: Explained) -> str:
    if other.failure is None:
        return ""
    failure = other.failure
    facts = {
        "operation": failure.operation,
        "key": failure.key,
        "request ids": ", ".join(failure.request_ids) or "none given",
    }
    shown = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)
    return f"<pre>{escape(failure.error)}: {escape(failure.text)}</pre><dl>{shown}</dl>"
