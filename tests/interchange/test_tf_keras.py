"""Runs of tf.keras 2 (tf_keras): its models, optimizers, files and checkpoints."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects, exclude_paths, finalize
from rmsprop_optax.interchange import keras as interchange
from rmsprop_optax.interchange import tf1
from tests.interchange._runs import assert_same_bits
from tests.parity._installed import peer

STEPS = 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3)).astype(np.float32)
Y = RNG.normal(size=(4, 2)).astype(np.float32)
ORDER = ["hidden/kernel", "hidden/bias", "out/kernel", "out/bias"]
BY_CLASS = {"hidden": "dense", "out": "dense_1"}
BY_NUMBER = {"hidden": "layer_with_weights-0", "out": "layer_with_weights-1"}
ALL: dict[str, Any] = {
    "momentum": 0.5,
    "centered": True,
    "weight_decay": 0.1,
    "use_ema": True,
    "ema_momentum": 0.5,
}
CASES: dict[str, tuple[bool, dict[str, Any]]] = {
    "legacy": (True, {"momentum": 0.5, "centered": True, "clipnorm": 0.5}),
    "legacy, plain": (True, {"epsilon": 1e-2, "decay": 0.1}),
    "2.11": (False, ALL),
    "2.11, plain": (False, {"global_clipnorm": 0.5}),
}


class Theirs(NamedTuple):
    """A run of tf_keras, and what it would be built from here."""

    model: Any
    tx: Any
    legacy: bool

    def train(self) -> "Theirs":
        for _ in range(STEPS):
            self.model.train_on_batch(X, Y)
        return self


def _start(case: str) -> Theirs:
    keras = peer("tf_keras", "tf_keras")
    legacy, options = CASES[case]
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((3,)),
        keras.layers.Dense(2, name="hidden"),
        keras.layers.Dense(2, name="out"),
    ]
    kind = keras.optimizers.legacy if legacy else keras.optimizers
    optimizer, given = kind.RMSprop(0.02, **options), dict(options)
    if "weight_decay" in options:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        given["weight_decay_mask"] = exclude_paths("bias")
    dialect = dialects.tf_keras if legacy else dialects.tf_keras_2_11
    if "weight_decay_mask" in given:
        mask = given.pop("weight_decay_mask")
        decay = given.pop("weight_decay")
        tx = optax.partition(
            {
                "kernel": dialect(0.02, weight_decay=decay, **given),
                "bias": dialect(0.02, **given),
            },
            lambda params: jax.tree.map(
                lambda x: "kernel" if x else "bias", mask(params)
            ),
        )
    else:
        tx = dialect(0.02, **given)
    model = keras.Sequential(layers)
    model.compile(optimizer, "mse", metrics=["mae"])
    return Theirs(model, tx, legacy)


def _params() -> Any:
    layer = lambda n: {"kernel": jnp.zeros((n, 2)), "bias": jnp.zeros(2)}  # noqa: E731
    return {"hidden": layer(3), "out": layer(2)}


def _loss(params: Any) -> Any:
    y = X
    for layer in params.values():
        y = y @ layer["kernel"] + layer["bias"]
    return jnp.mean((y - Y) ** 2)


def _train(tx: Any, params: Any, state: Any) -> tuple[Any, Any]:
    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = tx.update(jax.grad(_loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(STEPS):
        params, state = step(params, state)
    return params, state


def _import(foreign: Any, tx: Any, **named: Any) -> Any:
    params = _params()
    return interchange.import_run(foreign, params, tx.init(params), tx, **named)


@pytest.mark.parametrize(
    "case",
    [
        "legacy",
        "2.11",
        pytest.param("legacy, plain", marks=pytest.mark.slow),
        pytest.param("2.11, plain", marks=pytest.mark.slow),
    ],
)
def test_eight_steps_there_and_eight_here(case: str, tmp_path: Path) -> None:
    theirs = _start(case).train()
    tx, model, options = theirs.tx, theirs.model, CASES[case][1]
    run = _import(model, tx)
    tf = peer("tensorflow", "tensorflow")
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(f"{tmp_path}/c")
    model.save_weights(tmp_path / "w")
    # The order of the optimizer is in a legacy checkpoint, by the names of its slots.
    ordered = {} if theirs.legacy else {"order": ORDER}
    for prefix in ("c", "w"):
        found = _import(tmp_path / prefix, tx, names=BY_NUMBER, **ordered)
        assert_same_bits(found, run)
    if not theirs.legacy:
        for name in ("run.keras", "run.weights.h5"):
            (model.save_weights if "weights" in name else model.save)(tmp_path / name)
            found = _import(tmp_path / name, tx, names=BY_CLASS, order=ORDER)
            assert_same_bits(found, run)
    state = interchange.import_state(model.optimizer, tx.init(_params()), tx, order=ORDER)
    assert_same_bits(state, run[1])
    told = interchange.transformation(model, _params())
    params, state = _train(told, *_import(model, told))
    theirs.train()
    expected = interchange.import_params(model, _params())
    np.testing.assert_allclose(
        *(jax.flatten_util.ravel_pytree(x)[0] for x in (params, expected)), rtol=2e-5
    )
    if options.get("use_ema"):
        model.optimizer.finalize_variable_values(model.trainable_variables)
        expected = interchange.import_params(model, _params())
        averaged = finalize(params, state)
        np.testing.assert_allclose(
            *(jax.flatten_util.ravel_pytree(x)[0] for x in (averaged, expected)),
            rtol=2e-5,
        )


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_other_numbers_files_and_places(tmp_path: Path) -> None:
    theirs = _start("legacy, plain").train()
    model = theirs.model
    with pytest.raises(ValueError, match=r"build it with .*decay=0\.1|decay=0\.1"):
        _import(model, dialects.tf_keras(0.02, epsilon=1e-2))
    with pytest.raises(ValueError, match="with eps_in_sqrt=False"):
        _import(model, dialects.tf_keras_2_11(0.02), ignore=("epsilon", "learning_rate"))
    model.save(tmp_path / "run.keras")
    with pytest.raises(ValueError, match=r"run\.keras' holds no .*`optimizers\.legacy`"):
        _import(tmp_path / "run.keras", theirs.tx, names=BY_CLASS)
    model.save(tmp_path / "run.h5")
    for read in (
        lambda path: interchange.import_params(path, _params()),
        lambda path: interchange.import_state(path, theirs.tx.init(_params()), theirs.tx),
    ):
        with pytest.raises(ValueError, match=r"run\.h5' has Keras's older format"):
            read(tmp_path / "run.h5")
        with pytest.raises(ValueError, match="has neither a SavedModel nor"):
            read(tmp_path)
    model.save(tmp_path / "saved")
    run = _import(tmp_path / "saved", theirs.tx, names=BY_NUMBER)
    assert_same_bits(run, _import(model, theirs.tx))
    with pytest.raises(ValueError, match=r"of objects \(TensorFlow 2\)"):
        tf1.import_params(tmp_path / "saved" / "variables" / "variables", _params())


def test_a_rate_in_the_state_is_the_one_of_the_run(tmp_path: Path) -> None:
    theirs = _start("2.11, plain")
    theirs.model.optimizer.learning_rate = 0.5
    theirs.model.train_on_batch(X, Y)
    tx = optax.inject_hyperparams(dialects.tf_keras_2_11)(0.02, global_clipnorm=0.5)
    theirs.model.save(tmp_path / "run.keras")
    for foreign, names in ((theirs.model, None), (tmp_path / "run.keras", BY_CLASS)):
        _, state = _import(foreign, tx, names=names, order=ORDER)
        assert state.hyperparams["learning_rate"] == 0.5
    like = theirs.model.optimizer
    arrays = interchange.export_state(state, like, tx, order=ORDER)
    assert [x.shape for x in arrays] == [tuple(v.shape) for v in like.variables]
