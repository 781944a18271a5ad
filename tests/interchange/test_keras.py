"""Runs that start in Keras and end here, and the other way round."""

from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import (
    accumulate_gradients,
    dialects,
    exclude_paths,
    finalize,
    rmsprop,
)
from rmsprop_optax.interchange import keras as interchange
from tests.interchange._runs import (
    HALF,
    WHOLE,
    Run,
    assert_close,
    assert_same_bits,
    problem,
    start,
    train,
)
from tests.parity._installed import peer

ORDER = ["scale", "dense/kernel", "dense/bias"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "centered": {"centered": True},
    "decay and ema": {"weight_decay": 0.01, "use_ema": True, "ema_momentum": 0.9},
    "accumulation": {"gradient_accumulation_steps": 4, "momentum": 0.5},
    "all": {
        "momentum": 0.9,
        "centered": True,
        "weight_decay": 0.01,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 7,
        "gradient_accumulation_steps": 7,
        "loss_scale_factor": 8.0,
    },
}


def _options(*default: str) -> Any:
    """All options; those that are not named are slow."""
    cases = [
        pytest.param(
            options, id=name, marks=[] if name in default else [pytest.mark.slow]
        )
        for name, options in OPTIONS.items()
    ]
    return pytest.mark.parametrize("options", cases)


class Theirs:
    """A Keras optimizer over the parameters of the problem, in its own order."""

    def __init__(self, params: Any, **arguments: Any) -> None:
        self.keras = peer("keras", "keras")
        self.variables = [self.keras.Variable(np.asarray(params[n])) for n in ORDER]
        self.optimizer = self.keras.optimizers.RMSprop(**arguments)
        self.optimizer.build(self.variables)

    def train(self, given: Any, first: int, last: int) -> "Theirs":
        def step(carry: Any, gradient: Any) -> Any:
            values, state = carry
            return self.optimizer.stateless_apply(state, gradient, values), None

        held = (self.variables, self.optimizer.variables)
        values = tuple([v.value for v in variables] for variables in held)
        grads = [jnp.asarray(given.grads[n][first:last]) for n in ORDER]
        after, _ = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(values, grads)
        for variables, new in zip(held, after, strict=True):
            for variable, value in zip(variables, new, strict=True):
                variable.assign(value)
        return self

    def params(self) -> Any:
        return dict(
            zip(ORDER, (np.asarray(v.value) for v in self.variables), strict=True)
        )

    def load(self, arrays: Any) -> None:
        for variable, array in zip(self.optimizer.variables, arrays, strict=True):
            variable.assign(array)


@_options("all")
def test_thirty_steps_there_and_thirty_here(options: dict[str, Any]) -> None:
    given = problem()
    theirs = Theirs(given.params, learning_rate=0.01, **options).train(given, 0, HALF)
    tx = rmsprop(0.01, **options)
    params = {n: jnp.asarray(p) for n, p in theirs.params().items()}
    place = tx.init(params)
    state = interchange.import_state(theirs.optimizer, place, tx, order=ORDER)
    mine = train(tx, Run(params, state), given, HALF, WHOLE)
    theirs.train(given, HALF, WHOLE)
    assert_close(mine.params, theirs.params(), given)
    if options.get("use_ema"):
        theirs.optimizer.finalize_variable_values(theirs.variables)
        assert_close(finalize(mine.params, mine.state), theirs.params(), given)


@_options("all")
def test_thirty_steps_here_and_thirty_there(options: dict[str, Any]) -> None:
    given = problem(1)
    whole = Theirs(given.params, learning_rate=0.01, **options).train(given, 0, WHOLE)
    tx = rmsprop(0.01, **options)
    mine = train(tx, start(tx, given.params), given, 0, HALF)
    theirs = Theirs(mine.params, learning_rate=0.01, **options)
    step = HALF // options.get("gradient_accumulation_steps", 1)
    arrays = interchange.export_state(
        mine.state, theirs.optimizer, tx, step=step, order=ORDER
    )
    theirs.load(arrays)
    theirs.train(given, HALF, WHOLE)
    assert_close(theirs.params(), whole.params(), given)
    assert int(theirs.optimizer._iterations) == WHOLE


@_options("plain", "all")
def test_there_and_back_again_loses_nothing(options: dict[str, Any]) -> None:
    given = problem(2)
    theirs = Theirs(given.params, learning_rate=0.01, **options).train(given, 0, HALF)
    tx = rmsprop(0.01, **options)
    place = tx.init(given.params)
    state = interchange.import_state(theirs.optimizer, place, tx, order=ORDER)
    arrays = interchange.export_state(state, theirs.optimizer, tx, order=ORDER)
    for variable, array in zip(theirs.optimizer.variables, arrays, strict=True):
        np.testing.assert_array_equal(array, variable.value, err_msg=variable.path)
        assert array.dtype == variable.dtype
    again = interchange.import_state(arrays, place, tx, order=ORDER)
    assert_same_bits(again, state)


def test_a_schedule_goes_on_where_it_was() -> None:
    keras = peer("keras", "keras")
    given = problem()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 11, 0.5, staircase=True)
    theirs = Theirs(given.params, learning_rate=schedule, momentum=0.9)
    theirs.train(given, 0, HALF)
    tx = rmsprop(optax.exponential_decay(0.02, 11, 0.5, staircase=True), momentum=0.9)
    params = {n: jnp.asarray(p) for n, p in theirs.params().items()}
    state = interchange.import_state(theirs.optimizer, tx.init(params), tx, order=ORDER)
    mine = train(tx, Run(params, state), given, HALF, WHOLE)
    assert_close(mine.params, theirs.train(given, HALF, WHOLE).params(), given)


def test_an_assigned_learning_rate_travels() -> None:
    given = problem()
    theirs = Theirs(given.params, learning_rate=0.01, momentum=0.9)
    theirs.train(given, 0, HALF)
    theirs.optimizer.learning_rate = 0.0025
    tx = optax.inject_hyperparams(rmsprop)(learning_rate=0.5, momentum=0.9)
    params = {n: jnp.asarray(p) for n, p in theirs.params().items()}
    state = interchange.import_state(theirs.optimizer, tx.init(params), tx, order=ORDER)
    assert float(state.hyperparams["learning_rate"]) == np.float32(0.0025)
    mine = train(tx, Run(params, state), given, HALF, WHOLE)
    assert_close(mine.params, theirs.train(given, HALF, WHOLE).params(), given)
    mine.state.hyperparams["learning_rate"] = jnp.asarray(0.125)
    arrays = interchange.export_state(mine.state, theirs.optimizer, tx, order=ORDER)
    assert arrays[1] == np.float32(0.125)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_keras_s_own_files(tmp_path: Path, name: str) -> None:
    keras = peer("keras", "keras")
    x, y = np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)

    def model() -> Any:
        made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        made.compile(keras.optimizers.RMSprop(0.01, momentum=0.9, centered=True), "mse")
        made.optimizer.build(made.trainable_variables)
        return made

    theirs, path = model(), tmp_path / name
    theirs.fit(x, y, epochs=3, verbose=0)
    theirs.save(path) if name.endswith(".keras") else theirs.save_weights(path)
    tx = rmsprop(0.01, momentum=0.9, centered=True)
    place = tx.init({"bias": jnp.zeros(1), "kernel": jnp.zeros((3, 1))})
    order = ["kernel", "bias"]
    state = interchange.import_state(path, place, tx, order=order)
    assert_same_bits(
        state, interchange.import_state(theirs.optimizer, place, tx, order=order)
    )
    grads = {"bias": jnp.ones(1), "kernel": jnp.ones((3, 1))}
    _, state = tx.update(grads, state)
    arrays = interchange.export_state(state, path, tx, order=order, step=4)
    interchange.save_state(arrays, path)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    if name.endswith(".keras"):
        loaded = keras.saving.load_model(path)
    else:
        loaded = model()
        loaded.load_weights(path)
    assert int(loaded.optimizer.iterations) == 4
    for variable, array in zip(loaded.optimizer.variables, arrays, strict=True):
        np.testing.assert_array_equal(variable.value, array)
    np.testing.assert_array_equal(loaded.layers[0].kernel, theirs.layers[0].kernel)


def test_names_of_variables_tell_which_is_which(tmp_path: Path) -> None:
    keras = peer("keras", "keras")
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3, name="one"), keras.layers.Dense(3)]
    )
    model.add(keras.layers.LayerNormalization(name="norm"))
    model.compile(keras.optimizers.RMSprop(0.01), "mse")
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    model.fit(x, np.zeros_like(x), verbose=0)
    names = [v.path.split("/", 1)[1] for v in model.trainable_variables]
    tx = rmsprop(0.01)
    params: dict[str, Any] = {}
    for name in reversed(names):  # ours are sorted, Keras's are not
        layer, leaf = name.split("/")
        shape = (3, 3) if leaf == "kernel" else (3,)
        params.setdefault(layer, {})[leaf] = jnp.zeros(shape)
    state = interchange.import_state(model.optimizer, tx.init(params), tx)
    nu = optax.tree.get(state, "nu")
    for name, velocity in zip(names, model.optimizer._velocities, strict=True):
        layer, leaf = name.split("/")
        np.testing.assert_array_equal(nu[layer][leaf], velocity.value, err_msg=name)
    # Other names, or none as in a file: what could be exchanged is refused.
    norm = {"bias": jnp.zeros(3), "scale": jnp.ones(3)}
    norm_in_keras = keras.layers.LayerNormalization()
    norm_in_keras.build((1, 3))
    optimizer = keras.optimizers.RMSprop(0.01)
    optimizer.build(norm_in_keras.trainable_variables)
    for foreign in (optimizer, [v.value for v in optimizer.variables]):
        with pytest.raises(ValueError, match=r"Which of \['bias', 'scale'\] comes first"):
            interchange.import_state(foreign, tx.init(norm), tx)
    interchange.import_state(optimizer, tx.init(norm), tx, order=["scale", "bias"])
    adam = keras.optimizers.Adam(0.01)
    adam.build(norm_in_keras.trainable_variables)
    tx = rmsprop(0.01, momentum=0.9)
    with pytest.raises(ValueError, match="is no RMSprop"):
        interchange.import_state(adam, tx.init(norm), tx)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_numbers_are_compared(tmp_path: Path) -> None:
    keras = peer("keras", "keras")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    arguments = dict(rho=0.8, clipnorm=2.0, use_ema=True)
    model.compile(keras.optimizers.RMSprop(0.01, **arguments), "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)
    model.save(tmp_path / "run.keras")
    model.optimizer.learning_rate = 0.005  # not what it was compiled with
    params = {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}
    order = ["kernel", "bias"]
    for foreign, rate in ((tmp_path / "run.keras", 0.01), (model.optimizer, 0.005)):
        right = rmsprop(rate, **arguments)
        interchange.import_state(foreign, right.init(params), right, order=order)
        for option, other in (
            ("rho", rmsprop(rate, **arguments | {"rho": 0.9})),
            ("clipnorm", rmsprop(rate, 0.8, use_ema=True)),
            ("ema_momentum", rmsprop(rate, **arguments, ema_momentum=0.9)),
            ("learning_rate", rmsprop(0.1, **arguments)),
        ):
            words = rf"`{option}` of the Keras run is .*ignore=\('{option}',\)"
            place = other.init(params)
            with pytest.raises(ValueError, match=words):
                interchange.import_state(foreign, place, other, order=order)
            with pytest.raises(ValueError, match=words):
                interchange.export_state(place, foreign, other, order=order)
            interchange.import_state(foreign, place, other, order=order, ignore=[option])
    nesterov = rmsprop(0.005, **arguments, momentum=0.9, nesterov=True)
    with pytest.raises(ValueError, match=r"nesterov=False.*nesterov=True"):
        _import([*VARIABLES[:2], *[VARIABLES[2]] * 3], nesterov)
    model.compile("adam", "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)
    model.save(tmp_path / "adam.keras")
    tx = rmsprop(0.001, momentum=0.9)
    place = tx.init(params)
    with pytest.raises(ValueError, match="holds the optimizer Adam, no RMSprop"):
        interchange.import_state(tmp_path / "adam.keras", place, tx, order=order)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("source", ["optimizer", "run.keras"])
def test_exclusions_from_weight_decay_are_a_mask(source: str, tmp_path: Path) -> None:
    keras = peer("keras", "keras")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.RMSprop(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse")
    x, y = np.ones((8, 3), np.float32), np.ones((8, 2), np.float32)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    foreign: Any = optimizer
    if source == "run.keras":
        foreign = tmp_path / source
        model.save(foreign)
    layer = model.layers[0]
    params = {n: jnp.array(getattr(layer, n).value) for n in ("kernel", "bias")}
    mask, order = exclude_paths("bias"), ["kernel", "bias"]

    def move(**options: Any) -> Any:
        tx = rmsprop(0.01, **options)
        state = interchange.import_state(foreign, tx.init(params), tx, order=order)
        interchange.export_state(state, foreign, tx, order=order)
        return tx, state

    for same in (mask, mask(params)):
        tx, state = move(weight_decay=0.5, weight_decay_mask=same)
    grads = jax.grad(lambda p: jnp.mean((x @ p["kernel"] + p["bias"] - y) ** 2))(params)
    updates, _ = tx.update(grads, state, params)
    model.fit(x, y, batch_size=8, verbose=0)
    for name, p in optax.apply_updates(params, updates).items():
        np.testing.assert_allclose(p, getattr(layer, name).value, rtol=1e-5)
    # Another decay, none, and where the optimizer knows them, other exclusions.
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"weight_decay": 0.4, "weight_decay_mask": mask}, "'kernel' .*weight_decay=0.4"),
        ({}, "'kernel' with weight_decay=None"),
    ]
    if source == "optimizer":
        other = exclude_paths("kernel")
        wrong += [
            ({"weight_decay": 0.5}, "is None, and `tx` trains 'bias' .*weight_decay=0.5"),
            ({"weight_decay": 0.5, "weight_decay_mask": other}, "trains 'kernel' with"),
        ]
    for options, words in wrong:
        with pytest.raises(ValueError, match=words):
            move(**options)


def _file(path: Path, arrays: list[Any]) -> Path:
    with h5py.File(path, "w") as file:
        for i, array in enumerate(arrays):
            file[f"optimizer/vars/{i}"] = array
    return path


VARIABLES = [np.int32(30), np.float32(0.01), np.ones((2, 3), np.float32)]


def _import(foreign: Any, tx: Any = None, **given: Any) -> Any:
    tx = rmsprop(0.01) if tx is None else tx
    opt_state = tx.init({"w": jnp.zeros((2, 3))})
    return interchange.import_state(foreign, opt_state, tx, **given)


def test_damaged_files_are_errors_that_name_them(tmp_path: Path) -> None:
    whole = _file(tmp_path / "whole.weights.h5", VARIABLES)
    assert float(optax.tree.get(_import(whole), "nu")["w"][0, 0])
    cut = tmp_path / "cut.weights.h5"
    cut.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"cut\.weights\.h5' can't be read"):
        _import(cut)
    before = cut.read_bytes()
    with pytest.raises(ValueError, match=r"cut\.weights\.h5' can't be read"):
        interchange.save_state(VARIABLES, cut)
    assert cut.read_bytes() == before
    zipped = tmp_path / "cut.keras"
    zipped.write_bytes(b"PK\x03\x04 this is no archive")
    with pytest.raises(ValueError, match=r"cut\.keras' can't be read"):
        _import(zipped)
    with h5py.File(tmp_path / "none.weights.h5", "w"):
        pass
    with pytest.raises(ValueError, match="holds no optimizer"):
        _import(tmp_path / "none.weights.h5")
    with pytest.raises(ValueError, match="optimizer variables of other shapes"):
        interchange.save_state(VARIABLES[:2], whole)
    gap = tmp_path / "gap.weights.h5"
    with h5py.File(_file(gap, VARIABLES), "r+") as file:
        file.move("optimizer/vars/1", "optimizer/vars/7")
    with pytest.raises(ValueError, match=r"lacks 'optimizer/vars' \['1'\]"):
        _import(gap)


def test_a_file_cannot_point_into_another(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(6, dtype=np.float32).tobytes())
    for kind in ("external", "link"):
        path = _file(tmp_path / f"{kind}.weights.h5", VARIABLES[:2])
        with h5py.File(path, "r+") as file:
            group = file["optimizer/vars"]
            if kind == "external":
                stored = [(str(secret), 0, 24)]
                group.create_dataset("2", (2, 3), np.float32, external=stored)
            else:
                group["2"] = h5py.ExternalLink(str(_file(tmp_path / "o.h5", [1])), "/")
        with pytest.raises(
            ValueError, match=r"optimizer/vars/2.*not an array of its own"
        ):
            _import(path)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ([*VARIABLES[:2], np.ones((3, 2), np.float32)], "`velocity` of 'w' has shape"),
        (
            [*VARIABLES[:2], np.full((2, 3), np.inf, np.float32)],
            "`velocity` of 'w' holds inf",
        ),
        ([*VARIABLES[:2], -np.ones((2, 3), np.float32)], "numbers below 0"),
        ([*VARIABLES, VARIABLES[2]], "has 4 variables"),
        (VARIABLES[:1], "has 1 variables; with the options"),
        ([np.float32(2.5), *VARIABLES[1:]], "`iteration` of the Keras state"),
        ([-1, *VARIABLES[1:]], "`iteration` of the Keras state"),
        ({"0": 1, "2": 2.0, "3": 3.0}, "lacks the variables ['1']"),
    ],
)
def test_what_does_not_fit_is_named(variables: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as raised:
        _import(variables)
    assert words in str(raised.value)


def test_a_learning_rate_that_is_none() -> None:
    tx = optax.inject_hyperparams(rmsprop, static_args="momentum")(learning_rate=0.1)
    with pytest.raises(ValueError, match="`learning_rate` of the Keras state"):
        _import([1, np.float32(np.nan), VARIABLES[2]], tx)


def test_the_mapping_of_save_own_variables() -> None:
    store = {str(i): v for i, v in enumerate(VARIABLES)}
    assert_same_bits(_import(store), _import(VARIABLES))


def test_what_is_told_apart() -> None:
    tx: Any = accumulate_gradients(rmsprop(0.01), 2)
    with pytest.raises(ValueError, match=r"`gradient_accumulation_steps` of `rmsprop`"):
        _import([*VARIABLES, VARIABLES[2]], tx)
    injected = optax.inject_hyperparams(rmsprop, static_args=("momentum", "epsilon"))
    tx = injected(0.01, gradient_accumulation_steps=4)
    state = _import([np.int32(9), *VARIABLES[1:], VARIABLES[2]], tx)
    assert optax.tree.get(state, "AccumulateGradientsState").count == 1
    params = {"w": jnp.zeros((2, 3))}
    for tx, words in (
        (dialects.torch(momentum=0.9), r"learning rate inside.*`dialects\.keras`"),
        (rmsprop(skip_nonfinite=True), "no place for the count of skipped steps"),
    ):
        with pytest.raises(ValueError, match=words):
            interchange.export_state(tx.init(params), VARIABLES, tx)
    transposed = [*VARIABLES[:2], np.ones((3, 2), np.float32)]
    tx = rmsprop(0.01)
    with pytest.raises(ValueError, match=r"`velocity` of 'w' has shape \(2, 3\)"):
        interchange.export_state(tx.init(params), transposed, tx)


def test_injected_numbers_are_compared_too() -> None:
    keras = peer("keras", "keras")
    variable = keras.Variable(np.ones(3, np.float32), name="w")
    optimizer = keras.optimizers.RMSprop(0.01, rho=0.5, epsilon=1e-3)
    optimizer.build([variable])
    params = {"w": jnp.ones(3)}
    other = optax.inject_hyperparams(rmsprop)(0.01)
    same = optax.inject_hyperparams(rmsprop)(0.5, rho=0.5, epsilon=1e-3)
    found = interchange.import_state(optimizer, same.init(params), same)
    assert float(found.hyperparams["learning_rate"]) == pytest.approx(0.01)
    assert interchange.export_state(same.init(params), optimizer, same)[1] == 0.5
    with pytest.raises(ValueError, match=r"`rho` of the Keras run is 0.5"):
        interchange.import_state(optimizer, other.init(params), other)
    with pytest.raises(ValueError, match=r"`rho` of the Keras run is 0.5"):
        interchange.export_state(other.init(params), optimizer, other)


def test_options_of_an_average_that_is_off() -> None:
    keras = peer("keras", "keras")
    off = {"ema_momentum": 0.5, "ema_overwrite_frequency": 3}
    optimizer = keras.optimizers.RMSprop(0.01, use_ema=False, **off)
    optimizer.build([keras.Variable(np.ones(3, np.float32), name="w")])
    tx = rmsprop(0.01)
    interchange.import_state(optimizer, tx.init({"w": jnp.ones(3)}), tx)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras, as it saves
def test_a_model_in_bfloat16(tmp_path: Path) -> None:
    keras = peer("keras", "keras")
    layer = keras.layers.Dense(2, dtype="bfloat16", name="dense")
    model = keras.Sequential([keras.Input((3,), dtype="bfloat16"), layer])
    model.compile(keras.optimizers.RMSprop(1e-2), "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    model.save(tmp_path / "run.keras")
    params = {
        "dense": {
            "kernel": jnp.zeros((3, 2), jnp.bfloat16),
            "bias": jnp.zeros(2, jnp.bfloat16),
        }
    }
    tx = rmsprop(1e-2)
    order = ["dense/kernel", "dense/bias"]
    for source in (model, str(tmp_path / "run.keras")):
        new, state = interchange.import_run(
            source, params, tx.init(params), tx, order=order
        )
        kernel = layer.kernel.numpy().astype(np.float32)
        np.testing.assert_array_equal(new["dense"]["kernel"].astype(jnp.float32), kernel)
        assert float(optax.tree.get(state, "nu")["dense"]["kernel"].max()) > 0
