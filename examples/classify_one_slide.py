"""Classify one slide from Python, and look at the result with geopandas.

Run it after `wsi-mitosis demo demo`:

    python examples/classify_one_slide.py demo/slides/demo.tiff demo/candidates.csv
"""

import sys

from wsi_mitosis import classify_slide


def main(slide: str, candidates: str) -> None:
    result = classify_slide(slide, candidates, vote="all")
    print(result)

    # Excluded candidates stay in the table, with the reason.
    print(result.figures["excluded_reason"].value_counts(dropna=False).to_string())

    # Figures as points in micrometres: which ones have another within 50 um?
    figures = result.figures[result.figures["label"].notna()]
    mpp = result.record.scale.mpp
    points = figures.set_geometry(figures.geometry.affine_transform([mpp.x, 0, 0, mpp.y, 0, 0]))
    near = points[["figure_id", "geometry"]].sjoin_nearest(
        points[["geometry"]], max_distance=50, exclusive=True
    )
    print(f"{near['figure_id'].nunique()} of {len(points)} figures have another within 50 um")


if __name__ == "__main__":
    main(*sys.argv[1:])
