"""Every reader of the program, with valid files for it."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import pkgutil
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests import detection_files
from tests.dataset_files import amibr_row, crop, midog25_row, random_images, store, write_csv
from tests.io.detections import formats
from tests.slide_files import aperio_slide, leica_slide, ome_slide, planes_slide, textured, tiff_slide
from wsi_mitosis.errors import WsiMitosisError
from wsi_mitosis.tables import Detections, SlideSource
from wsi_mitosis.units import Bounds, Mpp

POINTS = [(12.5, 20.25), (100.0, 40.0), (55.5, 90.75)]
SCORES = [0.9, 0.5, 0.25]
SLIDE = "a.tiff"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        write: Writes valid files into an empty folder and returns those that may be mutated.
        read: Reads a file as the program does.
        share: How many inputs it gets, relative to the others.
    """

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    share: int = 4


def _detections(folder: Path) -> dict[str, Path]:
    return detection_files.write_all(folder, SLIDE, POINTS, SCORES, (0.25, 0.25))


def _of_format(*names: str) -> Callable[[Path], list[Path]]:
    return lambda folder: [path for name, path in _detections(folder).items() if name in names]


def _yolo(folder: Path) -> list[Path]:
    """Objects, and the names of their classes in two files."""
    module = importlib.import_module("tests.io.detections.formats.test_yolo")
    for name, text in (("a.txt", module.TEXT), ("data.yaml", module.YAML), ("classes.txt", module.CLASSES)):
        (folder / name).write_text(text)
    return sorted(folder.iterdir())


def _parquet(folder: Path) -> list[Path]:
    """Tables of several encodings and types, and one of the program itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "slide": pa.array([SLIDE] * 3),
        "x": pa.array([x for x, _ in POINTS]),
        "y": pa.array([y for _, y in POINTS], pa.float32()),
        "box": pa.array([[1, 2], None, []], pa.list_(pa.int16())),
        "at": pa.array([{"day": 1, "who": "a"}, None, {"day": None, "who": "b"}]),
        "seen": pa.array([1, 2, None], pa.timestamp("us")),
    }
    for codec in ("snappy", "zstd", "gzip"):
        pq.write_table(pa.table(columns), folder / f"{codec}.parquet", compression=codec, version="2.6")
    pq.write_table(
        pa.table(columns),
        folder / "plain.parquet",
        use_dictionary=False,
        compression="none",
        data_page_version="2.0",
    )
    return [*sorted(folder.glob("*.parquet")), *_of_format("parquet")(folder), _results(folder)[-1]]


def read_candidates(path: Path) -> Any:
    """Read, match and place candidates, as for a slide of 320 x 320 px."""
    from wsi_mitosis.core.candidates import prepare_candidates
    from wsi_mitosis.core.matching import split_by_slide
    from wsi_mitosis.io.detections import read_detections

    read = read_detections(path)
    parts = split_by_slide(read, [SlideSource(Path(f"/s/{SLIDE}"), SLIDE)]).parts
    return [_prepared(prepare_candidates, part) for part in parts.values()]


def _prepared(prepare: Callable[..., Any], part: Detections) -> Any:
    from wsi_mitosis.io.results.figures import _figures_table

    table = prepare(
        part,
        size_px0=(320, 320),
        mpp=Mpp(0.25, 0.25),
        mpp_stated=True,
        bounds=Bounds(0, 0, 320, 320),
        name=SLIDE,
        centre_offset_um=(1500.0, -800.0),
    )
    blank = dict.fromkeys(("figure_id", "p_atypical", "votes_atypical", "votes_cast", "label"))
    return _figures_table(table.assign(slide=SLIDE, **blank))


def _regions(folder: Path) -> list[Path]:
    ring = detection_files.ring(60, 60)
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"name": "A"},
        },
        {
            "type": "Feature",
            "geometry": {"type": "MultiPolygon", "coordinates": [[ring], [detection_files.ring(90, 90)]]},
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
        },
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "isEllipse": True, "coordinates": [ring]},
            "properties": {"objectType": "annotation", "classification": {"names": ["Ignore*"]}},
        },
    ]
    return [detection_files.write_json(folder / "a.geojson", features)]


def _read_regions(path: Path) -> Any:
    from wsi_mitosis.core.regions import count_regions
    from wsi_mitosis.io.detections.regions import read_regions

    placed = read_regions(path).placed((10, 10))
    x = y = np.array([50.0, 60.0])
    return count_regions(placed, x, y, np.array([True, False]), size_px0=(320, 320), mpp=Mpp(0.25, 0.25))


def _read_review(path: Path) -> Any:
    from wsi_mitosis.core.reviews import placed_objects, reviewed_figures
    from wsi_mitosis.io.detections.reviews import read_review

    drawn = placed_objects(read_review(path).objects, frame="slide", mpp=Mpp(0.25, 0.25), bounds=None)
    machine = pd.DataFrame({"figure_id": ["c1"], "x_px0": [10.0], "y_px0": [20.0]})
    labels: dict[str, Any] = {"mitosis": "atypical", "mitotic figure": "typical"}
    return reviewed_figures(drawn, machine, SLIDE, labels=labels)


def _slide_lists(folder: Path) -> list[Path]:
    tiff_slide(folder / SLIDE, textured(64, 64))
    (folder / "list.csv").write_text(f"slide,mpp\n{SLIDE},0.25\nb.svs,\n../c.svs,0.5\n")
    (folder / "list.txt").write_text(f"# slides\n{SLIDE}\nb.svs\n")
    return [folder / "list.csv", folder / "list.txt"]


def _find_slides(path: Path) -> Any:
    from wsi_mitosis.io.slides import find_slides

    return find_slides([str(path)])


def _tomls(kind: str) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        return [Path(shutil.copy(path, folder)) for path in sorted((ROOT / kind).glob("*.toml"))]

    return write


def _read_pipeline(path: Path) -> Any:
    from wsi_mitosis.io.pipelines import read_pipeline

    return read_pipeline(str(path))


def _read_recipe(path: Path) -> Any:
    from wsi_mitosis.io.training.runs import read_recipe

    return read_recipe(str(path))


def _bundle(folder: Path) -> list[Path]:
    shutil.copytree(ROOT / "models" / "untrained-tiny", folder, dirs_exist_ok=True)
    return [folder / "manifest.toml", folder / "CARD.md"]


def _open_bundle(path: Path) -> Any:
    from wsi_mitosis.io.bundles import find_bundle, open_bundle

    bundle = open_bundle(find_bundle(path.parent))
    return bundle.read_card(), bundle.read_samples()


def _weights(folder: Path) -> list[Path]:
    _bundle(folder)
    return sorted(folder.glob("*.safetensors"))[:1]


def _open_weights(path: Path) -> Any:
    """Open a bundle whose manifest lists the mutated file, as one made by an attacker would."""
    manifest = path.with_name("manifest.toml")
    text = manifest.read_text()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(re.sub(rf'(file = "{path.name}"\nsha256 = ")[0-9a-f]+', rf"\g<1>{digest}", text))
    return _open_bundle(path)


def _label_tables(folder: Path) -> list[Path]:
    (folder / "images").mkdir()
    tiff_slide(folder / "images" / "s.tiff", textured(64, 64))
    crop(folder / "crops" / "MIDOG21_1.png")
    crop(folder / "crops" / "1.png")
    (folder / "any.csv").write_text(
        "slide,x,y,label,domain,id\ns.tiff,30,30,atypical,d,1\ns.tiff,40,9,0,d,2\n"
    )
    rows = [amibr_row("MIDOG21", "002.tiff", 1, "aan")]
    write_csv(folder / "amibr.csv", list(rows[0]), rows)
    rows = [midog25_row(1, "002.tiff", "human breast", ("AMF", "NMF", "AMF"), "AMF")]
    write_csv(folder / "midog25.csv", list(rows[0]), rows)
    return [folder / "any.csv", folder / "amibr.csv", folder / "midog25.csv"]


def _read_labels(path: Path) -> Any:
    from wsi_mitosis.io.training.labels import read_listing
    from wsi_mitosis.specs import DatasetSpec

    source = {"any.csv": "csv"}.get(path.name, path.stem)
    images = path.parent / ("images" if source == "csv" else "crops")
    return read_listing(
        DatasetSpec.parse(
            {"source": source, "path": str(path), "images": str(images), "out": str(path.parent / "x.zarr")},
            "x",
        )
    )


def _crops(folder: Path) -> list[Path]:
    return [crop(folder / f"a.{ending}") for ending in ("png", "jpg", "tif", "bmp", "webp")]


def _read_crops(path: Path) -> Any:
    from wsi_mitosis.io.training.crops import crops_side, read_crops, unusable

    _, faults = read_crops([path], crops_side([path], 16))
    if faults:
        raise unusable(faults)


def _stack(folder: Path) -> list[Path]:
    import tifffile

    images = random_images(3, 32)
    tifffile.imwrite(folder / "plain.tiff", images, photometric="rgb")
    tifffile.imwrite(folder / "zip.tiff", images, photometric="rgb", compression="deflate")
    tifffile.imwrite(folder / "jpeg.tiff", images, photometric="rgb", compression="jpeg")
    return [folder / "plain.tiff", folder / "zip.tiff", folder / "jpeg.tiff"]


def _read_stack(path: Path) -> Any:
    from wsi_mitosis.io.slides.stacks import read_stack

    return read_stack(path)


def _challenge(folder: Path) -> list[Path]:
    from wsi_mitosis.io.slides.stacks import IN_SOCKET

    place = f"images/{IN_SOCKET}"
    (folder / place).mkdir(parents=True)
    tiff_slide(folder / place / "a.tiff", textured(32, 32))
    entry = {"socket": {"slug": IN_SOCKET, "relative_path": place}}
    return [detection_files.write_json(folder / "inputs.json", [entry])]


def _read_challenge(path: Path) -> Any:
    from wsi_mitosis.io.slides.stacks import challenge_stack

    return challenge_stack(path.parent)


def _slides(folder: Path) -> list[Path]:
    from tests.dicom_files import dicom_slide

    image = textured(300, 200)
    return [
        tiff_slide(folder / "plain.tiff", image, levels=2),
        aperio_slide(folder / "aperio.svs", image),
        leica_slide(folder / "leica.scn", image, (100, 50), (600, 400)),
        planes_slide(folder / "planes.ome.tiff", np.moveaxis(image, 2, 0)),
        ome_slide(folder / "strips.ome.tif", image),
        dicom_slide(folder / "dicom", image, levels=1),
        _jpeg2000(folder / "a.jp2", image),
    ]


def _jpeg2000(path: Path, image: np.ndarray) -> Path:
    import glymur

    glymur.Jp2k(str(path), data=image)
    return path


def _read_slide(path: Path) -> Any:
    from wsi_mitosis.io.slides import find_slides, open_slide

    found = find_slides([str(path)])
    with open_slide(found.usable[0].path, given_mpp=0.25) if found.usable else _nothing() as slide:
        if slide is not None:
            slide.window(0, 20, 20, 64, 64, 255)
            slide.thumbnail(64)


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _results(folder: Path) -> list[Path]:
    from tests.report_files import Done, results_folder

    slides = [tiff_slide(folder / name, textured(320, 320)) for name in (SLIDE, "b.svs")]
    others = [{"slide": "d.svs", "status": "failed", "error": "x"}]
    results_folder(folder, [Done(slide, POINTS) for slide in slides], others)
    return [
        folder / "summary.csv",
        folder / "run.json",
        folder / "geojson" / f"{SLIDE}.geojson",
        folder / "assessments" / f"{SLIDE}.json",
        folder / "figures" / f"{SLIDE}.parquet",
    ]


def _read_results(path: Path) -> Any:
    from wsi_mitosis.io.results.folder import Drawing, open_results
    from wsi_mitosis.jobs.report import _read_results

    at = next(parent for parent in path.parents if (parent / "figures").is_dir())
    with open_results(at, "reading") as folder:
        read = _read_results(folder)
        for state in read.states.values():
            if state.record is not None:
                folder.figures(state.record.name)
            if state.assessed is not None:
                folder.is_drawn(state.assessed, Drawing("detection", "qupath"))
        return read


def _runs(folder: Path) -> list[Path]:
    """What a run leaves beside the results, as if it were at work."""
    from wsi_mitosis.core.histories import RunProgress, SlideHistory
    from wsi_mitosis.io.results.digests import FILE, write_digests
    from wsi_mitosis.io.results.folder import ResultFolder
    from wsi_mitosis.io.results.held import PROGRESS, write_history
    from wsi_mitosis.io.results.lock import FILE as LOCK

    _results(folder)
    write_digests(folder)
    times = {"started": "2026-01-01T00:00:00+00:00", "updated": "2026-01-01T00:00:05+00:00"}
    with ResultFolder(folder) as held:
        history = SlideHistory(slide=SLIDE, path="/s", status="done", since=times["started"])
        write_history(held, history)
        held.write_progress(
            RunProgress(**times, slides=2, finished=1, patches=3, seconds=1.5, remaining=None)
        )
        lock = (folder / LOCK).read_bytes()
    (folder / LOCK).write_bytes(lock)
    return [folder / FILE, folder / PROGRESS, folder / LOCK, held.state_path(SLIDE), folder / "run.json"]


def _read_runs(path: Path) -> Any:
    from wsi_mitosis.jobs.status import folder_status
    from wsi_mitosis.jobs.verify import verify

    at = next(parent for parent in path.parents if (parent / "figures").is_dir())
    status = folder_status(at)
    return status.as_data(), verify(at)


def _recount(folder: Path) -> list[Path]:
    from tests.reviewers import classify, page, save
    from wsi_mitosis.jobs.recount import recount

    out = classify(folder / "out", {"a.svs": "aat"})
    recount(out, save(folder / "saved", page(out, "anna", {"a.svs": "tnu"})))
    names = ("summary.csv", "verdicts.csv", "consensus.csv", "agreement.json")
    return [out / "reviewed" / name for name in names]


def _read_recount(path: Path) -> Any:
    from wsi_mitosis.io.results.recounts import read_consensus, read_recount, read_verdicts

    read = {"verdicts.csv": read_verdicts, "consensus.csv": read_consensus}.get(path.name, read_recount)
    return read(path.parents[1])


def _review_file(folder: Path) -> list[Path]:
    from tests.reviewers import classify, page, save

    out = classify(folder / "out", {"a.svs": "aattat"})
    again = classify(folder / "again", {"a.svs": "aattat"}, key="o" * 64)
    saved = page(out, "anna", {"a.svs": "atn.u-"}, note="Anaphase?")
    return [save(folder / "saved", saved), save(folder / "later", page(again, "anna", {"a.svs": "tttttt"}))]


def _read_review_file(path: Path) -> Any:
    from wsi_mitosis.core.verdicts import verdicts_on_slide
    from wsi_mitosis.io.detections.review_files import read_verdicts_of
    from wsi_mitosis.io.results.folder import ResultFiles

    file, folder = read_verdicts_of(path), ResultFiles(path.parents[1] / "out")
    record, figures = folder.records()["a.svs"], folder.figures("a.svs")
    if not any(one.slide == "a.svs" for one in file.content.slides):
        return file
    return verdicts_on_slide([(path.name, file.content)], record, figures, 6.25)


def _project(folder: Path) -> list[Path]:
    from wsi_mitosis.io.results.project import write_project

    slide = tiff_slide(folder / "a.tiff", textured(64, 64))
    write_project(folder, {"a.tiff": slide}, "qupath", [True])
    return [folder / "qupath" / "project.qpproj", folder / "qupath" / "classifiers" / "classes.json"]


def _read_project(path: Path) -> Any:
    from wsi_mitosis.io.results.project import write_project

    at = next(parent for parent in path.parents if parent.name == "qupath").parent
    others = {"b.tiff": at / "a.tiff"}
    kept = {file: file.read_bytes() for file in (at / "qupath").rglob("*") if file.is_file()}
    try:
        return write_project(at, others, "qupath", [True])
    finally:
        for file in [*(at / "qupath").rglob("*")]:
            if file.is_file() and file not in kept:
                file.unlink()
        for file, data in kept.items():
            file.write_bytes(data)


def _store(folder: Path) -> list[Path]:
    store(folder / "s.zarr", random_images(6))
    inside = folder / "s.zarr"
    return [
        inside / "zarr.json",
        inside / "images" / "zarr.json",
        *sorted(path for path in (inside / "images" / "c").rglob("*") if path.is_file()),
        inside / "samples" / "label" / "zarr.json",
        *sorted(path for path in (inside / "samples" / "domain").rglob("*") if path.is_file()),
    ]


def _read_store(path: Path) -> Any:
    from wsi_mitosis.io.training.stores import open_store

    at = next(parent for parent in path.parents if parent.suffix == ".zarr")
    opened = open_store(at)
    return opened.images(), opened.masks()


def _record_of_fold(folder: Path) -> list[Path]:
    """A record as it is in the repository, of a member that is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "member.safetensors").write_bytes(b"weights")
    record = json.loads(_kept_record()) | {"sha256": hashlib.sha256(b"weights").hexdigest()}
    (folder / "fold.json").write_text(json.dumps(record))
    return [folder / "fold.json"]


def _read_record_of_fold(path: Path) -> Any:
    from wsi_mitosis.io.training.runs import FoldFolder

    return FoldFolder(path.parent, json.loads(_kept_record())["key"]).read_record()


def _kept_record() -> str:
    return min((ROOT / "train" / "runs" / "nano").glob("*/fold.json")).read_text()


def _of_formats() -> dict[str, Reader]:
    """The readers of formats whose own test has `examples`: valid files for SLIDE, written to a folder."""
    modules = (
        importlib.import_module(f"{formats.__name__}.{module.name}")
        for module in pkgutil.iter_modules(formats.__path__)
    )
    return {
        module.__name__.rpartition("test_")[2].replace("_", "-"): Reader(module.examples, read_candidates)
        for module in modules
        if hasattr(module, "examples")
    }


READERS: dict[str, Reader] = {
    "csv": Reader(_of_format("csv", "csv-semicolon", "csv-um", "csv-box", "qupath-tsv"), read_candidates, 12),
    "parquet": Reader(_parquet, read_candidates, 8),
    "geojson": Reader(_of_format("geojson", "geojson-gz"), read_candidates, 12),
    "tiatoolbox-json": Reader(_of_format("tiatoolbox-json"), read_candidates),
    "tiatoolbox-db": Reader(_of_format("tiatoolbox-db"), read_candidates, 8),
    "sliderunner": Reader(_of_format("sliderunner"), read_candidates, 6),
    "midog": Reader(_of_format("midog"), read_candidates, 6),
    "midog-guide": Reader(_of_format("midog-guide"), read_candidates),
    "grand-challenge": Reader(_of_format("grand-challenge"), read_candidates),
    **_of_formats(),
    "yolo": Reader(_yolo, lambda path: read_candidates(path.with_name("a.txt"))),
    "regions": Reader(_regions, _read_regions, 6),
    "reviews": Reader(_of_format("geojson", "tiatoolbox-json"), _read_review),
    "review-files": Reader(_review_file, _read_review_file),
    "slide-lists": Reader(_slide_lists, _find_slides),
    "pipelines": Reader(_tomls("pipelines"), _read_pipeline),
    "recipes": Reader(_tomls("train"), _read_recipe),
    "bundles": Reader(_bundle, _open_bundle),
    "weights": Reader(_weights, _open_weights, 2),
    "labels": Reader(_label_tables, _read_labels),
    "crops": Reader(_crops, _read_crops, 6),
    "stacks": Reader(_stack, _read_stack, 6),
    "challenge": Reader(_challenge, _read_challenge, 2),
    "slides": Reader(_slides, _read_slide, 8),
    "results": Reader(_results, _read_results, 2),
    "runs": Reader(_runs, _read_runs, 2),
    "recounts": Reader(_recount, _read_recount, 2),
    "projects": Reader(_project, _read_project, 2),
    "stores": Reader(_store, _read_store, 2),
    "folds": Reader(_record_of_fold, _read_record_of_fold, 1),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Libraries' warnings and log messages are not errors."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def outcome(reader: Reader, path: Path) -> str | None:
    """Read a file, and return the program's own error message; None if the file was read."""
    with quiet():
        try:
            reader.read(path)
        except WsiMitosisError as error:
            return str(error)
    return None
