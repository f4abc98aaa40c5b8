"""The report of a migration as one HTML page that loads nothing. All that is data in it could be an attacker's."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Final

from anykms.migration.destruction import shortfalls
from anykms.migration.reports import KeyUse, Report

_ROWS: Final = 500
"""Keys and claims that the page shows; the report in JSON has up to 10,000."""
_ENDINGS: Final = {
    "done": "It came to its end",
    "left": "Entries are left that need a decision",
    "failed": "Entries failed: run it again",
    "stopped": "It was stopped before its end",
}
_COUNTS: Final = (
    ("walked", "walked"),
    ("messages", "messages"),
    ("nothing", "no messages"),
    ("todo", "to do"),
    ("done", "done"),
    ("already", "already so"),
    ("back", "back"),
    ("gone", "gone meanwhile"),
    ("changed", "written by others meanwhile"),
    ("without_body", "headers alone"),
    ("with_old_key", "still name a key to leave"),
)


def verdict(report: Report) -> tuple[bool, str, list[str]]:
    """What the report proves: whether nothing needs the old keys, in one sentence, and what is missing to say so."""
    if report.command in ("plan", "verify"):
        missing = [objection.text for objection in shortfalls(report)]
        if not missing:
            return True, "Nothing needs the old keys.", []
        if report.command == "plan" and report.counts.todo:
            return (
                False,
                f"A run would move {report.counts.todo:,} entries; the old keys are still needed.",
                missing,
            )
        return False, "It is not shown that nothing needs the old keys.", missing
    counts = report.counts
    if report.command == "rollback":
        return False, f"{_ENDINGS[report.ending]}. {counts.back:,} entries have their old header again.", []
    ending = f"{_ENDINGS[report.ending]}. {counts.done:,} entries were moved"
    return False, f"{ending}; nothing is proven yet: use 'anykms migrate verify'.", []


def html_page(report: Report) -> str:
    """The page. It holds its style and script, runs no other, and may load and send nothing."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>anykms: migrate {_text(report.command)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#verdict">Skip to the verdict</a>
<header>
<h1>Migration: {_text(report.command)}</h1>
<p>anykms {_text(report.anykms)}, {_text(report.started)} to {_text(report.ended)}.</p>
</header>
<main>
{_verdict(report)}
{_facts(report)}
{_counts(report)}
{_keys(report)}
{_waiting(report)}
{_claims(report)}
{_calls(report)}
</main>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return files("anykms.migration").joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(text: str) -> str:
    """Text for HTML, with what hides or reorders made visible."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def _name(text: str) -> str:
    """A name from data, which no letter of it can mix with its surroundings."""
    return f"<bdi>{_text(text)}</bdi>"


def _verdict(report: Report) -> str:
    proven, sentence, missing = verdict(report)
    items = "".join(f"<li>{_text(text)}</li>" for text in missing)
    return (
        f'<section id="verdict" class="{"proven" if proven else "open"}" aria-label="Verdict">'
        f'<p><b aria-hidden="true">{"✓" if proven else "△"}</b> <strong>{_text(sentence)}</strong></p>'
        + (f"<p>What is missing:</p><ul>{items}</ul>" if items else "")
        + (
            "<p>In the targets below, as they were during its walk. It says nothing of other places, backups, "
            "old versions of objects, or what was written since.</p>"
            if proven
            else ""
        )
        + "</section>"
    )


def _facts(report: Report) -> str:
    walk = (
        "none" if report.walk_started is None else f"{report.walk_started} to {report.walk_ended or 'no end'}"
    )
    plain = {
        "ending": _ENDINGS[report.ending] + (f": {report.stopped_by}" if report.stopped_by else ""),
        "mode": report.mode,
        "walk": walk,
        "shard": report.shard,
        "saw every entry": "yes" if report.complete else "no",
        "verified": report.verified,
    }
    rows = "".join(f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in plain.items())
    states = {
        watch.key: f" ({watch.before or 'not asked'}, then {watch.after or 'not asked'})"
        for watch in report.watched
    }
    lists = {
        "targets": report.targets,
        "keys to leave": [key + states.get(key, "") for key in report.old_keys],
        "keys to go to": report.new_keys,
        "what to do": report.advice,
    }
    for name, values in lists.items():
        if values:
            rows += f"<dt>{name}</dt>" + "".join(f"<dd>{_name(value)}</dd>" for value in values)
    return f'<section aria-labelledby="facts"><h2 id="facts">What was done</h2><dl class="facts">{rows}</dl></section>'


def _counts(report: Report) -> str:
    counts = report.counts
    found: list[tuple[str, int]] = [
        ("opened" if (report.command, name) == ("verify", "already") else word, number)
        for name, word in _COUNTS
        if (number := int(getattr(counts, name))) or name in ("walked", "messages")
    ]
    found += [(f"reported: {reason}", number) for reason, number in counts.reported.items()]
    found += [(f"failed: {reason}", number) for reason, number in counts.failed.items()]
    whole = max(counts.walked, 1)
    others = ("gone meanwhile", "written by others meanwhile")  # no parts of what was walked
    rows = [
        (_text(word), f"{number:,}", "" if word in others else _bar(number, whole)) for word, number in found
    ]
    return _section("counts", "Entries", _table(("", "entries", "of all that was walked"), rows))


def _bar(part: int, whole: int, inner: int | None = None) -> str:
    """A bar of ``part`` in ``whole``, and within it ``inner``."""
    share = 100 * min(part / whole, 1.0)
    rects = f'<rect width="{share:.2f}" height="8" class="part"/>'
    if inner is not None:
        rects += f'<rect width="{100 * min(inner / whole, 1.0):.2f}" height="8" class="inner"/>'
    label = f"{share:.1f} %" if share in (0.0, 100.0) or share >= 0.05 else "under 0.1 %"
    return (
        f'<span class="bar"><svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f"{rects}</svg><span>{label}</span></span>"
    )


def _keys(report: Report) -> str:
    whole = max(report.counts.messages, 1)
    uses = sorted(report.keys, key=lambda use: (-use.entries, use.key))
    old = set(report.old_keys)

    def row(use: KeyUse) -> Sequence[str]:
        leaving = any(use.key == uri or use.key.startswith(f"{uri}/") for uri in old)
        mark = ' <em class="leaving">to leave</em>' if leaving else ""
        return (
            f"<code>{_name(use.key)}</code>{mark}",
            f"{use.entries:,}",
            f"{use.opened:,}",
            f"{use.bytes:,}",
            _bar(use.entries, whole, use.opened),
        )

    table = _table(("key", "entries", "opened", "bytes", "of all messages"), map(row, uses[:_ROWS]))
    left = len(uses[_ROWS:]) + report.left_out.get("keys", 0)
    return _section(
        "keys", "Keys in use", (table if uses else "<p>No key is named.</p>") + _left(left, "keys")
    )


def _waiting(report: Report) -> str:
    if not report.waiting:
        return _section("waiting", "Waiting for a decision", "<p>Nothing.</p>")
    reasons = sorted({entry.reason for entry in report.waiting})
    options = "".join(f'<option value="{_text(reason)}">{_text(reason)}</option>' for reason in reasons)
    rows = "".join(
        f'<tr data-reason="{_text(entry.reason)}"><th scope="row"><code>{_name(entry.id)}</code></th>'
        f'<td data-label="target">{_name(entry.target)}</td><td data-label="why">{_text(entry.state)}: '
        f'{_text(entry.reason)}</td><td data-label="what to do">{_text(entry.advice)}</td></tr>'
        for entry in report.waiting
    )
    number = len(report.waiting)
    form = f"""<form id="filter" role="search" aria-label="Filter the waiting entries">
<p><label for="words">Words <kbd>/</kbd></label><input type="search" id="words" autocomplete="off">
<label for="reason">Why</label><select id="reason"><option value="">all</option>{options}</select>
<output id="shown" aria-live="polite">{number} of {number}</output><button type="reset">Show all</button></p>
</form>"""
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("entry", "target", "why", "what to do"))
    table = f'<table class="cards" id="entries"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    nothing = '<p id="nothing" hidden>No entry fits.</p>'
    left = _left(report.left_out.get("waiting", 0), "entries")
    return _section("waiting", "Waiting for a decision", form + table + nothing + left)


def _claims(report: Report) -> str:
    claims = sorted(report.claims, key=lambda claim: -claim.entries)
    rows = [
        (
            _text(claim.kind) + (f" ({_text(claim.format)})" if claim.format else ""),
            "<br>".join(f"<code>{_name(key)}</code>" for key in claim.keys) or "-",
            _text(", ".join(claim.required)) or "-",
            f"{claim.entries:,}",
            f"{claim.bytes:,}",
        )
        for claim in claims[:_ROWS]
    ]
    table = _table(("what", "keys", "context to give", "entries", "bytes"), rows)
    left = len(claims[_ROWS:]) + report.left_out.get("claims", 0)
    body = f"<details><summary>Show {len(claims):,}</summary>{table}{_left(left, 'kinds')}</details>"
    return _section("claims", "What entries claim to be", body)


def _calls(report: Report) -> str:
    if not report.calls and report.estimate is None:
        return ""
    rows = [
        (
            _text(f"{call.provider} {call.kind}"),
            f"<code>{_name(call.key)}</code>",
            f"{call.calls:,}",
            "no limit known" if call.per_second is None else f"{call.per_second:g}",
        )
        for call in report.calls
    ]
    body = _table(("call", "key", "calls", "a second at most"), rows) if rows else ""
    if report.estimate is not None:
        estimate = report.estimate
        facts = "".join(
            f"<dt>hours at least, {_text(name)}</dt><dd>{hours:,.2f}</dd>"
            for name, hours in estimate.hours.items()
        )
        price = "not known" if estimate.usd is None else f"{estimate.usd:,.2f} USD"
        sources = "".join(f"<li>{_text(source)}</li>" for source in estimate.sources)
        body += (
            f'<dl class="facts">{facts}<dt>price</dt><dd>{price}</dd></dl><ul class="sources">{sources}</ul>'
        )
    title = "Calls, hours and price of a run" if report.command == "plan" else "Calls"
    return _section("calls", title, body)


def _section(name: str, title: str, body: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{body}</section>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{cell}</th>'
            if number == 0
            else f'<td data-label="{columns[number]}">{cell}</td>'
            for number, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<table class="cards"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _left(number: int, what: str) -> str:
    return f'<p class="left">{number:,} further {what} are not shown.</p>' if number else ""
