"""Closed schemas: messages name the place of a fault as the user knows it, and suggest what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from wsi_mitosis.errors import SpecError
from wsi_mitosis.specs import BundleManifest, ClassifySpec

INPUT = {"slides": ["s"], "detections": "d"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"input": INPUT | {"min_scoer": 1}},
            "unknown key 'min_scoer' in [input] (did you mean 'min_score' in [result]?)",
        ),
        (
            {"input": INPUT, "output": {"hotspot": 1}},
            "unknown key 'hotspot' in [output] (did you mean 'hotspots' in [output]?)",
        ),
        ({"input": INPUT, "outptu": {}}, "unknown table [outptu] (did you mean [output]?)"),
        ({"input": INPUT, "modle": "m"}, "unknown key 'modle' (did you mean 'model'?)"),
        (
            {"input": INPUT, "colour": 1},
            "unknown key 'colour' (known: input, model, result, output, placement, retries, schedule, "
            "staging)",
        ),
        ({"input": {"slides": ["s"]}}, "missing key 'detections' in [input]"),
        (
            {"input": INPUT, "result": {"vote": "x"}},
            "'vote' in [result] should be 'all' or 'early', but it is 'x'",
        ),
        (
            {"input": INPUT, "result": {"mpp": 99}},
            "'mpp' in [result] should be less than or equal to 20, but it is 99",
        ),
        (
            {"input": INPUT, "output": {"hotspot_aspect": "1:11"}},
            "'hotspot_aspect' in [output] should be W:H such as 4:3, with no side more than ten times the "
            "other, but it is '1:11'",
        ),
        (
            {"input": INPUT, "placement": {"workers": 0, "address": "auto"}},
            "'placement': 0 workers is this process, which has no use for an address",
        ),
    ],
)
def test_a_fault_is_named_by_its_key_and_table(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        ClassifySpec.parse(data, "p.toml")
    assert f"p.toml: checking keys: {message}" in str(caught.value)
    assert str(caught.value).endswith("Correct this key")


def test_several_faults_are_all_named() -> None:
    with pytest.raises(SpecError, match=r"'modle'.*; .*'colour'.*Correct these keys"):
        ClassifySpec.parse({"input": INPUT, "modle": 1, "colour": 1}, "p.toml")


def test_keys_of_arrays_of_tables_are_known() -> None:
    member = {"file": "a.safetensors", "sha256": "0" * 64, "test_domian": "x"}
    with pytest.raises(
        Exception, match=r"unknown key 'test_domian' in \[member.0\] \(did you mean 'test_domain'"
    ):
        BundleManifest.parse({"member": [member]}, "manifest.toml")
