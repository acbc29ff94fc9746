"""Maps of where members look, in the report: of which figures, in which words, never of another bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.jobs.test_report import Parsed, places, section, told
from tests.report_files import Done, fifty_slides_of_noise, page_of, results_folder
from tests.runs import candidates_csv, run, slides_in
from wsi_mitosis.cli import main
from wsi_mitosis.errors import InputError
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.slides import open_native
from wsi_mitosis.jobs.explanation import open_explainer
from wsi_mitosis.jobs.report import report
from wsi_mitosis.units import Mpp

ALT = "where the members look"


class Known:
    """Takes the place of an Explainer: a map is 1 in the top left quarter, and 0 elsewhere."""

    text, window_um = "the 2 members of known (aaaa)", 16.0

    def __init__(self, digest: str = "a" * 64) -> None:
        manifest = SimpleNamespace(name="known")
        self.bundle = SimpleNamespace(digest=digest, manifest=manifest, folder=Path("known"))
        self.asked: list[list[tuple[float, float]]] = []

    def maps(self, *place: Any) -> np.ndarray:
        x_px0, y_px0 = place[2:]
        self.asked.append(list(zip(x_px0.tolist(), y_px0.tolist(), strict=True)))
        values = np.zeros((len(x_px0), 4, 4), np.float32)
        values[:, :2, :2] = 1
        return values


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)], catch_exceptions=False)


def tiles(page: str) -> list[tuple[str, bool]]:
    """The id of each tile of the gallery, and whether it has a map."""
    found: list[tuple[str, bool]] = []
    for tag, attributes in Parsed(page).elements:
        if tag == "li":
            found.append((attributes.get("id", ""), False))
        elif tag == "img" and attributes["alt"] == ALT:
            found[-1] = (found[-1][0], True)
    return found


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two slides of 30 figures; the second one was classified with an untrained bundle."""
    first, second = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    done = [Done(first, places(30)), Done(second, places(30, 1), trained=False)]
    return results_folder(tmp_path / "out", done)


def test_the_first_figures_of_the_review_list_have_maps_and_words(pair: Path) -> None:
    known: Any = Known()
    result = report(pair, explainer=known)
    first, second = (section(page_of(pair), number) for number in (1, 2))
    mapped = {name for name, has_map in tiles(first) if has_map}
    limit = len(mapped)
    assert 4 <= limit <= 10
    assert mapped == {f"slide-1-{rank}" for rank in range(1, limit + 1)}
    assert [len(asked) for asked in known.asked] == [limit]
    assert "shows where the 2 members of known (aaaa) look" in told(first)
    assert "A map says nothing about whether a label is right" in told(first)
    assert ALT not in second
    assert "Grad-CAM" not in told(second)
    assert result.notes == ("no maps of 'b.tiff': classified with another bundle than --explain names",)
    assert result.without_picture == {}
    report(pair)
    assert ALT not in page_of(pair)
    assert "Grad-CAM" not in told(page_of(pair))


def test_the_maps_are_of_the_figures_beside_which_they_are_shown(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each map stands behind the picture of the figure at whose place it was made."""
    from wsi_mitosis.jobs import report as job

    def uris(*arguments: Any) -> list[str]:
        x, y = arguments[2:4]
        return [f"data:{a:.0f}, {b:.0f}" for a, b in zip(x, y, strict=True)]

    monkeypatch.setattr(job, "mapped_crops", uris)
    report(pair, explainer=Known())  # type: ignore[arg-type]
    items = section(page_of(pair), 1).split("<li ")[1:]
    found = [item for item in items if ALT in item]
    assert len(found) >= 4
    for item in found:
        shown = item.split('src="data:')[2].split('"')[0]
        assert f">{shown}</code>" in item


def test_another_bundle_is_refused(pair: Path) -> None:
    before = page_of(pair) if (pair / "report.html").exists() else None
    with pytest.raises(InputError, match=r"'known' \(cccccccccccc\) classified none.*'nano µ aaaaaaaaaaaa'"):
        report(pair, explainer=Known("c" * 64))  # type: ignore[arg-type]
    assert (page_of(pair) if (pair / "report.html").exists() else None) == before


def test_a_map_that_fails_is_told_in_its_place_and_costs_no_picture(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> np.ndarray:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(Known, "maps", fails)
    result = report(pair, explainer=Known())  # type: ignore[arg-type]
    assert list(result.without_picture) == ["a.tiff"]
    first = section(page_of(pair), 1)
    assert "unexpected ZeroDivisionError: a bug of ours" in told(first)
    assert len(Parsed(first).all("img")) == 30
    assert "Grad-CAM" not in told(first)


def test_fifty_slides_of_noise_with_maps_are_under_ten_megabytes(tmp_path: Path) -> None:
    out = fifty_slides_of_noise(tmp_path)
    result = report(out, explainer=Known())  # type: ignore[arg-type]
    assert page_of(out).count(ALT) >= 50
    assert result.size_bytes < 10e6


def test_report_explain_on_a_run(tmp_path: Path, small_bundle: Path) -> None:
    slides = slides_in(tmp_path / "slides", ["a.tiff"])
    out = tmp_path / "out"
    run(slides, candidates_csv(tmp_path / "c.csv", ["a.tiff"]), out, small_bundle)
    before = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    done = call(out, "--explain", small_bundle, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["without_picture"] == {}
    page = page_of(out)
    digest = open_bundle(small_bundle).digest
    assert page.count(ALT) == 5
    assert f"the 3 members of small ({digest[:12]}) look" in told(page)
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == before
    other = call(out, "--explain", "untrained-tiny")
    assert other.exit_code == 2
    assert "classified none of the slides that are shown. Name the bundle that did: 'small" in other.stderr
    assert call(out, "--explain", "nonesuch").exit_code == 2
    assert call(out, "--explain", "").exit_code == 2


def test_an_explainer_maps_the_pixels_around_each_figure(tmp_path: Path, small_bundle: Path) -> None:
    """Each figure's map is that of its crop, in the order of the figures and not of reading."""
    (path,) = slides_in(tmp_path, ["a.tiff"])
    explainer = open_explainer(str(small_bundle))
    x, y = np.array([500.0, 100.0, 300.0]), np.array([400.0, 90.0, 20.0])
    with open_native(path) as slide:
        found = explainer.maps(slide, Mpp(0.25, 0.25), x, y)
        alone = [explainer.maps(slide, Mpp(0.25, 0.25), x[[n]], y[[n]])[0] for n in range(3)]
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.01
    assert explainer.window_um == 8.0


def test_a_window_is_that_of_the_single_view(tmp_path: Path) -> None:
    from wsi_mitosis.jobs.bundles import write_untrained

    write_untrained(tmp_path / "b", patch_px=32, members=1, zooms=(0.5, 2.0), name="b")
    assert open_explainer(str(tmp_path / "b")).window_um == 16.0


def test_a_bundle_whose_weights_do_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, pair: Path, small_bundle: Path
) -> None:
    """No page has to say why there are no maps, with the path of the bundle in it."""
    shutil.copytree(small_bundle, tmp_path / "b")
    manifest = tmp_path / "b" / "manifest.toml"
    manifest.write_text(manifest.read_text().replace("width = 4", "width = 3"))
    done = call(pair, "--explain", tmp_path / "b")
    assert done.exit_code == 2
    assert "They must fit the network" in done.stderr
    assert not (pair / "report.html").exists()
