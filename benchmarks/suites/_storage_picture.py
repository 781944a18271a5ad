"""What moments in fewer bytes cost, as bars."""

from pathlib import Path

from benchmarks import _picture
from benchmarks._suite import Found

STYLES = {"one byte": (_picture.VERMILION, "//"), "bfloat16": (_picture.BLUE, "")}


def draw(found: Found, path: Path) -> None:
    """The time of a step over that in float32, medians and quartiles."""
    rows = found["rows"]
    by_storage = {
        storage: [row for row in rows if row["what"].endswith(f", {storage}")]
        for storage in STYLES
    }
    cases = [row["what"].rpartition(", ")[0] for row in by_storage["one byte"]]
    with _picture.figure(path, 7.5, 1.5 + 0.55 * len(cases)) as figure:
        axes = figure.subplots()
        for k, (storage, (colour, hatch)) in enumerate(STYLES.items()):
            medians = [row["median"] for row in by_storage[storage]]
            at = [i + 0.38 * (k - 0.5) for i in range(len(cases))]
            low, high = zip(
                *(row["quartiles"] for row in by_storage[storage]), strict=True
            )
            axes.barh(
                at,
                medians,
                0.36,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=storage,
            )
            axes.hlines(at, low, high, color="0.2", lw=1.5)
        axes.axvline(1, color="0.3", lw=1)
        axes.set_yticks(range(len(cases)), cases)
        axes.invert_yaxis()
        axes.set_xlabel("time of a step / time with moments in float32")
        _picture.tidy(axes)
        axes.grid(axis="y", visible=False)
        axes.legend(title="moments", frameon=False)
