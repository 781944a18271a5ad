"""What the README shows first: one line, six curves; and where centered turns NaN."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from tqdm import tqdm

from benchmarks import _picture
from benchmarks._suite import Found, Order, Suite
from benchmarks.peers import OURSELVES
from benchmarks.suites import _digits, _nan_shares
from rmsprop_optax import dialects

LEARNING_RATE, MOMENTUM = 1e-4, 0.9
STEPS, NAN_STEPS, QUICK_STEPS, EVERY = 300, 500, 20, 10
SPREADS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

CURVES = {
    "keras": (_picture.BLUE, "-"),
    "tf_keras": (_picture.SKY, "--"),
    "optax": (_picture.ORANGE, ":"),
    "tf1": (_picture.GREEN, "-"),
    "timm": (_picture.BLACK, "--"),
    "torch": (_picture.VERMILION, "-"),
}
LIBRARIES = {
    "Keras": (_picture.BLUE, "o-"),
    "PyTorch": (_picture.VERMILION, "s--"),
    "Optax": (_picture.ORANGE, "D-."),
    OURSELVES: (_picture.GREEN, "o-"),
}


def _settings(quick: bool) -> Found:
    return {
        "learning_rate": LEARNING_RATE,
        "momentum": MOMENTUM,
        "steps": QUICK_STEPS if quick else STEPS,
        "parameters": _nan_shares.PARAMETERS,
        "nan_steps": QUICK_STEPS if quick else NAN_STEPS,
        "spreads": SPREADS,
    }


def _measure(order: Order) -> Found:
    settings = _settings(order.quick)
    name, share = _nan_shares.share_of(order.peer)
    found: Found = {"nan_shares": {name: []}, "held_out_losses": {}}
    for spread in tqdm(SPREADS, desc=name, unit="spread", file=sys.stderr):
        found["nan_shares"][name].append(share(spread, settings["nan_steps"]))
    if order.peer == OURSELVES:
        bar = tqdm(CURVES, desc="digits", unit="dialect", file=sys.stderr)
        found["held_out_losses"] = {n: _curve(n, settings["steps"]) for n in bar}
    return found


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


def _markdown(found: Found) -> str:
    """Shares of NaN over spreads; then where the curves end."""
    spreads = [f"{spread:g}" for spread in found["settings"]["spreads"]]
    shares = {
        name: [f"{share:.0%}" for share in found["nan_shares"][name]]
        for name in LIBRARIES
        if name in found["nan_shares"]
    }
    losses = [f"{losses[-1]:.3f}" for losses in found["held_out_losses"].values()]
    nan = _table(["centered, spread / mean", *spreads], shares)
    ends = _table(["dialect", *found["held_out_losses"]], {"held-out loss": losses})
    notes = [f"* {note}" for note in found["notes"]]
    return "\n\n".join([nan, ends, *["\n".join(notes)] * bool(notes)]) + "\n"


def _table(header: list[str], rows: Mapping[str, list[str]]) -> str:
    lines = [header, ["---"] * len(header), *([name, *x] for name, x in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _draw(found: Found, path: Path) -> None:
    """Both pictures into one PNG."""
    with _picture.figure(path, 10, 4) as figure:
        curves, shares = figure.subplots(1, 2)
        _draw_curves(curves, found["held_out_losses"])
        _draw_shares(shares, found["settings"]["spreads"], found["nan_shares"])


def _draw_curves(axes: Axes, losses: Mapping[str, Sequence[float]]) -> None:
    for name, held_out in losses.items():
        colour, dashes = CURVES[name]
        steps = EVERY * np.arange(len(held_out))
        axes.plot(steps, held_out, dashes, color=colour, label=name, lw=2)
    axes.set(xlabel="step", ylabel="held-out loss (nats)", yscale="log")
    axes.set_ylim(top=9)  # the legend stands above the curves
    ticks = (0.1, 0.2, 0.5, 1, 2)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("RMSprop(1e-4, momentum=0.9)", fontsize=11)
    axes.legend(frameon=False, ncols=3, loc="upper center")
    _picture.tidy(axes)


def _draw_shares(
    axes: Axes, spreads: Sequence[float], shares: Mapping[str, Sequence[float]]
) -> None:
    for name, share in shares.items():
        colour, style = LIBRARIES[name]
        percent = 100 * np.array(share)
        axes.plot(spreads, percent, style, color=colour, label=name, ms=5, lw=2)
    axes.set(xlabel="spread of the gradients, relative to their mean", xscale="log")
    axes.set_ylabel("parameters that are NaN (%)")
    axes.set_title("RMSprop(1e-3, 0.9, centered=True), float32", fontsize=11)
    axes.legend(frameon=False, loc="upper right")
    _picture.tidy(axes)


SUITE = Suite(
    name="dialects",
    peers=(OURSELVES, "keras-jax", "torch", "optax"),
    settings=_settings,
    measure=_measure,
    markdown=_markdown,
    draw=_draw,
)
