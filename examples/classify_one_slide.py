"""Classify one slide from Python, and look at the result with geopandas.

Run it after `wsi-mitosis demo demo`:

    python examples/classify_one_slide.py demo/slides/demo.tiff demo/candidates.csv
"""

import sys

import geopandas

from wsi_mitosis import classify_slide


def main(slide: str, candidates: str) -> None:
    result = classify_slide(slide, candidates, vote="all")

    counts = result.counts
    print(f"{result.slide}: {counts.atypical} atypical of {counts.classified}, {counts.excluded} excluded")
    if not result.trained:
        print("The bundle is untrained: these labels mean nothing.")

    # Excluded candidates stay in the table, with the reason.
    print(result.figures["excluded_reason"].value_counts(dropna=False).to_string())

    # Figures as points in micrometres: which ones have another within 50 um?
    figures = result.figures[result.figures["label"].notna()]
    points = geopandas.GeoDataFrame(
        figures,
        geometry=geopandas.points_from_xy(figures["x_px0"] * result.mpp.x, figures["y_px0"] * result.mpp.y),
    )
    near = geopandas.sjoin_nearest(points, points[["geometry"]], max_distance=50, exclusive=True)
    print(f"{near['figure_id'].nunique()} of {len(points)} figures have another within 50 um")


if __name__ == "__main__":
    main(*sys.argv[1:])
