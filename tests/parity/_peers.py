"""Each framework's own RMSprop, run over a problem."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax as real_optax

from tests.parity._installed import peer
from tests.parity._problem import Leaves, Problem, ours


def _stack(steps: list[Leaves]) -> Leaves:
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def torch(problem: Problem, rates: Any = None, **arguments: Any) -> Leaves:
    """`torch.optim.RMSprop`, with a scheduler for ``rates``."""
    framework = peer("torch", "torch")
    return _torch_like(framework.optim.RMSprop, problem, rates, **arguments)


def timm(problem: Problem, rates: Any = None, **arguments: Any) -> Leaves:
    """`timm.optim.RMSpropTF`."""
    peer("torch", "torch")
    return _torch_like(timm_file().RMSpropTF, problem, rates, **arguments)


def timm_file() -> ModuleType:
    """`timm/optim/rmsprop_tf.py` as installed, without the rest of timm.

    `import timm` wants torchvision, whose operators a CPU build of torch may not load.
    """
    if "timm" not in sys.modules and importlib.util.find_spec("timm"):
        for name in ("timm", "timm.optim"):
            spec = importlib.util.find_spec(name)
            assert spec is not None
            module = ModuleType(name)
            module.__path__ = list(spec.submodule_search_locations or ())
            sys.modules[name] = module
    return peer("timm.optim.rmsprop_tf", "timm")


def _torch_like(make: Any, problem: Problem, rates: Any, **arguments: Any) -> Leaves:
    framework = peer("torch", "torch")
    params = {n: framework.tensor(p) for n, p in problem.params.items()}
    optimizer = make(list(params.values()), **arguments)
    scheduler = None
    if rates is not None:
        base = optimizer.param_groups[0]["lr"]
        scheduler = framework.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rates[min(step, len(rates) - 1)] / base
        )
    steps = []
    for t in range(problem.steps):
        for name, p in params.items():
            p.grad = framework.tensor(problem.grads[name][t])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        steps.append({name: p.numpy().copy() for name, p in params.items()})
    return _stack(steps)


def _variables(tf: ModuleType, problem: Problem) -> Any:
    return {n: tf.Variable(p, name=n) for n, p in problem.params.items()}


def tf1(problem: Problem, rates: Any = None, **arguments: Any) -> Leaves:
    """`tf.compat.v1.train.RMSPropOptimizer`, with a live callable for ``rates``."""
    tf = peer("tensorflow", "tensorflow")
    now = {"step": 0}
    if rates is not None:
        arguments["learning_rate"] = lambda: rates[now["step"]]
    optimizer = tf.compat.v1.train.RMSPropOptimizer(**arguments)
    variables, steps = _variables(tf, problem), []
    for t in range(problem.steps):
        now["step"] = t
        pairs = [(tf.constant(problem.grads[n][t]), v) for n, v in variables.items()]
        optimizer.apply_gradients(pairs)
        steps.append({n: v.numpy() for n, v in variables.items()})
    return _stack(steps)


def tf_kernels(problem: Problem, rates: Any = None, **arguments: Any) -> Leaves:
    """`tf.raw_ops.ResourceApply[Centered]RMSProp`, with slots of our own."""
    tf = peer("tensorflow", "tensorflow")
    centered = arguments.pop("centered", False)
    rate = arguments.pop("learning_rate", None)
    variables = _variables(tf, problem)
    zeros = {n: np.zeros_like(p) for n, p in problem.params.items()}
    ms = {n: tf.Variable(np.ones_like(p)) for n, p in problem.params.items()}
    mom, mg = ({n: tf.Variable(z) for n, z in zeros.items()} for _ in range(2))
    steps = []
    for t in range(problem.steps):
        for n, v in variables.items():
            dtype = v.dtype
            numbers = {
                "lr": rate if rates is None else rates[t],
                "rho": arguments["decay"],
                "momentum": arguments["momentum"],
                "epsilon": arguments["epsilon"],
            }
            given = {k: tf.constant(x, dtype) for k, x in numbers.items()}
            given |= {"var": v.handle, "ms": ms[n].handle, "mom": mom[n].handle}
            given["grad"] = tf.constant(problem.grads[n][t])
            if centered:
                tf.raw_ops.ResourceApplyCenteredRMSProp(mg=mg[n].handle, **given)
            else:
                tf.raw_ops.ResourceApplyRMSProp(**given)
        steps.append({n: v.numpy() for n, v in variables.items()})
    return _stack(steps)


def tf_keras(problem: Problem, rates: Any = None, **arguments: Any) -> Leaves:
    """`tf_keras.optimizers.legacy.RMSprop`, its learning rate assigned for ``rates``."""
    tf = peer("tensorflow", "tensorflow")
    legacy = peer("tf_keras.optimizers.legacy", "tf_keras")
    return _tf_keras_steps(tf, legacy.RMSprop(**arguments), problem, rates)


def tf_keras_2_11(problem: Problem, rates: Any = None, **arguments: Any) -> Leaves:
    """`tf_keras.optimizers.RMSprop`, its learning rate assigned for ``rates``."""
    tf = peer("tensorflow", "tensorflow")
    optimizers = peer("tf_keras.optimizers", "tf_keras")
    return _tf_keras_steps(tf, optimizers.RMSprop(**arguments), problem, rates)


def _tf_keras_steps(tf: Any, optimizer: Any, problem: Problem, rates: Any) -> Leaves:
    variables, steps = _variables(tf, problem), []
    # What a first step would make; the legacy optimizers have no `build`.
    make = getattr(optimizer, "build", None) or optimizer._create_all_weights
    make(list(variables.values()))

    @tf.function  # as `fit` does: eager, a step takes five times as long
    def step(grads: Any) -> None:
        optimizer.apply_gradients([(grads[n], v) for n, v in variables.items()])

    for t in range(problem.steps):
        if rates is not None:
            optimizer.learning_rate = rates[t]
        step({n: tf.constant(problem.grads[n][t]) for n in variables})
        steps.append({n: v.numpy() for n, v in variables.items()})
    return _stack(steps)


def keras(problem: Problem, rates: Any = None, **arguments: Any) -> Leaves:
    """`keras.optimizers.RMSprop` on JAX, its learning rate assigned for ``rates``."""
    framework = peer("keras", "keras")
    dtype = problem.params["scale"].dtype
    before = framework.config.floatx()
    framework.config.set_floatx(dtype.name)
    try:
        with jax.enable_x64(dtype == np.float64):
            return _keras_scan(framework, problem, rates, **arguments)
    finally:
        framework.config.set_floatx(before)


def _keras_scan(framework: Any, problem: Problem, rates: Any, **arguments: Any) -> Leaves:
    variables = [framework.Variable(p) for p in problem.params.values()]
    optimizer = framework.optimizers.RMSprop(**arguments)
    optimizer.build(variables)
    rate_at = [v.name for v in optimizer.variables].index("learning_rate")

    def step(carry: Any, given: Any) -> Any:
        values, state = carry
        gradient, rate = given
        if rate is not None:
            state = [*state[:rate_at], rate, *state[rate_at + 1 :]]
        values, state = optimizer.stateless_apply(state, gradient, values)
        return (values, state), values

    start = ([v.value for v in variables], [v.value for v in optimizer.variables])
    grads = [jnp.asarray(problem.grads[name]) for name in problem.params]
    given = (grads, None if rates is None else jnp.asarray(rates, grads[0].dtype))
    _, made = jax.jit(lambda start, given: jax.lax.scan(step, start, given))(start, given)
    return dict(zip(problem.params, map(np.asarray, made), strict=True))


def optax(problem: Problem, rates: Any = None, **arguments: Any) -> Leaves:
    """`optax.rmsprop`, with a schedule for ``rates``."""
    return ours(real_optax.rmsprop, problem, rates, **arguments)
