"""The report as its reader meets it: in a browser, by mouse and by keyboard, and in print."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import browser
from tests.report_files import Done, results_folder
from tests.runs import SLIDE_PX, slides_in
from wsi_mitosis.core.hotspots import HotspotShape
from wsi_mitosis.jobs.report import report

FIGURES = {"a9.tiff": 12, "a10.tiff": 30, "b.tiff": 4}
OTHERS = (
    {"slide": "broken.svs", "status": "failed", "error": "broken.svs: opening: no reader"},
    {"slide": "empty.svs", "status": "no_detections"},
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if browser.found() is None:
        pytest.skip("no Chromium with chromedriver is installed (Debian: chromium, chromium-driver)")
    folder = tmp_path_factory.mktemp("report")
    done = []
    for path in slides_in(folder / "slides", list(FIGURES)):
        places = np.random.default_rng(0).uniform((0, 0), SLIDE_PX, (FIGURES[path.name], 2))
        done.append(Done(path, [tuple(place) for place in places]))
    return report(results_folder(folder / "out", done, OTHERS, shape=HotspotShape(0.0018))).path


@pytest.fixture(scope="module")
def chromium(page: Path) -> Iterator[Any]:
    yield from browser.opened()


@pytest.fixture
def driver(chromium: Any, page: Path) -> Iterator[Any]:
    """The page, fresh; whatever a test does, its console stays silent and nothing is asked of anyone."""
    chromium.get("about:blank")
    browser.requests(chromium)
    chromium.get(page.as_uri())
    yield chromium
    assert [entry["message"] for entry in chromium.get_log("browser")] == []
    asked = [url.partition("#")[0] for url in browser.requests(chromium) if not url.startswith("data:")]
    assert asked == [page.as_uri()]


def shown(driver: Any) -> list[str]:
    """The slides of the table's rows that are seen, top to bottom."""
    rows = driver.find_elements("css selector", "#table tbody tr")
    return [row.find_element("css selector", "th").text for row in rows if row.is_displayed()]


def header(driver: Any, title: str) -> Any:
    return driver.find_element("xpath", f"//table[@id='table']//th[starts-with(., '{title}')]")


def test_it_is_sorted_by_any_column_both_ways(driver: Any) -> None:
    by_name = ["a9.tiff", "a10.tiff", "b.tiff", "broken.svs", "empty.svs"]
    assert shown(driver) == ["a10.tiff", "a9.tiff", *by_name[2:]]
    slide, figures = header(driver, "Slide"), header(driver, "Mitotic figures")
    slide.find_element("css selector", "button").click()
    assert shown(driver) == by_name[::-1]
    slide.find_element("css selector", "button").click()
    assert shown(driver) == by_name
    slide.find_element("css selector", "button").click()  # slides without a number are on top now
    figures.find_element("css selector", "button").send_keys("\ue007")  # the enter key
    assert shown(driver)[:3] == ["b.tiff", "a9.tiff", "a10.tiff"]
    assert figures.get_attribute("aria-sort") == "ascending"
    assert slide.get_attribute("aria-sort") is None
    figures.find_element("css selector", "button").click()
    # a slide without a number is last either way
    assert shown(driver) == ["a10.tiff", "a9.tiff", "b.tiff", "empty.svs", "broken.svs"]


def test_it_is_filtered_by_name_and_status(driver: Any) -> None:
    text = driver.find_element("id", "filter-text")
    text.send_keys("A1")
    assert shown(driver) == ["a10.tiff"]
    assert driver.find_element("id", "shown").text == "1 of 5 shown"
    sections = driver.find_elements("css selector", "section.slide")
    assert [section.is_displayed() for section in sections] == [True, False, False]
    text.send_keys("\ue003\ue003\ue007")  # backspace twice, enter: nothing is submitted
    driver.find_element("css selector", "#filter-status option[value=failed]").click()
    assert shown(driver) == ["broken.svs"]
    assert "no reader" in driver.find_element("css selector", "#table tbody").text
    driver.find_element("css selector", "#filter-status option[value='']").click()
    assert len(shown(driver)) == 5


def test_a_row_leads_to_its_slide_and_a_gallery_opens(driver: Any) -> None:
    row = driver.find_element("css selector", "tr[data-section=slide-2]")
    row.find_element("css selector", "td.number").click()
    assert driver.execute_script("return location.hash") == "#slide-2"
    section = driver.find_element("id", "slide-2")
    assert driver.switch_to.active_element == section
    gallery = section.find_element("css selector", "details.gallery")
    tiles = gallery.find_elements("css selector", "li")
    assert len(tiles) == FIGURES["a9.tiff"]
    assert not tiles[0].is_displayed()
    gallery.find_element("css selector", "summary").click()
    pictures = gallery.find_elements("css selector", "img")
    assert all(picture.is_displayed() for picture in pictures)
    driver.execute_script("arguments[0].scrollIntoView()", pictures[0])
    sizes = [
        driver.execute_script("return [arguments[0].naturalWidth, arguments[0].width]", p) for p in pictures
    ]
    assert sizes == [[128, 128]] * len(pictures)
    bar = driver.execute_script(
        "return getComputedStyle(arguments[0].parentElement, '::after').width", pictures[0]
    )
    assert bar == "40px"  # 10 um of 32 um in 128 px


def test_the_review_list_leads_into_the_folded_gallery(driver: Any) -> None:
    driver.find_element("css selector", "#slide-1 table.review a").click()
    tile = driver.find_element("id", "slide-1-1")
    assert tile.is_displayed()
    assert "#1" in tile.text
    assert driver.switch_to.active_element == tile


def test_figures_and_hotspot_are_drawn_in_two_colours_and_shapes(driver: Any) -> None:
    def style(selector: str, name: str) -> str:
        return str(
            driver.execute_script(
                "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name
            )
        )

    assert style(".glyph.atypical path", "stroke") == "rgb(220, 20, 60)"
    assert style(".glyph.typical circle", "stroke") == "rgb(0, 114, 178)"
    assert style(".hotspot rect:not(.halo)", "stroke") == "rgb(255, 140, 0)"
    assert 'url("#mark-atypical")' in style("#slide-1 .places.atypical", "markerStart")
    assert 'url("#mark-typical")' in style("#slide-1 .places.typical", "markerMid")
    picture = driver.find_element("css selector", "#slide-1 .overview image")
    assert picture.size["width"] > 400


def test_in_print_everything_is_unfolded_and_afterwards_as_before(driver: Any) -> None:
    unfolded = "return [...document.querySelectorAll('details')].filter(d => d.open).length"
    before = driver.execute_script(unfolded)
    count = "window.folded = document.querySelectorAll('details:not([open])').length"
    driver.execute_script(f"addEventListener('beforeprint', () => {{ {count} }})")
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")
    assert driver.execute_script("return window.folded") == 0
    assert driver.execute_script(unfolded) == before


@pytest.mark.parametrize("width", [1400, 900, 400])
def test_nothing_is_wider_than_the_window(driver: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_anyone_from_reading(driver: Any, scheme: str) -> None:
    """Rules of WCAG 2.1 that a program can check, such as names for screen readers and contrast."""
    axe = pytest.importorskip("axe_core_python")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for details in driver.find_elements("css selector", "details:not([open]) > summary"):
        details.click()
    driver.execute_cdp_cmd("Runtime.evaluate", {"expression": source})  # the page itself forbids scripts
    found = driver.execute_async_script("axe.run().then(arguments[0])")
    assert len(found["passes"]) > 20
    faults = {fault["id"]: fault["nodes"][0]["html"] for fault in found["violations"]}
    assert faults == {}


def test_every_control_is_reached_by_the_keyboard_and_shows_it(driver: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    wanted = driver.find_elements("css selector", "a[href], button, input, select, summary")
    wanted = [control for control in wanted if control.is_displayed()]
    reached = set()
    for _ in range(len(wanted) + 5):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        focused = driver.switch_to.active_element
        reached.add(focused.id)
        outline = "const s = getComputedStyle(arguments[0]); return s.outlineStyle + s.outlineWidth"
        assert driver.execute_script(outline, focused) not in {"none0px", "auto0px"}
    assert {control.id for control in wanted} <= reached
