from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsi_mitosis.core.scoring import Curve, EvaluationReport
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.training import evaluation
from wsi_mitosis.io.training.evaluation import as_markdown, prepare_folder, write_evaluation
from wsi_mitosis.io.training.plots import draw_calibration, draw_roc

P = np.linspace(0, 1, 40)
CURVES = (
    Curve("ensemble", (P > 0.4).astype(np.int64), P, True),
    Curve("_member $a$ on 組", np.tile([0, 1], 20), P, False),
    Curve("one class", np.ones(40, np.int64), P, False),
)


def entry(**changes: Any) -> dict[str, Any]:
    scores: dict[str, Any] = {"n": 40, "atypical": 24, "brier": 0.1234, "distinct": None}
    for name in ("balanced_accuracy", "sensitivity", "specificity", "auroc"):
        scores |= {name: 0.75, f"{name}_ci95": [0.7, 0.8]}
    cells = ("atypical_as_atypical", "atypical_as_typical", "typical_as_typical", "typical_as_atypical")
    scores["confusion"] = dict(zip(cells, (11, 12, 13, 14), strict=True))
    scores["resampled"] = {"unit": "slides", "units": 7, "resamples": 1999, "skipped": 1}
    return {**scores, "training_data": False, "training_samples": 0, **changes}


def views(**changes: Any) -> dict[str, Any]:
    return {
        "overall": entry(),
        "domains": {"a | b": entry(n=25)},
        "members": {"member-0": entry(test_domain=None), "member-1": entry(test_domain="a | b")},
        "lodo": None,
        "unseen": None,
        **changes,
    }


def report(**changes: Any) -> EvaluationReport:
    heading = {
        "program": "wsi-mitosis 9",
        "use": "Research use only.",
        "bundle": "known",
        "bundle_version": "3",
        "bundle_digest": "b" * 64,
        "trained": True,
        "intended_use": "Tests",
        "threshold": 0.5,
        "temperature": 1.25,
        "tta": "flips",
        "zooms": [1.0, 1.15],
        "device": "cpu",
        "dataset": "set",
        "dataset_digest": "d" * 64,
        "dataset_licence": "CC0",
        "samples": 40,
        "positive": "atypical",
        "bootstrap": {"resamples": 2000, "seed": 0, "interval": "95 % percentile"},
        "scope": "all samples",
        "training_data": False,
        "trained_on": 0,
        "notes": ["Note this."],
    }
    rest = {"distinct": None, "single_view": None, "calibration": {}, "reliability": {}}
    return EvaluationReport.parse({**heading, **views(), **rest, **changes}, "report")


def errors(brier: float, balanced: float | None = 0.02) -> dict[str, Any]:
    bins = [{"low": 0.0, "high": 0.1, "n": 40, "mean_p": 0.05, "atypical_fraction": 0.1}]
    measures = {"calibration_error": brier / 2, "balanced_calibration_error": balanced}
    return {"brier": brier, **measures, "bins": bins}


RELIABILITY = {
    "ensemble, unseen samples": {
        "n": 5,
        "fitted_on": "the bundle's",
        "temperatures": {},
        "before": errors(0.3, None),
        "calibrated": None,
    },
    "members on domains left out": {
        "n": 35,
        "fitted_on": "the other domains",
        "temperatures": {"b": 1.2345, "a": 0.9},
        "before": errors(0.2),
        "calibrated": errors(0.1),
    },
}


def measured(names: tuple[str, ...], value: float) -> dict[str, Any]:
    return dict.fromkeys(names, value) | {f"{name}_ci95": [value - 0.1, value + 0.1] for name in names}


RATES = ("balanced_accuracy", "sensitivity", "specificity")
EXPERTS = {
    "ensemble": {
        "unanimous": {"n": 30, "atypical": 9, **measured((*RATES, "auroc"), 0.9)},
        "divided": {"n": 10, "atypical": 5, **measured((*RATES, "auroc"), 0.6), "auroc_ci95": None},
        "classifier": measured(RATES, 0.8),
        "another_expert": measured(RATES, 0.7),
        "difference": 0.1,
        "difference_ci95": [-0.05, 0.2],
        "sensitivity_at_their_specificity": 0.65,
    }
}


def rows(text: str) -> list[list[str]]:
    """Cells of the lines of all tables."""
    lines = [line.replace(r"\|", "¦") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_markdown_shows_every_figure() -> None:
    text = as_markdown(report())
    assert text.startswith("# known on set\n\n**Research use only.**\n\n- Note this.\n")
    measured = ["0.750 [0.700, 0.800]"] * 4
    found = rows(text)
    assert ["all", "40", "24", *measured, "0.123"] in found
    assert ["a ¦ b", "25", "24", *measured, "0.123"] in found
    assert ["member-1 (tested on a ¦ b)", "40", "24", *measured, "0.123"] in found
    assert ["atypical", "11", "12"] in found
    assert ["typical", "14", "13"] in found
    assert ["views", "flips, zooms 1.0, 1.15"] in found
    assert "2000 bootstrap resamples over slides, seed 0" in text
    assert "training data" not in text
    assert "single view" not in text


def test_every_table_is_whole() -> None:
    distinct = {**entry(n=38), "contradictory": 2}
    del distinct["distinct"]
    text = as_markdown(report(single_view=views(), overall=entry(distinct=distinct)))
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 7
    for table in tables:
        widths = {len(line.replace(r"\|", "  ").split("|")) for line in table}
        assert len(widths) == 1
        assert len({len(line) for line in table}) == 1, "aligned for the eye"
        assert set(table[1]) == {"|", "-", " "}
    assert ["all: distinct figures, 2 with both labels", "38"] in [row[:2] for row in rows(text)]
    assert text.count("### Ensemble") == text.count("### Members") == 1


def test_what_is_undefined_is_no_number() -> None:
    text = as_markdown(report(overall=entry(auroc=None, auroc_ci95=None)))
    assert ["all", "40", "24", *["0.750 [0.700, 0.800]"] * 3, "undefined", "0.123"] in rows(text)


def test_leave_one_domain_out_has_the_papers_form() -> None:
    spreads = {
        "balanced_accuracy": {"mean": 0.8333, "sd": 0.0511, "n": 6},
        "sensitivity": {"mean": 0.8, "sd": None, "n": 1},
        "specificity": {"mean": None, "sd": None, "n": 0},
        "auroc": {"mean": 0.9, "sd": 0.01, "n": 6},
        "validation_balanced_accuracy": {"mean": 0.847, "sd": 0.046, "n": 6},
    }
    parts = {"overall": None, "domains": None, "lodo": {"members": 6, **spreads}}
    members = {f"member-{number}": entry(test_domain=f"{number}") for number in range(6)}
    text = as_markdown(report(**parts, members=members))
    assert "over 6 members, each on its own test domain." in text
    assert ["test", "0.833 ± 0.051", "0.800", "undefined", "0.900 ± 0.010"] in rows(text)
    assert ["validation, as the bundle states it", "0.847 ± 0.046", "", "", ""] in rows(text)
    assert "## Ensemble" not in text
    members |= {"member-5": entry(test_domain="0"), "member-6": entry(test_domain="9", n=0)}
    shared = as_markdown(report(**parts, members=members))
    assert (
        "over 5 test domains. Each has the mean of those of the 6 members that were trained without" in shared
    )


def test_what_no_member_has_seen_stands_apart() -> None:
    unseen = {"overall": entry(n=5), "domains": {"c": entry(n=5)}}
    text = as_markdown(report(overall=None, domains=None, unseen=unseen))
    assert "## Ensemble, on what no member has seen" in text
    assert rows(text).count(["c", "5", "24", *["0.750 [0.700, 0.800]"] * 4, "0.123"]) == 1


def test_training_data_stands_beside_every_figure() -> None:
    seen = entry(training_data=True, training_samples=30)
    scores = views(overall=seen, domains={"a": seen}, members={"member-0": {**seen, "test_domain": None}})
    text = as_markdown(report(**scores, training_data=True, single_view=scores))
    scored = [row for row in rows(text) if "0.750 [0.700, 0.800]" in row]
    assert len(scored) == 6
    assert all(row[-1] == "training data (30 of 40)" for row in scored)
    assert text.count("label, training data") == 2


def test_calibration_before_and_after() -> None:
    text = as_markdown(report(reliability=RELIABILITY))
    assert ["temperature", "1.25"] in rows(text)
    members = "members on domains left out"
    assert [row for row in rows(text.split("## Calibration")[1]) if not row[0].startswith("-")] == [
        ["", "temperature", "n", "ECE, classes alike", "ECE", "Brier"],
        ["ensemble, unseen samples", "1", "5", "undefined", "0.150", "0.300"],
        [members, "1", "35", "0.020", "0.100", "0.200"],
        [members, "0.9 to 1.23, the other domains", "35", "0.020", "0.050", "0.100"],
    ]
    assert "### Calibration" in evaluation.as_section(report(reliability=RELIABILITY))
    assert "## Calibration" not in as_markdown(report())


def test_the_experts_stand_beside() -> None:
    text = as_markdown(report(experts=EXPERTS))
    found = rows(text.split("## Beside the experts")[1])
    assert ["ensemble: all experts agree", "30", "9", *["0.900 [0.800, 1.000]"] * 4] in found
    assert ["ensemble: the experts are divided", "10", "5", *["0.600 [0.500, 0.700]"] * 3, "0.600"] in found
    assert ["ensemble", *["0.800 [0.700, 0.900]"] * 3, "0.650"] in found
    assert ["another expert", *["0.700 [0.600, 0.800]"] * 3, ""] in found
    assert ["difference", "0.100 [-0.050, 0.200]", "", "", ""] in found
    assert "### Beside the experts" in evaluation.as_section(report(experts=EXPERTS))
    assert "Beside the experts" not in as_markdown(report())


def test_calibration_is_drawn_before_and_after() -> None:
    figure = draw_calibration(report(reliability=RELIABILITY), ())
    assert labels_of(figure) == [
        "Brier 0.300, ECE 0.150  ensemble, unseen samples, temperature 1",
        "Brier 0.200, ECE 0.100  members on domains left out, temperature 1",
        "Brier 0.100, ECE 0.050  members on domains left out, calibrated",
    ]
    drawn = figure.axes[0].get_lines()[1:]
    assert [line.get_linestyle() for line in drawn] == [":", ":", "--"]
    assert [line.get_xydata().tolist() for line in drawn] == [[[0.05, 0.1]]] * 3


def test_an_untrained_bundle_is_called_so() -> None:
    assert ["trained", "NO, its labels mean nothing"] in rows(as_markdown(report(trained=False)))


def test_the_files(tmp_path: Path) -> None:
    predictions = pd.DataFrame({"source_id": ["x,1"], "p_atypical": [np.nan], "vote": [""]})
    write_evaluation(tmp_path / "new" / "out", report(), predictions, CURVES)
    out = tmp_path / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        *("calibration.png", "evaluation.json", "evaluation.md", "predictions.csv", "roc.png")
    ]
    assert json.loads((out / "evaluation.json").read_text()) == report().as_json()
    assert (out / "evaluation.md").read_text() == as_markdown(report())
    assert (out / "predictions.csv").read_text() == 'source_id,p_atypical,vote\n"x,1",,\n'
    for name in ("roc.png", "calibration.png"):
        with Image.open(out / name) as picture:
            assert picture.size == (960, 1020)
            colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
            assert (0x00, 0x72, 0xB2) in colours, "the first member's"


def test_pictures_say_what_they_are_of() -> None:
    for draw in (draw_roc, draw_calibration):
        figure = draw(report(trained=False, training_data=True, bundle="x$1$"), CURVES)
        title = figure.get_suptitle()
        (text,) = [text for text in figure.texts if text.get_text() == title]
        assert not text.get_parse_math(), "a name with two $ is no formula"
        assert title == "x$1$ on set\nUNTRAINED: means nothing. TRAINING DATA. Research use only."
        assert draw(report(), CURVES).get_suptitle() == "known on set\nResearch use only."


def labels_of(figure: Any) -> list[str]:
    texts = figure.axes[0].get_legend().get_texts()
    assert not any(text.get_parse_math() for text in texts), "a name with two $ is no formula"
    return [text.get_text() for text in texts]


def test_the_curves_are_named_with_their_numbers() -> None:
    assert labels_of(draw_roc(report(), CURVES)) == [
        "AUROC 1.000  ensemble",
        "AUROC 0.525  _member $a$ on 組",
    ], "without the one of which one class is known"
    assert [label[:6] + label[13:] for label in labels_of(draw_calibration(report(), CURVES))] == [
        "Brier ensemble",
        "Brier _member $a$ on 組",
        "Brier one class",
    ]


def test_the_ensemble_is_black_and_on_top() -> None:
    for draw in (draw_roc, draw_calibration):
        _, ensemble, member, *_ = draw(report(), CURVES).axes[0].get_lines()
        assert (ensemble.get_color(), member.get_color()) == ("black", "#0072B2")
        assert ensemble.get_zorder() > member.get_zorder()


def test_many_members_are_told_apart() -> None:
    many = [Curve(f"member-{index}", CURVES[0].labels, P, False) for index in range(20)]
    lines = draw_roc(report(), many).axes[0].get_lines()[1:]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_nothing_to_draw_is_no_error() -> None:
    assert draw_roc(report(), CURVES[2:]).axes[0].get_legend() is None
    assert draw_calibration(report(), ()).axes[0].get_legend() is None


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\nfrom types import SimpleNamespace\n"
        "from wsi_mitosis.core.scoring import Curve\nfrom wsi_mitosis.io.training.plots import draw_roc\n"
        "report = SimpleNamespace(trained=True, training_data=False, use='', bundle='', dataset='')\n"
        "draw_roc(report, [Curve('x', np.array([0, 1]), np.array([0., 1.]), True)]).savefig('x.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_an_evaluation_that_is_not_whole_has_no_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_evaluation(tmp_path, report(), pd.DataFrame(), CURVES)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation, "as_markdown", full)
    with pytest.raises(OutputError, match="writing an evaluation: cannot be written: No space left"):
        write_evaluation(tmp_path, report(), pd.DataFrame(), CURVES)
    assert not (tmp_path / "evaluation.json").exists()
    assert (tmp_path / "roc.png").exists()


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: writing an evaluation: cannot be written"):
        prepare_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        prepare_folder(tmp_path / "file" / "below")
    prepare_folder(tmp_path / "deep" / "er")
    assert (tmp_path / "deep" / "er").is_dir()


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(OutputError, match="no permission"):
        prepare_folder(tmp_path)


PUBLISHED = sorted((Path(__file__).parents[3] / "train/runs").glob("*/*.json"))


def test_the_published_evaluations_are_known() -> None:
    assert len(PUBLISHED) == 9


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_published_evaluation_is_read_and_written_byte_for_byte(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    published = EvaluationReport.parse(json.loads(text), path)
    write_evaluation(tmp_path, published, pd.DataFrame(), CURVES)
    assert (tmp_path / "evaluation.json").read_text(encoding="utf-8") == text
