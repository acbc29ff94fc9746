"""Control charts of output folders: what is read, what is named and left out, and what is written."""

from __future__ import annotations

import csv
import html
import itertools
import re
import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.records import slide_record
from tests.report_files import Done, results_folder
from tests.runs import slides_in
from tests.trend_files import Night, figures_of, laboratory, made_at, write_nights
from wsi_mitosis.core.summary import count
from wsi_mitosis.core.trends import QUANTITIES, Bundle, TrendSlide, samples_of, signals, trends_of
from wsi_mitosis.errors import InputError, OutputError
from wsi_mitosis.io.pages.trend import MOST_GROUPS, MOST_SIGNALS, TrendPage, render_trend
from wsi_mitosis.io.results.folder import ResultFolder
from wsi_mitosis.jobs.report import report
from wsi_mitosis.jobs.trend import TrendResult, draw_trend
from wsi_mitosis.jobs.verify import verify
from wsi_mitosis.tables import TREND_COLUMNS


def drawn(*folders: Path, **options: object) -> TrendResult:
    return draw_trend(folders, **{"timezone": "UTC", **options})  # type: ignore[arg-type]


def text_of(path: Path) -> str:
    """What a reader sees, roughly: one line of text."""
    body = re.sub(r"<(style|title)>.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 slides of 30 nights, two in each; from slide 40 on the atypical fraction is doubled."""
    return write_nights(tmp_path_factory.mktemp("night") / "out", laboratory(60, per_night=2, shift_at=40))


# --- what is in it


def test_a_shift_is_found_and_named_on_the_page_and_in_the_result(shifted: Path, tmp_path: Path) -> None:
    result = drawn(shifted, out=tmp_path / "t.html")
    assert (result.slides, len(result.groups)) == (60, 1)
    found = [one for one in result.signals if one.quantity.name == "atypical_fraction"]
    assert found[-1].group == "Aperio SS1"
    assert all(one.point.slides[0] >= "s0040.svs" for one in found)
    page = text_of(tmp_path / "t.html")
    assert "60 slides classified on 30 nights, 2026-01-01 to 2026-01-30" in page
    assert "A group is a scanner. A point is a slide." in page
    assert "Research use only" in page
    first = next(one for one in result.rows if one.quantity == "Atypical fraction")
    assert first.slides in {"s0040.svs", "s0041.svs", "s0042.svs"}
    assert f"{first.night} Aperio SS1 Atypical fraction {first.slides} {first.value} {first.limits}" in page
    assert f"{len(result.signals)} points or runs of points are outside" in page


def test_the_table_has_every_number_that_is_plotted(shifted: Path, tmp_path: Path) -> None:
    result = drawn(shifted, out=tmp_path / "t.html")
    rows = rows_of(result.table)
    assert result.table == tmp_path / "t.csv"
    assert tuple(rows[0]) == TREND_COLUMNS
    numbers = {one.name: sum(row["quantity"] == one.name for row in rows) for one in QUANTITIES}
    assert numbers == {one.name: 30 if one.name == "low_sharpness" else 60 for one in QUANTITIES}
    assert result.path.read_text().count("<title>") == 1 + len(rows)  # one for the page itself


def test_a_row_is_right(tmp_path: Path) -> None:
    """20 slides with 8 of 40 atypical figures, and one with 20."""
    nights = [Night(f"s{n:02}.svs", made_at(n)) for n in range(20)]
    nights.append(Night("late.svs", made_at(40), atypical=20))
    result = drawn(write_nights(tmp_path / "out", nights))
    rows = [row for row in rows_of(result.table) if row["quantity"] == "atypical_fraction"]
    assert len(rows) == 21
    last = rows[-1]
    assert last == {
        "group": "Aperio SS1",
        "quantity": "atypical_fraction",
        "bundle": "nano µ",
        "bundle_digest": "d" * 64,
        "night": "2026-02-10",
        "made": "2026-02-10T22:00:00+00:00",
        "slide": "late.svs",
        "slides": "1",
        "number": "40",
        "value": "0.5",
        "low": "0.010263",
        "centre": "0.2",
        "high": "0.4",
        "reference": "false",
        "verdict": "above",
    }
    assert [row["reference"] for row in rows[:20]] == ["true"] * 20
    counts = [row for row in rows_of(result.table) if row["quantity"] == "figures"]
    assert (counts[0]["value"], counts[0]["low"], counts[0]["verdict"]) == ("40.0", "", "")  # all are equal
    assert "no limits: all points of the reference period are equal" in text_of(result.path)


def test_a_point_can_be_a_night(shifted: Path, tmp_path: Path) -> None:
    result = drawn(shifted, per="night", out=tmp_path / "t.html")
    rows = [row for row in rows_of(result.table) if row["quantity"] == "figures"]
    assert len(rows) == 30
    assert (rows[0]["slide"], rows[0]["slides"]) == ("s0000.svs, s0001.svs", "2")
    assert "A point is a night" in text_of(result.path)


def test_nights_are_those_of_the_zone(tmp_path: Path) -> None:
    """22:00 UTC of January 1 is 07:00 of January 2 in Tokyo, the same night, and 12:00 in Honolulu."""
    folder = write_nights(tmp_path / "out", [Night("a.svs", made_at(0))])
    nights = {
        zone: rows_of(drawn(folder, timezone=zone).table)[0]["night"]
        for zone in ("UTC", "Asia/Tokyo", "Pacific/Honolulu", "Pacific/Auckland")
    }
    assert nights == {
        "UTC": "2026-01-01",
        "Asia/Tokyo": "2026-01-01",
        "Pacific/Honolulu": "2026-01-01",
        "Pacific/Auckland": "2026-01-01",
    }
    with pytest.raises(InputError, match="no time zone 'Mars/Olympus'"):
        drawn(folder, timezone="Mars/Olympus")


def test_a_small_folder_is_drawn_without_limits(tmp_path: Path) -> None:
    result = drawn(write_nights(tmp_path / "out", laboratory(5)))
    assert result.signals == ()
    page = text_of(result.path)
    assert "No chart has limits yet: they need 20 points" in page
    assert "no limits: limits need 20 points, and there are 5" in page
    assert "no limits: limits need 20 points of 10 figures or more, and there are 5" in page


def test_other_bundles_and_untrained_ones_are_named(tmp_path: Path) -> None:
    nights = laboratory(25)
    nights += [
        replace(one, digest="e" * 64, name=f"n{one.name}", made=made_at(50 + n))
        for n, one in enumerate(laboratory(25, seed=2))
    ]
    result = drawn(write_nights(tmp_path / "out", nights))
    assert "2 bundles classified these slides; each begins a series with limits of its own" in result.notes
    page = text_of(result.path)
    assert "nano µ dddddddd" in page
    assert "nano µ eeeeeeee" in page
    digests = {
        row["bundle_digest"]: row["centre"] for row in rows_of(result.table) if row["quantity"] == "figures"
    }
    assert len(set(digests.values())) == 2


def test_a_reference_period_is_used_and_a_wrong_one_refused(shifted: Path, tmp_path: Path) -> None:
    nights = date(2026, 1, 11), date(2026, 1, 20)
    result = drawn(shifted, reference=nights, out=tmp_path / "t.html")
    rows = [row for row in rows_of(result.table) if row["quantity"] == "figures"]
    assert {row["night"] for row in rows if row["reference"] == "true"} == {
        str(nights[0] + timedelta(n)) for n in range(10)
    }
    assert "The reference period is 2026-01-11 to 2026-01-20." in text_of(result.path)
    with pytest.raises(InputError, match="no slide was classified from 2025-01-01 to 2025-02-01") as refused:
        drawn(shifted, reference=(date(2025, 1, 1), date(2025, 2, 1)), out=tmp_path / "t.html")
    assert "from 2026-01-01 to 2026-01-30" in str(refused.value)


# --- several folders


def test_the_order_of_folders_changes_nothing(tmp_path: Path) -> None:
    folders = [
        write_nights(
            tmp_path / name,
            [
                replace(one, made=made_at(3 * number + index))
                for number, one in enumerate(laboratory(10, seed=index, scanners=("Aperio SS1", None)))
            ],
        )
        for index, name in enumerate("abc")
    ]
    for folder in folders[:2]:
        table = folder / "figures/s0009.svs.parquet"
        table.write_bytes(table.read_bytes()[:-50])
    written = set()
    for order in itertools.permutations(folders):
        result = drawn(*order, out=tmp_path / "t.html")
        written.add((result.path.read_bytes(), result.table.read_bytes()))
    assert len(written) == 1
    assert result.slides == 28
    assert [note[:2] for note in result.notes if "damaged" in note] == ["a:", "b:"]
    assert {row["slide"][:2] for row in rows_of(result.table)} == {"a/", "b/", "c/"}
    assert "Control charts: a, b, c" in text_of(result.path)


def test_a_copy_of_a_folder_counts_once(shifted: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(shifted, tmp_path / "copy")
    result = drawn(shifted, copy, shifted, out=tmp_path / "t.html")
    assert result.slides == 60
    assert any(note.startswith("60 results counted once") for note in result.notes)


def test_damaged_tables_are_named_and_the_others_drawn(tmp_path: Path) -> None:
    whole = write_nights(tmp_path / "whole", laboratory(22))
    broken = write_nights(tmp_path / "broken", laboratory(3, prefix="x"))
    for table in sorted((broken / "figures").iterdir()):
        table.write_bytes(table.read_bytes()[:-50])
    result = drawn(broken, whole, out=tmp_path / "t.html")
    assert result.slides == 22
    (note,) = result.notes
    assert note.startswith("broken: 3 tables of figures cannot be used")
    assert "'x0000.svs', 'x0001.svs', 'x0002.svs'" in note
    assert note in text_of(tmp_path / "t.html")
    with pytest.raises(InputError, match="no slide can be drawn: broken: 3 tables of figures cannot be used"):
        drawn(broken)
    assert not (broken / "trend.html").exists()


def test_slides_that_do_not_say_when_are_named(tmp_path: Path) -> None:
    nights = [*laboratory(2), Night("old.svs", None)]
    result = drawn(write_nights(tmp_path / "out", nights))
    assert result.slides == 2
    assert any(
        "1 slide left out, classified by a version that did not state when: 'old.svs'" in n
        for n in result.notes
    )


def test_slides_without_a_scanner_are_named(tmp_path: Path) -> None:
    nights = [replace(one, scanner=None) for one in laboratory(2)]
    folder = write_nights(tmp_path / "out", nights)
    assert any("2 slides state no scanner" in note for note in drawn(folder).notes)
    assert drawn(folder, by="folder").notes == ()
    assert "/slides" not in drawn(folder).path.read_text().replace("</", "")


@pytest.mark.parametrize("kind", ["nothing", "nowhere"])
def test_a_folder_without_results_is_refused(shifted: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="has no results of `classify`"):
        drawn(shifted, tmp_path / kind, out=tmp_path / "t.html")
    assert not (tmp_path / "t.html").exists()


# --- the files


def test_it_is_written_into_the_first_folder_which_is_held(tmp_path: Path) -> None:
    first, second = (write_nights(tmp_path / name, laboratory(3, prefix=name)) for name in "ab")
    before = set(second.rglob("*"))
    result = drawn(first, second)
    assert (result.path, result.table) == (first / "trend.html", first / "trend.csv")
    assert set(second.rglob("*")) == before
    verdicts = {finding.file: finding.verdict for finding in verify(first).findings}
    assert (verdicts["trend.html"], verdicts["trend.csv"]) == ("intact", "intact")
    (first / "trend.csv").write_text("")
    assert {finding.file: finding.verdict for finding in verify(first).findings}["trend.csv"] == "changed"
    with ResultFolder(first):
        with pytest.raises(OutputError, match="another run holds this folder"):
            drawn(first)
        drawn(second, first, out=tmp_path / "t.html")  # it is only read


def test_no_other_table_is_overwritten(shifted: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OutputError, match="not a table of control charts"):
        drawn(shifted, out=tmp_path / "mine.html")
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"
    assert not (tmp_path / "mine.html").exists()
    with pytest.raises(InputError, match="is not the name of a page"):
        drawn(shifted, out=tmp_path / "mine.csv")
    drawn(shifted, out=tmp_path / "t.html")
    drawn(shifted, out=tmp_path / "t.html")  # of its own kind


def test_names_are_text_whatever_they_contain(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>&\"'"
    nights = [replace(one, name=f"{evil}{n}", scanner=evil) for n, one in enumerate(laboratory(21))]
    nights[20] = replace(nights[20], atypical=nights[20].figures)
    page = drawn(write_nights(tmp_path / "out", nights)).path.read_text()
    assert "<img" not in page
    assert html.escape(evil).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in page
    assert "default-src &#39;none&#39;" in page
    assert "script-src &#39;none&#39;" in page
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)


def test_the_report_leads_to_the_charts(tmp_path: Path) -> None:
    slides = slides_in(tmp_path / "slides", ["a.tiff"])
    folder = results_folder(tmp_path / "out", [Done(slides[0], [(5.0, 5.0)])])
    report(folder)
    assert "--trend" not in (folder / "report.html").read_text()
    write_nights(folder, laboratory(7))
    report(folder, ["a.tiff"])
    assert "--trend" not in (folder / "report.html").read_text()
    write_nights(folder, laboratory(8))
    report(folder, ["a.tiff"])
    assert "Slides were classified on 8 days" in (folder / "report.html").read_text()
    drawn(folder)
    report(folder, ["a.tiff"])
    assert '<a href="trend.html">Control charts</a>' in (folder / "report.html").read_text()


# --- size


def many(slides: int, groups: int) -> list[TrendSlide]:
    """Slides of one night each, in groups."""
    night = Night("a.svs", made_at(0))
    figures = figures_of(night)
    samples = samples_of(slide_record(counts=count(figures)), figures)
    bundle = Bundle("d" * 64, "nano", trained=True)
    return [
        TrendSlide(
            made_at(n), f"slide-{n:05}.svs", bundle, made_at(n).date(), f"scanner {n % groups}", "/x", samples
        )
        for n in range(slides)
    ]


def page_of(slides: list[TrendSlide]) -> TrendPage:
    trends = trends_of(slides, per="slide")
    return TrendPage(
        title="out",
        slides=len(slides),
        nights=("2026-01-01", "2026-12-31", 365),
        groups=trends.groups,
        signals=signals(trends.groups) * 300,
        by="",
        point="",
        reference="",
        timezone="UTC",
        notes=(),
        untrained=1,
        program="0",
    )


def test_a_page_of_a_thousand_slides_is_a_few_megabytes_at_most() -> None:
    assert len(render_trend(page_of(many(1000, 2))).encode()) < 3e6


def test_there_is_a_most_of_groups_and_of_listed_points() -> None:
    slides = many(60, 30)
    page = render_trend(page_of(slides))
    assert page.count("<section") == MOST_GROUPS
    assert "24 of 30 groups are drawn" in page
    slides = [*many(20, 1), *(replace(one, samples=LATE) for one in many(21, 1)[20:])]
    page = render_trend(page_of(slides))
    assert "UNTRAINED BUNDLE" in page
    assert f"These are the latest {MOST_SIGNALS}" in page


LATE = {**many(1, 1)[0].samples, "atypical_fraction": many(1, 1)[0].samples["excluded"]._replace(total=44.0)}


def test_too_many_points_are_refused(shifted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_mitosis.jobs.trend.MOST_POINTS", 59)
    with pytest.raises(InputError, match="60 points are too many for one page"):
        drawn(shifted, out=tmp_path / "t.html")
    drawn(shifted, out=tmp_path / "t.html", per="night")
