"""Averages of the parameters that TensorFlow, timm and PyTorch keep, with a warm-up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax import average_params, finalize, interchange, with_average
from tests.parity._installed import peer

STEPS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


def _ours(decay: Any, steps: Any, *, from_initial: bool = False) -> tuple[Any, Any]:
    """Parameters that move by the given steps, and the state of their average."""
    tx = average_params(decay, from_initial=from_initial)
    params = {"bias": jnp.ones(3)}
    state = tx.init(params)
    for step in steps:
        updates, state = tx.update({"bias": jnp.asarray(step)}, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def _goes_on(
    average: Any, count: int, decay: Any, *, from_initial: bool = False
) -> np.ndarray:
    """The average after all steps, the first ``count`` of which were made elsewhere."""
    params, state = _ours(decay, STEPS[:count], from_initial=from_initial)
    tx = average_params(decay, from_initial=from_initial)
    state = with_average(tx.init(params), average, count)
    for step in STEPS[count:]:
        updates, state = tx.update({"bias": jnp.asarray(step)}, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(finalize(params, state)["bias"])


def test_tensorflow_with_num_updates(tmp_path: Path) -> None:
    tf = peer("tensorflow", "tensorflow").compat.v1

    def decay(i: Any) -> Any:
        return jnp.minimum(0.9, (2 + i) / (11 + i))

    with tf.Graph().as_default(), tf.Session() as session:
        variable = tf.get_variable("bias", initializer=np.ones(3, np.float32))
        global_step = tf.train.get_or_create_global_step()
        step = tf.placeholder(tf.float32, [3])
        moved = [variable.assign_add(step), global_step.assign_add(1)]
        average = tf.train.ExponentialMovingAverage(0.9, global_step)
        with tf.control_dependencies(moved):
            update = average.apply([variable])
        session.run(tf.global_variables_initializer())
        for value in STEPS[:20]:
            session.run(update, {step: value})
        saved = tf.train.Saver().save(session, str(tmp_path / "model.ckpt"))
        for value in STEPS[20:]:
            session.run(update, {step: value})
        expected = session.run(average.average(variable))
    params, state = _ours(decay, STEPS, from_initial=True)
    np.testing.assert_allclose(finalize(params, state)["bias"], expected, rtol=1e-6)
    half = interchange.tf1.import_params(
        saved, params, average_name="ExponentialMovingAverage"
    )
    found = _goes_on(half, 20, decay, from_initial=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def _torch_model(torch: Any) -> Any:
    model = torch.nn.Module()
    model.bias = torch.nn.Parameter(torch.ones(3))
    return model


def _torch_average(
    torch: Any, make: Callable[[Any], Any], update: Callable[[Any, Any, int], None]
) -> tuple[Any, np.ndarray]:
    """The average's state dictionary after half of the steps, and its end."""
    model = _torch_model(torch)
    average, half = make(model), None
    for t, step in enumerate(STEPS):
        if t == 20:
            half = {name: x.clone() for name, x in average.state_dict().items()}
        with torch.no_grad():
            model.bias += torch.from_numpy(step)
        update(average, model, t + 1)
    return half, average.module.bias.detach().numpy()


def test_timm_with_a_warm_up() -> None:
    torch, timm = peer("torch", "torch"), peer("timm.utils", "timm")
    half, expected = _torch_average(
        torch,
        lambda model: timm.ModelEmaV3(
            model, 0.95, use_warmup=True, warmup_gamma=2.0, warmup_power=0.8
        ),
        lambda average, model, t: average.update(model, step=t),
    )

    def decay(i: Any) -> Any:
        return jnp.clip(1 - (1 + i / 2.0) ** -0.8, 0.0, 0.95)

    params, state = _ours(decay, STEPS)
    np.testing.assert_allclose(finalize(params, state)["bias"], expected, rtol=2e-6)
    found = _goes_on(interchange.torch.import_params(half, params), 20, decay)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_torch_with_a_mean_of_all() -> None:
    torch = peer("torch", "torch")
    half, expected = _torch_average(
        torch,
        torch.optim.swa_utils.AveragedModel,
        lambda average, model, t: average.update_parameters(model),
    )
    params, state = _ours(lambda i: i / (i + 1), STEPS)
    np.testing.assert_allclose(finalize(params, state)["bias"], expected, rtol=2e-6)
    average = interchange.torch.import_params(half, params)
    found = _goes_on(average, int(half["n_averaged"]), lambda i: i / (i + 1))
    np.testing.assert_allclose(found, expected, rtol=2e-6)
