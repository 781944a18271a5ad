"""Sixty odd values for every argument of every public function.

A value is taken, or refused by a `TypeError` or `ValueError` that says the argument's
name. What is taken is of the kind that the signature declares.
"""

import datetime
import decimal
import fractions
import functools
import inspect
import math
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import checkpoints, dialects, interchange, parallel, sparse

PARAMS = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}


class _Nothing:
    """Has no attributes and no meaning."""


def _values() -> list[Any]:
    numbers = [0, 1, -1, 2, 3, 2**31, 2**40, 10**400, 0.0, -0.0, 0.5, 1.0, 1.5, -0.5]
    extremes = [math.nan, math.inf, -math.inf, 1e39, 1e-46, 1e-30, 1e30, 1j, 0.5 + 0j]
    plain = [None, True, False, *numbers, *extremes, "", "z", "bias", "nan", b"z"]
    containers = [[], [1.0], (), (0.5,), ("a",), ("z", 1), {}, {"a": 1}, {"a": True}]
    containers += [{1: True}, {"a": None}, {"a": 0.5}, set(), {"a"}, range(3)]
    numpy = [np.float16(0.5), np.float64(0.5), np.int8(3), np.uint64(2**63), np.bool_(1)]
    numpy += [np.array(0.5), np.array([0.5]), np.array([0.5, 0.5]), np.array("a")]
    numpy += [np.array(None, object), np.zeros((0,)), np.datetime64("2020-01-01")]
    arrays = [jnp.array(x) for x in (0.5, True, 1, 2, [1.0, 2.0], 1j, jnp.nan)]
    arrays += [jnp.bfloat16(0.5), jax.random.key(0), jax.ShapeDtypeStruct((), "float32")]
    functions = [lambda: 0.1, lambda s: 0.1, lambda a, b: 0.1, print, optax.sgd(0.1)]
    classes = [int, float, jnp.float32, "float32", "int8", np.dtype("float32")]
    others = [decimal.Decimal("0.5"), fractions.Fraction(1, 2), datetime.timedelta(1)]
    others += [_Nothing(), _Nothing, ValueError("a"), Ellipsis, NotImplemented]
    return [*plain, *containers, *numpy, *arrays, *functions, *classes, *others]


VALUES = _values()


def _is_number(x: Any) -> bool:
    """A real, finite scalar, in float32 too."""
    if isinstance(x, (bool, np.bool_)) or (isinstance(x, int) and abs(x) >= 2**31):
        return False
    if not isinstance(x, (int, float, np.generic, np.ndarray, jax.Array)):
        return False
    if np.shape(x) != () or (
        hasattr(x, "dtype") and not jnp.issubdtype(x.dtype, jnp.number)
    ):
        return False
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.float32(x)))


def _is_rate(x: Any) -> bool:
    return callable(x) or _is_number(x) or (np.shape(x) == (1,) and _is_number(x[0]))


def _is_count(x: Any) -> bool:
    return _is_number(x) and jnp.issubdtype(jnp.result_type(x), jnp.integer) and x >= 0


def _is_mask(x: Any) -> bool:
    leaves = jax.tree.leaves(x)
    return callable(x) or all(
        jnp.issubdtype(jnp.result_type(leaf), bool) for leaf in leaves
    )


def _is_names(x: Any) -> bool:
    return isinstance(x, str) or (
        isinstance(x, (tuple, list, set)) and all(isinstance(n, str) for n in x)
    )


def _is_transformation(x: Any) -> bool:
    return hasattr(x, "init") and hasattr(x, "update")


def _is_flag(x: Any) -> bool:
    return isinstance(x, (bool, np.bool_))


def _is_ignored(x: Any) -> bool:
    """A flag of a framework's that has no effect here; PyTorch's may be None."""
    return x is None or _is_flag(x)


# By the name of an argument, where it tells the kind, what may be taken.
KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(["learning_rate", "lr", "weight_decay"], _is_rate),
    **dict.fromkeys(["rho", "decay", "alpha", "epsilon", "eps", "momentum"], _is_number),
    **dict.fromkeys(["clipnorm", "clipvalue", "global_clipnorm"], _is_number),
    **dict.fromkeys(["ema_momentum", "initial_scale", "loss_scale_factor"], _is_number),
    **dict.fromkeys(["max_norm", "max_delta", "loss_scale", "init_scale"], _is_number),
    "max_lr": _is_number,
    **dict.fromkeys(["centered", "use_ema", "nesterov", "eps_in_sqrt"], _is_flag),
    **dict.fromkeys(["bias_correction", "skip_nonfinite", "maximize"], _is_flag),
    **dict.fromkeys(["decoupled_decay", "corrected_weight_decay"], _is_flag),
    **dict.fromkeys(["lr_in_momentum", "caution"], _is_flag),
    **dict.fromkeys(
        ["flip_sign", "from_initial", "per_update", "ema_per_update"], _is_flag
    ),
    **dict.fromkeys(["capturable", "foreach", "differentiable"], _is_ignored),
    **dict.fromkeys(["jit_compile", "use_locking"], _is_ignored),
    **dict.fromkeys(["use_grad_mean", "has_aux", "weighted"], _is_flag),
    **dict.fromkeys(["ema_overwrite_frequency", "overwrite_frequency"], _is_count),
    **dict.fromkeys(["dynamic_growth_steps", "max_consecutive_errors"], _is_count),
    **dict.fromkeys(["block_size", "min_size", "seed", "micro_steps"], _is_count),
    **dict.fromkeys(["max_to_keep", "step", "updates_per_epoch"], _is_count),
    "gradient_accumulation_steps": lambda x: callable(x) or _is_count(x),
    **dict.fromkeys(["weight_decay_mask", "mask", "sharded"], _is_mask),
    **dict.fromkeys(["axis_name", "order", "ignore", "fresh"], _is_names),
    **dict.fromkeys(
        ["name", "key", "optimizer_name", "description", "average_name"], _is_names
    ),
    **dict.fromkeys(["model", "optimizer", "ignore_weights"], _is_names),
    **dict.fromkeys(["scheduler", "scaler"], _is_names),
    **dict.fromkeys(["inner", "tx"], _is_transformation),
    **dict.fromkeys(["loss_fn", "ids", "value_and_grad", "exclude"], callable),
}
# Of several kinds: taken or refused, but never with another error.
ANYTHING = {"accumulate_rows", "moment_storage", "storage", "kind", "rounding", "fields"}
ANYTHING |= {
    "tables",
    "padding_idx",
    "sums",
    "convert",
    "names",
    "mesh",
    "patterns",
    "layouts",
    "aux_reduction",
}
# Data of a call, checked against the state or the parameters when it is traced.
DATA = {"params", "updates", "opt_state", "loss", "tree", "state", "foreign", "like"}
DATA |= {"table", "average", "count", "indices", "values", "shape"}


def _torch_state(**numbers: Any) -> Any:
    slots = {"step": 1.0, "square_avg": np.ones(2, np.float32)}
    return {"state": {0: slots}, "param_groups": [{"params": [0], **numbers}]}


_KERAS = [1, 0.001, np.ones(2, np.float32)]
_ONE = {"w": jnp.ones(2)}
_VARIABLE = types.SimpleNamespace(path="w", value=np.ones(2, np.float32))
_MODEL = types.SimpleNamespace(
    weights=[_VARIABLE], trainable_variables=[_VARIABLE], optimizer=_KERAS
)
_MESH = jax.make_mesh((1,), ("data",))
_TORCH, _TF1 = dialects.torch(), dialects.tf1(0.1)


def _loss(params: Any, batch: Any) -> Any:
    return sum(jnp.sum(p) for p in jax.tree.leaves(params)) * jnp.sum(batch)


# What a call needs beside the argument that is odd.
PARALLEL = {"loss_fn": _loss, "tx": ro.rmsprop(), "mesh": _MESH}
NEEDED: dict[str, Any] = {
    "decay_weights": {"weight_decay": 0.1},
    "dialects.optax": {"learning_rate": 0.1},
    "dialects.tf1": {"learning_rate": 0.1},
    "scale_by_learning_rate": {"learning_rate": 0.1},
    "clip_by_norm": {"max_norm": 1.0, "axis_name": "data"},
    "clip_by_global_norm": {"max_norm": 1.0, "axis_name": "data"},
    "clip_by_value": {"max_delta": 1.0},
    "unscale_loss": {"loss_scale": 2.0},
    "accumulate_gradients": {"inner": optax.sgd(0.1), "gradient_accumulation_steps": 2},
    **{
        name: {"inner": optax.sgd(0.1)}
        for name in (
            *("cautious", "dynamic_loss_scale", "in_float32"),
            *("skip_nonfinite", "split_complex", "sparse.lazy"),
        )
    },
    "low_precision": {"inner": optax.sgd(0.1), "storage": "int8"},
    "MomentStorage": {"kind": "int8"},
    "describe": {"tx": ro.rmsprop()},
    "next_learning_rate": {"tx": ro.rmsprop(), "opt_state": ro.rmsprop().init(PARAMS)},
    "state_bytes": {"tx": ro.rmsprop(), "params": PARAMS},
    "sparse.RowSums": {"accumulate_rows": {"a": 1}},
    "sparse.value_and_grad": {"loss_fn": _loss, "ids": lambda p, b: {"a": b}},
    "parallel.data_parallel": PARALLEL,
    "parallel.sharded_data_parallel": PARALLEL,
    "parallel.row_formats": {
        "tx": ro.rmsprop(),
        "params": PARAMS,
        "tables": ["a"],
        "mesh": _MESH,
    },
    "parallel.state_sharding": {"tx": ro.rmsprop(), "params": PARAMS, "mesh": _MESH},
    "interchange.keras.import_state": {
        "foreign": _KERAS,
        "opt_state": ro.rmsprop().init(_ONE),
        "tx": ro.rmsprop(),
    },
    "interchange.keras.export_state": {
        "like": _KERAS,
        "opt_state": ro.rmsprop().init(_ONE),
        "tx": ro.rmsprop(),
    },
    "interchange.torch.import_state": {
        "foreign": _torch_state(),
        "opt_state": _TORCH.init(_ONE),
        "tx": _TORCH,
    },
    "interchange.tf1.import_state": {
        "foreign": {"rms": {"w": np.ones(2, np.float32)}},
        "opt_state": _TF1.init(_ONE),
    },
    "interchange.torch.import_params": {"foreign": _ONE, "params": _ONE},
    "interchange.torch.import_run": {
        "foreign": {"model": _ONE, "optimizer": _torch_state()},
        "params": _ONE,
        "opt_state": _TORCH.init(_ONE),
        "tx": _TORCH,
    },
    "interchange.torch.transformation": {
        "foreign": {
            "model": _ONE,
            "optimizer": _torch_state(
                lr=0.1, alpha=0.9, eps=0.1, weight_decay=0, momentum=0, centered=False
            ),
        },
        "params": _ONE,
    },
    "interchange.keras.transformation": {
        "foreign": types.SimpleNamespace(
            weights=[_VARIABLE],
            trainable_variables=[_VARIABLE],
            optimizer=types.SimpleNamespace(
                rho=0.9,
                momentum=0.0,
                epsilon=0.1,
                centered=False,
                weight_decay=0.1,
                _learning_rate=0.1,
                _use_weight_decay=lambda variable: True,
            ),
        ),
        "params": _ONE,
    },
    "interchange.keras.import_params": {"foreign": _MODEL, "params": _ONE},
    "interchange.keras.export_params": {"like": _MODEL, "params": _ONE},
    "interchange.keras.import_run": {
        "foreign": _MODEL,
        "params": _ONE,
        "opt_state": ro.rmsprop().init(_ONE),
        "tx": ro.rmsprop(),
    },
    "interchange.tf1.import_params": {"foreign": _ONE, "params": _ONE},
    "interchange.tf1.export_state": {"opt_state": _TF1.init(_ONE)},
}
# Data by the name of an option, or a schedule beside a number.
OTHERS = {
    ("average_params", "decay"),
    ("sparse.lookup", "ids"),
    ("apply_updates_stochastic", "key"),
}
# Options that only have an effect beside another one.
BESIDE = {
    "ema_momentum": {"use_ema": True},
    "ema_overwrite_frequency": {"use_ema": True},
    "ema_per_update": {"use_ema": True, "gradient_accumulation_steps": 2},
    "nesterov": {"momentum": 0.9},
    "weight_decay_mask": {"weight_decay": 0.1},
    "accumulate_rows": {"gradient_accumulation_steps": 2},
    "max_lr": {"decoupled_decay": True, "corrected_weight_decay": True},
}


def _public() -> dict[str, Any]:
    modules = {"": ro, "dialects.": dialects, "sparse.": sparse, "parallel.": parallel}
    kinds = {"keras": interchange.keras, "tf1": interchange.tf1}
    modules |= {f"interchange.{n}.": m for n, m in kinds.items()}
    modules["interchange.torch."] = interchange.torch
    found = {p + n: getattr(m, n) for p, m in modules.items() for n in m.__all__}
    results = {"StateBytes", "sparse.TableView"}  # what functions return
    # They write files, or need a framework, and have tests of their own.
    own = {"interchange.keras.save_state", "interchange.torch.export_state"}
    own |= {"interchange.torch.export_params", "interchange.tf1.import_run"}
    return {
        name: thing
        for name, thing in found.items()
        if callable(thing) and not hasattr(thing, "_fields") and name not in results | own
    }


PUBLIC = _public()


def _wrong(name: str) -> list[tuple[str, str, str]]:
    """Each argument and value with what is wrong about the outcome."""
    make, wrong = PUBLIC[name], []
    parameters = inspect.signature(make).parameters
    for argument, parameter in parameters.items():
        if argument in DATA or (name, argument) in OTHERS:
            continue
        needed = dict(NEEDED.get(name, {}))
        beside = BESIDE.get(argument, {}).items()
        needed |= {n: x for n, x in beside if n in parameters}
        for value in VALUES:
            if value is None and "None" in str(parameter.annotation):
                continue
            call = functools.partial(make, **needed | {argument: value})
            if parameter.kind is parameter.VAR_POSITIONAL:
                call = functools.partial(make, value)
            found = _outcome(call, argument, value)
            if found:
                wrong.append((argument, " ".join(repr(value).split())[:60], found))
    return wrong


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_argument(name: str) -> None:
    assert len(VALUES) >= 60
    arguments = inspect.signature(PUBLIC[name]).parameters
    assert set(arguments) <= {*KINDS, *ANYTHING, *DATA}
    wrong = _wrong(name)
    assert not wrong, "\n".join(map(str, wrong))


def _outcome(call: Callable[[], Any], argument: str, value: Any) -> str | None:
    """What is wrong with it, or None."""
    try:
        call()
    except (TypeError, ValueError) as error:
        return (
            None if f"`{argument}" in str(error) else f"{type(error).__name__}: {error}"
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if argument in KINDS and not KINDS[argument](value):
        return "was taken"
    return None


def test_checkpoints() -> None:
    pytest.importorskip("orbax.checkpoint", reason="needs Orbax")
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for argument in ("max_to_keep", "description", "folder"):
            for value in VALUES:
                if argument == "folder" and isinstance(value, (str, Path)):
                    continue
                given: dict[str, Any] = {"folder": folder, argument: value}
                call = functools.partial(checkpoints.Checkpoints, **given)
                found = _outcome(call, argument, value)
                if found:
                    wrong.append(f"{argument}={value!r:.60}: {found}")
    assert not wrong, "\n" + "\n".join(wrong)
