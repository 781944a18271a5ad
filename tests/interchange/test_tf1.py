"""Runs that start in TensorFlow 1 and end here, and the other way round."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import average_params, dialects
from rmsprop_optax.interchange import tf1 as interchange
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

NAMES = {"dense/kernel": "fc/weights", "dense/bias": "fc/biases"}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9, "epsilon": 1e-3},
    "centered": {"centered": True, "momentum": 0.9},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


class Theirs:
    """TensorFlow 1's optimizer over the parameters of the problem, eagerly."""

    def __init__(self, params: Any, **options: Any) -> None:
        self.tf = peer("tensorflow", "tensorflow")
        self.variables = {
            path: self.tf.Variable(np.asarray(p), name=NAMES.get(path, path))
            for path, p in params.items()
        }
        self.slots = ["rms", "momentum"] + ["mg"] * options.get("centered", False)
        self.optimizer = self.tf.compat.v1.train.RMSPropOptimizer(0.01, **options)

    def train(self, given: Any, first: int, last: int) -> "Theirs":
        for t in range(first, last):
            pairs = [
                (self.tf.constant(given.grads[path][t]), variable)
                for path, variable in self.variables.items()
            ]
            self.optimizer.apply_gradients(pairs)
        return self

    def params(self) -> Any:
        return {path: v.numpy() for path, v in self.variables.items()}

    def state(self) -> Any:
        return {
            slot: {
                NAMES.get(path, path): self.optimizer.get_slot(v, slot).numpy()
                for path, v in self.variables.items()
            }
            for slot in self.slots
        }

    def load(self, state: Any) -> None:
        self.optimizer._create_slots(list(self.variables.values()))
        for slot in self.slots:
            for path, v in self.variables.items():
                array = state[slot][NAMES.get(path, path)]
                self.optimizer.get_slot(v, slot).assign(array)


@every_option
def test_thirty_steps_there_and_thirty_here(options: dict[str, Any]) -> None:
    given = problem()
    theirs = Theirs(given.params, **options).train(given, 0, HALF)
    tx = dialects.tf1(0.01, **options)
    params = {n: jnp.asarray(p) for n, p in theirs.params().items()}
    foreign = theirs.state() | {"global_step": HALF}
    state = interchange.import_state(foreign, tx.init(params), names=NAMES)
    mine = train(tx, Run(params, state), given, HALF, WHOLE)
    assert_close(mine.params, theirs.train(given, HALF, WHOLE).params(), given)


@every_option
def test_thirty_steps_here_and_thirty_there(options: dict[str, Any]) -> None:
    given = problem(1)
    whole = Theirs(given.params, **options).train(given, 0, WHOLE)
    tx = dialects.tf1(0.01, **options)
    mine = train(tx, start(tx, given.params), given, 0, HALF)
    theirs = Theirs(mine.params, **options)
    exported = interchange.export_state(mine.state, names=NAMES, step=HALF)
    assert exported["global_step"] == HALF
    theirs.load(exported)
    assert_close(theirs.train(given, HALF, WHOLE).params(), whole.params(), given)


@every_option
def test_there_and_back_again_loses_nothing(options: dict[str, Any]) -> None:
    given = problem(2)
    before = Theirs(given.params, **options).train(given, 0, HALF).state()
    place = dialects.tf1(0.01, **options).init(given.params)
    foreign = before | {"global_step": 30}
    state = interchange.import_state(foreign, place, names=NAMES)
    after = interchange.export_state(state, names=NAMES, step=30)
    assert after["global_step"] == 30
    for slot in before:
        if slot == "momentum" and not options:
            continue  # of no consequence without momentum, and not kept here
        for name, array in before[slot].items():
            np.testing.assert_array_equal(after[slot][name], array)
    again = interchange.import_state(after, place, names=NAMES)
    assert_same_bits(again, state)


def _checkpoint(path: Path, centered: bool, name: str = "RMSProp") -> Any:
    """A graph of TensorFlow 1, trained for three steps and saved; and its slots."""
    tf = peer("tensorflow", "tensorflow")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        weights = v1.get_variable("fc/weights", initializer=np.float32([1.0, 2.0]))
        optimizer = v1.train.RMSPropOptimizer(
            0.01, momentum=0.9, centered=centered, name=name
        )
        step = v1.train.get_or_create_global_step()
        loss = tf.reduce_sum(weights**3)
        trains = optimizer.minimize(loss, global_step=step)
        session.run(v1.global_variables_initializer())
        for _ in range(3):
            session.run(trains)
        prefix = v1.train.Saver().save(session, str(path), global_step=step)
        slots = ["rms", "momentum"] + ["mg"] * centered
        return prefix, {s: session.run(optimizer.get_slot(weights, s)) for s in slots}


@pytest.mark.parametrize("centered", [False, True])
def test_a_checkpoint_of_a_saver(tmp_path: Path, centered: bool) -> None:
    prefix, slots = _checkpoint(tmp_path / "model.ckpt", centered)
    tx = dialects.tf1(0.01, momentum=0.9, centered=centered)
    place = tx.init({"w": jnp.zeros(2)})
    names = {"w": "fc/weights"}
    state = interchange.import_state(prefix, place, names=names)
    exported = interchange.export_state(state, names=names, step=3)
    assert exported["global_step"] == 3
    for slot, array in slots.items():
        np.testing.assert_array_equal(exported[slot]["fc/weights"], array)
    with pytest.raises(ValueError, match=r"lacks \['fc/weights/Adam'"):
        interchange.import_state(prefix, place, names=names, optimizer_name="Adam")
    with pytest.raises(ValueError, match=r"lacks \['w/RMSProp'"):
        interchange.import_state(prefix, place)
    data = Path(f"{prefix}.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:10])
    with pytest.raises(ValueError, match="can't be read"):
        interchange.import_state(prefix, place, names=names)
    with pytest.raises(ValueError, match="can't be read"):
        interchange.import_state(tmp_path / "nothing", place, names=names)


def test_a_checkpoint_with_more_variables_is_refused(tmp_path: Path) -> None:
    prefix, _ = _checkpoint(tmp_path / "model.ckpt", centered=True)
    place = dialects.tf1(0.01, momentum=0.9).init({"w": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"holds \['fc/weights/RMSProp_2'\]"):
        interchange.import_state(prefix, place, names={"w": "fc/weights"})


def test_a_checkpoint_of_strings_is_not_read(tmp_path: Path) -> None:
    tf = peer("tensorflow", "tensorflow")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("w", initializer=["a" * 10**6, "b"])
        session.run(v1.global_variables_initializer())
        prefix = v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    with pytest.raises(ValueError, match="holds no numbers under 'w'"):
        interchange.import_params(prefix, {"w": jnp.zeros(2)})


# What follows needs no TensorFlow.


def _place(**options: Any) -> Any:
    return dialects.tf1(0.01, **options).init({"w": jnp.zeros(2)})


ONES = {"w": np.ones(2, np.float32)}


@pytest.mark.parametrize(
    ("foreign", "options", "words"),
    [
        ({"rms": {"w": np.ones(3, np.float32)}}, {}, "`rms['w']` has shape (3,)"),
        ({"rms": {"w": np.float32([1, np.nan])}}, {}, "`rms['w']` holds nan at [1]"),
        ({"rms": {"w": np.float32([1, -1])}}, {}, "numbers below 0"),
        ({"momentum": ONES}, {}, "lacks ['rms']"),
        ({"rms": {}}, {}, "`rms` of the TensorFlow state lacks ['w']"),
        ({"rms": ONES | {"v": 1.0}}, {}, "`rms` of the TensorFlow state holds ['v']"),
        ({"rms": ONES, "velocity": ONES}, {}, "holds ['velocity']"),
        ({"rms": ONES, "mg": ONES}, {}, "holds `mg`, and the optimizer state has no"),
        ({"rms": ONES}, {"centered": True}, "lacks `mg`"),
        ({"rms": ONES}, {"momentum": 0.9}, "lacks `momentum`"),
    ],
)
def test_what_does_not_fit_is_named(foreign: Any, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as raised:
        interchange.import_state(foreign, _place(**options))
    assert words in str(raised.value)


def test_without_a_global_step_the_count_stays() -> None:
    tx = dialects.tf1(optax.constant_schedule(0.01))
    _, state = tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}))
    after = interchange.import_state({"rms": ONES}, state)
    assert int(optax.tree.get(after, "count")) == 1
    assert interchange.export_state(after)["global_step"] == 1


@pytest.mark.parametrize("step", [-5, 2.7, np.nan, np.inf, 2**40, "3"])
def test_a_global_step_that_is_not_a_count(step: Any) -> None:
    with pytest.raises(ValueError, match="`global_step` must be a"):
        interchange.import_state({"rms": ONES, "global_step": step}, _place())


def test_what_tensorflow_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`names` names \['v'\]"):
        interchange.export_state(_place(), names={"v": "x"})
    params = {"w": jnp.zeros(2)}
    averaged = optax.chain(dialects.tf1(0.01), average_params(0.9999)).init(params)
    with pytest.raises(ValueError, match="no place for the average of the parameters"):
        interchange.export_state(averaged)
    assert interchange.export_state(averaged[0])["rms"]["w"].tolist() == [1.0, 1.0]
    torch = dialects.torch(momentum=0.9).init(params)
    with pytest.raises(ValueError, match=r"learning rate inside.*`dialects\.tf1`"):
        interchange.export_state(torch)


def test_two_parameters_with_one_name_are_refused() -> None:
    state = dialects.tf1(0.1).init({"a": jnp.ones(1), "b": jnp.ones(1)})
    with pytest.raises(ValueError, match="'a' and 'b' both look for 'A'"):
        interchange.export_state(state, names={"a": "A", "b": "A"})


@pytest.mark.parametrize("slots", [{"rms": None}, {"rms": 3}, {"rms": {"w": None}}])
def test_slots_of_another_form_are_named(slots: Any) -> None:
    state = dialects.tf1(0.1).init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="rms"):
        interchange.import_state(slots, state)
