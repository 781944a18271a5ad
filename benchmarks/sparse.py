"""What a training step on an embedding table costs: by its rows, or by its weight.

`python -m benchmarks.sparse [--quick] [--out DIR]` writes ``sparse.json``, ``sparse.md``
and ``sparse.png``. Needs `pip install '.[demo]'`, and `tensorflow` for the comparison
with its kernel.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import _checks, _picture, _steps, _tensorflow
from benchmarks._report import Report, Row
from benchmarks._timing import Contender, Series, race

RESULTS = Path(__file__).parent / "results"
MEMORY_HEIGHT = 1_000_000


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
      heights: Of the tables by rows, ascending.
      dense_heights: Those at which dense gradients have a chance; the last has a goal.
      kernel_height: Of the table beside TensorFlow.
      repetitions: Turns of each contender.
      steps: In one turn, but for dense ones, which are long enough alone.
    """

    heights: tuple[int, ...]
    dense_heights: tuple[int, ...]
    kernel_height: int
    repetitions: int
    steps: int

    @property
    def turns(self) -> int:
        """Of all contenders together, for the progress bar."""
        races = len(self.heights) + 2 * len(self.dense_heights)
        return self.repetitions * (races + 2 * _tensorflow.is_installed())


FULL = Size((100_000, 1_000_000, 4_000_000), (100_000, 1_000_000), 1_000_000, 30, 20)
QUICK = Size((10_000, 100_000), (10_000, 100_000), 100_000, 5, 5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks, measures, writes; the exit code is 0 also where a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small tables, few turns")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else FULL
    report, curves = _measure(size, judged=not options.quick)
    report.write(options.out, "sparse")
    _picture.draw(curves, _steps.WIDTH, _steps.IDS, options.out / "sparse.png")
    sys.stdout.write(report.markdown())
    return 0


def _measure(size: Size, judged: bool) -> tuple[Report, dict[str, dict[int, Series]]]:
    _checks.same_as_dense()
    memory = _checks.memory(MEMORY_HEIGHT)
    notes = [_memory_note(memory)]
    with tqdm(total=size.turns, unit="turn", file=sys.stderr) as progress:
        heights = _race_of_heights(size, progress)
        dense = _races_with_dense(size, progress)
        rows = [*_height_rows(heights), *dense.values()]
        if _tensorflow.is_installed():
            _checks.same_as_tensorflow()
            rows.append(_race_with_kernel(size, progress))
        else:
            notes.append("TensorFlow is not installed: its kernel was not measured.")
    if not judged:
        notes.append("Small tables and few turns: the goals are for a full run.")
    settings = {**asdict(size), "ids": _steps.IDS, "width": _steps.WIDTH}
    curves = {
        "dense gradients, optax.rmsprop": {h: row.against for h, row in dense.items()},
        "gradients by rows, rmsprop_optax": heights,
    }
    return Report(rows, notes, settings, memory, judged), curves


def _race_of_heights(size: Size, progress: Any) -> dict[int, Series]:
    """The same step on tables of each height, in turn."""
    progress.set_description("heights")
    contenders = [_by_rows(height, size.steps) for height in size.heights]
    times = race(contenders, _places, size.repetitions, progress.update)
    return dict(zip(size.heights, times, strict=True))


def _height_rows(heights: dict[int, Series]) -> list[Row]:
    """Each height against the least; the goal is that of the greatest."""
    (least, base), *others = heights.items()
    goals = {others[-1][0]: 1.5}
    return [
        Row(
            f"step, {height:,} rows",
            series,
            Series(f"{least:,} rows", base.milliseconds),
            as_fast=False,
            goal=goals.get(height),
        )
        for height, series in others
    ]


def _races_with_dense(size: Size, progress: Any) -> dict[int, Row]:
    """Rows and dense gradients in turn, at each height that dense ones can bear."""
    goals = {size.dense_heights[-1]: 50.0}
    made = {}
    for height in size.dense_heights:
        progress.set_description(f"dense, {height:,} rows")
        contenders = [_by_rows(height, size.steps), _densely(height)]
        times = race(contenders, _places, size.repetitions, progress.update)
        what = f"step, {height:,} rows"
        made[height] = Row(what, *times, as_fast=True, goal=goals.get(height))
    return made


def _race_with_kernel(size: Size, progress: Any) -> Row:
    """The update alone and TensorFlow's kernel in turn."""
    height = size.kernel_height
    progress.set_description(f"TensorFlow, {height:,} rows")
    contenders = [_update_alone(height, size.steps), _kernel(height, size.steps)]
    times = race(contenders, _places_and_values, size.repetitions, progress.update)
    return Row(f"update alone, {height:,} rows", *times, as_fast=True, goal=2.0)


def _by_rows(height: int, steps: int) -> Contender:
    run = _steps.Training(_steps.BY_ROWS, height)
    return Contender(f"{height:,} rows", _ids_for(height), run, steps)


def _densely(height: int) -> Contender:
    run = _steps.Training(_steps.DENSELY, height)
    return Contender("dense, optax.rmsprop", _ids_for(height), run, steps=1)


def _update_alone(height: int, steps: int) -> Contender:
    run = _steps.Training(_steps.UPDATE_ALONE, height)

    def prepare(drawn: tuple[np.ndarray, np.ndarray]) -> Any:
        places, values = drawn
        return _steps.to_device(_ids(places, height), values)

    return Contender("rmsprop_optax", prepare, run, steps)


def _kernel(height: int, steps: int) -> Contender:
    run = _tensorflow.KernelUpdate(np.asarray(_steps.table(height)))

    def prepare(drawn: tuple[np.ndarray, np.ndarray]) -> Any:
        places, values = drawn
        return run.prepare(_ids(places, height), values)

    return Contender("ResourceSparseApplyRMSProp", prepare, run, steps)


def _places(rng: np.random.Generator) -> np.ndarray:
    """In [0, 1): the same draw is ids of tables of all heights.

    All rows are equally likely, which no cache likes: words of a language, of which few
    are frequent, would be easier.
    """
    return rng.random(_steps.IDS)


def _places_and_values(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """With gradients, and a quarter of the places given twice."""
    places = _places(rng)
    quarter = _steps.IDS // 4
    places[-quarter:] = places[:quarter]
    values = rng.standard_normal((_steps.IDS, _steps.WIDTH), np.float32)
    return rng.permutation(places), values


def _ids(places: np.ndarray, height: int) -> np.ndarray:
    return (places * height).astype(np.int32)


def _ids_for(height: int) -> Callable[[np.ndarray], Any]:
    return lambda places: _steps.to_device(_ids(places, height))


def _memory_note(memory: dict[str, Any]) -> str:
    mega = {name: memory[name]["beside"] / 1e6 for name in ("by_rows", "densely")}
    return (
        f"Memory that a compiled step wants beside its arguments, at "
        f"{memory['height']:,} rows (a table of {memory['table'] / 1e6:.0f} MB): "
        f"{mega['by_rows']:.1f} MB by rows ({memory['share_of_table']:.1%} of the "
        f"table), {mega['densely']:.0f} MB with a dense gradient."
    )


if __name__ == "__main__":
    sys.exit(main())
