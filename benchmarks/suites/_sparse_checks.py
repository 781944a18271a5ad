"""Before anything is timed: all contenders compute the same, ours in little memory."""

from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.suites import _sparse_kernel as _tensorflow
from benchmarks.suites import _sparse_steps as _steps

HEIGHT = 6_000  # of which 4,096 draws hit many rows twice
STEPS = 3
LARGEST_SHARE = 0.05


def same_as_dense() -> None:
    """Where rows are touched at every step, by rows and densely are the same.

    Only there: a row that is touched and then left alone keeps its mean square here, and
    has it decay where gradients are dense.
    """
    (batch,) = _batches(1)
    rows = np.unique(batch[0])
    tables = []
    for method in (_steps.BY_ROWS, _steps.DENSELY):
        training = _steps.Training(method, HEIGHT)
        for _ in range(STEPS):
            training(_steps.to_device(batch[0]))
        tables.append(np.asarray(training.state[0]["table"]))
    _check_moved_alike("dense gradients", tables[0][rows], tables[1][rows], rows)
    _check_left_alone(tables[0], rows)


def same_as_tensorflow() -> None:
    """The whole table is the same after several updates, with ids given twice."""
    training = _steps.Training(_steps.UPDATE_ALONE, HEIGHT)
    kernel = _tensorflow.KernelUpdate(np.asarray(_steps.table(HEIGHT)))
    batches = _batches(STEPS)
    for batch in batches:
        training(_steps.to_device(*batch))
        kernel(kernel.prepare(*batch))
    rows = np.unique(np.concatenate([ids for ids, _ in batches]))
    ours, theirs = np.asarray(training.state[0]), kernel.numpy()
    _check_moved_alike("TensorFlow", ours[rows], theirs[rows], rows)
    _check_left_alone(ours, rows)
    _check_left_alone(theirs, rows)


def memory(height: int) -> dict[str, Any]:
    """The bytes that the compiled steps want beside their arguments; nothing is run.

    Raises:
      AssertionError: If ours wants a noteworthy part of a table: then a dense gradient,
        or a copy of the table, is made somewhere.
    """
    table_bytes = height * _steps.WIDTH * np.dtype(np.float32).itemsize
    rows = _bytes_beside(_steps.BY_ROWS, height)
    dense = _bytes_beside(_steps.DENSELY, height)
    share = rows["beside"] / table_bytes
    if share >= LARGEST_SHARE:
        raise AssertionError(f"A step wants {share:.0%} of the table beside it: {rows}.")
    return {
        "height": height,
        "table": table_bytes,
        "by_rows": rows,
        "densely": dense,
        "share_of_table": share,
    }


def _bytes_beside(method: _steps.Method, height: int) -> dict[str, int]:
    state = jax.eval_shape(partial(method.start, height))
    ids = jax.ShapeDtypeStruct((_steps.IDS,), np.int32)
    compiled = jax.jit(method.step, donate_argnums=0).lower(state, ids).compile()
    found = compiled.memory_analysis()
    if found is None:
        raise AssertionError(
            f"{jax.default_backend()} does not say what memory it wants."
        )
    # An output in no argument's place is new memory too, as large as a table perhaps.
    new_outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return {
        "arguments": found.argument_size_in_bytes,
        "outputs": found.output_size_in_bytes,
        "outputs_in_place": found.alias_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
        "beside": found.temp_size_in_bytes + new_outputs,
    }


def _batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [
        (
            rng.integers(0, HEIGHT, _steps.IDS).astype(np.int32),
            rng.normal(size=(_steps.IDS, _steps.WIDTH)).astype(np.float32),
        )
        for _ in range(count)
    ]


def _check_moved_alike(
    peer: str, ours: np.ndarray, theirs: np.ndarray, rows: np.ndarray
) -> None:
    """The way that each weight went: the weights themselves would hide it."""
    begin = np.asarray(_steps.table(HEIGHT))[rows]
    moved = ours - begin
    if not np.any(moved):
        raise AssertionError("Nothing has moved.")
    np.testing.assert_allclose(
        moved, theirs - begin, rtol=1e-4, atol=1e-6, err_msg=f"Not the same as {peer}."
    )


def _check_left_alone(table: np.ndarray, rows: np.ndarray) -> None:
    begin = np.asarray(_steps.table(HEIGHT))
    others = np.setdiff1d(np.arange(HEIGHT), rows)
    np.testing.assert_array_equal(table[others], begin[others])
