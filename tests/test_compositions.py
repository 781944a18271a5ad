"""Random stacks of dialects, wrappers and Optax's combinators, against NumPy.

`COMPOSITIONS_SEED=7 COMPOSITIONS=100 pytest -m slow tests/test_compositions.py` draws
others, and more; a failure names its seed and prints its stack.
"""

import os
import random
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import dialects, sparse
from tests.reference import compositions as ref

FIRST = int(os.environ.get("COMPOSITIONS_SEED", "0"))
DRAWS = int(os.environ.get("COMPOSITIONS", "40"))
STEPS = 7
# Of the largest update of a leaf. Schedules are float32 everywhere.
TOLERANCE = {"float64": 1e-6, "complex128": 1e-6, "float32": 1e-4, "bfloat16": 0.02}

Built = tuple[optax.GradientTransformation, ref.Node]


class Draw:
    """One random problem, and one random stack with its reference."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.names: list[str] = []
        self.missing = self.chance(0.25)
        self.not_finite = self.chance(0.3)
        self.overwrites = False
        self.params = self._params()
        self.is_plain = not (self.missing or self.not_finite) and all(
            np.dtype(p.dtype) in (np.float64, np.float32)
            for p in jax.tree.leaves(self.params)
        )

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def pick(self, *options: Any) -> Any:
        return self.random.choice(options)

    def note(self, text: str) -> None:
        self.names.append(text)

    def _leaf(self, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        x = self.numbers.normal(size=shape)
        if dtype == "complex128":
            x = x + 1j * self.numbers.normal(size=shape)
        return jnp.asarray(x, dtype)

    def _params(self) -> dict[str, Any]:
        shapes = [(3, 2), (4,), (), (0, 3), (2, 1, 3)]
        dtypes = ["float64"] * 3 + ["float32", "complex128", "bfloat16"]
        leaves = [
            self._leaf(self.pick(*shapes), self.pick(*dtypes))
            for _ in range(self.random.randint(1, 3))
        ]
        leaves.append(self._leaf((2, 2), "float64"))
        tree: dict[str, Any] = {"nested": {}, "nothing": None}
        for i, leaf in enumerate(leaves):
            (tree["nested"] if i % 2 else tree)[f"leaf{i}"] = leaf
        return tree

    def grads(self) -> list[Any]:
        """A gradient a step; one leaf may have none, and a value may not be finite."""
        made = []
        for _ in range(STEPS):
            scale = 10.0 ** self.random.randint(-3, 3)
            tree = jax.tree.map(
                lambda p, scale=scale: (self._leaf(p.shape, p.dtype.name) * scale).astype(
                    p.dtype
                ),
                self.params,
            )
            if self.not_finite and self.chance(0.3):
                bad = self.pick(jnp.inf, -jnp.inf, jnp.nan)
                tree["nested"] = jax.tree.map(lambda g, b=bad: g + b, tree["nested"])
            if self.missing:
                tree["leaf0"] = None
            made.append(tree)
        return made

    def rate(self) -> tuple[Any, Callable[[int], float]]:
        rate = self.pick(0.3, 0.01)
        if self.chance(0.5):
            return rate, lambda count: rate
        return optax.exponential_decay(
            rate, 2, 0.5
        ), lambda count: rate * 0.5 ** (count / 2)

    def dialect(self) -> Built:
        """A dialect with arguments of its own, and which terms they switch on."""
        rate, of_count = self.rate()
        momentum = self.pick(None, 0.9)
        centered = self.chance(0.4)
        name = self.pick("keras", "tf_keras", "tf1", "torch", "timm", "optax")
        eps = self.pick(1e-3, 1e-2)
        shared = {"momentum": momentum, "centered": centered}
        terms: dict[str, Any] = {"eps": eps, **shared}
        options: dict[str, Any] = {**shared}
        match name:
            case "keras":
                options |= {"epsilon": eps}
                terms["nesterov"] = self.chance(0.5) and momentum is not None
                options["nesterov"] = terms["nesterov"]
                if self.chance(0.5):
                    options["weight_decay"] = terms["decoupled"] = 0.1
            case "tf_keras":
                options |= {"epsilon": eps}
                terms["eps_outside"] = momentum is None
            case "tf1":
                options |= {"epsilon": eps}
                terms["start"] = 1.0
            case "torch":
                options |= {"eps": eps, "alpha": 0.9, "weight_decay": 0.1}
                terms |= {"eps_outside": True, "coupled": 0.1, "rate_outside": True}
                options["maximize"] = terms["maximize"] = self.chance(0.5)
            case "timm":
                options |= {"eps": eps, "lr_in_momentum": self.chance(0.5)}
                terms |= {"start": 1.0, "rate_outside": not options["lr_in_momentum"]}
                options["caution"] = self.chance(0.5)
                terms["caution"] = options["caution"] and momentum is not None
            case "optax":
                outside, corrected = self.chance(0.5), self.chance(0.5)
                options |= {"eps": eps, "eps_in_sqrt": not outside}
                options |= {"bias_correction": corrected, "initial_scale": 0.0}
                terms |= {"eps_outside": outside, "corrected": corrected}
        self.note(f"{name}({rate if isinstance(rate, float) else 'schedule'}, {options})")
        factory = ro.rmsprop if name == "keras" else getattr(dialects, name)
        first = {"torch": "lr", "timm": "lr"}.get(name, "learning_rate")
        node: ref.Node = ref.RMSprop(of_count, **terms)
        if name == "torch":
            node = ref.Split(node)
        return factory(**{first: rate}, **options), node

    def factory(self) -> Built:
        """`rmsprop` with the stages that it has itself, and its two clocks."""
        rate, of_count = self.rate()
        k, every = self.pick(1, 2, 3), self.pick(None, 1, 2)
        self.overwrites |= every is not None
        self.note(f"rmsprop(everything, k={k}, every={every})")
        tx = ro.rmsprop(
            rate,
            epsilon=1e-3,
            momentum=0.9,
            global_clipnorm=0.5,
            loss_scale_factor=4.0,
            use_ema=True,
            ema_momentum=0.5,
            ema_overwrite_frequency=every,
            gradient_accumulation_steps=None if k == 1 else k,
            skip_nonfinite=True,
        )
        node: ref.Node = ref.RMSprop(
            lambda count: of_count(count * k + k - 1), 0.9, 1e-3, momentum=0.9
        )
        node = ref.Before(ref.clip_global_norm(0.5), node)
        if k > 1:
            node = ref.Accumulated(node, k)
        node = ref.Before(
            lambda grads: {n: None if g is None else g / 4 for n, g in grads.items()},
            node,
        )
        return tx, ref.Skipped(ref.Averaged(node, 0.5, every, k))

    def optimizer(self) -> Built:
        if self.chance(0.15):
            return self.factory()
        if self.is_plain and self.chance(0.25):
            decay = self.pick(0.0, 0.1)
            self.note(f"optax.adamw(decay={decay})")
            return optax.adamw(0.1, weight_decay=decay), ref.Adam(0.1, decay)
        return self.dialect()

    def wrapped(self, built: Built) -> Built:
        """One more wrapper or combinator around a transformation."""
        tx, node = built
        kinds = ["clip", "scale", "accumulate", "skip", "scaled", "cautious", "split"]
        kinds += ["lazy", "float32", "clip"]
        if not self.missing:
            kinds += ["masked", "partition", "average"]
        if self.is_plain:
            kinds += ["MultiSteps", "apply_if_finite"]
        kind = self.random.choice(kinds)
        self.note(kind)
        limit, k = self.pick(0.1, 2.0), self.pick(2, 3)
        match kind:
            case "clip":
                ours, theirs = self.pick(
                    (ro.clip_by_value, ref.clip_value),
                    (ro.clip_by_norm, ref.clip_norm),
                    (ro.clip_by_global_norm, ref.clip_global_norm),
                )
                return optax.chain(ours(limit), tx), ref.Before(theirs(limit), node)
            case "scale":
                return optax.chain(tx, optax.scale(2.0)), ref.After(
                    node,
                    lambda u, g, p: {
                        n: None if x is None else 2 * x for n, x in u.items()
                    },
                )
            case "accumulate":
                return ro.accumulate_gradients(tx, k), ref.Accumulated(node, k)
            case "MultiSteps":
                return optax.MultiSteps(tx, k).gradient_transformation(), ref.Accumulated(
                    node, k
                )
            case "skip":
                return ro.skip_nonfinite(tx), ref.Skipped(node)
            case "apply_if_finite":
                return optax.apply_if_finite(tx, 9), ref.Skipped(node)
            case "scaled":
                try:
                    tx = ro.dynamic_loss_scale(tx, 8.0, 2)
                    tx.init(self.params)
                except ValueError:  # it has a loss scale already
                    return built
                return tx, ref.Skipped(node, 8.0, 2)
            case "cautious":
                return ro.cautious(tx), ref.After(
                    node,
                    lambda u, g, p: {
                        n: x if g[n] is None or x is None else ref.agreeing(x, g[n])
                        for n, x in u.items()
                    },
                )
            case "split":
                try:
                    ro.split_complex(tx).init(self.params)
                except ValueError:  # counts of rows have no parts
                    return built
                return ro.split_complex(tx), ref.Split(node)
            case "lazy":
                return sparse.lazy(tx), node
            case "float32":
                return ro.in_float32(tx), node
            case "masked":
                mask = jax.tree.map_with_path(
                    lambda path, _: "nested" in jax.tree_util.keystr(path), self.params
                )
                tx = optax.masked(tx, mask)
                return tx, ref.Parted(lambda n: str("nested" in n), {"True": node})
            case "partition":
                labels = jax.tree.map_with_path(
                    lambda path, _: str("nested" in jax.tree_util.keystr(path)),
                    self.params,
                )
                other, other_node = self.optimizer()
                tx = optax.partition({"True": tx, "False": other}, labels)
                nodes = {"True": node, "False": other_node}
                return tx, ref.Parted(lambda n: str("nested" in n), nodes)
        every = self.pick(None, 2)
        self.overwrites |= every is not None
        return optax.chain(tx, ro.average_params(0.5, every)), ref.Averaged(
            node, 0.5, every
        )


def _flat(tree: Any) -> ref.Leaves:
    """The leaves in float64 or complex128; None where there is no gradient."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)
    made = {}
    for path, x in leaves:
        name = jax.tree_util.keystr(path)
        if "nothing" in name:
            continue
        if x is not None:
            x = np.array(x, complex if jnp.iscomplexobj(x) else float)
        made[name] = x
    return made


def _check_update(
    update: Any, wanted: ref.Leaves, params: Any, overwrites: bool, where: str
) -> None:
    leaves = _paths(params)
    for name, u in _flat(update).items():
        p, expected = leaves[name], wanted[name]
        u, expected = (np.zeros(p.shape) if x is None else x for x in (u, expected))
        finite = np.abs(expected)[np.isfinite(expected)]
        tolerance = TOLERANCE[p.dtype.name]
        # What becomes its average is rounded as a parameter is, not as an update.
        weight = float(jnp.max(jnp.abs(p), initial=0)) if overwrites else 0.0
        np.testing.assert_allclose(
            u,
            expected,
            rtol=tolerance,
            atol=tolerance * max(finite.max(initial=0.0), weight, 1e-30),
            err_msg=f"{where}: {name}",
        )


def _paths(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): x for path, x in leaves}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, FIRST + DRAWS))
def test_a_random_stack_equals_numpy(seed: int) -> None:
    with jax.enable_x64(True), np.errstate(all="ignore"):
        draw = Draw(seed)
        built = draw.optimizer()
        for _ in range(draw.random.randint(0, 3)):
            built = draw.wrapped(built)
        tx, node = built
        grads, params = draw.grads(), draw.params
        stack = f"seed {seed}, inside out: " + " < ".join(draw.names)
        state = tx.init(params)
        node.start(_flat(params))
        types = jax.tree.map(jax.typeof, state)
        update = jax.jit(tx.update)
        for step, g in enumerate(grads):
            updates, state = update(g, state, params)
            assert jax.tree.map(jax.typeof, state) == types, stack
            wanted = node.step(_flat(g), _flat(params))
            _check_update(
                updates, wanted, params, draw.overwrites, f"{stack}, step {step}"
            )
            updates = jax.tree.map(
                lambda p, u: p if u is None else (p + u).astype(p.dtype),
                params,
                updates,
                is_leaf=lambda x: x is None,
            )
            params = jax.tree.map(
                lambda p, new: jnp.where(jnp.isfinite(new), new, p), params, updates
            )
        assert update._cache_size() == 1, stack
