"""The control charts as their reader meets them: in a browser, light and dark, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import browser
from tests.trend_files import laboratory, made_at, write_nights
from wsi_mitosis.jobs.trend import draw_trend


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles, a shift, a slide of few figures: everything that a page can have."""
    if browser.found() is None:
        pytest.skip("no Chromium with chromedriver is installed (Debian: chromium, chromium-driver)")
    nights = laboratory(32, per_night=2, shift_at=21)
    nights[5] = replace(nights[5], figures=5, atypical=1, disagreeing=0, excluded=0)
    nights += [
        replace(one, digest="e" * 64, made=made_at(50 + index), name=f"x{one.name}")
        for index, one in enumerate(laboratory(3))
    ]
    folder = write_nights(tmp_path_factory.mktemp("trend") / "out", nights)
    return draw_trend([folder], timezone="UTC").path


@pytest.fixture(scope="module")
def chromium(page: Path) -> Iterator[Any]:
    yield from browser.opened()


def test_everybody_can_read_it_and_it_asks_for_nothing(chromium: Any, page: Path) -> None:
    """Rules of WCAG 2.1 that a program can check, in both schemes; console and network stay silent."""
    axe = pytest.importorskip("axe_core_python")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    chromium.get("about:blank")
    browser.requests(chromium)
    chromium.get(page.as_uri())
    assert len(chromium.find_elements("css selector", "figure svg[role=img]")) == 6
    for kind in ("inside", "outside-mark", "run", "unjudged"):
        assert chromium.find_elements("css selector", f"figure .{kind}"), kind
    for summary in chromium.find_elements("css selector", "details > summary")[:2]:
        summary.click()
    chromium.execute_cdp_cmd("Runtime.evaluate", {"expression": source})  # the page itself forbids scripts
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        found = chromium.execute_async_script("axe.run({resultTypes: ['violations']}).then(arguments[0])")
        assert len(found["passes"]) > 20
        assert {fault["id"]: fault["nodes"][0]["html"] for fault in found["violations"]} == {}, scheme
    for width in (1400, 400):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.find_element("css selector", "table.outside a").click()
    target = chromium.execute_script("return document.querySelector(location.hash).tagName")
    assert target == "FIGURE"
    assert [entry["message"] for entry in chromium.get_log("browser")] == []
    asked = {url.partition("#")[0] for url in browser.requests(chromium) if not url.startswith("data:")}
    assert asked == {page.as_uri()}
