"""One line in six dialects, and how many parameters centered RMSprop turns into NaN."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from benchmarks import _digits, peers
from benchmarks._picture import BLACK, BLUE, GREEN, ORANGE, RED, figure, tidy
from benchmarks._problem import CENTERED, Problem
from benchmarks._suite import Suite, say
from benchmarks._summary import OURS, Found, table
from benchmarks.peers.optax import NAME
from benchmarks.peers.torch import EAGER
from rmsprop_optax import dialects

RATE, MOMENTUM, STEPS, EVERY = 1e-4, 0.9, 300, 10
SPREADS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
PARAMETERS, NAN_STEPS, QUICK_STEPS = 10_000, 500, 20
DIALECTS = ("keras", "tf_keras", "optax", "tf1", "timm", "torch")
# The color, where on the curve its name belongs, and where the name stands.
LEFT = {
    "keras": (BLUE, 30, (45, 0.85)),
    "tf_keras": (BLUE, 60, (90, 0.9)),
    "optax": (ORANGE, 50, (66, 0.5)),
    "tf1": (GREEN, 140, (165, 1.4)),
    "timm": (GREEN, 160, (190, 0.9)),
    "torch": (RED, 35, (0, 0.13)),
}
RIGHT = {
    OURS: (BLACK, 1e-5, (1.5e-6, 10)),
    "Keras": (BLUE, 3e-6, (1.2e-6, 40)),
    EAGER: (RED, 1e-3, (1.6e-3, 60)),
    NAME: (ORANGE, 2e-4, (4.5e-6, 52)),
}
# The contenders that each process measures.
LIBRARIES = {"optax": (OURS, NAME), "keras": ("Keras",), "torch": (EAGER,)}


def measure(peer: str, quick: bool) -> Found:
    """The share of NaN of a library; in the first process also the six curves."""
    steps, nan_steps = (QUICK_STEPS,) * 2 if quick else (STEPS, NAN_STEPS)
    shares: dict[str, list[float]] = {name: [] for name in LIBRARIES[peer]}
    spreads = SPREADS[::5] if quick else SPREADS
    for spread in spreads:
        say(f"  spread {spread:g}")
        rng = np.random.default_rng(0)
        draws = rng.standard_normal((nan_steps, PARAMETERS), np.float32)
        grads = [[1 + np.float32(spread) * draw] for draw in draws]
        problem = Problem([np.zeros(PARAMETERS, np.float32)], grads)
        for x in peers.find(peer)(CENTERED, problem):
            if x.name in shares:
                for seed in range(nan_steps):
                    x.run(x.prepare(seed))
                shares[x.name].append(float(np.isnan(x.values()[0]).mean()))
    lines = [[name, *(f"{x:.1%}" for x in found)] for name, found in shares.items()]
    header = ["centered; spread / mean", *(f"{spread:g}" for spread in spreads)]
    title = f"NaN among {PARAMETERS:,} parameters after {nan_steps} steps:"
    found: Found = {"tables": [table(title, header, lines)], "curves": {**shares}}
    found["curves"]["spread"] = [*spreads]
    if peer == "optax":
        losses = {name: _curve(name, steps) for name in DIALECTS}
        ends = [f"{curve[-1]:.3f}" for curve in losses.values()]
        title = f"Held-out loss on scikit-learn's digits after {steps} steps, in nats:"
        found["tables"].append(table(title, ["dialect", *losses], [["loss", *ends]]))
        found["curves"] |= losses
    return found


def _curve(name: str, steps: int) -> list[float]:
    say(f"  digits, {name}")
    make: Any = getattr(dialects, name)
    losses = _digits.train(make(RATE, momentum=MOMENTUM), 0, steps, EVERY)
    return [float(f"{loss:.4g}") for loss in losses]


def draw(found: Found, path: Path) -> None:
    """The curves, and the shares of NaN; each has its name beside it."""
    curves = found["curves"]
    with figure(path, 10, 4) as drawn:
        left, right = drawn.subplots(1, 2)
        for names in _coincident(curves):
            losses = curves[names[0]]
            at = EVERY * np.arange(len(losses))
            color, where, place = LEFT[names[0]]
            left.plot(at, losses, color=color, lw=2)
            point = where, float(np.interp(where, at, losses))
            _name(left, ",\n".join(names), point, place, color)
        left.set(xlabel="step", ylabel="held-out loss (nats)", yscale="log")
        ticks = (0.1, 0.2, 0.5, 1, 2)
        left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        left.yaxis.set_minor_locator(NullLocator())
        left.set_title(f"RMSprop({RATE:g}, momentum={MOMENTUM:g})", fontsize=11)
        for name in (name for name in curves if name not in (*DIALECTS, "spread")):
            color, where, place = RIGHT[name]
            percent = 100 * np.array(curves[name])
            right.plot(curves["spread"], percent, "o-", color=color, lw=2)
            at = np.log10(curves["spread"])
            point = where, float(np.interp(np.log10(where), at, percent))
            _name(right, name, point, place, color)
        right.set(xlabel="spread of the gradients, relative to their mean", xscale="log")
        right.set(ylabel="parameters that are NaN (%)")
        right.set_title("centered=True, float32", fontsize=11)
        for axes in (left, right):
            tidy(axes)


def _coincident(curves: dict[str, Any]) -> list[list[str]]:
    """The dialects in groups of one curve."""
    groups: list[list[str]] = []
    for name in (name for name in DIALECTS if name in curves):
        for group in groups:
            if np.allclose(curves[group[0]], curves[name], rtol=0.01):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _name(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    place: tuple[float, float],
    color: str,
) -> None:
    line = {"arrowstyle": "-", "color": color, "lw": 1}
    axes.annotate(text, point, place, color=color, weight="bold", arrowprops=line)


SUITE = Suite(
    "one line in six dialects, and NaN in centered RMSprop",
    measure,
    peers=("optax", "keras", "torch"),
    draw=draw,
)
