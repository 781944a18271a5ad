"""Whether training with moments in fewer bytes ends where it ends with float32's.

`python -m benchmarks.quality [--quick] [--out DIR]` trains the main job and an image
classifier, five seeds each, and writes ``quality.json``, ``quality.md`` and
``quality.png``. Needs `pip install '.[benchmarks]'`.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from tqdm import tqdm

from benchmarks import _digits
from benchmarks._report import machine, versions
from rmsprop_optax import rmsprop
from rmsprop_optax.demo._flags import TUNED
from rmsprop_optax.demo._text import load_corpus
from rmsprop_optax.demo._training import Sizes, Trainer

RESULTS = Path(__file__).parent / "results"
STORAGES: Mapping[str, Any] = {"float32": None, "one byte": "one_byte"}
# Okabe and Ito's colours, which the colour-blind can tell apart; dashes tell them too.
STYLES = (("#0072B2", "-"), ("#D55E00", "--"))
Losses = dict[str, np.ndarray]


class Run(Protocol):
    """One training run, as far as it has come."""

    def step(self) -> None:
        """One more."""
        ...

    def held_out_loss(self) -> float:
        """On what it never sees, in nats."""
        ...


class _Text:
    """The main job, with its own defaults."""

    def __init__(self, tx: optax.GradientTransformation, seed: int) -> None:
        sizes = Sizes(hidden=256, batch=32, length=64)
        with_extra = optax.with_extra_args_support(tx)
        self._trainer = Trainer(with_extra, load_corpus(), sizes, seed)
        self._state = self._trainer.init()

    def step(self) -> None:
        self._state, _ = self._trainer.step(self._state)

    def held_out_loss(self) -> float:
        return self._trainer.held_out_loss(self._state)


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
      name: For people.
      make: From a transformation and a seed to a run.
      arguments: Of `rmsprop`, beside the storage.
      steps: Of each run.
      every: Steps between evaluations.
      last: Of so many of the last evaluations, the mean is the final loss.
    """

    name: str
    make: Callable[[optax.GradientTransformation, int], Run]
    arguments: Mapping[str, Any]
    steps: int
    every: int
    last: int


TASKS = (
    Task("characters of prose (the main job)", _Text, TUNED, 2000, 100, 1),
    Task("handwritten digits", _digits.Run, {"learning_rate": 3e-4}, 600, 30, 5),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, writes, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, few steps")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    seeds, share = (2, 20) if options.quick else (5, 1)
    found = {task.name: _train(task, range(seeds), share) for task in TASKS}
    options.out.mkdir(parents=True, exist_ok=True)
    _write(found, options.out)
    _draw(found, options.out / "quality.png")
    sys.stdout.write((options.out / "quality.md").read_text())
    return 0


def _train(task: Task, seeds: Sequence[int], share: int) -> Losses:
    """Held-out losses of shape (seeds, evaluations), by storage."""
    steps, losses = task.steps // share, {name: [] for name in STORAGES}
    total = steps * len(seeds) * len(STORAGES)
    with tqdm(total=total, desc=task.name, unit="step", file=sys.stderr) as bar:
        for seed in seeds:
            for name, storage in STORAGES.items():
                tx = rmsprop(**task.arguments, moment_storage=storage)
                run = task.make(tx, seed)
                losses[name].append(_curve(run, steps, max(task.every // share, 1), bar))
    return {name: np.array(curves) for name, curves in losses.items()}


def _curve(run: Run, steps: int, every: int, bar: Any) -> list[float]:
    curve = []
    for step in range(1, steps + 1):
        run.step()
        bar.update()
        if step % every == 0:
            curve.append(run.held_out_loss())
    return curve


def _final(task: Task, losses: Losses) -> Losses:
    """The final loss of each seed."""
    return {name: curves[:, -task.last :].mean(axis=1) for name, curves in losses.items()}


def _error(values: np.ndarray) -> float:
    """The standard error of a mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _lines(found: Mapping[str, Losses]) -> list[str]:
    lines = [
        "| task | moments | held-out loss, nats | less float32's, same seed | within one "
        "standard error |",
        "|---|---|---|---|---|",
    ]
    for task in TASKS:
        final = _final(task, found[task.name])
        wide = final["float32"]
        for name, values in final.items():
            loss = f"{values.mean():.4f} ± {_error(values):.4f}"
            off, near = "", ""
            if name != "float32":
                change = values - wide
                off = f"{change.mean():+.4f} ± {_error(change):.4f}"
                is_near = values.mean() - wide.mean() <= _error(wide)
                near = "yes" if is_near else "**no**"
            lines.append(f"| {task.name} | {name} | {loss} | {off} | {near} |")
    return lines


def _write(found: Mapping[str, Losses], folder: Path) -> None:
    held = {name: {k: v.tolist() for k, v in x.items()} for name, x in found.items()}
    report = {"machine": machine(), "versions": versions(), "held_out_losses": held}
    (folder / "quality.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "quality.md").write_text("\n".join(_lines(found)) + "\n")


def _draw(found: Mapping[str, Losses], path: Path) -> None:
    """The mean curves, and the range of the seeds behind them."""
    with mpl.rc_context({"font.size": 11}):
        figure = Figure(figsize=(10, 4), layout="constrained", facecolor="white")
        for axes, task in zip(figure.subplots(1, len(TASKS)), TASKS, strict=True):
            for (name, curves), style in zip(
                found[task.name].items(), STYLES, strict=True
            ):
                colour, dashes = style
                at = np.linspace(0, task.steps, curves.shape[1] + 1)[1:]
                axes.plot(at, curves.mean(axis=0), dashes, color=colour, label=name, lw=2)
                spread = curves.min(axis=0), curves.max(axis=0)
                axes.fill_between(at, *spread, color=colour, alpha=0.15, lw=0)
            axes.set(xlabel="step", ylabel="held-out loss (nats)", yscale="log")
            axes.yaxis.set_major_formatter(FuncFormatter(_plain))
            axes.yaxis.set_minor_formatter(FuncFormatter(_plain))
            axes.yaxis.set_minor_locator(LogLocator(subs=(1.2, 1.4, 1.6, 2, 3, 5)))
            axes.set_title(task.name, fontsize=11)
            axes.grid(color="0.9")
            axes.spines[["top", "right"]].set_visible(False)
        figure.axes[0].legend(title="moments", frameon=False)
        figure.savefig(path, dpi=150)


def _plain(value: float, _: Any) -> str:
    return f"{value:g}"


if __name__ == "__main__":
    raise SystemExit(main())
