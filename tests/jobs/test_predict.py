from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_mitosis.errors import InputError, OutputError
from wsi_mitosis.io.bundles import Bundle, open_bundle
from wsi_mitosis.io.slides.stacks import IN_SOCKET, OUT_FILE, read_stack
from wsi_mitosis.jobs import predict
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.jobs.predict import predict_challenge, predict_crops, predict_stack
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.untrained import stained_noise


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_untrained(tmp_path_factory.mktemp("predict") / "b", name="b", patch_px=32, members=3)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return stained_noise(40, 48, seed=5)


@pytest.fixture
def stack(tmp_path: Path, crops: np.ndarray) -> Path:
    tifffile.imwrite(tmp_path / "stack.tiff", crops[:6], photometric="rgb", compression="zlib")
    return tmp_path / "stack.tiff"


def by_hand(crops: np.ndarray, bundle: Bundle) -> np.ndarray:
    """P(atypical) of each crop asked alone."""
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
    return np.array([ensemble.predict(crop[None, 8:40, 8:40]).mean() for crop in crops])


def test_larger_crops_are_cut_to_their_centre(bundle: Bundle, crops: np.ndarray) -> None:
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
    votes = predict_crops(crops, ensemble, bundle)
    # Batches of another size sum in another order.
    np.testing.assert_allclose(votes.p_atypical, by_hand(crops, bundle), atol=2e-5)
    assert len(votes) == 40 > predict.BATCH
    assert 0 < votes.is_atypical.sum() < 40


def test_a_crop_with_an_odd_side_keeps_its_centre_pixel(bundle: Bundle) -> None:
    """The centre of n pixels is pixel n // 2: it becomes pixel 16 of 32, as in crops cut at a coordinate."""
    crops = np.zeros((1, 41, 41, 3), dtype=np.uint8)
    crops[0, 20, 20] = 255
    seen = []

    class Recorder:
        def predict(self, batch: np.ndarray) -> np.ndarray:
            seen.append(batch)
            return np.zeros((len(batch), 3))

    predict_crops(crops, Recorder(), bundle)  # type: ignore[arg-type]
    assert seen[0].shape == (1, 32, 32, 3)
    assert np.argwhere(seen[0][0, ..., 0]).tolist() == [[16, 16]]


def test_smaller_crops_are_refused(bundle: Bundle) -> None:
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
    with pytest.raises(InputError, match="31 x 31 px, smaller than the 32 px that 'b' reads"):
        predict_crops(np.zeros((1, 31, 31, 3), np.uint8), ensemble, bundle)


def test_a_refused_stack_is_named(bundle: Bundle, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((2, 16, 16, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match=r"s\.tif: cutting crops: .*Cut larger crops"):
        predict_stack(tmp_path / "s.tif", bundle, device="cpu")


def test_predictions_come_in_page_order(stack: Path, bundle: Bundle, crops: np.ndarray) -> None:
    result = predict_stack(stack, bundle, device="cpu")
    np.testing.assert_allclose(
        [p["confidence"] for p in result.predictions], by_hand(crops[:6], bundle), atol=2e-5
    )
    labels = ["atypical" if votes >= 2 else "normal" for votes in result.votes.votes_atypical]
    assert [p["class"] for p in result.predictions] == labels


def test_confidence_is_p_atypical_whatever_the_class_and_a_float(stack: Path, bundle: Bundle) -> None:
    result = predict_stack(stack, bundle, device="cpu")
    votes = result.votes
    sure = type(votes)(np.array([0.0, 1.0]), np.array([0, 3]), np.array([3, 3]), np.array([False, True]))
    path = stack.with_name("p.json")
    type(result)(stack, sure, bundle, "cpu", "openvino", "flips", "all").write(path)
    assert json.loads(path.read_text()) == [
        {"class": "normal", "confidence": 0.0},
        {"class": "atypical", "confidence": 1.0},
    ]
    assert all(isinstance(p["confidence"], float) for p in json.loads(path.read_text()))


def test_the_provenance_says_untrained(stack: Path, bundle: Bundle) -> None:
    result = predict_stack(stack, bundle, device="cpu", tta="none", vote="early")
    beside = result.write(stack.with_name("p.json"))
    assert beside == stack.with_name("p.provenance.json")
    told = json.loads(beside.read_text())
    assert told["trained"] is False
    assert told["bundle"] == "b"
    assert told["bundle_digest"] == bundle.digest
    assert (told["device"], told["tta"], told["vote"], told["crops"]) == ("cpu", "none", "early", 6)
    assert told["backend"] == "openvino"
    assert told["program"].startswith("wsi-mitosis ")


def test_an_unwritable_place_is_told(stack: Path, bundle: Bundle) -> None:
    stack.with_name("file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        predict_stack(stack, bundle, device="cpu").write(stack.with_name("file") / "p.json")


PAGES: dict[str, tuple[dict[str, Any], str]] = {
    "grey": (
        {"data": np.zeros((2, 32, 32), np.uint8), "photometric": "minisblack"},
        "MINISBLACK with 1 samples",
    ),
    "alpha": (
        {"data": np.zeros((2, 32, 32, 4), np.uint8), "photometric": "rgb", "extrasamples": ["unassalpha"]},
        "RGB with 4 samples",
    ),
    "16 bit": ({"data": np.zeros((2, 32, 32, 3), np.uint16), "photometric": "rgb"}, "uint16 values"),
    "YCbCr as it is": (
        {"data": np.zeros((2, 32, 32, 3), np.uint8), "photometric": "ycbcr"},
        "YCBCR with 3 samples",
    ),
    "not square": (
        {"data": np.zeros((2, 32, 40, 3), np.uint8), "photometric": "rgb"},
        "40 x 32 px, not square",
    ),
}


@pytest.mark.parametrize("case", PAGES)
def test_other_pages_are_refused(tmp_path: Path, case: str) -> None:
    written, told = PAGES[case]
    tifffile.imwrite(tmp_path / "s.tif", **written)
    with pytest.raises(InputError, match=f"s.tif: reading crops: page 1 of 2 .*{told}"):
        read_stack(tmp_path / "s.tif")


def test_pages_of_several_sizes_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "s.tif") as tiff:
        for side in (32, 32, 48):
            tiff.write(np.zeros((side, side, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match="page 3 of 3 is 48 x 48 px, not 32 x 32 px like the first"):
        read_stack(tmp_path / "s.tif")


@pytest.mark.parametrize("content", [b"", b"no image at all", b"II*\x00\xff\xff\xff\x7f"])
def test_what_is_no_tiff_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.tif").write_bytes(content)
    with pytest.raises(InputError, match=r"s\.tif: reading crops"):
        read_stack(tmp_path / "s.tif")


def test_a_stack_cut_short_is_refused(stack: Path) -> None:
    whole = stack.read_bytes()
    for share in (0.3, 0.6, 0.9, 0.99):
        stack.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError):
            read_stack(stack)


def write_with_pillow(path: Path, crops: np.ndarray) -> None:
    """A page, its directory, the next page, and so on."""
    first, *others = map(Image.fromarray, crops)
    first.save(path, save_all=True, append_images=others)


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "tifffile": lambda path, crops: tifffile.imwrite(path, crops, photometric="rgb"),
    "plain": lambda path, crops: tifffile.imwrite(path, crops, photometric="rgb", metadata=None),
    "ImageJ": lambda path, crops: tifffile.imwrite(path, crops, photometric="rgb", imagej=True),
    "OME": lambda path, crops: tifffile.imwrite(
        path, crops, photometric="rgb", metadata={"axes": "TYXS"}, ome=True
    ),
    "Pillow": write_with_pillow,
    "BigTIFF": lambda path, crops: tifffile.imwrite(path, crops, photometric="rgb", bigtiff=True),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_stack_is_all_of_it_or_refused_wherever_it_is_cut(
    tmp_path: Path, crops: np.ndarray, writer: str
) -> None:
    WRITERS[writer](path := tmp_path / "s.tif", crops)
    np.testing.assert_array_equal(read_stack(path), crops)
    content = path.read_bytes()
    for share in np.linspace(0.02, 0.98, 25):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"s\.tif: reading crops"):
            read_stack(path)


@pytest.fixture(params=["disabled", "level", "all"])
def silent_tifffile(request: pytest.FixtureRequest) -> Iterator[None]:
    """A program whose logging has no use for what tifffile says, as after `logging.config.dictConfig`."""
    logger = logging.getLogger("tifffile")
    before = logger.disabled, logger.level, logging.root.manager.disable
    if request.param == "disabled":
        logger.disabled = True
    elif request.param == "level":
        logger.setLevel(logging.CRITICAL)
    else:
        logging.disable(logging.CRITICAL)
    chosen = logger.disabled, logger.level, logging.root.manager.disable
    yield
    after = logger.disabled, logger.level, logging.root.manager.disable
    logger.disabled = before[0]
    logger.setLevel(before[1])
    logging.disable(before[2])
    assert after == chosen


@pytest.mark.usefixtures("silent_tifffile")
def test_a_stack_that_is_cut_is_refused_whatever_the_settings_of_logging(
    tmp_path: Path, crops: np.ndarray
) -> None:
    WRITERS["Pillow"](path := tmp_path / "s.tif", crops)
    content = path.read_bytes()
    for share in (0.5, 0.7, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"s\.tif: reading crops"):
            read_stack(path)


def test_a_stack_whose_pages_are_not_in_its_directory_is_refused(tmp_path: Path, crops: np.ndarray) -> None:
    tifffile.imwrite(path := tmp_path / "s.tif", crops, photometric="rgb", truncate=True)
    number = len(crops)
    with pytest.raises(InputError, match=rf"lists 1 page, but its description \(shaped\) states {number} im"):
        read_stack(path)
    tifffile.imwrite(path, crops, photometric="rgb", imagej=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(f"images={number}".encode(), f"images={number + 3}".encode(), 1))
    with pytest.raises(InputError, match=rf"lists {number} pages.*\(imagej\) states {number + 3} images"):
        read_stack(path)


def test_a_page_that_is_to_be_turned_is_refused(tmp_path: Path, crops: np.ndarray) -> None:
    tag = (274, 3, 1, 6, True)  # Orientation: the first row is the right side
    tifffile.imwrite(path := tmp_path / "s.tif", crops, photometric="rgb", metadata=None, extratags=[tag])
    with pytest.raises(InputError, match=r"page 1 of \d+ is to be turned .*Orientation 6"):
        read_stack(path)


def test_a_missing_stack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_stack(tmp_path / "none.tif")


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_one_page_works_in_either_arrangement(tmp_path: Path, crops: np.ndarray, planar: str) -> None:
    page = crops[0] if planar == "contig" else np.moveaxis(crops[0], -1, 0)
    tifffile.imwrite(tmp_path / "s.tif", page, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read_stack(tmp_path / "s.tif"), crops[:1])


def test_jpeg_pages_come_as_rgb(tmp_path: Path) -> None:
    page = np.full((32, 32, 3), (200, 60, 120), np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", page, photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "s.tif") as tiff:
        assert tiff.pages[0].photometric.name == "YCBCR"
    found = read_stack(tmp_path / "s.tif")
    assert np.abs(found[0].astype(int) - page).max() <= 3  # JPEG's loss


def container(root: Path, crops: np.ndarray, key: str = "socket", name: str = "a-b-c.tif") -> Path:
    """Inputs as Grand Challenge mounts them."""
    folder = root / "input" / "images" / IN_SOCKET
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / name, crops, photometric="rgb")
    socket = {"slug": IN_SOCKET, "relative_path": f"images/{IN_SOCKET}", "kind": "Image"}
    other = {key: {"slug": "other", "relative_path": "other.json"}, "image": None}
    listing = [other, {key: socket, "image": {"name": "stack_5.tiff"}, "value": None, "file": None}]
    (root / "input" / "inputs.json").write_text(json.dumps(listing))
    return root / "input"


@pytest.mark.parametrize(("key", "name"), [("socket", "x.tif"), ("interface", "x.TIFF")])
def test_the_challenges_contract(
    tmp_path: Path, crops: np.ndarray, bundle: Bundle, key: str, name: str
) -> None:
    inputs = container(tmp_path, crops[:16], key, name)
    result, written = predict_challenge(inputs, tmp_path / "output", bundle, device="cpu")
    assert written == tmp_path / "output" / "multiple-mitotic-figure-classification.json"
    told = json.loads(written.read_text())
    assert told == result.predictions
    assert len(told) == 16
    assert all(set(p) == {"class", "confidence"} and p["class"] in ("atypical", "normal") for p in told)
    assert all(type(p["confidence"]) is float and math.isfinite(p["confidence"]) for p in told)
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [
        OUT_FILE,
        "multiple-mitotic-figure-classification.provenance.json",
    ]


def test_one_page_gives_a_list_of_one(tmp_path: Path, crops: np.ndarray, bundle: Bundle) -> None:
    _, written = predict_challenge(container(tmp_path, crops[0]), tmp_path / "output", bundle, device="cpu")
    assert len(json.loads(written.read_text())) == 1


@pytest.mark.parametrize(
    ("listing", "told"),
    [
        ("[]", "names '.*' 0 times"),
        ("{", "is no list of inputs"),
        ('{"a": 1}', "is no list of inputs"),
        ('[{"value": 1}]', "is no list of inputs"),
        (None, "is no list of inputs"),
    ],
)
def test_other_inputs_are_refused(
    tmp_path: Path, crops: np.ndarray, bundle: Bundle, listing: str | None, told: str
) -> None:
    inputs = container(tmp_path, crops[:2])
    (inputs / "inputs.json").unlink()
    if listing is not None:
        (inputs / "inputs.json").write_text(listing)
    with pytest.raises(InputError, match=rf"inputs\.json: reading the challenge's input: {told}"):
        predict_challenge(inputs, tmp_path / "output", bundle)


@pytest.mark.parametrize("files", [0, 2])
def test_the_challenge_gives_one_stack(tmp_path: Path, crops: np.ndarray, bundle: Bundle, files: int) -> None:
    inputs = container(tmp_path, crops[:2])
    only = inputs / "images" / IN_SOCKET / "a-b-c.tif"
    _ = only.with_name("b.tif").write_bytes(only.read_bytes()) if files else only.unlink()
    with pytest.raises(InputError, match=f"holds {files} TIFF files, not one"):
        predict_challenge(inputs, tmp_path / "output", bundle)


def test_early_gives_the_same_classes(stack: Path, bundle: Bundle) -> None:
    everyone = predict_stack(stack, bundle, device="cpu")
    early = predict_stack(stack, bundle, device="cpu", vote="early")
    assert [p["class"] for p in early.predictions] == [p["class"] for p in everyone.predictions]
    assert early.votes.votes_cast.sum() < everyone.votes.votes_cast.sum()


def test_zooms_need_larger_crops(tmp_path: Path, crops: np.ndarray) -> None:
    write_untrained(tmp_path / "z", patch_px=32, members=1, zooms=(1.0, 0.5))
    bundle = open_bundle(tmp_path / "z")
    tifffile.imwrite(tmp_path / "s.tif", crops[:2], photometric="rgb")
    with pytest.raises(InputError, match="48 x 48 px, smaller than the 64 px"):
        predict_stack(tmp_path / "s.tif", bundle, device="cpu")
