"""The review page as a pathologist meets it: in a browser, by keys, by mouse and by touch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests import browser
from tests.report_files import Done, results_folder
from tests.runs import SLIDE_PX, slides_in
from wsi_mitosis.core.review_files import Design, ReviewFile
from wsi_mitosis.jobs.recount import recount
from wsi_mitosis.jobs.review import review

FIGURES = {"a.tiff": 25, "b.tiff": 15}
LABELS = ("atypical", "typical", "none", "unsure")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if browser.found() is None:
        pytest.skip("no Chromium with chromedriver is installed (Debian: chromium, chromium-driver)")
    folder = tmp_path_factory.mktemp("review")
    done = []
    for path in slides_in(folder / "slides", list(FIGURES)):
        places = np.random.default_rng(0).uniform((0, 0), SLIDE_PX, (FIGURES[path.name], 2))
        done.append(Done(path, [tuple(place) for place in places]))
    return results_folder(folder / "out", done)


@pytest.fixture(scope="module")
def pages(results: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a named reviewer, one that asks for the name, and a blind one."""
    folder, made = tmp_path_factory.mktemp("pages"), {}
    designs = {"named": Design(), "asking": Design(), "blind": Design(order="random", blind=True)}
    for name, design in designs.items():
        (page,) = review(results, design, reviewer=None if name == "asking" else "anna").paths
        made[name] = page.rename(folder / f"{name}.html")
    return made


@pytest.fixture(scope="module")
def chromium(results: Path) -> Iterator[Any]:
    yield from browser.opened()


class Reader:
    """Somebody in front of the page."""

    def __init__(self, driver: Any, page: Path, downloads: Path) -> None:
        self.driver, self.page, self.downloads = driver, page, downloads
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
        )
        self.open()

    def open(self) -> None:
        self.driver.get(self.page.as_uri())

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def text(self, name: str) -> str:
        text: str = self.driver.find_element("id", name).text
        return text

    @property
    def position(self) -> str:
        return self.text("position")

    @property
    def pressed(self) -> list[str]:
        """The verdict that the page shows of the present figure."""
        buttons = self.driver.find_elements("css selector", ".verdict[aria-pressed='true']")
        return [button.get_attribute("data-label") for button in buttons]

    def saved(self, name: str) -> ReviewFile:
        """Save by the key, and read the file. A browser on a busy machine may drop a download."""
        path = self.downloads / name
        path.unlink(missing_ok=True)
        for _ in range(3):
            self.press("s")
            until = monotonic() + 10
            while not path.exists() and monotonic() < until:
                sleep(0.05)
            if path.exists():
                break
        return ReviewFile.parse(json.loads(path.read_text(encoding="utf-8")), name)


@pytest.fixture
def reader(chromium: Any, pages: dict[str, Path], tmp_path: Path) -> Iterator[Reader]:
    """A fresh browser; whatever a test does, its console stays silent and nothing is asked of anyone."""
    chromium.get(pages["named"].as_uri())
    chromium.execute_script("localStorage.clear()")
    browser.requests(chromium)
    chromium.get_log("browser")
    yield Reader(chromium, pages["named"], tmp_path)
    assert [entry["message"] for entry in chromium.get_log("browser")] == []
    asked = {url for url in browser.requests(chromium) if not url.startswith(("data:", "blob:"))}
    assert asked <= {page.as_uri() for page in pages.values()}


def test_forty_figures_are_reviewed_by_keys_and_counted(reader: Reader, results: Path) -> None:
    """Labelled, reloaded in the middle, undone, saved and recounted; the counts are worked out by hand."""
    from selenium.webdriver.common.keys import Keys

    assert reader.position == "Figure 1 of 40; 0 decided"
    reader.press(*"atnu" * 5)
    reader.open()
    assert reader.position == "Figure 21 of 40; 20 decided"
    assert reader.text("status") == "20 verdicts of anna were found in this browser."
    reader.press("a", "z")
    assert reader.position == "Figure 21 of 40; 20 decided"
    assert reader.text("status") == "Undone: figure 21 is not decided."
    reader.press("t", Keys.BACKSPACE, *"1234" * 4, *"aat")
    assert reader.position == "Figure 40 of 40; 39 decided"
    reader.press("n")
    assert reader.text("status").endswith("All 40 figures are decided. Save the review.")
    file = reader.saved("review-anna.json")
    given = [*LABELS * 9, "atypical", "atypical", "typical", "none"]
    assert [figure.label for figure in file.figures] == given
    assert all(figure.at and figure.seconds is not None for figure in file.figures)

    counted = recount(results, reader.downloads / "review-anna.json")
    machine = pd.read_csv(results / "review.csv").set_index(["slide", "figure_id"])["label"]
    final = [
        machine[figure.slide, figure.figure_id] if figure.label == "unsure" else figure.label
        for figure in file.figures
    ]
    assert sum(row["atypical"] for row in counted.rows) == final.count("atypical")
    assert sum(row["typical"] for row in counted.rows) == final.count("typical")


def test_a_verdict_is_changed_and_undone_where_it_was(reader: Reader) -> None:
    from selenium.webdriver.common.keys import Keys

    reader.press("a", "a", Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert (reader.position, reader.pressed) == ("Figure 1 of 40; 2 decided", ["atypical"])
    reader.press("n")
    assert reader.position == "Figure 3 of 40; 2 decided"
    reader.press("z")
    assert (reader.position, reader.pressed) == ("Figure 1 of 40; 2 decided", ["atypical"])
    reader.press("z", "z", "z")
    assert reader.text("status") == "There is nothing to undo."
    assert reader.saved("review-anna.json").decided == ()


def test_keys_lead_through_the_figures(reader: Reader) -> None:
    from selenium.webdriver.common.keys import Keys

    reader.press(Keys.END)
    assert reader.position.startswith("Figure 40")
    reader.press(Keys.ARROW_RIGHT, "t")
    assert reader.position.startswith("Figure 1 ")
    reader.press(Keys.ARROW_RIGHT, "a", Keys.HOME, "a")
    assert reader.position.startswith("Figure 3 ")
    reader.press("g")
    assert reader.position.startswith("Figure 4 ")


def test_a_note_is_written_without_giving_verdicts(reader: Reader) -> None:
    from selenium.webdriver.common.keys import Keys

    reader.press("e", *"a tangent", Keys.ESCAPE, "t", "e", "n", Keys.ESCAPE)
    file = reader.saved("review-anna.json")
    assert [(figure.label, figure.note) for figure in file.figures[:2]] == [
        ("typical", "a tangent"),
        (None, "n"),
    ]


def test_the_wider_view_and_the_marks_are_shown_on_a_key(reader: Reader) -> None:
    find = reader.driver.find_element
    close = find("id", "crop").get_attribute("src")
    reader.press("w")
    assert find("id", "crop").get_attribute("src") != close
    assert find("id", "drawing").get_dom_attribute("viewBox") == "-128 -128 256 256"
    drawn = len(reader.driver.find_elements("css selector", "#drawing > *"))
    reader.press("m")
    assert find("css selector", "#drawing text").text == "50 µm"
    assert len(reader.driver.find_elements("css selector", "#drawing > *")) == 3 < drawn
    reader.press("w")
    assert find("id", "crop").get_attribute("src") == close


def test_a_saved_review_is_loaded_into_an_empty_browser(reader: Reader) -> None:
    reader.press(*"atn")
    saved = reader.saved("review-anna.json")
    reader.driver.execute_script("localStorage.clear()")
    reader.open()
    assert reader.position == "Figure 1 of 40; 0 decided"
    load = reader.driver.find_element("id", "load")
    load.send_keys(str(reader.downloads / "review-anna.json"))
    until = monotonic() + 10
    while not reader.text("status") and monotonic() < until:
        sleep(0.05)
    assert reader.text("status") == "review-anna.json: 3 verdicts taken."
    assert reader.saved("review-anna.json").decided == saved.decided


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run": "0" * 64}, "it is of other results"),
        ({"reviewer": "bert"}, "its reviewer is bert"),
        ({"is": "a poem"}, "it is no review of wsi-mitosis"),
    ],
)
def test_another_file_is_not_loaded(reader: Reader, change: dict[str, str], reason: str) -> None:
    data = reader.saved("review-anna.json").as_data() | change
    other = reader.downloads / "other.json"
    other.write_text(json.dumps(data))
    reader.driver.find_element("id", "load").send_keys(str(other))
    until = monotonic() + 10
    while "other.json" not in reader.text("status") and monotonic() < until:
        sleep(0.05)
    assert reader.text("status") == f"other.json was not loaded: {reason}."


def test_buttons_do_what_keys_do(reader: Reader) -> None:
    click = lambda name: reader.driver.find_element("css selector", name).click()  # noqa: E731
    click("[data-label='none']")
    click("#back")
    assert reader.pressed == ["none"]
    click("#undo")
    assert (reader.position, reader.pressed) == ("Figure 1 of 40; 0 decided", [])


def test_the_page_asks_for_a_name_and_keeps_readers_apart(reader: Reader, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    reader.page = pages["asking"]
    reader.open()
    reader.press("a")  # goes into the field, where the name is typed
    reader.press(Keys.BACKSPACE, *"bert", Keys.ENTER)
    assert reader.text("reviewer") == "bert"
    reader.press("t")
    assert reader.saved("review-bert.json").decided[0].label == "typical"
    reader.open()
    reader.press(*"cleo", Keys.ENTER)
    assert reader.position == "Figure 1 of 40; 0 decided"


def test_a_blind_page_shows_no_label(reader: Reader, pages: dict[str, Path]) -> None:
    reader.page = pages["blind"]
    reader.open()
    assert "Ensemble" not in reader.text("says")
    reader.press("w")
    kinds = reader.driver.find_elements("css selector", "#drawing .atypical, #drawing .typical")
    assert kinds == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_anyone_from_reviewing(reader: Reader, scheme: str) -> None:
    """Rules of WCAG 2.1 that a program can check, such as names for screen readers and contrast."""
    axe = pytest.importorskip("axe_core_python")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    reader.press("a", "?")
    reader.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": source})  # the page forbids scripts
    found = reader.driver.execute_async_script("axe.run().then(arguments[0])")
    assert len(found["passes"]) > 15
    faults = {fault["id"]: fault["nodes"][0]["html"] for fault in found["violations"]}
    assert faults == {}


def test_every_control_is_reached_by_the_keyboard_and_shows_it(reader: Reader) -> None:
    from selenium.webdriver.common.keys import Keys

    driver = reader.driver
    wanted = driver.find_elements("css selector", "button:enabled, input, textarea, summary")
    wanted = [control for control in wanted if control.size["width"] and control.is_enabled()]
    wanted = [
        control
        for control in wanted
        if driver.execute_script("return !arguments[0].closest('[hidden]')", control)
    ]
    reached = set()
    for _ in range(len(wanted) + 5):
        reader.press(Keys.TAB)
        reached.add(driver.switch_to.active_element.id)
    assert {control.id for control in wanted} <= reached


@pytest.mark.parametrize("size", [(1366, 768), (820, 1180)])
def test_all_verdicts_are_seen_without_scrolling(reader: Reader, size: tuple[int, int]) -> None:
    """On a laptop, and on a tablet held upright."""
    reader.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        for name in ("#picture", *(f"[data-label='{label}']" for label in LABELS)):
            box = reader.driver.find_element("css selector", name).rect
            assert box["y"] + box["height"] <= size[1]
            assert box["x"] + box["width"] <= size[0]
    finally:
        reader.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
