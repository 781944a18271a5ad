"""The transformation that a run was trained with, from the run itself."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import (
    describe,
    exclude_paths,
    next_learning_rate,
    rmsprop,
    scale_loss,
)
from rmsprop_optax.interchange import keras, torch
from rmsprop_optax.interchange._schedules import keras_schedule, torch_schedule
from tests.parity._installed import peer

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

INPUTS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
NAMES = {"a": "0", "b": "1"}
NAMES_OF = {"kernel": "weight", "bias": "bias"}
ORDER = ["a/kernel", "a/bias", "b/kernel", "b/bias"]
HALF, REST = 20, 100


def _params() -> Any:
    shapes = {"a": (3, 4), "b": (4, 2)}
    return {
        name: {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1])}
        for name, shape in shapes.items()
    }


def _train(tx: Any, params: Any, state: Any) -> Any:
    """The rest of the run of a network of two layers, whose target is 1."""

    def loss_fn(params: Any, state: Any) -> Any:
        x = INPUTS
        for layer in ("a", "b"):
            x = x @ params[layer]["kernel"] + params[layer]["bias"]
        return scale_loss(jnp.mean((x - 1) ** 2), state)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.grad(loss_fn)(params, state), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, None, REST))((params, state))
    return params


def _assert_close(mine: Any, theirs: Any) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), mine, theirs
    )


class TorchRun:
    """A network of two layers, a group for each, and its scheduler."""

    def __init__(
        self, scheduler: Any = None, every: int = 1, scaled: bool = False, **numbers: Any
    ) -> None:
        pt = peer("torch", "torch")
        pt.manual_seed(0)
        self.net = pt.nn.Sequential(pt.nn.Linear(3, 4), pt.nn.Linear(4, 2))
        made = numbers.pop("optimizer", pt.optim.RMSprop)
        groups = [{"params": layer.parameters()} for layer in self.net]
        groups[0] |= {"lr": 0.003, "weight_decay": 0.01}
        self.optimizer = made(groups, lr=0.01, eps=0.01, **numbers)
        self.scheduler = scheduler and scheduler(self.optimizer)
        self.inputs, self.every, self.steps = pt.tensor(INPUTS), every, 0
        self.scaler = pt.amp.GradScaler("cpu", enabled=scaled, growth_interval=7)

    def train(self, steps: int) -> "TorchRun":
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = (self.net(self.inputs) - 1).square().mean()
            if self.steps in (3, 9):  # an overflow, if there is a scale
                loss = loss * (float("inf") if self.scaler.is_enabled() else 1.0)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.steps += 1
            if self.scheduler and self.steps % self.every == 0:
                self.scheduler.step()
        return self

    def live(self) -> Any:
        run = {"model": self.net, "optimizer": self.optimizer, "scaler": self.scaler}
        return run | ({"scheduler": self.scheduler} if self.scheduler else {})

    def saved(self) -> Any:
        return {key: entry.state_dict() for key, entry in self.live().items()}


def _assert_goes_on(theirs: TorchRun, **given: Any) -> Any:
    """Returns the state at the move."""
    run = theirs.live()
    tx = torch.transformation(run, _params(), names=NAMES, **given)
    params = _params()
    mine, state = torch.import_run(run, params, tx.init(params), tx, names=NAMES)
    after = theirs.train(REST).net.state_dict()
    expected = torch.import_params(after, params, names=NAMES)
    _assert_close(_train(tx, mine, state), expected)
    return state


def test_two_groups_of_a_live_torch_run() -> None:
    _assert_goes_on(TorchRun(momentum=0.9, alpha=0.9).train(HALF))


@pytest.mark.slow
def test_a_torch_run_with_a_scheduler_of_epochs() -> None:
    schedulers = peer("torch", "torch").optim.lr_scheduler
    theirs = TorchRun(lambda o: schedulers.StepLR(o, 3, gamma=0.5), every=8).train(HALF)
    _assert_goes_on(theirs, updates_per_epoch=8)
    with pytest.raises(ValueError, match=r"120 updates, the scheduler 15 steps.*`lr`"):
        torch.transformation(theirs.live(), _params(), names=NAMES)


@pytest.mark.slow
def test_a_torch_run_with_a_grad_scaler() -> None:
    """Two updates were skipped; the scheduler made its steps all the same."""
    schedulers = peer("torch", "torch").optim.lr_scheduler
    made = TorchRun(lambda o: schedulers.ExponentialLR(o, 0.99), scaled=True)
    scaler = made.train(HALF).scaler.state_dict()
    state = _assert_goes_on(made)
    assert float(state.loss_scale) == scaler["scale"] == 2.0**15
    assert int(state.count) == scaler["_growth_tracker"] == 3
    run = made.saved()
    params = _params()
    tx = torch.transformation(run, params, names=NAMES, order=ORDER)
    inner = state.inner_state
    with pytest.raises(ValueError, match=r"holds a loss scale.*`dynamic_loss_scale`"):
        torch.import_run(run, params, inner, tx, names=NAMES, order=ORDER)
    run["scaler"]["growth_factor"] = 4.0
    with pytest.raises(
        ValueError, match=r"`growth_factor` of 'scaler' is 4\.0, and 2\.0"
    ):
        torch.transformation(run, params, names=NAMES, order=ORDER)


@pytest.mark.slow
def test_a_timm_run_with_corrected_weight_decay() -> None:
    from tests.parity._peers import timm_file

    schedulers = peer("torch", "torch").optim.lr_scheduler
    theirs = TorchRun(
        lambda o: schedulers.ExponentialLR(o, 0.99),
        optimizer=timm_file().RMSpropTF,
        momentum=0.9,
        decoupled_decay=True,
        corrected_weight_decay=True,
    )
    _assert_goes_on(theirs.train(HALF))


SCHEDULERS = {
    "StepLR": lambda made, o: made.StepLR(o, 7, gamma=0.5),
    "MultiStepLR": lambda made, o: made.MultiStepLR(o, [10, 25, 25], gamma=0.5),
    "ExponentialLR": lambda made, o: made.ExponentialLR(o, 0.9),
    "ConstantLR": lambda made, o: made.ConstantLR(o, 0.25, 12),
    "LinearLR": lambda made, o: made.LinearLR(o, 0.1, 1.0, 15),
    "PolynomialLR": lambda made, o: made.PolynomialLR(o, 30, 2.0),
    "CosineAnnealingLR": lambda made, o: made.CosineAnnealingLR(o, 19, eta_min=1e-3),
    "OneCycleLR": lambda made, o: made.OneCycleLR(
        o, [0.1, 0.2], total_steps=60, cycle_momentum=False
    ),
    "three phases": lambda made, o: made.OneCycleLR(
        o,
        0.1,
        total_steps=60,
        cycle_momentum=False,
        anneal_strategy="linear",
        three_phase=True,
    ),
    "warmup": lambda made, o: made.SequentialLR(
        o, [made.LinearLR(o, 0.1, 1.0, 10), made.CosineAnnealingLR(o, 30)], [10]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_of_torch(name: str) -> None:
    """From their state in the middle, the rates at all steps."""
    pt = peer("torch", "torch")
    groups = [{"params": [pt.ones(1)], "lr": rate} for rate in (0.1, 0.03)]
    optimizer = pt.optim.RMSprop(groups)
    scheduler = SCHEDULERS[name](pt.optim.lr_scheduler, optimizer)
    rates, saved = [], None
    for step in range(45):
        rates.append([group["lr"] for group in optimizer.param_groups])
        if step == 20:
            saved = scheduler.state_dict(), optimizer.state_dict()["param_groups"]
        optimizer.step()
        scheduler.step()
    assert saved is not None
    for i, group in enumerate(saved[1]):
        found = torch_schedule(saved[0], group, i)(np.arange(45))
        np.testing.assert_allclose(
            np.broadcast_to(found, 45), np.array(rates)[:, i], rtol=1e-5, atol=1e-8
        )


def test_schedulers_of_torch_that_a_file_does_not_tell(tmp_path: Path) -> None:
    pt = peer("torch", "torch")
    schedulers = pt.optim.lr_scheduler

    def move(theirs: TorchRun, **given: Any) -> Any:
        pt.save(theirs.train(2).saved(), tmp_path / "run.pt")
        given = {"names": NAMES, "order": ORDER, **given}
        return torch.transformation(tmp_path / "run.pt", _params(), **given)

    by_function = TorchRun(lambda o: schedulers.LambdaLR(o, lambda step: 0.5**step))
    with pytest.raises(ValueError, match=r"\['lr_lambdas'\], is not known.*give `lr`"):
        move(by_function)
    with pytest.raises(ValueError, match=r"had a scheduler.*Name its .*or give `lr`"):
        move(by_function, scheduler="lr_scheduler")
    with pytest.raises(ValueError, match="`lr` has 1 rates, the run 2 groups"):
        move(by_function, lr=[0.1])
    move(by_function, lr=[lambda step: 0.1 * 0.5**step, 0.2])
    with pytest.raises(ValueError, match="changes the momentum too"):
        move(TorchRun(lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=9)))
    changed = TorchRun(lambda o: schedulers.StepLR(o, 7))
    changed.optimizer.param_groups[1]["lr"] = 0.02
    with pytest.raises(ValueError, match=r"`param_groups\[1\]` is 0.02, and that of the"):
        move(changed)
    with pytest.raises(ValueError, match=r"lacks \['alpha', 'momentum', 'centered'\]"):
        move(TorchRun(optimizer=pt.optim.Adam))


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
def test_a_torch_run_by_names(flat: bool) -> None:
    """The state dictionaries of `torch.distributed`, and the names of wrappers."""
    peer("torch", "torch")
    from torch.distributed.checkpoint import state_dict as distributed

    theirs = TorchRun(momentum=0.9).train(3)
    options = distributed.StateDictOptions(flatten_optimizer_state_dict=flat)
    named = distributed.get_optimizer_state_dict(
        theirs.net, theirs.optimizer, options=options
    )
    weights = {f"module.{n}": x for n, x in theirs.net.state_dict().items()}
    weights["module.1._fsdp_wrapped_module.bias"] = weights.pop("module.1.bias")
    params = _params()
    tx = torch.transformation(theirs.live(), params, names=NAMES)
    found = [
        torch.import_run(run, params, tx.init(params), tx, names=NAMES)
        for run in (theirs.live(), {"model": weights, "optimizer": named})
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)
    order = {path: f"{NAMES[path[0]]}.{NAMES_OF[path[2:]]}" for path in ORDER}
    convert = dict.fromkeys(ORDER, np.transpose)
    given: dict[str, Any] = {"order": order, "convert": convert}
    back = torch.export_state(found[0][1], named, tx, **given)
    assert list(back) == list(named)
    jax.tree.map(np.testing.assert_array_equal, back, dict(named))
    distributed.set_optimizer_state_dict(
        theirs.net, theirs.optimizer, back, options=options
    )


def test_parameters_that_torch_does_not_train_are_frozen() -> None:
    theirs = TorchRun()
    theirs.optimizer.param_groups.pop()
    theirs.train(1)
    tx, params = torch.transformation(theirs.live(), _params(), names=NAMES), _params()
    _, state = torch.import_run(theirs.live(), params, tx.init(params), tx, names=NAMES)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    moved = jax.tree.map(lambda update: bool((update != 0).all()), updates)
    every = {"kernel": True, "bias": True}
    assert moved == {"a": every, "b": dict.fromkeys(every, False)}


def _keras_model(growth_steps: int | None = None, **arguments: Any) -> Any:
    framework = peer("keras", "keras")
    framework.utils.set_random_seed(0)
    layers = [framework.layers.Dense(n, name=name) for name, n in (("a", 4), ("b", 2))]
    model = framework.Sequential([framework.Input((3,)), *layers])
    optimizer = framework.optimizers.RMSprop(epsilon=0.1, **arguments)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    if growth_steps is not None:
        made = framework.optimizers.LossScaleOptimizer
        optimizer = made(optimizer, dynamic_growth_steps=growth_steps)
    model.compile(optimizer, "mse")
    return model


def _fit(model: Any, steps: int) -> None:
    given: dict[str, Any] = {"batch_size": 8, "epochs": steps, "shuffle": False}
    model.fit(INPUTS, np.ones((8, 2), np.float32), verbose=0, **given)


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        pytest.param(
            "model",
            {"momentum": 0.9, "weight_decay": 0.1, "centered": True, "clipnorm": 1.0},
        ),
        pytest.param(
            "run.keras",
            {"gradient_accumulation_steps": 5, "loss_scale_factor": 8.0},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_keras_run_goes_on_here(source: str, arguments: Any, tmp_path: Path) -> None:
    rates = peer("keras", "keras").optimizers.schedules
    rate = rates.CosineDecay(0.001, 90, 0.1, warmup_target=0.01, warmup_steps=40)
    model = _keras_model(learning_rate=rate, **arguments)
    _fit(model, HALF)
    foreign: Any = model
    if source != "model":
        foreign = tmp_path / source
        model.save(foreign)
    order = None if source == "model" else ORDER
    params = _params()
    tx = keras.transformation(foreign, params)
    mine, state = keras.import_run(foreign, params, tx.init(params), tx, order=order)
    _fit(model, REST)
    _assert_close(_train(tx, mine, state), keras.import_params(model, params))


@pytest.mark.parametrize(
    "source",
    [
        "model",
        pytest.param("run.keras", marks=pytest.mark.slow),
        pytest.param("run.weights.h5", marks=pytest.mark.slow),
    ],
)
def test_a_keras_run_with_a_loss_scale(source: str, tmp_path: Path) -> None:
    model = _keras_model(growth_steps=7, learning_rate=0.01, weight_decay=0.1)
    _fit(model, HALF)
    foreign, params = model, _params()
    given: dict[str, Any] = {}
    if source != "model":
        foreign, given = tmp_path / source, {"order": ORDER}
        (model.save if source == "run.keras" else model.save_weights)(foreign)
    mask = exclude_paths("bias")
    told = model if source == "run.weights.h5" else foreign
    tx = keras.transformation(told, params, weight_decay_mask=mask)
    mine, state = keras.import_run(foreign, params, tx.init(params), tx, **given)
    assert float(state.loss_scale) == float(model.optimizer.dynamic_scale) == 2.0**17
    assert int(state.count) == int(model.optimizer.step_counter) == 6
    like = model.optimizer if source == "model" else foreign
    arrays = keras.export_state(state, like, tx, order=ORDER)
    for array, variable in zip(arrays, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(array, variable.value, err_msg=variable.path)
        assert array.dtype == variable.dtype
    inner = tx.init(params).inner_state
    with pytest.raises(ValueError, match=r"holds a loss scale.*`dynamic_loss_scale`"):
        keras.import_state(like, inner, tx, order=ORDER)
    with pytest.raises(ValueError, match="`like` holds a loss scale"):
        keras.export_state(state.inner_state, like, tx, order=ORDER)
    _fit(model, REST)
    _assert_close(_train(tx, mine, state), keras.import_params(model, params))


def test_a_keras_run_in_float16(tmp_path: Path) -> None:
    """Keras puts a LossScaleOptimizer around the optimizer by itself."""
    framework = peer("keras", "keras")
    framework.config.set_dtype_policy("mixed_float16")
    try:
        model = _keras_model(learning_rate=0.01)
    finally:
        framework.config.set_dtype_policy("float32")
    _fit(model, 3)
    params = _params()
    tx = keras.transformation(model, params)
    _, state = keras.import_run(model, params, tx.init(params), tx)
    assert float(state.loss_scale) == float(model.optimizer.dynamic_scale)
    assert int(state.count) == int(model.optimizer.step_counter)
    nu = model.optimizer.inner_optimizer._velocities[0]
    np.testing.assert_array_equal(optax.tree.get(state, "nu")["a"]["kernel"], nu.value)
    # The file has the variables of that optimizer, and no configuration of it.
    file = str(tmp_path / "run.keras")
    model.save(file)
    from_file = keras.transformation(file, params, order=ORDER)
    assert describe(from_file) == describe(tx)
    init = from_file.init(params)
    _, read = keras.import_run(file, params, init, from_file, order=ORDER)
    jax.tree.map(np.testing.assert_array_equal, read, state)


def test_a_trained_weight_that_is_left_out_is_named() -> None:
    peer("keras", "keras")
    model = _keras_model(learning_rate=0.01)
    _fit(model, 1)
    params = {"a": _params()["a"]}
    for call in (
        lambda: keras.transformation(model, params, ignore_weights=["/b/"]),
        lambda: keras.import_run(
            model, params, rmsprop().init(params), rmsprop(), ignore_weights=["/b/"]
        ),
    ):
        with pytest.raises(ValueError, match=r"b/kernel.*`ignore_weights` leaves out"):
            call()


SCHEDULES = {
    "ExponentialDecay": (0.1, 10, 0.5),
    "CosineDecay": (0.1, 30, 0.1),
    "PolynomialDecay": (0.1, 20, 0.01, 2.0),
    "InverseTimeDecay": (0.1, 10, 0.5),
    "PiecewiseConstantDecay": ([10, 25], [0.1, 0.05, 0.01]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_keras(name: str) -> None:
    module = peer("keras", "keras").optimizers.schedules
    steps = np.arange(0, 45, 5)
    stairs = name in ("ExponentialDecay", "InverseTimeDecay")
    for options in ({}, {"staircase": True}) if stairs else ({},):
        schedule = getattr(module, name)(*SCHEDULES[name], **options)
        found = keras_schedule(module.serialize(schedule))(steps)
        theirs = [float(schedule(step)) for step in steps]
        np.testing.assert_allclose(found, theirs, rtol=1e-6)


def test_what_a_keras_run_does_not_tell(tmp_path: Path) -> None:
    framework = peer("keras", "keras")
    model = _keras_model(weight_decay=0.1)
    _fit(model, 1)
    model.save(tmp_path / "run.keras")
    model.save_weights(tmp_path / "run.weights.h5")
    params = _params()
    with pytest.raises(ValueError, match="excluded: give `weight_decay_mask`"):
        keras.transformation(tmp_path / "run.keras", params)
    for mask in (exclude_paths("bias"), lambda params: True):
        tx = keras.transformation(tmp_path / "run.keras", params, weight_decay_mask=mask)
        assert tx.config.weight_decay_mask is mask
    with pytest.raises(ValueError, match=r"does not hold .*rho.* of an RMSprop"):
        keras.transformation(tmp_path / "run.weights.h5", params)
    with pytest.raises(ValueError, match=r"`order` names \['c'\]"):
        keras.transformation(model, params, order=["c"])
    restarts = framework.optimizers.schedules.CosineDecayRestarts(0.1, 5)
    for rate, words in ((restarts, "'CosineDecayRestarts'.*give"), (lambda: 0.1, "give")):
        model = _keras_model(learning_rate=rate)
        with pytest.raises(ValueError, match=f"{words} `learning_rate`"):
            keras.transformation(model, params)
        found = keras.transformation(model, params, learning_rate=0.1).config
        assert found.learning_rate == 0.1


def _with_two_optimizers(scaled: bool = False, **special: Any) -> Any:
    optimizers = peer("keras", "keras").optimizers
    if not special:
        schedule = optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)
        special = {"learning_rate": schedule, "momentum": 0.9}
    first = optimizers.RMSprop(epsilon=0.01, **special)
    default = optimizers.RMSprop(0.01, epsilon=0.01, weight_decay=0.01)
    default.exclude_from_weight_decay(var_names=["bias"])
    never = {".*c/.*": optimizers.RMSprop()}
    chosen = optimizers.OptimizerMap(default, {".*a/.*": first} | never)
    model, optimizer = _keras_model(), optimizers.MultiOptimizer(chosen)
    if scaled:
        optimizer = optimizers.LossScaleOptimizer(optimizer, dynamic_growth_steps=7)
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("scaled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_multi_optimizer_of_keras_goes_on_here_and_there(scaled: bool) -> None:
    model, params = _with_two_optimizers(scaled), _params()
    with pytest.raises(ValueError, match="is not built: build it for the variables"):
        keras.transformation(model, params)
    _fit(model, HALF)
    tx = keras.transformation(model, params)
    text = describe(tx, params)
    assert "for a/bias, a/kernel" in text
    assert "for b/bias, b/kernel" in text
    mine, state = keras.import_run(model, params, tx.init(params), tx)
    given = model.optimizer.variables
    for array, variable in zip(
        keras.export_state(state, model.optimizer, tx), given, strict=True
    ):
        np.testing.assert_array_equal(array, variable.value)
    grads = jax.tree.map(jnp.ones_like, mine)
    arrays = keras.export_state(tx.update(grads, state, mine)[1], model.optimizer, tx)
    # Of the MultiOptimizer, of a, of that without parameters, of b.
    counts = [int(array) for array in arrays if array.dtype == np.int32]
    assert counts[2 * scaled :] == [HALF + 1, HALF + 1, 0, HALF + 1]
    _fit(model, REST)
    _assert_close(_train(tx, mine, state), keras.import_params(model, params))


def test_each_part_of_a_multi_optimizer_of_keras_keeps_its_own_rate() -> None:
    rates = peer("keras", "keras").optimizers.schedules
    model = _with_two_optimizers(learning_rate=rates.CosineDecayRestarts(0.1, 5))
    _fit(model, 2)
    params = _params()
    with pytest.raises(ValueError, match="give `learning_rate`"):
        keras.transformation(model, params)
    tx = keras.transformation(model, params, learning_rate=lambda step: 0.5 / (1 + step))
    rates = next_learning_rate(tx, tx.init(params))
    assert [float(rates[label]) for label in "01"] == pytest.approx([0.5, 0.01])


def test_what_a_multi_optimizer_of_keras_can_not_tell() -> None:
    optimizers = peer("keras", "keras").optimizers
    model, params = _with_two_optimizers(learning_rate=0.01), _params()
    _fit(model, 2)
    tx = keras.transformation(model, params)
    state = tx.init(params)
    turned = {"a/kernel": np.transpose}
    with pytest.raises(
        ValueError, match=r"`velocity` of 'a/kernel'.* has shape \(4, 3\)"
    ):
        keras.import_state(model.optimizer, state, tx, convert=turned)
    model.layers[1].trainable = False
    frozen = keras.transformation(model, params)
    with pytest.raises(
        ValueError, match=r"trains \[.*b/kernel.*\['a/bias', 'a/kernel'\]"
    ):
        keras.import_run(model, params, frozen.init(params), frozen)
    model.layers[1].trainable = True
    first = model.optimizer.optimizers[0]
    first.iterations.assign(3)
    with pytest.raises(ValueError, match=r"different iterations, \[2, 3\]"):
        keras.import_state(model.optimizer, state, tx)
    first.gradient_accumulation_steps = 2
    with pytest.raises(ValueError, match=r"numbers of `gradient_accumulation_steps`"):
        keras.transformation(model, params)
    plain = optimizers.OptimizerMap(optimizers.RMSprop(), {".*a/.*": optimizers.Adam()})
    model.compile(optimizers.MultiOptimizer(plain), "mse")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(
        ValueError, match=r"The Adam that trains \[.*a/kernel.* no RMSprop"
    ):
        keras.transformation(model, params)
    plain = optimizers.OptimizerMap(
        optimizers.RMSprop(), {".*a/.*": optimizers.RMSprop()}
    )
    model.compile(optimizers.MultiOptimizer(plain), "mse")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"`weight_decay_mask`=.* has no effect"):
        keras.transformation(model, params, weight_decay_mask=exclude_paths("bias"))


def test_variables_that_keras_does_not_train_are_frozen() -> None:
    model = _keras_model(learning_rate=0.01)
    model.layers[0].trainable = False
    tx, params = keras.transformation(model, _params()), _params()
    nu = optax.tree.get(tx.init(params), "nu")
    assert isinstance(nu["a"]["bias"], optax.MaskedNode)
    model.layers[0].trainable = True
    assert not hasattr(keras.transformation(model, params).init(params), "inner_states")
