"""The learning curve as a picture."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from rmsprop_optax.demo._training import Curve

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73")


def draw(curves: Mapping[str, Curve], unigram: float, path: Path) -> None:
    """Held-out loss (solid) and training loss (dotted) over steps, into a PNG."""
    with mpl.rc_context({"font.size": 11}):
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        axes = figure.subplots()
        for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
            axes.plot(curve.steps, curve.train, ":", color=colour, alpha=0.8)
            axes.plot(curve.steps, curve.held_out, "o-", ms=3, color=colour, label=name)
            axes.annotate(
                f"{curve.held_out[-1]:.2f}",
                (curve.steps[-1], curve.held_out[-1]),
                xytext=(6, 0),
                textcoords="offset points",
                color=colour,
                va="center",
            )
        axes.axhline(unigram, color="0.45", ls="--", lw=1)
        axes.annotate(
            f"letter frequencies alone: {unigram:.2f}",
            (0.99, unigram),
            xycoords=("axes fraction", "data"),
            xytext=(0, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color="0.35",
        )
        axes.set(xlabel="training step", ylabel="loss (nats per character)")
        axes.set_ylim(bottom=0)
        axes.set_title("Held-out loss (solid) and training loss (dotted)", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left")
        figure.savefig(path, dpi=150)
