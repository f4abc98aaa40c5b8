"""The report: what it counts, what it writes, and what a browser shows of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from anykms_contract import Contract
from anykms_contract.pages import html_page, markdown, summary, write_report
from anykms_contract.results import (
    Column,
    Failure,
    Outcome,
    Report,
    Status,
    build,
    from_json,
    known_clauses,
    schema,
    to_json,
)

ROOT: Final = Path(__file__).resolve().parent.parent
SCHEMA: Final = ROOT / "docs" / "contract-report.schema.json"
HOSTILE: Final = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'|`"
)
_SIGNS = "SigningContract.test_a_signature_verifies_everywhere"
_ROTATES = "LifecycleContract.test_rotation_makes_a_new_version_of_the_same_key"
_GONE = "LifecycleContract.test_a_destroyed_key_is_gone"


def example() -> Report:
    """Three providers, every status, and text that attacks the page."""
    ids = [clause.id for clause in known_clauses()]
    outcomes = [Outcome("local", clause, Status.PASSED, "one") for clause in ids]
    outcomes += [Outcome("cloud", clause, Status.PASSED) for clause in ids if clause != _GONE]
    failure = Failure("AssertionError", HOSTILE, "cloud", "sign", "cloud://k/1", ("req-0815", HOSTILE))
    outcomes += [
        Outcome("cloud", _SIGNS, Status.UNSUPPORTED, "Ed25519"),
        Outcome("cloud", _SIGNS, Status.FAILED, "ES256", failure=failure),
        Outcome("cloud", _ROTATES, Status.DEVIATION, reason=f"known since May {HOSTILE}"),
        Outcome("cloud", _GONE, Status.NOT_RUN, reason="needs a clock"),
        Outcome(HOSTILE, _SIGNS, Status.PASSED),
    ]
    return build(outcomes, [Column("local", "a keystore"), Column("cloud", HOSTILE), Column(HOSTILE)])


# The data


def test_every_status_is_counted() -> None:
    report = example()
    counts = report.counts["cloud"]
    assert (counts["failed"], counts["deviation"], counts["not_run"], counts["unsupported"]) == (1, 1, 1, 1)
    assert report.total(Status.FAILED) == 1
    assert report.unexplained == 0
    cell = report.cell(_SIGNS, "cloud")
    assert cell is not None
    assert (cell.status, cell.cases) == (Status.FAILED, 3)
    assert report.cell(_GONE, HOSTILE) is None
    assert "1 failed, 0 unexplained" in summary(report)


def test_the_last_outcome_of_a_case_counts() -> None:
    first = Outcome("cloud", _SIGNS, Status.FAILED, "ES256", failure=Failure("E", "e"))
    report = build([first, Outcome("cloud", _SIGNS, Status.PASSED, "ES256")], [Column("cloud")])
    assert (report.total(Status.FAILED), report.total(Status.PASSED)) == (0, 1)


def test_a_reason_left_out_is_unexplained() -> None:
    report = build([Outcome("cloud", _SIGNS, Status.DEVIATION, "ES256")], [Column("cloud")])
    assert report.unexplained == 1


def test_the_json_comes_back_and_has_the_published_schema() -> None:
    report = example()
    assert from_json(to_json(report)) == report
    assert json.loads(SCHEMA.read_text()) == json.loads(json.dumps(schema()))
    with pytest.raises(msgspec.ValidationError):
        from_json(b'{"format": 1}')


def test_the_markdown_lets_no_text_out_of_its_cell() -> None:
    page = markdown(example())
    assert "<script" not in page
    assert "<img" not in page
    widths = {line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("| C")}
    assert len(widths) == 1


def test_the_page_is_one_file_that_loads_nothing() -> None:
    page = html_page(example())
    assert "default-src &#x27;none&#x27;" in page
    for way_out in ("http:", "https:", "<link", "<img", "@import", "url(", "<iframe", " src=", "fetch("):
        assert way_out not in page.replace("&lt;img src=x", "")


def test_the_projects_own_page_holds_every_clause() -> None:
    report = from_json((ROOT / "docs" / "conformance.json").read_bytes())
    assert {clause.id for clause in report.clauses} == {clause.id for clause in known_clauses()}
    assert {"local", "aws", "moto"} <= {column.label for column in report.providers}
    assert report.total(Status.FAILED) == 0
    assert report.unexplained == 0
    local = {cell.clause: cell.cases for cell in report.cells if cell.provider == "local"}
    assert set(local) == {clause.id for clause in known_clauses()}
    contracts = [c for c in Contract.__subclasses__() if c.__module__.startswith("anykms_contract.")]
    for contract in contracts:
        for clause in contract.clauses():
            cases = sum(name.startswith(f"{clause}[") for name in contract.cases())
            assert local[f"{contract.__name__}.{clause}"] == max(cases, 1), (
                f"{clause}: make docs/conformance.* anew"
            )


# The browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    _, _, path = write_report(example(), tmp_path_factory.mktemp("page") / "conformance")
    return path.as_uri()


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


def _look(browser: webdriver.Chrome, page: str, width: int = 1280, *, dark: bool = False) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    _command(browser, "Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    _command(browser, "Emulation.setEmulatedMedia", {"media": "screen", "features": [scheme]})
    browser.get(page)


def _rows(browser: webdriver.Chrome) -> set[str]:
    rows = browser.find_elements(By.CSS_SELECTOR, "tr[data-clause]")
    return {str(row.get_attribute("data-clause")) for row in rows if row.is_displayed()}


def _script(browser: webdriver.Chrome, script: str) -> Any:
    return browser.execute_script(script)  # pyright: ignore[reportUnknownMemberType] # untyped there


def _command(browser: webdriver.Chrome, name: str, arguments: dict[str, Any]) -> None:
    browser.execute_cdp_cmd(name, arguments)  # pyright: ignore[reportUnknownMemberType] # untyped there


def _tick(browser: webdriver.Chrome, name: str, value: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f"input[name={name}][value='{value}']").click()


def test_every_clause_is_shown_and_nothing_of_the_data_runs(browser: webdriver.Chrome, page: str) -> None:
    _look(browser, page)
    assert _rows(browser) == {clause.id for clause in known_clauses()}
    assert browser.title == "anykms: conformance"
    assert [entry["message"] for entry in browser.get_log("browser")] == []  # type: ignore[no-untyped-call] # untyped there
    row = browser.find_element(By.CSS_SELECTOR, f"tr[data-clause='{_SIGNS}']")
    assert "1 failed" in row.text
    row.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert "req-0815" in row.text
    assert "</script><script>" in row.text
    rotated = browser.find_element(By.CSS_SELECTOR, f"tr[data-clause='{_ROTATES}']")
    rotated.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert "known since May" in rotated.text


def test_outcomes_providers_groups_and_words_filter(browser: webdriver.Chrome, page: str) -> None:
    _look(browser, page)
    _tick(browser, "status", "passed")
    assert _rows(browser) == {_SIGNS, _ROTATES, _GONE}
    assert browser.find_element(By.ID, "shown").text.startswith("3 of ")
    for status in ("unsupported", "not_run", "deviation"):
        _tick(browser, "status", status)
    assert _rows(browser) == {_SIGNS}
    _tick(browser, "provider", "1")
    assert _rows(browser) == set()
    assert browser.find_element(By.ID, "nothing").is_displayed()
    browser.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    every = f"{len(known_clauses())} of {len(known_clauses())} clauses"
    WebDriverWait(browser, 30).until(lambda _: browser.find_element(By.ID, "shown").text == every)
    assert len(_rows(browser)) == len(known_clauses())
    Select(browser.find_element(By.ID, "group")).select_by_visible_text("Lifecycle")
    assert {clause.partition(".")[0] for clause in _rows(browser)} == {"LifecycleContract"}
    browser.find_element(By.ID, "words").send_keys("C3.11 version")
    assert _ROTATES in _rows(browser)
    assert _GONE not in _rows(browser)


def test_the_keyboard_is_enough(browser: webdriver.Chrome, page: str) -> None:
    _look(browser, page)
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys("/")
    assert browser.switch_to.active_element.get_attribute("id") == "words"
    assert browser.switch_to.active_element.get_attribute("value") == ""
    browser.switch_to.active_element.send_keys("everywhere")
    assert _rows(browser) == {_SIGNS}
    for _ in range(40):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.switch_to.active_element.tag_name == "summary":
            break
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert "req-0815" in browser.find_element(By.CSS_SELECTOR, f"tr[data-clause='{_SIGNS}']").text


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_read(browser: webdriver.Chrome, page: str, width: int, dark: bool) -> None:
    _look(browser, page, width, dark=dark)
    assert _script(browser, "return document.documentElement.scrollWidth") <= width
    shades = _script(browser, _CONTRASTS)
    assert len(shades) > 5
    assert min(shades.values()) >= 4.5, shades  # WCAG 2.2, 1.4.3
    if width == 360:
        cell = browser.find_element(By.CSS_SELECTOR, f"tr[data-clause='{_SIGNS}'] td[data-provider='1']")
        label = _script(
            browser, "return getComputedStyle(document.querySelector('.matrix td'), '::before').content"
        )
        assert label == '"local"'
        assert cell.is_displayed()


def test_it_can_be_printed(browser: webdriver.Chrome, page: str) -> None:
    _look(browser, page)
    _command(browser, "Emulation.setEmulatedMedia", {"media": "print"})
    assert not browser.find_element(By.ID, "filters").is_displayed()
    assert len(_rows(browser)) == len(known_clauses())
    _script(browser, "dispatchEvent(new Event('beforeprint'))")
    assert "req-0815" in browser.find_element(By.CSS_SELECTOR, f"tr[data-clause='{_SIGNS}']").text
    _script(browser, "dispatchEvent(new Event('afterprint'))")
    _command(browser, "Emulation.setEmulatedMedia", {"media": "screen"})


_CONTRASTS: Final = """
const light = (color) => {
  const parts = color.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const behind = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color;
  }
  return "rgb(255, 255, 255)";
};
const found = {};
for (const node of document.querySelectorAll("h1, header p, td span, th, summary, output, label, dd, dt, td")) {
  if (!node.textContent.trim() || node.offsetParent === null) continue;
  const pair = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
  found[`${node.tagName}.${node.className}`] = (pair[0] + 0.05) / (pair[1] + 0.05);
}
return found;
"""
