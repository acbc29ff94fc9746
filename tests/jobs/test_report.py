"""The report of a folder: what is in it, what is left out and why, and that nothing leaves it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from threading import Barrier, Event
from time import sleep
from typing import Any

import numpy as np
import pytest
import shapely

from tests.report_files import Done, fifty_slides_of_noise, page_of, results_folder, run_json
from tests.runs import SLIDE_PX, slides_in
from tests.slide_files import leica_slide, textured
from wsi_mitosis.core.hotspots import HotspotShape
from wsi_mitosis.core.regions import Region
from wsi_mitosis.errors import InputError, OutputError
from wsi_mitosis.io.detections.regions import RegionFile
from wsi_mitosis.io.results.folder import ResultFolder
from wsi_mitosis.io.slides import Slide
from wsi_mitosis.jobs import report as job
from wsi_mitosis.jobs.recount import recount
from wsi_mitosis.jobs.report import report

SMALL = HotspotShape(0.0018)
OTHERS = (
    {
        "slide": "broken.svs",
        "status": "failed",
        "error": "broken.svs: opening: <b>no</b> reader. Scan it again",
    },
    {"slide": "empty.svs", "status": "no_detections"},
)


def places(number: int, seed: int = 0) -> list[tuple[float, float]]:
    return [tuple(place) for place in np.random.default_rng(seed).uniform((0, 0), SLIDE_PX, (number, 2))]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two slides that are done, one that failed, one without detections."""
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    done = [Done(path, places(30, n), excluded=n) for n, path in enumerate(slides)]
    return results_folder(tmp_path / "out", done, OTHERS, shape=SMALL)


def test_slides_are_read_at_the_same_time_and_shown_in_their_order(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, order, overview = Barrier(2, timeout=30), [], job.overview
    opening, at_once, open_classified = [], [], job.open_classified

    def one_at_a_time(*which: str) -> Slide:
        opening.append(which)
        sleep(0.1)
        at_once.append(len(opening))
        opening.pop()
        return open_classified(*which)

    def slow_for_the_first(slide: Slide, *more: Any) -> str:
        both.wait()
        if slide.path.name == "a.tiff":
            after_the_other.wait(30)
        order.append(slide.path.name)
        after_the_other.set()
        return overview(slide, *more)

    after_the_other = Event()
    monkeypatch.setattr(job, "granted_cpus", lambda: 2)
    monkeypatch.setattr(job, "overview", slow_for_the_first)
    monkeypatch.setattr(job, "open_classified", one_at_a_time)
    result = report(pair)
    assert at_once == [1, 1]
    assert order == ["b.tiff", "a.tiff"]
    assert result.pictured == ("a.tiff", "b.tiff")
    assert result.without_picture == {}


def test_an_interrupt_of_the_report_begins_no_further_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = slides_in(tmp_path / "slides", [f"{number}.tiff" for number in range(6)])
    out = results_folder(tmp_path / "out", [Done(path, places(3)) for path in slides])
    begun = []

    def interrupted(path: str, _: str) -> Slide:
        begun.append(path)
        if len(begun) > 1:
            sleep(0.2)  # as a slide takes; the others are cancelled meanwhile
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "granted_cpus", lambda: 1)
    monkeypatch.setattr(job, "open_classified", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report(out)
    assert len(begun) < len(slides)
    assert not (out / "report.html").exists()


class Parsed(HTMLParser):
    """A page's elements, and the text of its first style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag in {"style", "script"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag == self._open[-1]:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def told(page: str) -> str:
    """What a reader sees, roughly: one line of text."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def section(page: str, number: int) -> str:
    return page.split(f'<section id="slide-{number}"')[1].split("</section>")[0]


# --- what is in it


def test_every_slide_is_in_the_table_and_done_ones_have_pictures(pair: Path) -> None:
    result = report(pair)
    assert (result.slides, result.pictured, result.without_picture) == (4, ("a.tiff", "b.tiff"), {})
    page = page_of(pair)
    assert result.size_bytes == len(page.encode())
    seen = Parsed(page)
    assert [attributes["data-status"] for attributes in seen.all("tr") if "data-status" in attributes] == [
        *("done", "done", "failed", "no_detections")
    ]
    assert len(seen.all("image")) == 2
    assert len([i for i in seen.all("img") if i["src"].startswith("data:image/jpeg;base64,")]) == 60
    text = told(page)
    assert "4 slides: 2 done , 1 failed , 1 no detections" in text
    assert "broken.svs: opening: <b>no</b> reader. Scan it again" in text
    assert "Research use only" in text


def test_the_answer_stands_at_the_top_of_a_slides_section(pair: Path) -> None:
    report(pair)
    with ResultFolder(pair) as folder:
        row, assessment = folder.earlier_rows()["b.tiff"], folder.states()["b.tiff"].assessment
    text = told("<section" + section(page_of(pair), 2))
    assert f"{row['classified']} mitotic figures {row['atypical']} atypical, {row['typical']} typical" in text
    assert "of 31 candidates; excluded: 1 score" in text
    share, low, high = (100 * float(row[f"atypical_fraction{end}"]) for end in ("", "_low", "_high"))
    assert (
        f"{share:.1f} % atypical / all {row['atypical']} of 30; 95 % interval {low:.1f} to {high:.1f} %"
        in text
    )
    assert f"atypical / typical: {float(row['atypical_to_typical']):.2f}" in text
    assert assessment is not None
    spot = assessment.hotspots[0]
    assert f"{spot.mitoses_per_mm2:,.1f} per mm² in the hotspot of 0.0018 mm²" in text
    assert f"{spot.mitoses} figure" in text
    centre = spot.x_px0 + spot.width_px0 / 2, spot.y_px0 + spot.height_px0 / 2
    assert f"centre at {centre[0]:.0f}, {centre[1]:.0f} px" in text


def test_the_review_list_is_told_and_marked_in_the_gallery(pair: Path) -> None:
    report(pair)
    with ResultFolder(pair) as folder:
        assessment = folder.states()["a.tiff"].assessment
    assert assessment is not None
    seen = Parsed(section(page_of(pair), 1))
    links = [a["href"] for a in seen.all("a") if a["href"] != "#slides"]
    assert links == [f"#slide-1-{rank}" for rank in range(1, 11)]
    targets = {tile["id"] for tile in seen.all("li") if "id" in tile}
    assert set(links) <= {f"#{target}" for target in targets}
    first = assessment.review[0]
    assert first.figure_id in section(page_of(pair), 1)
    assert f"{first.x_px0:.0f}, {first.y_px0:.0f}" in told(section(page_of(pair), 1))


def test_an_untrained_bundle_is_said_loudly_and_of_its_slides_only(tmp_path: Path) -> None:
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    done = [Done(slides[0], places(5), trained=False), Done(slides[1], places(5))]
    out = results_folder(tmp_path / "out", done)
    report(out)
    page = page_of(out)
    assert "1 of 2 slides was classified by random weights" in told(page)
    assert "UNTRAINED" in section(page, 1)
    assert "UNTRAINED" not in section(page, 2)
    assert "untrained-tiny" in told(page)
    assert "b" * 64 in told(page)
    assert "NO: its labels mean nothing" in told(page)
    results_folder(tmp_path / "good", done[1:])
    report(tmp_path / "good")
    assert "UNTRAINED" not in page_of(tmp_path / "good")


def test_a_review_is_told_beside_the_machines_numbers_while_it_is_of_this_result(pair: Path) -> None:
    document = json.loads((pair / "geojson/a.tiff.geojson").read_text())
    left = [f for f in document["features"] if f["properties"]["classification"]["name"] != "Hotspot"][3:]
    review = pair.parent / "reviewed by hand"
    review.mkdir()
    (review / "a.geojson").write_text(json.dumps(left))
    rows = {row["slide"]: row for row in recount(pair, review).rows}
    report(pair)
    first, second = (section(page_of(pair), number) for number in (1, 2))
    row = rows["a.tiff"]
    assert f"After review: {row['atypical']} atypical of 27 figures" in told(first)
    assert f"{row['hotspot_mitoses']} figures, {row['hotspot_atypical']} atypical." in told(first)
    assert "0 relabelled, 3 removed, 0 added." in told(first)
    assert "After review" not in told(second)

    rewritten = (pair / "reviewed/summary.csv").read_text().replace(str(row["bundle_digest"]), "e" * 64)
    (pair / "reviewed/summary.csv").write_text(rewritten)
    notes = report(pair).notes
    assert any("the recount was edited or damaged, and is not used" in note for note in notes)
    assert "After review" not in told(page_of(pair))

    agreement = json.loads((pair / "reviewed/agreement.json").read_text())
    agreement["summary_sha256"] = hashlib.sha256(rewritten.encode()).hexdigest()
    (pair / "reviewed/agreement.json").write_text(json.dumps(agreement))
    report(pair)
    assert "After review" in told(section(page_of(pair), 1))

    agreement["slides"]["a.tiff"]["assessment_key"] = "e" * 64
    (pair / "reviewed/agreement.json").write_text(json.dumps(agreement))
    assert report(pair).notes == ()
    first = told(section(page_of(pair), 1))
    assert "After review" not in first
    assert "an earlier result of this slide" in first


def test_why_there_is_no_hotspot_is_told(tmp_path: Path) -> None:
    slides = slides_in(tmp_path / "slides", ["a.tiff"])
    report(results_folder(tmp_path / "large", [Done(slides[0], places(5))], shape=HotspotShape(2.0)))
    assert "is smaller than a hotspot of 2 mm^2" in told(page_of(tmp_path / "large"))
    report(results_folder(tmp_path / "none", [Done(slides[0], places(5))]))
    assert "no hotspot none was requested" in told(page_of(tmp_path / "none"))


def test_regions_are_told_and_drawn_and_that_the_hotspot_was_sought_inside_them_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Region("left <half>", "Tumor", shapely.box(0, 0, 300, 500))
    necrosis = Region("necrosis", "Ignore*", shapely.box(300, 0, 600, 250))
    regions = RegionFile(tmp_path, "f" * 64, (left, necrosis))
    slides = slides_in(tmp_path / "slides", ["a.tiff"])
    done = [Done(slides[0], [(100, 100), (120, 110), (500, 400)])]
    report(results_folder(tmp_path / "out", done, shape=SMALL, regions=regions))
    text = told(page_of(tmp_path / "out"))
    assert "; searched for inside the regions only" in text
    assert "Hotspot, searched for inside the regions only" in text
    assert "left <half> Tumor 0.009375 mm² 2" in text
    assert "all regions 0.009375 mm² 2" in text
    drawn = re.findall(
        r'<g class="(region.*?)"><title>(.*?)</title>.*?<path d="(.*?)"/></g>', page_of(tmp_path / "out")
    )
    assert [(kind, title) for kind, title, _ in drawn] == [
        ("region", "left &lt;half&gt;, Tumor"),
        ("region excluded", "necrosis, Ignore*"),
    ]
    assert set(drawn[0][2][1:-1].split("L")) == {"0 0", "500 0", "500 833", "0 833"}  # of 600 px, 1000 units
    assert "excluded region" in text
    large = HotspotShape(2.0)
    report(results_folder(tmp_path / "large", done, shape=large, regions=regions))
    assert "; searched for inside the regions only" in told(page_of(tmp_path / "large"))
    report(results_folder(tmp_path / "whole", done, shape=SMALL))
    assert "region" not in told(page_of(tmp_path / "whole"))
    monkeypatch.setattr("wsi_mitosis.io.pages.template.REGIONS_DRAWN", 1)
    report(tmp_path / "out")
    assert "1 more regions are not drawn" in told(page_of(tmp_path / "out"))


def test_places_are_those_that_qupath_shows(tmp_path: Path) -> None:
    path = leica_slide(tmp_path / "a.scn", textured(600, 500), (300, 160), (1200, 900))
    done = [Done(path, [(350.0, 200.0)])]
    report(results_folder(tmp_path / "cropped", done))
    assert ">50, 40</code>" in page_of(tmp_path / "cropped")
    report(results_folder(tmp_path / "whole", done, frame="slide"))
    assert ">350, 200</code>" in page_of(tmp_path / "whole")


def test_a_folder_without_figures_has_a_report(tmp_path: Path) -> None:
    slides = slides_in(tmp_path / "slides", ["a.tiff"])
    assert report(results_folder(tmp_path / "none", [Done(slides[0], [])])).pictured == ("a.tiff",)
    assert "0 mitotic figures" in told(page_of(tmp_path / "none"))
    report(results_folder(tmp_path / "failed", [], OTHERS))
    assert "2 slides: 1 failed , 1 no detections" in told(page_of(tmp_path / "failed"))


# --- what it may do


def test_the_page_can_load_and_run_nothing_but_what_is_in_it(pair: Path) -> None:
    report(pair)
    page = page_of(pair)
    seen = Parsed(page)
    (policy,) = (m["content"] for m in seen.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(seen.texts[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert len(seen.all(kind)) == 1
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for _, attributes in seen.elements:
        assert not any(name == "style" or name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "http://" not in page
    assert "https://" not in page


def test_names_errors_and_warnings_are_text_whatever_they_contain(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>&\"'.tiff"
    (path,) = slides_in(tmp_path / "slides", [evil])
    others = [{"slide": "<script>1</script>", "status": "failed", "error": "<script>2</script>"}]
    done = [Done(path, places(3), warnings=("<script>3</script>",))]
    report(results_folder(tmp_path / "out", done, others, warnings=["<script>4</script>"]))
    page = page_of(tmp_path / "out")
    seen = Parsed(page)
    assert len(seen.all("script")) == 1
    assert all("onerror" not in attributes for _, attributes in seen.elements)
    for text in (
        evil,
        "<script>1</script>",
        "<script>2</script>",
        "<script>3</script>",
        "<script>4</script>",
    ):
        assert html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in page


def test_no_path_is_in_it(pair: Path, tmp_path: Path) -> None:
    report(pair)
    page = page_of(pair)
    assert str(tmp_path) not in page
    assert "/secret" not in page
    assert "dets.csv" in page


# --- which slides, and what is left out


def test_pictures_are_of_the_last_runs_slides_or_of_those_asked_for(tmp_path: Path) -> None:
    names = ["a1.tiff", "a2.tiff", "b1.tiff"]
    slides = slides_in(tmp_path / "slides", names)
    out = results_folder(tmp_path / "out", [Done(path, places(4)) for path in slides], mine=["b1.tiff"])
    result = report(out)
    assert result.pictured == ("b1.tiff",)
    assert "1 of 3 slides are shown with pictures; `wsi-mitosis report out --slides GLOB`" in result.notes[0]
    assert result.notes[0] in told(page_of(out))
    assert Parsed(page_of(out)).all("tr")[1].get("data-section") is None
    assert report(out, ["a*"]).pictured == ("a1.tiff", "a2.tiff")
    assert report(out, ["a2.tiff", "b*"]).pictured == ("a2.tiff", "b1.tiff")
    assert report(out, ["*"]).notes == ()
    with pytest.raises(InputError, match="none of the 3 classified slides is named c"):
        report(out, ["c*"])
    (out / "run.json").unlink()
    assert report(out).pictured == tuple(names)


def test_there_is_a_most_of_slides_with_pictures(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "MOST_SLIDES", 1)
    result = report(pair)
    assert result.pictured == ("a.tiff",)
    assert "1 of 2 slides are shown with pictures" in result.notes[0]


def test_a_slide_that_is_gone_or_changed_keeps_its_numbers(pair: Path, tmp_path: Path) -> None:
    report(pair)
    before = Parsed(page_of(pair)).all("td")
    (tmp_path / "slides/a.tiff").unlink()
    slides_in(tmp_path / "slides", ["other.tiff", "b.tiff", "c.tiff"])
    (tmp_path / "slides/c.tiff").replace(tmp_path / "slides/b.tiff")
    result = report(pair)
    assert set(result.without_picture) == {"a.tiff", "b.tiff"}
    assert result.messages() == ["2 slides have no picture in report.html; the report shows the reasons"]
    page = page_of(pair)
    assert Parsed(page).all("td") == before
    assert Parsed(page).all("image") == Parsed(page).all("img") == []
    assert "the slide is no longer where it was classified" in told(section(page, 1))
    assert "the slide has changed since it was classified" in told(section(page, 2))
    assert len(Parsed(section(page, 1)).all("li")) == 30


def test_a_picture_that_fails_is_told_in_its_place(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(job, "overview", fails)
    result = report(pair)
    assert set(result.without_picture) == {"a.tiff", "b.tiff"}
    assert "no picture: unexpected ZeroDivisionError: a bug of ours" in told(page_of(pair))
    assert len(Parsed(page_of(pair)).all("img")) == 60


def test_no_slide_is_opened_after_the_time_is_up(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "MOST_SECONDS", -1.0)
    monkeypatch.setattr(job, "open_classified", None)
    assert set(report(pair).without_picture) == {"a.tiff", "b.tiff"}
    assert "reading the other slides took over" in told(page_of(pair))


def test_fifty_slides_of_noise_are_under_ten_megabytes(tmp_path: Path) -> None:
    out = fifty_slides_of_noise(tmp_path)
    result = report(out)
    assert len(result.pictured) == 50
    assert result.without_picture == {}
    assert 3e6 < result.size_bytes < 10e6


# --- the file


def test_the_same_folder_gives_the_same_page(pair: Path) -> None:
    report(pair)
    before = page_of(pair)
    report(pair)
    assert page_of(pair) == before


def test_it_is_written_whole_or_not_at_all(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(pair)
    before = page_of(pair)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        report(pair)
    monkeypatch.undo()
    assert page_of(pair) == before
    assert not [path for path in pair.iterdir() if path.name.startswith(".") and "lock" not in path.name]


def test_a_slide_that_the_summary_lacks_is_shown(pair: Path) -> None:
    """A run that was killed leaves figures tables, and the summary of the run before."""
    (pair / "summary.csv").unlink()
    result = report(pair)
    assert (result.slides, result.pictured) == (2, ("a.tiff", "b.tiff"))
    assert "30 mitotic figures" in told(page_of(pair))


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"slides": [1]}', '{"slides": 5}', '{"warnings": 5}', None]
)
def test_without_a_usable_run_json_there_is_a_report(pair: Path, content: str | None) -> None:
    (pair / "run.json").unlink() if content is None else (pair / "run.json").write_text(content)
    assert report(pair).pictured == ("a.tiff", "b.tiff")


def test_only_results_have_a_report_and_only_one_at_a_time(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for wrong in (tmp_path / "nothing", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="has no results of `classify`"):
            report(wrong)
    assert not (tmp_path / "nowhere").exists()
    with ResultFolder(pair), pytest.raises(OutputError, match="another run holds this folder"):
        report(pair)


def test_many_warnings_of_a_run_are_cut(pair: Path) -> None:
    told_of = run_json(pair) | {"warnings": [f"note {n}." for n in range(150)]}
    (pair / "run.json").write_text(json.dumps(told_of))
    report(pair)
    assert "note 99." in told(page_of(pair))
    assert "note 100." not in told(page_of(pair))
    assert "and 50 more, in run.json" in told(page_of(pair))


def test_a_slide_without_a_valid_assessment_says_so(pair: Path) -> None:
    (pair / "assessments/a.tiff.json").unlink()
    assert any("'a.tiff' has no valid assessment" in note for note in report(pair).notes)
    assert "no hotspot the slide has no valid assessment" in told(section(page_of(pair), 1))
    assert "per mm² in the hotspot of" in told(section(page_of(pair), 2))
