"""The report of a migration as a page: what it says first, and that nothing of the data runs in a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from anykms.migration.pages import html_page, verdict
from anykms.migration.reports import (
    FORMAT,
    CallUse,
    ClaimUse,
    Counts,
    Estimate,
    KeyUse,
    KeyWatch,
    Report,
    Waiting,
)

HOSTILE: Final = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "'|`\u202e&amp;"
)
OLD, NEW = "local://aaaaaaaaaaaaaaaaaaaaaaaaaa/old", "local://aaaaaaaaaaaaaaaaaaaaaaaaaa/new"
replace = msgspec.structs.replace


def proof() -> Report:
    """A proof without a flaw."""
    return Report(
        format=FORMAT,
        anykms="0.1.0",
        command="verify",
        ending="done",
        mode="replace",
        targets=["s3://archive/"],
        old_keys=[OLD],
        new_keys=[NEW],
        started="2026-01-01T00:00:00.000Z",
        ended="2026-01-01T01:00:00.000Z",
        walk_started="2026-01-01T00:00:00.000Z",
        walk_ended="2026-01-01T01:00:00.000Z",
        shard="1/1",
        complete=True,
        verified="headers",
        counts=Counts(walked=3000, messages=3000, already=3000),
        keys=[KeyUse(f"{NEW}/1", 3000, 9000, 3000)],
        claims=[ClaimUse("message", "anykms", [f"{NEW}/1"], [], 3000, 9000)],
        watched=[KeyWatch(OLD, "DISABLED", "DISABLED")],
        calls=[CallUse("local", "unwrap", "A256GCM", 3000, None)],
        estimate=None,
        waiting=[],
        left_out={"keys": 0, "claims": 0, "waiting": 0},
        stopped_by=None,
        advice=[],
    )


def hostile() -> Report:
    """A plan in which every text that comes from outside attacks the page."""
    waiting = [
        Waiting("s3://archive/", HOSTILE, "reported", "damaged", "restore it from a backup"),
        Waiting(HOSTILE, "cards/7", "reported", "context_missing", "give the values"),
        Waiting("s3://archive/", "cards/8", "failed", HOSTILE, HOSTILE),
    ]
    return replace(
        proof(),
        command="plan",
        ending="stopped",
        verified="no",
        targets=[HOSTILE],
        old_keys=[OLD],
        counts=Counts(
            walked=1003,
            messages=1000,
            todo=1000,
            reported={HOSTILE: 2},
            failed={HOSTILE: 1},
            with_old_key=900,
        ),
        keys=[KeyUse(f"{OLD}/1", 900, 9000, 0), KeyUse(HOSTILE, 100, 10, 0)],
        claims=[ClaimUse("message", HOSTILE, [HOSTILE], [HOSTILE], 1000, 10)],
        calls=[CallUse(HOSTILE, HOSTILE, HOSTILE, 1000, 500.0)],
        estimate=Estimate({HOSTILE: 12.5}, 12.5, 3.0, [HOSTILE]),
        waiting=waiting,
        left_out={"keys": 4, "claims": 0, "waiting": 12},
        stopped_by=HOSTILE,
        advice=[HOSTILE],
    )


# What it says


def test_the_sentence_stands_only_where_it_is_proven() -> None:
    assert verdict(proof()) == (True, "Nothing needs the old keys.", [])
    assert "Nothing needs the old keys." in html_page(proof())
    changes: list[dict[str, Any]] = [
        {"complete": False},
        {"verified": "no"},
        {"old_keys": []},
        {"shard": "1/4", "complete": False},
        {"left_out": {"keys": 1, "claims": 0}},
        {"watched": [KeyWatch(OLD, "ENABLED", "ENABLED")]},
        {"counts": replace(proof().counts, nothing=1, already=2999)},
        {"counts": replace(proof().counts, failed={"OSError": 1}, already=2999)},
        {"counts": replace(proof().counts, with_old_key=1)},
        {"stopped_by": "it was asked to"},
        {"command": "run", "verified": "no"},
        {"command": "rollback", "verified": "no"},
    ]
    for change in changes:
        report = replace(proof(), **change)
        proven, sentence, missing = verdict(report)
        assert not proven
        assert "Nothing needs the old keys." not in html_page(report)
        assert sentence
        assert missing or report.command in ("run", "rollback")


def test_the_page_is_one_file_that_loads_nothing() -> None:
    page = html_page(hostile())
    assert "default-src &#x27;none&#x27;" in page
    for way_out in (
        "http:",
        "https:",
        "<link",
        "<img",
        "@import",
        "url(",
        "<iframe",
        " src=",
        "fetch(",
        " style=",
    ):
        assert way_out not in page.replace("&lt;img src=x", "")
    assert page.count("<script>") == 1
    assert "\u202e" not in page
    assert "\\u202e" in page


def test_what_has_no_room_is_said() -> None:
    many = [KeyUse(f"{NEW}{number}", 1, 1, 1) for number in range(600)]
    page = html_page(replace(hostile(), keys=many))
    assert "104 further keys are not shown." in page
    assert "12 further entries are not shown." in page


def test_names_that_are_no_unicode_do_not_break_it() -> None:
    report = replace(hostile(), waiting=[Waiting("file:///m", "\udce9raw", "reported", "damaged", "")])
    assert b"\\udce9raw" in html_page(report).encode()


# The browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("page")
    found: dict[str, str] = {}
    for name, report in (("proof", proof()), ("hostile", hostile())):
        path = folder / f"{name}.html"
        path.write_text(html_page(report))
        found[name] = path.as_uri()
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing = "the browser test was not run: install Debian's chromium and chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-first-run",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


def _command(browser: webdriver.Chrome, name: str, arguments: dict[str, Any]) -> None:
    browser.execute_cdp_cmd(name, arguments)  # pyright: ignore[reportUnknownMemberType] # untyped there


def _script(browser: webdriver.Chrome, script: str) -> Any:
    return browser.execute_script(script)  # pyright: ignore[reportUnknownMemberType] # untyped there


def _look(
    browser: webdriver.Chrome, page: str, width: int = 1280, *, dark: bool = False, media: str = "screen"
) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    _command(browser, "Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    _command(browser, "Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})
    browser.get(page)


def _rows(browser: webdriver.Chrome) -> list[WebElement]:
    rows = browser.find_elements(By.CSS_SELECTOR, "#entries tbody tr")
    return [row for row in rows if row.is_displayed()]


def test_nothing_of_the_data_runs(browser: webdriver.Chrome, pages: dict[str, str]) -> None:
    _look(browser, pages["hostile"])
    assert browser.title == "anykms: migrate plan"
    assert [entry["message"] for entry in browser.get_log("browser")] == []  # type: ignore[no-untyped-call] # untyped there
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert "</script><script>" in _rows(browser)[0].text
    assert "A run would move 1,000 entries" in browser.find_element(By.ID, "verdict").text


def test_the_waiting_entries_are_filtered_by_keyboard(
    browser: webdriver.Chrome, pages: dict[str, str]
) -> None:
    _look(browser, pages["hostile"])
    assert len(_rows(browser)) == 3
    browser.find_element(By.TAG_NAME, "body").send_keys("/")
    words = browser.switch_to.active_element
    assert words.get_attribute("id") == "words"
    words.send_keys("cards")
    assert len(_rows(browser)) == 2
    assert browser.find_element(By.ID, "shown").text == "2 of 3"
    words.send_keys(" nowhere")
    assert _rows(browser) == []
    assert browser.find_element(By.ID, "nothing").is_displayed()
    words.clear()
    Select(browser.find_element(By.ID, "reason")).select_by_visible_text("damaged")
    assert len(_rows(browser)) == 1
    browser.find_element(By.CSS_SELECTOR, "summary").send_keys(Keys.ENTER)
    assert browser.find_element(By.CSS_SELECTOR, "details table").is_displayed()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_every_width(browser: webdriver.Chrome, pages: dict[str, str], width: int) -> None:
    for page in pages.values():
        _look(browser, page, width)
        _script(browser, "document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert _script(browser, "return document.documentElement.scrollWidth") <= width


def test_bars_are_drawn_and_both_themes_differ(browser: webdriver.Chrome, pages: dict[str, str]) -> None:
    colours: set[tuple[str, ...]] = set()
    for dark in (False, True):
        _look(browser, pages["hostile"], dark=dark)
        style = "const style = getComputedStyle(document.body);"
        colours.add(tuple(_script(browser, f"{style} return [style.color, style.backgroundColor]")))
        bars = "[...document.querySelectorAll('#keys ~ table .part')]"
        widths = _script(browser, f"return {bars}.map((bar) => bar.getBoundingClientRect().width)")
        assert widths[0] > 5 * widths[1] > 0
    assert len(colours) == 2


def test_the_text_stands_out_from_its_ground(browser: webdriver.Chrome, pages: dict[str, str]) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, in both themes."""
    script = """
      const light = (colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
          .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
      };
      const ground = (node) => {
        for (; node; node = node.parentElement) {
          const colour = getComputedStyle(node).backgroundColor;
          if (!/, 0\\)$/.test(colour)) return colour;
        }
        return "rgb(255, 255, 255)";
      };
      return Math.min(...[...document.querySelectorAll("h1, h2, p, li, dt, dd, th, td, code, em, span, summary")]
        .map((node) => [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a))
        .map(([high, low]) => (high + 0.05) / (low + 0.05)));
    """
    for page in pages.values():
        for dark in (False, True):
            _look(browser, page, dark=dark)
            assert _script(browser, script) >= 4.5


def test_it_prints_without_its_controls(browser: webdriver.Chrome, pages: dict[str, str]) -> None:
    _look(browser, pages["hostile"], media="print")
    assert not browser.find_element(By.ID, "filter").is_displayed()
    assert len(_rows(browser)) == 3
    _script(browser, "dispatchEvent(new Event('beforeprint'))")
    assert browser.find_element(By.CSS_SELECTOR, "details table").is_displayed()
    _script(browser, "dispatchEvent(new Event('afterprint'))")
    assert browser.find_element(By.TAG_NAME, "details").get_attribute("open") is None
