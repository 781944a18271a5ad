"""Whether training with moments in fewer bytes ends where it ends with float32's."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator
from tqdm import tqdm

from benchmarks import _picture
from benchmarks._suite import Found, Order, Suite
from benchmarks.peers import OURSELVES
from benchmarks.suites import _digits
from examples.char_gru.model import TUNED, Trainer, load_corpus
from rmsprop_optax import rmsprop

STORAGES: Mapping[str, Any] = {"float32": None, "one byte": "one_byte"}
STYLES = ((_picture.BLUE, "-"), (_picture.VERMILION, "--"))
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
    """`examples/char_gru`, with its own defaults."""

    def __init__(self, tx: optax.GradientTransformation, seed: int) -> None:
        self._trainer = Trainer(tx, load_corpus(), seed)
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


def _settings(quick: bool) -> Found:
    seeds, share = (2, 20) if quick else (5, 1)
    steps = {task.name: task.steps // share for task in TASKS}
    return {"seeds": seeds, "share_of_steps": share, "steps": steps}


def _measure(order: Order) -> Found:
    settings = _settings(order.quick)
    seeds, share = range(settings["seeds"]), settings["share_of_steps"]
    trained = {task.name: _train(task, seeds, share) for task in TASKS}
    held = {name: {k: v.tolist() for k, v in x.items()} for name, x in trained.items()}
    return {"held_out_losses": held}


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


def _markdown(found: Found) -> str:
    lines = [
        "| task | moments | held-out loss, nats | less float32's, same seed | within one "
        "standard error |",
        "|---|---|---|---|---|",
        *(line for task in TASKS for line in _lines(task, _losses(found, task))),
    ]
    return "\n".join(lines) + "\n"


def _losses(found: Found, task: Task) -> Losses:
    held = found["held_out_losses"][task.name]
    return {name: np.array(curves) for name, curves in held.items()}


def _lines(task: Task, losses: Losses) -> list[str]:
    final, lines = _final(task, losses), []
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


def _draw(found: Found, path: Path) -> None:
    """The mean curves, and the range of the seeds behind them."""
    with _picture.figure(path, 10, 4) as figure:
        for axes, task in zip(figure.subplots(1, len(TASKS)), TASKS, strict=True):
            _curves(axes, task, _losses(found, task))
        figure.axes[0].legend(title="moments", frameon=False)


def _curves(axes: Axes, task: Task, losses: Losses) -> None:
    for (name, curves), (colour, dashes) in zip(losses.items(), STYLES, strict=True):
        at = np.linspace(0, task.steps, curves.shape[1] + 1)[1:]
        axes.plot(at, curves.mean(axis=0), dashes, color=colour, label=name, lw=2)
        spread = curves.min(axis=0), curves.max(axis=0)
        axes.fill_between(at, *spread, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="step", ylabel="held-out loss (nats)", yscale="log")
    axes.yaxis.set_major_formatter(FuncFormatter(_picture.plain))
    axes.yaxis.set_minor_formatter(FuncFormatter(_picture.plain))
    axes.yaxis.set_minor_locator(LogLocator(subs=(1.2, 1.4, 1.6, 2, 3, 5)))
    axes.set_title(task.name, fontsize=11)
    _picture.tidy(axes)


SUITE = Suite(
    name="quality",
    peers=(OURSELVES,),
    settings=_settings,
    measure=_measure,
    markdown=_markdown,
    draw=_draw,
)
