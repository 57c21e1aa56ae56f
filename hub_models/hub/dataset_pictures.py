"""Pictures of a set for its card: ages and lungs without any X-ray, and, of phantoms only, some X-rays."""

from pathlib import Path

import numpy as np
import pyarrow.dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import chest_xray_masks as cxm
from hub_models.hub.parquet import Facts
from hub_models.imaging.gray import to_gray
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import resize_gray, resize_mask

LABEL_COLORS = {"normal": "#1b6ca8", "tuberculosis": "#d1495b"}
AGE_BINS = range(0, 125, 5)  # years, edges
SAMPLE_SIDE = 400  # pixels


def by_site(facts: list[Facts]) -> dict[str, list[Facts]]:
    """Return the rows of each site that has any, in the order of the set's sites; others follow by name."""
    names = dict.fromkeys((*cxm.SITES.values(), *sorted({fact.site for fact in facts})))
    sites = {site: [fact for fact in facts if fact.site == site] for site in names}
    return {site: rows for site, rows in sites.items() if rows}


def draw_overview(facts: list[Facts], path: Path) -> None:
    """Save a PNG with a line per site: the ages by label, and the fraction of lung masks that hold each place."""
    sites = by_site(facts)
    figure = Figure(figsize=(9.4, 3.3 * len(sites)), layout="constrained")
    lines = figure.subplots(len(sites), 2, squeeze=False, width_ratios=(1.7, 1))
    for (ages, lungs), (site, rows) in zip(lines, sites.items(), strict=True):
        _draw_ages(ages, site, rows)
        masks = [fact.lungs for fact in rows if fact.lungs is not None]
        if not masks:
            lungs.axis("off")
            continue
        fractions = lungs.imshow(np.mean(masks, axis=0), cmap="magma", vmin=0, vmax=1, extent=(0, 1, 1, 0))
        lungs.set(xticks=[], yticks=[], title=f"{site}: lungs in {len(masks)} masks")
        figure.colorbar(fractions, ax=lungs, label="fraction of the masks")
    figure.savefig(path, dpi=110)


def _draw_ages(axis: Axes, site: str, rows: list[Facts]) -> None:
    known = {label: [row.age_years for row in rows if row.label == label and row.age_years] for label in LABEL_COLORS}
    names = [f"{label} ({len(ages)} with an age)" for label, ages in known.items()]
    colors = list(LABEL_COLORS.values())
    axis.hist(list(known.values()), list(AGE_BINS), histtype="stepfilled", stacked=True, color=colors, label=names)
    axis.set(title=f"{site}: ages", xlabel="years", ylabel="X-rays")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def draw_samples(facts: list[Facts], folder: Path, path: Path) -> None:
    """Save a PNG of the first X-ray with a mask of each site and label, out of the Parquet files in `folder`.

    Raises:
        ValueError: an X-ray is not synthetic; it may be a patient's.
    """
    if real := [fact.id for fact in facts if not fact.synthetic]:
        raise ValueError(f"{real[0]} is not a synthetic X-ray: draw phantoms only")
    groups = {(fact.site, fact.label): fact.id for fact in reversed(facts) if fact.lungs is not None}
    ids = [groups[key] for key in sorted(groups)]
    files, wanted = pyarrow.dataset.dataset(sorted(folder.glob("*/*.parquet"))), pyarrow.dataset.field("id").isin(ids)
    shown = files.to_table(columns=["id", "image", "mask"], filter=wanted, batch_size=1).to_pylist()
    rows = {row["id"]: row for row in shown}
    figure = Figure(figsize=(2.6 * len(ids), 3.1), layout="constrained")
    for axis, id in zip(figure.subplots(1, len(ids), squeeze=False)[0], ids, strict=True):
        gray = resize_gray(to_gray(rows[id]["image"]["bytes"]), SAMPLE_SIDE, "pad")
        axis.imshow(gray, cmap="gray", vmin=0, vmax=255)
        mask = resize_mask(to_mask(rows[id]["mask"]["bytes"]), SAMPLE_SIDE, "pad")
        axis.contour(mask, [0.5], colors=["#28c878"], linewidths=1.2)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{id}\n{'tuberculosis' if id.endswith('1') else 'normal'}", fontsize=9)
    figure.savefig(path, dpi=110)
