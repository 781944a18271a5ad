"""Runs of `keras.optimizers.RMSprop`, from memory and from Keras's files, and back.

Those of tf.keras 2 (tf_keras) are read too: models, optimizers, files, TensorFlow 2's
checkpoints (by their prefix) and SavedModels (by their folder).

What a function does not say of its arguments is on the page of
[`interchange`][rmsprop_optax.interchange].
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any, NamedTuple

import numpy as np
import optax

from rmsprop_optax._chain import build
from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax._foundation._checks import check_names
from rmsprop_optax._foundation._schedules import as_rate
from rmsprop_optax._foundation._types import LearningRate, Mask, PyTree
from rmsprop_optax.interchange._foreign import (
    Convert,
    Place,
    as_count,
    as_number,
    check_slot,
    quoted,
)
from rmsprop_optax.interchange._hyperparams import (
    Configs,
    check_ignored,
    compare,
    configurations,
    foreign_run,
    partitioned,
)
from rmsprop_optax.interchange._keras_files import write_variables
from rmsprop_optax.interchange._keras_runs import (
    as_array,
    configuration_of,
    decays_of,
    is_multi,
    joined,
    parameter_names,
    parts_of,
    values_of,
    variables_of,
    weights_of,
)
from rmsprop_optax.interchange._matching import (
    Layout,
    Layouts,
    export_weights,
    find_weights,
    import_weights,
    match_parameters,
    moment_converts,
)
from rmsprop_optax.interchange._schedules import keras_schedule
from rmsprop_optax.interchange._slots import (
    LOSS_SCALE,
    RATE_NAMES,
    LossScale,
    Slots,
    read,
    read_for,
    write,
)
from rmsprop_optax.interchange._tf_keras import Model, adapted
from rmsprop_optax.transforms._averaging import AverageParamsState
from rmsprop_optax.transforms._weight_decay import exclude_paths
from rmsprop_optax.wrappers._accumulation import AccumulateGradientsState
from rmsprop_optax.wrappers._loss_scale import DynamicLossScaleState, dynamic_loss_scale

__all__ = [
    "LAYOUTS",
    "export_params",
    "export_state",
    "import_params",
    "import_run",
    "import_state",
    "save_state",
    "transformation",
]

LAYOUTS: Layouts = {
    ("bias", 1): Layout(("bias", "beta")),
    ("embedding", 2): Layout(("embeddings",)),
    ("scale", 1): Layout(("gamma",)),
    ("mean", 1): Layout(("moving_mean",)),
    ("var", 1): Layout(("moving_variance",)),
}
"""How Keras calls the weights of Flax's `Embed` and norms; other names are the same."""

_NO_WEIGHTS = (r"\bmoving_(mean|variance)$", "seed_generator_state$")
# In the order in which `build` makes them: `base_optimizer.py`, then `rmsprop.py`.
_SLOTS = {
    "ema": "average",
    "acc_grads": "gradient_accumulator",
    "nu": "velocity",
    "trace": "momentum",
    "mu": "average_gradient",
}
_NUMBERS = ("rho", "momentum", "epsilon", "centered")
_ITERATION, _RATE = (f"`{x}` of the Keras state" for x in ("iteration", "learning_rate"))


def import_run(
    foreign: Any,
    params: PyTree,
    opt_state: PyTree,
    tx: optax.GradientTransformation,
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore_weights: Iterable[str] = _NO_WEIGHTS,
    order: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
) -> tuple[PyTree, PyTree]:
    """Weights and optimizer state of a Keras model, in one call.

    Args:
      foreign: The compiled model, or its file. A checkpoint calls a layer
        ``layer_with_weights-0``, a file of tf.keras by its class (``dense``).
      order: None: that of ``model.trainable_variables``, which a file does not tell.

    Returns:
      The parameters and the state.

    Examples:
      >>> from rmsprop_optax import interchange, rmsprop
      >>> interchange.keras.import_run("none.keras", {}, None, rmsprop())
      Traceback (most recent call last):
      ...
      FileNotFoundError: [Errno 2] No such file or directory: 'none.keras'
    """
    foreign = adapted(foreign)
    theirs, arrays = weights_of(foreign)
    ignored = check_names("ignore_weights", ignore_weights)
    weights = find_weights(params, theirs, names, layouts, convert, ignored, "/")
    held = read(opt_state).nu
    trained = getattr(foreign, "trainable_variables", None)
    if order is None and trained is not None:
        order = [path for path in _paths(trained, weights) if path in held]
    moved = import_weights(params, weights, arrays)
    opt_state = import_state(
        getattr(foreign, "optimizer", foreign),
        opt_state,
        tx,
        order=order,
        convert=moment_converts(weights, held),
        ignore=ignore,
    )
    return moved, opt_state


def transformation(
    foreign: Any,
    params: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    ignore_weights: Iterable[str] = _NO_WEIGHTS,
    order: Iterable[str] | None = None,
    learning_rate: LearningRate | None = None,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformation:
    """The transformation that a Keras model was trained with, for `import_run`.

    Args:
      foreign: The compiled model, or its ``.keras`` file.
      order: The parameters that are trained. None: those of
        ``model.trainable_variables``; of a file, all.
      learning_rate: None: the run's number or schedule. Of a MultiOptimizer, that of the
        parts whose schedule is not known.
      weight_decay_mask: Which parameters decay. None: those that the model does not
        exclude; a file does not tell.

    Returns:
      [`rmsprop`][rmsprop_optax.rmsprop] with the arguments of the run; under
      `optax.partition` for a MultiOptimizer, and where parameters are not trained; under
      [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale] for a LossScaleOptimizer,
      which Keras puts around the optimizer of a float16 run.

    Raises:
      ValueError: For an optimizer that is no RMSprop; a schedule that is not known here;
        what a file does not tell. The error names the argument to give.

    Examples:
      >>> import jax.numpy as jnp, keras
      >>> from rmsprop_optax import describe, interchange
      >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="out")])
      >>> model.compile(keras.optimizers.RMSprop(1e-2, clipnorm=1.0), "mse")
      >>> params = {"out": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
      >>> tx = interchange.keras.transformation(model, params)
      >>> print(describe(tx).splitlines()[1].strip())
      g = g min(1, 1 / ‖g‖)             each leaf clipped
    """
    foreign = adapted(foreign)
    theirs, _ = weights_of(foreign)
    ignored = check_names("ignore_weights", ignore_weights)
    weights = find_weights(params, theirs, names, layouts, None, ignored, "/")
    optimizer = getattr(foreign, "optimizer", foreign)
    variables = getattr(foreign, "trainable_variables", None)
    held = {place.path: place.like for place in weights.values()}
    if order is not None:
        trained = check_names("order", order)
        held = {path: held[path] for path in trained if path in held}
        match_parameters(held, trained, None, None)  # raises for what is not here
    elif variables is not None:
        trained = _paths(variables, weights)
    else:
        trained = list(held)
    groups, around = [(optimizer, variables, trained)], {}
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if is_multi(inner) and variables is not None:
        around = vars(optimizer) if inner is not optimizer else {}
        groups = [
            (part, variables_of(part), [*_paths(variables_of(part), weights)])
            for part in parts_of(inner)
        ]
    found = [_configuration(part, learning_rate, len(groups)) for part, *_ in groups]
    decay = any(is_on(config.weight_decay) for config, _ in found)
    every_k = {f"{config.gradient_accumulation_steps}" for config, _ in found}
    if len(every_k) > 1:
        raise ValueError(
            "The optimizers of the Keras run have different numbers of "
            f"`gradient_accumulation_steps`, {sorted(every_k)}, and a run here has one."
        )
    built = []
    for (config, _), (part, its, paths) in zip(found, groups, strict=True):
        if is_on(config.weight_decay) or not decay:  # of several, some may have none
            mask = weight_decay_mask
            if mask is None and decay:
                mask = _mask(part, its, weights)
            config = replace(config, weight_decay_mask=mask)
        built.append((build(config), [path for path in paths if path in trained]))
    tx, scaling = partitioned(built, params), around or found[0][1]
    if not scaling:
        return tx
    scale = as_number(scaling["initial_scale"], "`initial_scale` of the Keras run")
    steps = as_count(scaling["dynamic_growth_steps"], "The growth steps of the Keras run")
    return dynamic_loss_scale(tx, scale, steps)


def _configuration(
    optimizer: Any, learning_rate: LearningRate | None, count: int
) -> tuple[RmspropConfig, Mapping[str, Any]]:
    """What the transformation of an optimizer is built from; and its loss scale's.

    Of ``count`` optimizers, ``learning_rate`` is that of those that do not tell theirs.
    """
    dialect, numbers, scaling = configuration_of(optimizer)
    missing = [name for name in _NUMBERS if name not in numbers]
    if missing:
        raise ValueError(
            f"{quoted(optimizer)} does not hold {missing} of an RMSprop: give the model "
            "that was compiled with one, or its `.keras` file."
        )
    if learning_rate is None or count > 1:
        try:
            learning_rate = _rate(numbers["learning_rate"])
        except ValueError:
            if learning_rate is None:
                raise
    as_rate("learning_rate", learning_rate)
    numbers["learning_rate"] = learning_rate
    return foreign_run(dialect, numbers, "the Keras run", ()).config, scaling


def _mask(
    optimizer: Any, variables: Sequence[Any] | None, weights: Mapping[str, Place]
) -> Mask | None:
    """Which parameters decay, as far as an optimizer tells; None: all."""
    decays = decays_of(optimizer, variables)
    if decays is None or variables is None:
        raise ValueError(
            f"{quoted(optimizer)} does not tell which parameters "
            "`exclude_from_weight_decay` excluded: give `weight_decay_mask`, such as "
            '`exclude_paths("bias$")`, or `lambda params: True` for none.'
        )
    pairs = zip(variables, decays, strict=True)
    out = [f"^{re.escape(weights[v.path].path)}$" for v, there in pairs if not there]
    return exclude_paths(*out) if out else None


def _paths(variables: Sequence[Any], weights: Mapping[str, Place]) -> list[str]:
    """Ours of Keras's trainable variables, in their order."""
    unknown = [v.path for v in variables if v.path not in weights]
    if unknown:
        raise ValueError(
            f"The Keras model trains {unknown}, which `ignore_weights` leaves out: "
            "its state has no place. Give `params` a leaf for each trained weight."
        )
    return [weights[v.path].path for v in variables]


def _rate(saved: Any) -> LearningRate:
    """The learning rate of a configuration: a number, or a schedule."""
    if hasattr(saved, "get_config"):
        name = type(saved).__name__
        return keras_schedule({"class_name": name, "config": saved.get_config()})
    if isinstance(saved, Mapping):
        return keras_schedule(saved)
    if callable(saved):
        raise ValueError(f"The learning rate is {saved!r}: give `learning_rate`.")
    return as_number(as_array(saved), _RATE)


def import_params(
    foreign: Any,
    params: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore: Iterable[str] = _NO_WEIGHTS,
) -> PyTree:
    """The weights of a Keras model as parameters of ours.

    A parameter ``dense/kernel`` is the weight whose name in Keras ends with it; the
    scale of a norm is called ``gamma`` there, as ``layouts`` says.

    Args:
      foreign: The model; or the path of a ``.keras`` or ``.weights.h5`` file, which is
        read by h5py, without Keras. A file names layers, but not the weights of a layer:
        they are numbered (``my_layer/0``) where the layer is not one of Keras's usual
        ones.
      names: Such as ``{"hidden": "dense_1", "out/kernel": "my_layer/0"}``.

    Returns:
      A tree like ``params``.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from types import SimpleNamespace as Named
      >>> from rmsprop_optax import interchange
      >>> kernel = Named(path="sequential/dense/kernel", value=np.ones((2, 1)))
      >>> params = {"dense": {"kernel": jnp.zeros((2, 1))}}
      >>> params = interchange.keras.import_params(Named(weights=[kernel]), params,
      ...     convert={"dense/kernel": np.float32})
      >>> print(params["dense"]["kernel"].T)
      [[1. 1.]]
    """
    theirs, arrays = weights_of(foreign)
    weights = find_weights(params, theirs, names, layouts, convert, ignore, "/")
    return import_weights(params, weights, arrays)


def export_params(
    params: PyTree,
    like: Any,
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore: Iterable[str] = _NO_WEIGHTS,
) -> dict[str, np.ndarray]:
    """Our parameters by the names that a Keras model has for them.

    Args:
      like: The Keras model.

    Returns:
      Arrays by ``variable.path``: load them by ``variable.assign(arrays[variable.path])``
      for each of ``model.trainable_variables``.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from types import SimpleNamespace as Named
      >>> from rmsprop_optax import interchange
      >>> model = Named(weights=[Named(path="model/dense/bias", value=np.zeros(2))])
      >>> interchange.keras.export_params({"dense": {"bias": jnp.ones(2)}}, model)
      {'model/dense/bias': array([1., 1.], dtype=float32)}
    """
    theirs, arrays = weights_of(like)
    weights = find_weights(
        params, theirs, names, layouts, convert, ignore, "/", export=True
    )
    return export_weights(weights, arrays)


def import_state(
    foreign: Any,
    opt_state: PyTree,
    tx: optax.GradientTransformation,
    *,
    order: Iterable[str] | None = None,
    convert: Convert | None = None,
    ignore: Iterable[str] = (),
) -> PyTree:
    """Puts the state of a Keras optimizer into one of ours.

    An optimizer and a ``.keras`` file have all numbers of the run, which are compared
    with those of ``tx``; arrays and a ``.weights.h5`` file only the learning rate.

    Args:
      foreign: The optimizer itself, built, or the LossScaleOptimizer around it, whose
        scale goes into `dynamic_loss_scale`; or the arrays of its ``variables``, in their
        order, as a sequence or as the mapping that ``save_own_variables`` fills; or the
        path of a ``.keras`` or ``.weights.h5`` file, which is read by h5py, without
        Keras.
      tx: [`rmsprop`][rmsprop_optax.rmsprop] with the arguments that the run had, or a
        chain or a wrapper with it inside; for tf.keras its dialect.
      order: That of ``model.trainable_variables``.

    Returns:
      A state like ``opt_state``. Under `optax.inject_hyperparams` the learning rate is in
      it too; else the transformation's own goes on.

    Examples:
      >>> import jax.numpy as jnp, numpy as np, optax
      >>> from rmsprop_optax import interchange, rmsprop
      >>> variables = [30, 0.01, np.array([4.0, 9.0], np.float32)]  # the last: velocity
      >>> tx = rmsprop(0.01)
      >>> opt_state = tx.init({"w": jnp.ones(2)})
      >>> opt_state = interchange.keras.import_state(variables, opt_state, tx)
      >>> print(optax.tree.get(opt_state, "nu")["w"])
      [4. 9.]
    """
    current = read(opt_state)
    configs = configurations(tx, opt_state, current)
    runs = _read(foreign, current, configs, order, convert, ignore)
    result: dict[str, Any] = {"hyperparams": {}}
    for run in runs:
        for slot, place, value in run.variables:
            key = f"`{_SLOTS[slot]}` of '{place.path}'"
            array = place.taken(value, key, square=slot == "nu")
            result.setdefault(slot, {})[place.path] = array
        if run.rate is not None:
            result["hyperparams"] |= {
                path: {name: run.rate for name in RATE_NAMES if name in injected}
                for path, injected in (run.held.hyperparams or {}).items()
            }
    counts = {as_count(run.heads[0], _ITERATION) for run in runs}
    if len(counts) > 1:
        raise ValueError(
            f"The optimizers are at different iterations, {sorted(counts)}, and a state "
            "here has one count."
        )
    (calls,) = counts
    updates, micro = divmod(calls, _steps(current, configs))
    scaling = runs[0].scaling
    if scaling:
        held = current.loss_scale is not None
        check_slot(LOSS_SCALE, True, held, "The Keras state")
        result["loss_scale"] = LossScale(
            as_number(scaling[3], "`dynamic_scale` of the Keras state"),
            as_count(scaling[2], "`step_counter` of the Keras state"),
        )
    return write(opt_state, Slots(updates, micro, calls, **result))


def export_state(
    opt_state: PyTree,
    like: Any,
    tx: optax.GradientTransformation,
    *,
    order: Iterable[str] | None = None,
    convert: Convert | None = None,
    ignore: Iterable[str] = (),
    step: int | None = None,
) -> list[np.ndarray]:
    """Our state as the arrays of ``optimizer.variables``, in their order.

    Load it by ``variable.assign(array)`` for each pair of the two, or put it into a file
    of Keras's with [`save_state`][rmsprop_optax.interchange.keras.save_state].

    Args:
      opt_state: A state of [`rmsprop`][rmsprop_optax.rmsprop].
      like: The Keras optimizer that is to go on, built; or its variables, or its file, as
        ``foreign`` of [`import_state`][rmsprop_optax.interchange.keras.import_state]. Its
        learning rate is kept, unless ours is in the state (`optax.inject_hyperparams`).

    Returns:
      As many arrays as ``like`` has variables, of their shapes.

    Raises:
      ValueError: For what this Keras optimizer cannot hold, by name.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from rmsprop_optax import interchange, rmsprop
      >>> tx = rmsprop(0.01)
      >>> variables = [30, 0.01, np.array([4.0, 9.0], np.float32)]
      >>> opt_state = tx.init({"w": jnp.ones(2)})
      >>> interchange.keras.export_state(opt_state, variables, tx)
      [array(30, dtype=int32), array(0.01, dtype=float32), array([0., 0.], dtype=float32)]
    """
    holds = (AverageParamsState, AccumulateGradientsState, DynamicLossScaleState)
    current = read_for("Keras's RMSprop", opt_state, step, holds)
    configs = configurations(tx, opt_state, current)
    runs = _read(like, current, configs, order, convert, ignore)
    scale, scaling = current.loss_scale, runs[0].scaling
    check_slot(LOSS_SCALE, bool(scaling), scale is not None, "`like`")
    k = _steps(current, configs)
    if current.updates is not None:
        calls = current.updates * k + current.micro
    elif current.calls is not None:  # the average of the weights counts calls
        calls = current.calls
    else:
        calls = as_count(runs[0].heads[0], _ITERATION) // k * k + current.micro
    # Keras's int32 keeps the remainder, by which it tells when to update.
    beyond = max(0, calls - np.iinfo(np.int32).max)
    iteration = np.asarray(calls - -(-beyond // k) * k, np.int32)
    arrays = [[iteration, *_arrays(run)] for run in runs]
    inner = getattr(like, "inner_optimizer", like)
    result = joined(inner, arrays) if is_multi(inner) else arrays[0]
    if scale is None:
        return result
    counter, factor = np.asarray(scale.count, np.int32), np.float32(scale.scale)
    return [*map(np.asarray, scaling[:2]), counter, np.asarray(factor), *result]


def _arrays(run: "_Run") -> list[np.ndarray]:
    """What is held here of an optimizer's parameters, after its iteration."""
    result: list[np.ndarray] = []
    if len(run.heads) == 2:
        ours = run.held.learning_rate
        result.append(np.asarray(run.rate if ours is None else ours, np.float32))
    for slot, place, old in run.variables:
        array = place.converted(getattr(run.held, slot)[place.path])
        if array.shape != np.shape(old):
            raise ValueError(
                f"`{_SLOTS[slot]}` of '{place.path}' has shape {array.shape}, the "
                f"variable of Keras {np.shape(old)}: give `convert` or `order`."
            )
        result.append(array)
    return result


def save_state(arrays: Sequence[np.ndarray], path: str | PathLike[str]) -> None:
    """Puts exported arrays into a ``.keras`` or ``.weights.h5`` file, atomically.

    The file is one that Keras saved, with the same optimizer in it; its other contents
    stay what they are. Keras's own loading then goes on from the state.

    Args:
      arrays: What [`export_state`][rmsprop_optax.interchange.keras.export_state]
        returned.
      path: The file. It is replaced whole, or not at all.

    Raises:
      ValueError: For a file without an optimizer, or with another one, or damaged.

    Examples:
      >>> from rmsprop_optax.interchange import keras
      >>> keras.save_state([], "nothing.weights.h5")
      Traceback (most recent call last):
      ...
      FileNotFoundError: [Errno 2] No such file or directory: 'nothing.weights.h5'
    """
    write_variables(fspath(path), arrays)


class _Run(NamedTuple):
    """What an optimizer of Keras holds, and what is ``held`` here of its parameters.

    ``scaling`` are the variables of a LossScaleOptimizer around it, if there is one;
    ``heads`` its own iteration, and the rate if that is a variable. Each of the
    ``variables`` is its slot, where it goes, and its value.
    """

    held: Slots
    scaling: list[Any]
    heads: list[Any]
    rate: float | None
    variables: list[tuple[str, Place, Any]]


def _read(
    foreign: Any,
    current: Slots,
    configs: Configs,
    order: Iterable[str] | None,
    convert: Convert | None,
    ignore: Iterable[str],
) -> list[_Run]:
    """An optimizer with the numbers of ``configs``; or those of a MultiOptimizer."""
    foreign = adapted(foreign)
    if isinstance(foreign, Model):
        foreign = foreign.optimizer
    if foreign is None:
        raise ValueError("The model has no optimizer: it is not compiled or not saved.")
    order = None if order is None else check_names("order", order)
    inner = getattr(foreign, "inner_optimizer", foreign)
    if not is_multi(inner):
        return [_read_one(foreign, current, configs, order, convert, ignore)]
    parts, names = parts_of(inner), [v.path for v in variables_of(inner)]
    places = match_parameters(current.nu, order, names, convert)
    if len(places) != len(names):
        raise ValueError(
            f"The Keras optimizer trains {names}, and {[*current.nu]} are trained here."
        )
    of = {name: place for name, place in zip(names, places, strict=True) if place}
    around = values_of(foreign)[:4] if inner is not foreign else []
    runs = []
    for part in parts:
        its = [of[variable.path] for variable in variables_of(part)]
        paths = [place.path for place in its]
        converts = {place.path: place.convert for place in its if place.convert}
        held = current.of(paths)
        run = _read_one(part, held, configs, paths, converts, ignore)
        runs.append(run._replace(scaling=around))
    return runs


def _read_one(
    foreign: Any,
    current: Slots,
    configs: Configs,
    order: list[str] | None,
    convert: Convert | None,
    ignore: Iterable[str],
) -> _Run:
    values = values_of(foreign)
    dialect, numbers, _ = configuration_of(foreign)
    current.check_rate_place(True, "Keras", dialect)
    held = [slot for slot in _SLOTS if getattr(current, slot) is not None]
    n = len(current.nu)
    heads = len(values) - n * len(held)
    # Of a LossScaleOptimizer: `iteration`, `learning_rate`, `step_counter`,
    # `dynamic_scale`.
    scaling = values[:4] if heads in (5, 6) else []
    if heads - len(scaling) not in (1, 2):
        counted = ", ".join(f"{n} `{_SLOTS[slot]}`" for slot in held)
        raise ValueError(
            f"The Keras state has {len(values)} variables; with the options of the "
            f"optimizer state it would be `iteration`, `learning_rate` (not with a "
            f"schedule), {counted}. Build the transformation with the options of the run."
        )
    start = heads + held.index("nu") * n
    names = parameter_names(foreign, slice(start, start + n))
    matched = match_parameters(current.nu, order, names, convert)
    places = [place for place in matched if place is not None]
    # The rate is a number of its own in tf.keras; a schedule is none.
    rate = numbers.get("learning_rate") if dialect != "keras" else None
    own = values[len(scaling) : heads]
    rate = own[1] if len(own) == 2 else rate
    rate = None if isinstance(rate, Mapping) or rate is None else as_number(rate, _RATE)
    decays = decays_of(foreign, getattr(foreign, "_trainable_variables", None))
    if decays is None:  # a file does not tell: what `tx` excludes, if some decay at all
        decays = [bool(is_on(configs[place.path].weight_decay)) for place in places]
        decays = decays if any(decays) else [True] * len(places)
    _compare(dialect, numbers, rate, places, decays, configs, current, ignore)
    slots = [(slot, place) for slot in held for place in places]
    variables = zip(slots, values[heads:], strict=True)
    placed = [(slot, place, value) for (slot, place), value in variables]
    return _Run(current, scaling, own, rate, placed)


def _compare(
    dialect: str,
    given: Mapping[str, Any],
    rate: float | None,
    where: list[Place],
    decays: list[bool],
    configs: Configs,
    current: Slots,
    ignore: Iterable[str],
) -> None:
    """The numbers of the Keras optimizer are those of the transformation.

    But for a learning rate in the state, which is imported and exported.
    """
    ignored = check_ignored(ignore, dialect)
    numbers = dict(given)
    numbers.pop("learning_rate", None)  # the variable has the last one
    if rate is not None:
        numbers["learning_rate"] = rate
    decaying = foreign_run(dialect, numbers, "the Keras run", ignored)
    if "weight_decay" in numbers:
        numbers["weight_decay"] = None
    excluded = foreign_run(dialect, numbers, "the Keras run", ignored)
    for place, decays_there in zip(where, decays, strict=True):
        injected = (current.hyperparams or {}).get(place.path, {})
        moved = {"learning_rate"} if set(RATE_NAMES) & set(injected) else set()
        run = decaying if decays_there else excluded
        compare(run, configs[place.path], ignored | moved, place.path)


def _steps(current: Slots, configs: Configs) -> int:
    """The calls of an update, by which Keras's count of calls is told from updates."""
    if current.acc_grads is None:
        return 1
    name = "gradient_accumulation_steps"
    every_k: list[Any] = [getattr(config, name) for config in configs.values()]
    if any(k is None or k != every_k[0] for k in every_k):
        raise ValueError(
            "Keras's optimizer accumulates gradients itself: build the transformation by "
            f"`{name}` of `rmsprop`, one for all."
        )
    return int(every_k[0])
