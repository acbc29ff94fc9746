from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from tests.evaluations import bundle, recorded, store
from tests.networks import preact, timm_network
from tests.runs import candidates_csv, run, slides_in, summary
from wsi_mitosis.cli import main
from wsi_mitosis.core.voting import tally
from wsi_mitosis.errors import BundleError, InputError, OutputError
from wsi_mitosis.io.bundles import Bundle, open_bundle, write_bundle
from wsi_mitosis.io.slides import open_native
from wsi_mitosis.io.slides.patches import plan_patches, stream_patches
from wsi_mitosis.io.training.stores import Store
from wsi_mitosis.jobs.combine import Selection, combine, select, select_without
from wsi_mitosis.jobs.evaluate import evaluate
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.members import Member, member_state
from wsi_mitosis.nets.untrained import stained_noise, untrained_states
from wsi_mitosis.specs import NetworkSpec
from wsi_mitosis.tables import BackendChoice

DOMAINS = ("lab one", "lab two", "lab three")
SIDE = 32


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Eight figures of each of three laboratories."""
    crops = stained_noise(24, 40, seed=4)
    rows = [(DOMAINS[row % 3], f"{row}.tiff", row // 3 % 2, image) for row, image in enumerate(crops)]
    return store(tmp_path_factory.mktemp("stores") / "labs.zarr", rows)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, samples: Store) -> Bundle:
    """A member of width 2 for each laboratory that it was trained without."""
    return trained(tmp_path_factory.mktemp("a") / "narrow", 2, samples, recipe="nano 11")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, samples: Store) -> Bundle:
    """The same of width 3 and of another licence."""
    origin = {"seed": 7, "encoder_source": "hub", "encoder_licence": "BSD", "encoder_sha256": "ab"}
    return trained(
        tmp_path_factory.mktemp("b") / "wide", 3, samples, licence="BSD", recipe="wide 22", **origin
    )


def trained(
    folder: Path,
    width: int,
    samples: Store,
    *,
    domains: tuple[str | None, ...] = DOMAINS,
    lines: list[str] | None = None,
    origin: dict[str, Any] | None = None,
    **fields: Any,
) -> Bundle:
    """A bundle that says it was trained on the samples; of `fields` those of [training] are put there."""
    from tests.evaluations import FIELDS

    states: list[dict[str, Any]] = [
        dict(state) for state in untrained_states(len(domains), width, SIDE, 255.0)
    ]
    own = {"recipe", "seed", "encoder_source", "encoder_licence", "encoder_sha256"}
    training = {**FIELDS["training"], **{key: value for key, value in fields.items() if key in own}}
    fields = {
        "name": folder.name,
        "network": preact(width).model_dump(),
        **{key: value for key, value in fields.items() if key not in own},
    }
    listed = recorded(samples.samples) if lines is None else lines
    return bundle(folder, domains, listed, states=states, training=training, **fields)


def probabilities(of: Bundle, crops: np.ndarray, backend: BackendChoice = "torch") -> np.ndarray:
    return Ensemble(of.manifest, of.read_members(), device="cpu", backend=backend).predict(crops)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["models", "combine", *map(str, arguments)], catch_exceptions=False)


def test_members_of_two_networks_vote_as_they_did(tmp_path: Path, narrow: Bundle, wide: Bundle) -> None:
    mixed = combine([Selection(wide, (2, 0)), Selection(narrow, (0, 1, 2))], tmp_path / "mixed")
    crops = stained_noise(5, SIDE, seed=9)
    found, of_wide, of_narrow = (probabilities(one, crops) for one in (mixed, wide, narrow))
    np.testing.assert_array_equal(found, np.column_stack([of_wide[:, [2, 0]], of_narrow]))
    assert len(set(found[0])) == 5, "members that answer alike test nothing"


def test_the_manifest_states_where_each_member_comes_from(
    tmp_path: Path, narrow: Bundle, wide: Bundle
) -> None:
    mixed = combine([Selection(wide, (2, 0)), Selection(narrow, (1,))], tmp_path / "mixed")
    assert mixed == open_bundle(tmp_path / "mixed")
    manifest = mixed.manifest
    assert (manifest.name, manifest.licence, manifest.trained) == ("mixed", "BSD; MIT", True)
    assert manifest.networks == {preact(3): 2, preact(2): 1}
    assert (manifest.input, manifest.ensemble) == (wide.manifest.input, wide.manifest.ensemble)
    assert [m.test_domain for m in manifest.member] == ["lab three", "lab one", "lab two"]
    assert [m.validation_balanced_accuracy for m in manifest.member] == [1.0, 0.8, 0.9]
    assert [m.sha256 for m in manifest.member] == [
        of.manifest.member[index].sha256 for of, index in ((wide, 2), (wide, 0), (narrow, 1))
    ]
    origins = [m.training for m in manifest.member]
    assert [
        (o.bundle, o.bundle_digest, o.licence, o.recipe, o.seed, o.encoder_source) for o in origins if o
    ] == [
        ("wide", wide.digest, "BSD", "wide 22", 7, "hub"),
        ("wide", wide.digest, "BSD", "wide 22", 7, "hub"),
        ("narrow", narrow.digest, "MIT", "nano 11", 0, None),
    ]
    tables = tomllib.loads((tmp_path / "mixed" / "manifest.toml").read_text())
    assert set(tables["training"]) == {"samples", "samples_sha256"}
    assert ["network" in member for member in tables["member"]] == [False, False, True]


def smaller(tmp_path: Path, of: Bundle, field_px: int = 24) -> Bundle:
    """A copy of a bundle whose members see the central 24 px of what they saw, enlarged."""
    return changed(tmp_path / "smaller", of, "patch_px = 32", f"patch_px = 32\nfield_px = {field_px}")


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_members_of_two_fields_vote_as_they_did(
    tmp_path: Path, narrow: Bundle, wide: Bundle, backend: BackendChoice
) -> None:
    """The bundle with the smaller field comes first, and each member answers to the same centre of a crop."""
    close = smaller(tmp_path, narrow)
    mixed = combine([Selection(close, (0, 1)), Selection(wide, (2,))], tmp_path / "mixed")
    assert mixed.manifest.input == wide.manifest.input
    assert [member.field_px for member in mixed.manifest.member] == [24, 24, None]
    crops = stained_noise(5, SIDE, seed=9)
    found, of_wide = (probabilities(one, crops, backend) for one in (mixed, wide))
    of_close = probabilities(close, crops[:, 4:-4, 4:-4], backend)
    np.testing.assert_array_equal(found, np.column_stack([of_close[:, [0, 1]], of_wide[:, [2]]]))
    assert len(set(found[0])) == 3, "members that answer alike test nothing"
    card = " ".join(mixed.read_card().split())
    assert "| smaller fields | 2 members: the central 24 px alone, resampled to 32 px |" in card


def test_fields_are_kept_when_members_are_combined_again(
    tmp_path: Path, narrow: Bundle, wide: Bundle
) -> None:
    close = smaller(tmp_path, narrow)
    mixed = combine([Selection(close, (0, 1)), Selection(wide, (2,))], tmp_path / "mixed")
    alone = combine([Selection(mixed, (1, 2)), Selection(close, (2,))], tmp_path / "again")
    assert [member.field_px for member in alone.manifest.member] == [24, None, 24]


def test_the_limit_of_sharpness_is_that_of_the_largest_field(tmp_path: Path, samples: Store) -> None:
    """Sharpness is measured in the field of the bundle, whatever centre of it members see."""
    limit = {"lowest": 0.2, "slides": 30, "dataset_digest": "d" * 64}
    wide = trained(tmp_path / "wide", 3, samples, sharpness=limit)
    narrow = trained(tmp_path / "narrow", 2, samples, sharpness={**limit, "lowest": 0.3})
    mixed = combine([Selection(smaller(tmp_path, narrow), (0,)), Selection(wide, (0,))], tmp_path / "mixed")
    assert mixed.manifest.sharpness == wide.manifest.sharpness


@pytest.mark.parametrize("field_px", [32, 40])
def test_a_member_whose_field_is_not_smaller_than_the_bundles_is_refused(
    tmp_path: Path, narrow: Bundle, field_px: int
) -> None:
    with pytest.raises(BundleError, match=r"'field_px' should be less than the 32 px of \[input\]"):
        changed(tmp_path / "changed", narrow, "[[member]]", f"[[member]]\nfield_px = {field_px}")


def test_a_limit_of_sharpness_is_kept_where_all_have_the_same(tmp_path: Path, samples: Store) -> None:
    limit = {"lowest": 0.2, "slides": 30, "dataset_digest": "d" * 64}
    limits = {"one": limit, "same": limit, "other": {**limit, "lowest": 0.3}, "none": None}
    bundles = {
        name: trained(tmp_path / name, width, samples, **({"sharpness": limit} if limit else {}))
        for width, (name, limit) in enumerate(limits.items(), start=1)
    }
    for others, kept in ((["same"], True), (["other"], False), (["none"], False), (["same", "none"], False)):
        selections = [Selection(bundles[name], (0,)) for name in ("one", *others)]
        mixed = combine(selections, tmp_path / "-".join(["mixed", *others]))
        found = mixed.manifest.sharpness
        assert (None if found is None else found.model_dump()) == (limit if kept else None)
        assert ("a run warns of slides whose figures have less than 0.200" in mixed.read_card()) == kept


def test_files_are_copied_byte_for_byte(tmp_path: Path, narrow: Bundle) -> None:
    """Also of another type than those that a training writes."""
    from safetensors.numpy import load, save

    copied = tmp_path / "precise"
    shutil.copytree(narrow.folder, copied)
    for member in narrow.manifest.member:
        content = save(
            {k: v.astype(np.float32) for k, v in load((copied / member.file).read_bytes()).items()}
        )
        (copied / member.file).write_bytes(content)
        manifest = (copied / "manifest.toml").read_text()
        import hashlib

        (copied / "manifest.toml").write_text(
            manifest.replace(member.sha256, hashlib.sha256(content).hexdigest())
        )
    precise = open_bundle(copied)
    mixed = combine([Selection(precise, (1, 2))], tmp_path / "mixed")
    for index, file in enumerate(("member-1.safetensors", "member-2.safetensors")):
        assert (mixed.folder / f"member-{index}.safetensors").read_bytes() == (copied / file).read_bytes()


def test_a_combined_bundle_is_combined_again(tmp_path: Path, narrow: Bundle, wide: Bundle) -> None:
    """The origin that is stated is the bundle in which a member was trained."""
    mixed = combine([Selection(narrow, (0,)), Selection(wide, (1,))], tmp_path / "mixed")
    again = combine([Selection(mixed, (1,)), Selection(narrow, (2,))], tmp_path / "again")
    assert [m.training.bundle for m in again.manifest.member if m.training] == ["wide", "narrow"]
    assert [m.training.bundle_digest for m in again.manifest.member if m.training] == [
        wide.digest,
        narrow.digest,
    ]
    assert again.manifest.networks == {preact(3): 1, preact(2): 1}
    assert again.manifest.licence == "BSD; MIT"
    crops = stained_noise(3, SIDE, seed=9)
    np.testing.assert_array_equal(probabilities(again, crops)[:, 0], probabilities(wide, crops)[:, 1])


def test_a_member_of_timm_votes_beside_one_of_the_papers(
    tmp_path: Path, samples: Store, narrow: Bundle
) -> None:
    network = timm_network()
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(member_state(Member(network)))
    fields = {"network": network.model_dump(), "name": "lite"}
    lite = bundle(tmp_path / "lite", DOMAINS[:2], recorded(samples.samples), states=states, **fields)
    mixed = combine([Selection(narrow, (0,)), Selection(lite, (0, 1))], tmp_path / "mixed")
    crops = stained_noise(4, SIDE, seed=9)
    found = probabilities(mixed, crops)
    np.testing.assert_array_equal(found[:, 1:], probabilities(lite, crops))
    np.testing.assert_array_equal(found[:, 0], probabilities(narrow, crops)[:, 0])


def test_samples_are_the_union(tmp_path: Path, samples: Store, narrow: Bundle) -> None:
    more = [*recorded(samples.samples)[:5], f"{'f' * 64} lab four", f"{'e' * 64}"]
    other = trained(tmp_path / "other", 3, samples, lines=more)
    mixed = combine([Selection(narrow, (0,)), Selection(other, (0,))], tmp_path / "mixed")
    expected = {**narrow.read_samples(), "f" * 64: frozenset({"lab four"}), "e" * 64: frozenset()}
    assert mixed.read_samples() == expected
    assert len(expected) == 26


def test_the_card_names_the_bundles_and_says_that_nothing_was_measured(
    tmp_path: Path, narrow: Bundle, wide: Bundle
) -> None:
    mixed = combine([Selection(wide, (2, 0)), Selection(narrow, (1,))], tmp_path / "mixed")
    card = mixed.read_card()
    assert card.startswith("# mixed\n\n**Research use only.** Tests\n")
    rows = [" ".join(line.split()) for line in card.splitlines()]
    assert f"| wide | 3 | `{wide.digest}` | 2, 0 | BSD |" in rows
    assert f"| narrow | 3 | `{narrow.digest}` | 1 | MIT |" in rows
    wide_text, narrow_text = preact(3).text, preact(2).text
    assert f"| networks | 2 members of {wide_text}; 1 member of {narrow_text} |" in rows
    assert f"| member-1 | wide:0 | {wide_text} | wide 22 | hub (BSD) | lab one | none | | 0.800 |" in rows
    assert (
        f"| member-2 | narrow:1 | {narrow_text} | nano 11 | random weights | lab two | none | | 0.900 |"
        in rows
    )
    assert "do not hold for this ensemble" in card


def test_untrained_bundles_are_combined(tmp_path: Path) -> None:
    mixed = combine([select("untrained-tiny:3"), select("untrained-tiny:0,1")], tmp_path / "mixed")
    assert (mixed.manifest.trained, mixed.manifest.training, len(mixed.manifest.member)) == (False, None, 3)
    assert "**Untrained: its labels mean nothing.**" in mixed.read_card()


def test_a_mixed_bundle_classifies_slides(tmp_path: Path, narrow: Bundle, wide: Bundle) -> None:
    """Each figure has the vote and the mean of all members, whatever their networks."""
    mixed = combine([Selection(wide, (2, 0)), Selection(narrow, (1,))], tmp_path / "mixed")
    slides = slides_in(tmp_path / "slides", ["a.tiff"])
    arguments = slides, candidates_csv(tmp_path / "c.csv", ["a.tiff"])
    tables = {}
    for one in (mixed, wide, narrow):
        assert run(*arguments, tmp_path / one.manifest.name, one.folder).exit_status == 0
        tables[one.manifest.name] = pd.read_parquet(tmp_path / one.manifest.name / "figures/a.tiff.parquet")
    assert summary(tmp_path / "mixed")["a.tiff"]["bundle_digest"] == mixed.digest
    with open_native(slides[0]) as slide:
        plan = plan_patches("a", slide.levels, slide.mpp, mixed.manifest.input, SIDE)
        x, y = tables["mixed"][["x_px0", "y_px0"]].to_numpy(float).T
        (batch,) = stream_patches(slide, plan, x, y, batch_size=len(x), threads=1)
    expected = tally(probabilities(mixed, batch.pixels), 0.5)
    found = tables["mixed"].iloc[batch.rows]
    np.testing.assert_allclose(found["p_atypical"], expected.p_atypical, atol=1e-6)
    assert found["votes_atypical"].tolist() == expected.votes_atypical.tolist()
    assert set(found["votes_cast"]) == {3}
    for other in ("wide", "narrow"):
        assert not np.allclose(tables[other]["p_atypical"], tables["mixed"]["p_atypical"], atol=1e-4)


def test_a_tie_is_decided_by_the_mean(tmp_path: Path, narrow: Bundle, wide: Bundle) -> None:
    mixed = combine([Selection(narrow, (0,)), Selection(wide, (0,))], tmp_path / "mixed")
    found = probabilities(mixed, stained_noise(90, SIDE, seed=2))
    divided = (found >= 0.5).sum(axis=1) == 1
    assert divided.sum() > 3
    votes = tally(found, mixed.manifest.ensemble.threshold)
    np.testing.assert_array_equal(votes.is_atypical[divided], found[divided].mean(axis=1) >= 0.5)


def test_each_member_is_scored_on_its_own_domain_and_each_domain_counts_once(
    tmp_path: Path, samples: Store, narrow: Bundle, wide: Bundle
) -> None:
    mixed = combine([Selection(narrow, (0, 1, 2)), Selection(wide, (0,))], tmp_path / "mixed")
    report = evaluate(mixed, samples, device="cpu").report
    parents = [evaluate(one, samples, device="cpu").report.members for one in (narrow, wide)]
    alone = [*parents[0].values(), parents[1]["member-0"]]
    assert list(report.members.values()) == alone
    assert report.scope == "own test domains"
    assert [member.n for member in alone] == [8, 8, 8, 8]
    assert report.unseen is None
    assert report.lodo is not None
    aurocs = np.array([member.auroc for member in alone], dtype=float)
    by_domain = np.array([(aurocs[0] + aurocs[3]) / 2, aurocs[1], aurocs[2]])
    assert aurocs[0] != aurocs[3]
    assert (report.lodo.members, report.lodo.auroc.n) == (4, 3)
    assert report.lodo.auroc.mean == pytest.approx(by_domain.mean())
    assert report.lodo.auroc.sd == pytest.approx(by_domain.std(ddof=1))
    assert report.lodo.validation_balanced_accuracy.mean == pytest.approx((0.8 + 0.9 + 1.0) / 3)


def test_the_members_without_a_domain_are_an_ensemble_that_is_scored_on_it(
    tmp_path: Path, samples: Store, narrow: Bundle, wide: Bundle
) -> None:
    parts = [select_without(str(one.folder), "lab two") for one in (narrow, wide)]
    assert [part.positions for part in parts] == [(1,), (1,)]
    mixed = combine(parts, tmp_path / "mixed")
    found = evaluate(mixed, samples, device="cpu")
    report, rows = found.report, (samples.samples["domain"] == "lab two").to_numpy()
    assert (report.trained_on, report.overall) == (16, None)
    assert report.unseen is not None
    assert report.unseen.overall.n == 8
    assert list(report.unseen.domains) == ["lab two"]
    expected = np.mean(
        [evaluate(one, samples, device="cpu").predictions["p_member-1"] for one in (narrow, wide)], 0
    )
    np.testing.assert_allclose(found.predictions["p_atypical"][rows], expected[rows])
    assert found.predictions["vote"].ne("").tolist() == rows.tolist()


def changed(folder: Path, of: Bundle, old: str, new: str) -> Bundle:
    """A copy of a bundle with another manifest."""
    shutil.copytree(of.folder, folder)
    text = (folder / "manifest.toml").read_text()
    assert old in text
    (folder / "manifest.toml").write_text(text.replace(old, new, 1))
    return open_bundle(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mpp = 0.25", "mpp = 0.5", r"its mpp in \[input\] is 0\.5, but that of 'narrow' is 0\.25"),
        ("pad_value = 0", "pad_value = 255", r"its pad_value in \[input\] is 255"),
        ('tta = "none"', 'tta = "d4"', r"its tta in \[ensemble\] is d4, but that of 'narrow' is none"),
        ("threshold = 0.5", "threshold = 0.4", r"its threshold in \[ensemble\] is 0\.4"),
        ("trained = true", "trained = false", r"changed: .*it is untrained, .*Leave it out"),
    ],
)
def test_bundles_that_cannot_vote_together_are_refused(
    tmp_path: Path, narrow: Bundle, wide: Bundle, old: str, new: str, message: str
) -> None:
    other = changed(tmp_path / "changed", wide, old, new)
    with pytest.raises(
        InputError, match=f"changed: combining bundles: .*{message.removeprefix('changed: ')}"
    ):
        combine([Selection(narrow, (0,)), Selection(other, (0,))], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("another domain", r"has the domain 'lab nine', but in .*narrow the domain 'lab one'"),
        ("no domain", r"has no domain, but in .*narrow the domain 'lab one'"),
        ("two domains", r"has the domain 'lab nine', 'lab one', but in .*narrow the domain 'lab one'"),
        ("no list", r"it does not list the samples that it was trained on.*Leave it out"),
    ],
)
def test_lists_of_samples_that_contradict_each_other_are_refused(
    tmp_path: Path, samples: Store, narrow: Bundle, lines: str, message: str
) -> None:
    first, *others = recorded(samples.samples)
    digest = first.split()[0]
    assert first.endswith("lab one")
    listed = {
        "another domain": [f"{digest} lab nine", *others],
        "no domain": [digest, *others],
        "two domains": [first, f"{digest} lab nine", *others],
        "no list": [],
    }
    other = trained(tmp_path / "other", 3, samples, lines=listed[lines])
    for order in ((narrow, other), (other, narrow)):
        with pytest.raises(InputError, match=f"combining bundles: .*{message if order[0] is narrow else ''}"):
            combine([Selection(one, (0,)) for one in order], tmp_path / "out")
    assert not (tmp_path / "out").exists()


CALIBRATION = """
[calibration]
temperature = 2.0
fitted_on = "domains left out"
figures = 4
atypical = 3
figures_sha256 = "{0}"
dataset_digest = "{0}"

[parent]
name = "grandparent"
digest = "{0}"

[[member]]""".format("c" * 64)


def test_calibrations_are_not_taken_over(tmp_path: Path, narrow: Bundle, wide: Bundle) -> None:
    calibrated = changed(tmp_path / "calibrated", narrow, "\n[[member]]", CALIBRATION)
    assert calibrated.manifest.temperature == 2
    mixed = combine([Selection(calibrated, (0,)), Selection(wide, (0,))], tmp_path / "mixed")
    assert (mixed.manifest.calibration, mixed.manifest.parent) == (None, None)
    crops = stained_noise(4, SIDE, seed=9)
    np.testing.assert_array_equal(probabilities(mixed, crops)[:, 0], probabilities(narrow, crops)[:, 0])
    assert (probabilities(calibrated, crops)[:, 0] != probabilities(narrow, crops)[:, 0]).any()


def test_a_threshold_that_was_fitted_to_own_figures_is_refused(tmp_path: Path, narrow: Bundle) -> None:
    table = CALIBRATION.replace("domains left out", "own figures")
    calibrated = changed(tmp_path / "calibrated", narrow, "\n[[member]]", table)
    with pytest.raises(InputError, match=r"calibrated: .*its threshold was fitted.*members of 'grandparent'"):
        combine([Selection(calibrated, (0, 1))], tmp_path / "out")


def test_one_member_and_the_same_member_twice_are_refused(
    tmp_path: Path, narrow: Bundle, wide: Bundle
) -> None:
    with pytest.raises(InputError, match=r"'wide': combining bundles: 1 member selected, .*two or more"):
        combine([Selection(wide, (1,))], tmp_path / "out")
    alone = combine([Selection(wide, (1,))], tmp_path / "alone", least=1)
    assert [member.sha256 for member in alone.manifest.member] == [wide.manifest.member[1].sha256]
    copy = tmp_path / "copy"
    shutil.copytree(narrow.folder, copy)
    with pytest.raises(InputError, match=r"copy:1: .*same weights as .*narrow:1 \(SHA-256 [0-9a-f]{12}\)"):
        combine([Selection(narrow, (0, 1)), Selection(open_bundle(copy), (1,))], tmp_path / "out")
    with pytest.raises(InputError, match="same weights"):
        combine([Selection(wide, (0, 0))], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_in_use_and_a_name_that_no_bundle_can_have_are_refused(
    tmp_path: Path, narrow: Bundle
) -> None:
    before = {path.name: path.read_bytes() for path in narrow.folder.iterdir()}
    with pytest.raises(OutputError, match="exists already"):
        combine([Selection(narrow, (0, 1))], narrow.folder)
    assert {path.name: path.read_bytes() for path in narrow.folder.iterdir()} == before
    with pytest.raises(InputError, match=r"my mix: .*'my mix' cannot be the name of a bundle.*--name"):
        combine([Selection(narrow, (0, 1))], tmp_path / "my mix")
    assert combine([Selection(narrow, (0, 1))], tmp_path / "my mix", "my-mix").manifest.name == "my-mix"


def test_members_are_selected_by_position(tmp_path: Path, narrow: Bundle) -> None:
    assert select(str(narrow.folder)).positions == (0, 1, 2)
    assert select(f"{narrow.folder}:2,0").positions == (2, 0)
    odd = tmp_path / "odd:1"
    shutil.copytree(narrow.folder, odd)
    assert select(str(odd)).positions == (0, 1, 2), "a folder's whole name comes first"
    assert select(f"{odd}:1").positions == (1,)
    for numbers in ("3", "-1", "0,", "a", "0-2", "", "9" * 5000):
        with pytest.raises(InputError, match=r"'narrow' has no member.*positions from 0 to 2"):
            select(f"{narrow.folder}:{numbers}")
    with pytest.raises(BundleError, match="no such bundle"):
        select(f"{tmp_path / 'nonesuch'}:0")
    with pytest.raises(InputError, match=r"without the domain 'lab nine'.*'lab one', 'lab three', 'lab two'"):
        select_without(str(narrow.folder), "lab nine")


def test_models_combine(tmp_path: Path, narrow: Bundle, wide: Bundle) -> None:
    out = tmp_path / "mixed"
    told = call(f"{narrow.folder}:0,2", wide.folder, "--out", out)
    assert told.exit_code == 0, told.output
    digest = open_bundle(out).digest
    assert told.stdout.splitlines() == [
        f"2 members of {preact(2).text}",
        f"3 members of {preact(3).text}",
        f"mixed {digest[:12]} in {out}. It has not been evaluated yet.",
    ]
    other = ["--out", tmp_path / "other", "--name", "of-one", "--test-domain", "lab one", "--json"]
    facts = json.loads(call(narrow.folder, wide.folder, *other).stdout)
    assert (facts["name"], facts["members"]) == ("of-one", 2)
    assert facts["digest"] == open_bundle(tmp_path / "other").digest
    assert [m.test_domain for m in open_bundle(tmp_path / "other").manifest.member] == ["lab one"] * 2


def test_a_dataset_calibrates_and_scores_what_was_combined(
    tmp_path: Path, samples: Store, narrow: Bundle, wide: Bundle
) -> None:
    out = tmp_path / "mixed"
    told = call(f"{narrow.folder}:0,2", f"{wide.folder}:1", "--out", out, "--dataset", samples.folder)
    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines()[-1].endswith("Its card has its scores.")
    mixed = open_bundle(out)
    assert mixed.manifest.calibration is not None
    assert mixed.manifest.calibration.figures == len(samples.samples)
    card = mixed.read_card()
    assert "## Calibration" in card
    assert "## Figures on labs" in card
    found = evaluate(mixed, samples, device="cpu").report
    assert found.bundle_digest == mixed.digest


def test_models_show_and_verify_a_mixed_bundle(tmp_path: Path, narrow: Bundle, wide: Bundle) -> None:
    close = smaller(tmp_path, narrow)
    mixed = combine([Selection(close, (0, 2)), Selection(wide, (0,))], tmp_path / "mixed")
    told = CliRunner().invoke(main, ["models", "show", str(mixed.folder)])
    assert "fields_px:     [24, 24, 32]\n" in told.stdout
    assert f"backbone:      2 x {preact(2).text}; 1 x {preact(3).text}\n" in told.stdout
    assert "\nwidth:" not in told.stdout
    verified = CliRunner().invoke(main, ["models", "verify", str(mixed.folder)])
    assert verified.stdout == f"ok  mixed {mixed.digest[:12]}: 3 members\n"


def test_what_cannot_be_combined_gives_2(tmp_path: Path, narrow: Bundle) -> None:
    told = call(f"{narrow.folder}:7,8", "--out", tmp_path / "out")
    assert (told.exit_code, told.stdout) == (2, "")
    assert "'narrow' has no member '7'. Give positions from 0 to 2" in told.stderr
    assert call("--out", tmp_path / "out").exit_code == 2
    assert call(narrow.folder, "--out", tmp_path / "out", "--test-domain", "").exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_member_without_an_origin_is_refused(tmp_path: Path, narrow: Bundle, wide: Bundle) -> None:
    mixed = combine([Selection(narrow, (0,)), Selection(wide, (0,))], tmp_path / "mixed")
    path = mixed.folder / "manifest.toml"
    text = path.read_text()
    head, _, tail = text.partition("[member.training]")
    path.write_text(head + "[[member]]" + tail.partition("[[member]]")[2])
    with pytest.raises(BundleError, match="a member has no origin"):
        open_bundle(mixed.folder)
    path.write_text(text.replace('recipe = "nano 11"\n', ""))
    with pytest.raises(BundleError, match=r"'training' in \[member\.0\]: missing recipe"):
        open_bundle(mixed.folder)


def test_an_incomplete_origin_of_a_bundle_is_refused(tmp_path: Path, narrow: Bundle) -> None:
    with pytest.raises(BundleError, match="'training': missing recipe, seed"):
        changed(tmp_path / "b", narrow, 'recipe = "nano 11"\nseed = 0\n', "")


def test_a_member_of_another_network_is_refused(tmp_path: Path, narrow: Bundle) -> None:
    """Its own network counts, not the bundle's."""
    fields = narrow.manifest.model_dump(exclude={"schema_", "training"}) | {"trained": False}
    fields["member"] = [{"network": network} for network in (None, preact(3).model_dump(), None)]
    wrong = write_bundle(tmp_path / "wrong", fields, narrow.read_members(), "")
    with pytest.raises(BundleError, match=r"narrow/member-1.*has shape.*ResNet-50, width 3"):
        Ensemble(wrong.manifest, wrong.read_members(), device="cpu")


def test_an_unknown_network_of_a_member_is_refused() -> None:
    with pytest.raises(ValueError, match="belongs to the backbone"):
        NetworkSpec(backbone="timm:resnet18", width=2, head="gap-fc3")
