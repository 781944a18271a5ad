"""The numbers that a run was made with, beside those of the transformation."""

import inspect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from rmsprop_optax import dialects
from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax._configurations import visit_configurations
from rmsprop_optax._foundation._checks import check_names, check_transformation
from rmsprop_optax._foundation._trees import map_with_keys, path_of
from rmsprop_optax._foundation._types import PyTree, Tracer
from rmsprop_optax.interchange._foreign import as_number
from rmsprop_optax.interchange._slots import Slots, parameters_like

Configs = Mapping[str, RmspropConfig]

# What a dialect decides by its formula, and a run may not differ in.
_FORMULA = ("eps_in_sqrt", "nesterov", "maximize", "cautious", "coupled_decay")
_FORMULA += ("weight_decay", "decay_rate", "ema_per_update")
# What has no effect on the rest of a run, or is compared by the state (`lr_in_momentum`).
_NOT_COMPARED = {"source", "names", "exclusive_clips", "rates", "name", "lr_in_momentum"}
_NOT_COMPARED |= {"initial_scale", "ema_from_initial", "split_complex", "moment_storage"}
_NOT_COMPARED |= {"weight_decay_mask", "accumulate_rows", "skip_nonfinite", "axis_name"}
_OPTIONS = [f.name for f in fields(RmspropConfig) if f.name not in _NOT_COMPARED]
# Arguments of `rmsprop` that Keras does not have; and a label, which may be any.
_NOT_THEIRS = {"nesterov", "eps_in_sqrt", "bias_correction", "name", "ema_per_update"}
# Options without effect where another one is off.
_NEEDS = {
    "cautious": "momentum",
    "decay_rate": "weight_decay",
    "ema_momentum": "use_ema",
    "ema_overwrite_frequency": "use_ema",
    "ema_per_update": "use_ema",
}


def configurations(
    tx: optax.GradientTransformation, opt_state: PyTree, current: Slots
) -> dict[str, RmspropConfig]:
    """The configuration that each parameter of a state is trained with, by path.

    A parameter that a mask excludes has one without weight decay.
    """
    check_transformation("tx", tx)
    found: dict[str, RmspropConfig] = {}
    params = parameters_like(opt_state)
    decay = ("coupled_decay", "weight_decay", "weight_decay_mask", "decay_rate")
    without: dict[str, Any] = dict.fromkeys(decay)

    def add(config: RmspropConfig, paths: list[str], excluded: set[str]) -> None:
        alone = replace(config, **without)
        found.update({path: alone if path in excluded else config for path in paths})

    visit_configurations(tx, params, add, opt_state)
    unknown = [path for path in current.nu if path not in found]
    if unknown:
        raise ValueError(
            f"No `rmsprop` and no dialect in `tx` trains {unknown}, so the numbers of "
            "the run can't be compared with those of `tx`. Build it with a dialect: "
            "`dialects.optax` in the place of `optax.rmsprop`."
        )
    return found


def parameters_of(dialect: str) -> Mapping[str, inspect.Parameter]:
    """The arguments of a dialect that a run has too."""
    parameters = inspect.signature(getattr(dialects, dialect)).parameters
    return {name: x for name, x in parameters.items() if name not in _NOT_THEIRS}


def check_ignored(ignore: Iterable[str], *kinds: str) -> frozenset[str]:
    """The names in ``ignore``, all of which a run of one of these dialects has."""
    names = check_names("ignore", ignore)
    configs = {kind: getattr(dialects, kind)().config for kind in kinds}
    known = {n for kind, x in configs.items() for n in _arguments(kind, x).values()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"`ignore` names {unknown}, the run has {sorted(known)}.")
    return frozenset(names)


class ForeignRun(NamedTuple):
    """What a run was made with: arguments of its dialect, as far as they are known.

    ``where`` has these numbers, and ``config`` is what the dialect makes of them.
    """

    dialect: str
    where: str
    numbers: Mapping[str, Any]
    config: RmspropConfig


def foreign_run(
    dialect: str, given: Mapping[str, Any], where: str, ignored: Collection[str]
) -> ForeignRun:
    """The run of a framework's numbers, each of which is checked."""
    numbers = {}
    for name, parameter in parameters_of(dialect).items():
        if name in given and name not in ignored:
            value = given[name]
            if not (value is None or isinstance(value, bool) or callable(value)):
                value = as_number(value, f"`{name}` of {where}")
            flag = isinstance(parameter.default, bool)
            numbers[name] = bool(value) if flag else value
    try:
        config = getattr(dialects, dialect)(**numbers).config
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    return ForeignRun(dialect, where, numbers, config)


def compare(
    run: ForeignRun, config: RmspropConfig, ignored: Collection[str], path: str
) -> None:
    """Raises an error where a parameter is trained here as it was not in the run.

    Compared are the numbers that are known of the run, but for those whose names are
    ``ignored``, and the formula of its dialect. Schedules are not compared.
    """
    names = _arguments(run.dialect, run.config)
    for option in sorted(_OPTIONS, key=lambda option: option in names):
        name, needed = names.get(option), _NEEDS.get(option)
        known = name in run.numbers if name else option in _FORMULA
        on = needed is None or is_on(getattr(config, needed))
        if not known or not on or {name, names.get(needed or option)} & set(ignored):
            continue
        theirs, ours = getattr(run.config, option), getattr(config, option)
        if isinstance(ours, jax.Array) and not isinstance(ours, Tracer):
            ours = np.asarray(ours).item()
        if option == "decay_rate":  # whether there is one: it depends on rates of before
            theirs, ours = theirs is not None, ours is not None
        if callable(ours) or isinstance(ours, Tracer) or _same(theirs, ours):
            continue
        mine = f"`tx` trains '{path}' with {config.argument(option)}={ours!r}"
        told = {n: x for n, x in run.numbers.items() if x is not None}
        line = ", ".join(f"{n}={x!r}" for n, x in told.items())
        build = f"Build it with the numbers of the run, `dialects.{run.dialect}({line})`"
        if name is None:
            raise ValueError(
                f"The run is one of `dialects.{run.dialect}`, with {option}={theirs!r}, "
                f"and {mine}. {build}."
            )
        raise ValueError(
            f"`{name}` of {run.where} is {run.numbers[name]!r}, and {mine}. {build}; or "
            f"give ignore=({name!r},) to go on with those of `tx`."
        )


def partitioned(
    groups: Sequence[tuple[optax.GradientTransformation, Collection[str]]], params: PyTree
) -> optax.GradientTransformation:
    """Each transformation for the parameters of its paths; those of none are frozen."""
    label_of = {path: f"{i}" for i, (_, paths) in enumerate(groups) for path in paths}

    def labels(params: PyTree) -> PyTree:
        return map_with_keys(
            lambda keys, _: label_of.get(path_of(keys), "frozen"), params
        )

    transforms: dict[Any, Any] = {f"{i}": tx for i, (tx, _) in enumerate(groups)}
    used = set(jax.tree.leaves(labels(params)))
    if used <= {"0"}:
        return groups[0][0]
    if "frozen" in used:
        transforms["frozen"] = optax.set_to_zero()
    return optax.partition(transforms, labels)


def _arguments(dialect: str, config: RmspropConfig) -> dict[str, str]:
    """Options that are arguments of a dialect, with their names there."""
    named = {option: config.argument(option) for option in _OPTIONS}
    # An argument `weight_decay` that is `coupled_decay` is not `weight_decay` too.
    renamed = {name for option, name in named.items() if name != option}
    theirs = parameters_of(dialect)
    return {
        o: n for o, n in named.items() if n in theirs and (n != o or n not in renamed)
    }


def _same(theirs: Any, ours: Any) -> bool:
    """Whether two numbers are one; None, False and 0 all switch an option off."""
    if not is_on(theirs) or not is_on(ours):
        return not is_on(theirs) and not is_on(ours)
    # A framework may have rounded its own to float32, or may have a schedule.
    return not callable(theirs) and math.isclose(float(theirs), float(ours), rel_tol=1e-6)
