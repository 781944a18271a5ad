"""Training: the compiled step, the evaluation, and the loop around them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from rmsprop_optax.demo._network import CharacterGRU
from rmsprop_optax.demo._text import Corpus
from rmsprop_optax.transforms._averaging import finalize
from rmsprop_optax.transforms._loss_scale import scale_loss

EVALUATION_WINDOWS = 128


class Sizes(NamedTuple):
    """How large the network is, and how much text it sees in a step."""

    hidden: int
    batch: int
    length: int


class TrainState(NamedTuple):
    """All that a step changes, and so all that a checkpoint holds."""

    step: jax.Array
    network: Any
    opt_state: Any


class Curve(NamedTuple):
    """Losses in nats a character: at each evaluation, the step, training, held out."""

    steps: list[int]
    train: list[float]
    held_out: list[float]


def loss_fn(network: CharacterGRU, windows: jax.Array) -> jax.Array:
    """The mean cross-entropy of each character given those before it, in nats."""
    logits = jax.vmap(network)(windows[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])
    return losses.mean()


def _windows(codes: jax.Array, starts: jax.Array, length: int) -> jax.Array:
    return codes[starts[:, None] + jnp.arange(length + 1)]


class Trainer:
    """One optimizer on one corpus: makes, advances and evaluates a `TrainState`.

    Each batch is a function of the seed and the step alone, so a run that was
    interrupted goes on as if it had not been.
    """

    def __init__(
        self,
        tx: optax.GradientTransformationExtraArgs,
        corpus: Corpus,
        sizes: Sizes,
        seed: int,
    ) -> None:
        self._tx = tx
        self._corpus = corpus
        self._sizes = sizes
        self._key = jax.random.key(seed)
        self._train = jnp.asarray(corpus.train)
        self._advance = jax.jit(self._step, donate_argnums=0)
        self._evaluate = jax.jit(self._loss_held_out)

    def init(self) -> TrainState:
        """The state before the first step."""
        network = CharacterGRU(
            len(self._corpus.alphabet),
            self._sizes.hidden,
            jax.random.fold_in(self._key, 0),
        )
        params = eqx.filter(network, eqx.is_inexact_array)
        return TrainState(jnp.zeros([], jnp.int32), params, self._tx.init(params))

    def abstract(self) -> TrainState:
        """Shapes and dtypes of the state, without making it."""
        return jax.eval_shape(self.init)

    def step(self, state: TrainState) -> tuple[TrainState, jax.Array]:
        """One training step; consumes ``state``, whose buffers it reuses."""
        return self._advance(state, self._train)

    def held_out_loss(self, state: TrainState) -> float:
        """The loss on text that the network never sees, with averaged weights if any."""
        return float(self._evaluate(finalize(state.network, state.opt_state)))

    def _step(self, state: TrainState, codes: jax.Array) -> tuple[TrainState, jax.Array]:
        key = jax.random.fold_in(jax.random.fold_in(self._key, 1), state.step)
        bound = codes.shape[0] - self._sizes.length
        starts = jax.random.randint(key, (self._sizes.batch,), 0, bound)
        windows = _windows(codes, starts, self._sizes.length)

        def objective(network: CharacterGRU) -> tuple[jax.Array, jax.Array]:
            loss = loss_fn(network, windows)
            return scale_loss(loss, state.opt_state), loss

        grads, loss = jax.grad(objective, has_aux=True)(state.network)
        updates, opt_state = self._tx.update(grads, state.opt_state, state.network)
        network = optax.apply_updates(state.network, updates)
        return TrainState(state.step + 1, network, opt_state), loss

    def _loss_held_out(self, network: CharacterGRU) -> jax.Array:
        codes = jnp.asarray(self._corpus.held_out)
        bound = codes.shape[0] - self._sizes.length - 1
        starts = jnp.asarray(np.linspace(0, bound, EVALUATION_WINDOWS).astype(np.int32))
        return loss_fn(network, _windows(codes, starts, self._sizes.length))


class Cadence(NamedTuple):
    """When the loop ends, and how often it stops to evaluate and to save."""

    steps: int
    evaluate_every: int
    save_every: int


def train(
    trainer: Trainer,
    state: TrainState,
    curve: Curve,
    cadence: Cadence,
    *,
    label: str,
    save: Callable[[TrainState, Curve], None],
    is_interrupted: Callable[[], bool],
) -> TrainState:
    """Runs to the last step or to an interruption, and saves there."""
    first = int(state.step)
    due = partial(_is_due, last=cadence.steps)
    recent: list[jax.Array] = []
    with tqdm(total=cadence.steps, initial=first, desc=label, unit="step") as bar:
        for step in range(first + 1, cadence.steps + 1):
            state, loss = trainer.step(state)
            recent.append(loss)
            if step % 10 == 0:
                bar.set_postfix(loss=f"{float(loss):.3f}", refresh=False)
            bar.update()
            if due(step, cadence.evaluate_every):
                curve.steps.append(step)
                curve.train.append(float(jnp.stack(recent).mean()))
                curve.held_out.append(trainer.held_out_loss(state))
                recent.clear()
            interrupted = is_interrupted()
            if interrupted or due(step, cadence.save_every):
                save(state, curve)
            if interrupted:
                break
    return state


def _is_due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last
