"""What a training step on an embedding table costs: by its rows, or by its weight."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks._report import Row, markdown
from benchmarks._suite import Found, Order, Suite
from benchmarks._timing import Contender, Series, race
from benchmarks.suites import _sparse_checks, _sparse_kernel, _sparse_picture
from benchmarks.suites import _sparse_steps as _steps

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
        """Of all contenders beside dense gradients, for the progress bar."""
        return self.repetitions * (len(self.heights) + 2 * len(self.dense_heights))


FULL = Size((100_000, 1_000_000, 4_000_000), (100_000, 1_000_000), 1_000_000, 30, 20)
QUICK = Size((10_000, 100_000), (10_000, 100_000), 100_000, 5, 5)


def _size(quick: bool) -> Size:
    return QUICK if quick else FULL


def _settings(quick: bool) -> Found:
    return {**asdict(_size(quick)), "ids": _steps.IDS, "width": _steps.WIDTH}


def _measure(order: Order) -> Found:
    size = _size(order.quick)
    if order.peer == "tensorflow":
        rows, found = _beside_kernel(size), {}
    else:
        rows, found = _beside_dense(size)
    return {**found, "rows": [row.json(not order.quick) for row in rows]}


def _beside_dense(size: Size) -> tuple[list[Row], Found]:
    _sparse_checks.same_as_dense()
    memory = _sparse_checks.memory(MEMORY_HEIGHT)
    with tqdm(total=size.turns, unit="turn", file=sys.stderr) as progress:
        heights = _race_of_heights(size, progress)
        dense = _races_with_dense(size, progress)
    found = {"memory_bytes": memory, "notes": [_memory_note(memory)]}
    return [*_height_rows(heights), *dense], found


def _beside_kernel(size: Size) -> list[Row]:
    _sparse_checks.same_as_tensorflow()
    with tqdm(total=2 * size.repetitions, unit="turn", file=sys.stderr) as progress:
        return [_race_with_kernel(size, progress)]


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


def _races_with_dense(size: Size, progress: Any) -> list[Row]:
    """Rows and dense gradients in turn, at each height that dense ones can bear."""
    goals = {size.dense_heights[-1]: 50.0}
    made = []
    for height in size.dense_heights:
        progress.set_description(f"dense, {height:,} rows")
        contenders = [_by_rows(height, size.steps), _densely(height)]
        times = race(contenders, _places, size.repetitions, progress.update)
        what = f"step, {height:,} rows"
        made.append(Row(what, *times, as_fast=True, goal=goals.get(height)))
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
    return Contender(_sparse_picture.DENSE, _ids_for(height), run, steps=1)


def _update_alone(height: int, steps: int) -> Contender:
    run = _steps.Training(_steps.UPDATE_ALONE, height)

    def prepare(drawn: tuple[np.ndarray, np.ndarray]) -> Any:
        places, values = drawn
        return _steps.to_device(_ids(places, height), values)

    return Contender("rmsprop_optax", prepare, run, steps)


def _kernel(height: int, steps: int) -> Contender:
    run = _sparse_kernel.KernelUpdate(np.asarray(_steps.table(height)))

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


SUITE = Suite(
    name="sparse",
    peers=("optax", "tensorflow"),
    settings=_settings,
    measure=_measure,
    markdown=markdown,
    draw=_sparse_picture.draw,
)
