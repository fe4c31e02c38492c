"""The pages in a real browser: no errors, no network, charts, tabs, tables, both modes, phone width, accessibility."""

import shutil

import pytest

from tfopt.evaluate.page.comparison import Candidate, comparison_page
from tfopt.evaluate.page.single import report_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: install chromium, or run `playwright install chromium` ({str(error)[:80]})")
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Return a function that opens a page; at the end, nothing was logged, requested or run by a name."""
    said, pages = [], []

    def opened(html, **settings):
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(**{"viewport": DESKTOP, **settings})
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(file.as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        assert page.evaluate("window.evil") is None
    assert said == []


def draw_all(page):
    """Scroll through the page, so that it draws every chart that is not behind a tab."""
    for plot in page.locator(".plot:visible").all():
        plot.scroll_into_view_if_needed()
        plot.locator("svg").first.wait_for()
    assert page.locator(".plot[data-state=failed]").count() == 0


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_all_charts_are_drawn_and_nothing_sticks_out(visit, full_report, mode, viewport):
    page = visit(report_page(full_report()), color_scheme=mode, viewport=viewport)
    draw_all(page)
    assert page.locator(".plot svg.marks").count() >= 7
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(245, 246, 248)", "dark": "rgb(14, 17, 22)"}[mode]


def test_the_button_switches_the_mode_and_the_charts_follow(visit, full_report):
    page = visit(report_page(full_report()), color_scheme="light")
    draw_all(page)
    label = page.locator("#steps .plot:visible svg text").first
    before = label.evaluate("it => it.getAttribute('fill')")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.wait_for_function(
        "before => document.querySelector('#steps .plot svg text').getAttribute('fill') !== before", arg=before
    )
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_chart_behind_a_tab_is_drawn_again_after_the_mode_was_switched(visit, full_report):
    page = visit(report_page(full_report()), color_scheme="light")
    tabs = page.get_by_role("tablist", name="Training curves").get_by_role("tab")
    draw_all(page)
    first = page.get_by_role("tabpanel", name="Accuracy").locator("svg.marks").first
    width = first.bounding_box()["width"]
    tabs.nth(1).click()
    page.get_by_role("tabpanel", name="Loss").locator("svg.marks").first.wait_for()
    page.get_by_role("button", name="Switch between light and dark").click()
    tabs.nth(0).click()
    first.wait_for()
    assert first.bounding_box()["width"] == width > 100


def test_tabs_by_mouse_and_by_keys(visit, full_report):
    page = visit(report_page(full_report()))
    tabs = page.get_by_role("tablist", name="Training curves").get_by_role("tab")
    assert [tab.inner_text() for tab in tabs.all()] == ["Accuracy", "Loss"]
    panel = page.get_by_role("tabpanel", name="Loss")
    assert not panel.is_visible()
    tabs.nth(1).click()
    panel.locator("svg").first.wait_for()
    page.keyboard.press("ArrowRight")  # around
    assert tabs.nth(0).get_attribute("aria-selected") == "true" and not panel.is_visible()
    assert tabs.nth(0).evaluate("it => it === document.activeElement")


def test_the_pointer_shows_names_as_text(visit, full_report):
    page = visit(report_page(full_report()))
    draw_all(page)
    page.locator("#layers .plot .mark-rect path").first.hover()
    tip = page.locator("#vg-tooltip-element")
    tip.get_by_text("CONV_2D").wait_for()
    assert "</script><script>" in tip.inner_text()


def test_tables_sort_by_number(visit, full_report):
    page = visit(report_page(full_report("plain")))
    table = page.get_by_role("table", name="Steps of the run")
    names = table.locator("tbody th")
    assert names.all_inner_texts() == ["original", "Prune", "exported int8"]
    table.get_by_role("button", name="Accuracy").click()
    assert names.all_inner_texts() == ["Prune", "exported int8", "original"]
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("Accuracy")


def test_charts_have_their_data_as_tables(visit, full_report):
    page = visit(report_page(full_report("plain")))
    figure = page.locator("#calibration figure").first
    figure.get_by_text("Data").click()
    figure.locator("tbody tr").first.wait_for()  # rows come with the chart
    assert figure.locator("tbody tr").count() == 2
    assert page.get_by_role("img", name="Reliability diagram").count() == 1


def test_a_comparison_shows_what_differs(visit, full_report):
    first = full_report("one")
    page = visit(comparison_page([Candidate("a", first), Candidate("b", full_report())]))
    draw_all(page)
    rows = page.locator("#settings tr:visible")
    few = rows.count()
    page.get_by_label("Only settings that differ").uncheck()
    assert rows.count() > few


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_nothing_serious_for_axe(visit, full_report, mode):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    for html in (
        report_page(full_report("plain")),
        report_page(full_report("plain", ok=False, verdict="Prune ended the run.")),
        report_page(full_report("plain", verdict="Too few samples.")),
        comparison_page([Candidate("a", full_report("plain")), Candidate("b", full_report("plain"), "b/report.html")]),
    ):
        page = visit(html, color_scheme=mode)
        draw_all(page)
        for summary in page.locator("summary:visible").all():
            summary.click()
        found = axe.Axe().run(page).response["violations"]
        serious = [rule for rule in found if rule["impact"] in ("serious", "critical")]
        assert serious == [], [(rule["id"], [node["html"][:120] for node in rule["nodes"]][:3]) for rule in serious]
