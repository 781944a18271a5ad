"""What the README shows first: one line, six curves; and where centered turns NaN.

`python -m benchmarks.first_picture` trains the digits with each dialect, runs the
centered variant of the live libraries (`pip install '.[benchmarks,parity]'`), and writes
`first_picture.json` and `first_picture.png` into `benchmarks/results/`.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks import _centered, _digits
from benchmarks._report import versions
from rmsprop_optax import dialects

RESULTS = Path(__file__).parent / "results"
STEPS, EVERY = 300, 10
LEARNING_RATE, MOMENTUM = 1e-4, 0.9
SPREADS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
NAN_STEPS = 500

# Okabe and Ito's colours; dashes and shapes tell them too.
CURVES = {
    "keras": ("#0072B2", "-"),
    "tf_keras": ("#56B4E9", "--"),
    "optax": ("#E69F00", ":"),
    "tf1": ("#009E73", "-"),
    "timm": ("#000000", "--"),
    "torch": ("#D55E00", "-"),
}
LIBRARIES = {
    "Keras": ("#0072B2", "o-"),
    "PyTorch": ("#D55E00", "s--"),
    "Optax": ("#E69F00", "D-."),
    "rmsprop_optax": ("#009E73", "o-"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and writes what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see it run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    os.environ.setdefault("KERAS_BACKEND", "jax")
    steps, nan_steps = (20, 20) if options.quick else (STEPS, NAN_STEPS)
    found = {
        "versions": versions() | {name: version(name) for name in ("keras", "torch")},
        "nan_shares": {
            name: [share(spread, nan_steps) for spread in SPREADS]
            for name, share in _centered.libraries().items()
        },
        "held_out_losses": {name: _curve(name, steps) for name in CURVES},
        "spreads": SPREADS,
        "settings": {
            "learning_rate": LEARNING_RATE,
            "momentum": MOMENTUM,
            "steps": steps,
            "parameters": _centered.PARAMETERS,
            "nan_steps": nan_steps,
        },
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "first_picture.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, options.out / "first_picture.png")
    return 0


def _curve(name: str, steps: int) -> list[float]:
    """Held-out losses of the line as each framework's user would write it."""
    make: Callable[..., Any] = getattr(dialects, name)
    run = _digits.Run(make(LEARNING_RATE, momentum=MOMENTUM), seed=0)
    losses = [run.held_out_loss()]
    for step in range(1, steps + 1):
        run.step()
        if step % EVERY == 0:
            losses.append(run.held_out_loss())
    return losses


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Both pictures into one PNG."""
    with mpl.rc_context({"font.size": 11}):
        figure = Figure(figsize=(10, 4), layout="constrained", facecolor="white")
        curves, shares = figure.subplots(1, 2)
        _draw_curves(curves, found["held_out_losses"])
        _draw_shares(shares, found["spreads"], found["nan_shares"])
        for axes in (curves, shares):
            axes.grid(color="0.9")
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150)


def _draw_curves(axes: Axes, losses: Mapping[str, Sequence[float]]) -> None:
    for name, (colour, dashes) in CURVES.items():
        steps = EVERY * np.arange(len(losses[name]))
        axes.plot(steps, losses[name], dashes, color=colour, label=name, lw=2)
    axes.set(xlabel="step", ylabel="held-out loss (nats)", yscale="log")
    axes.set_ylim(top=9)  # the legend stands above the curves
    ticks = (0.1, 0.2, 0.5, 1, 2)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("RMSprop(1e-4, momentum=0.9)", fontsize=11)
    axes.legend(frameon=False, ncols=3, loc="upper center")


def _draw_shares(
    axes: Axes, spreads: Sequence[float], shares: Mapping[str, Sequence[float]]
) -> None:
    for name, (colour, style) in LIBRARIES.items():
        percent = 100 * np.array(shares[name])
        axes.plot(spreads, percent, style, color=colour, label=name, ms=5, lw=2)
    axes.set(xlabel="spread of the gradients, relative to their mean", xscale="log")
    axes.set_ylabel("parameters that are NaN (%)")
    axes.set_title("RMSprop(1e-3, 0.9, centered=True), float32", fontsize=11)
    axes.legend(frameon=False, loc="upper right")


if __name__ == "__main__":
    raise SystemExit(main())
