"""The text, the network, and the training step."""

import hashlib
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax import finalize, scale_loss

# The arguments of `rmsprop()` that suit this task; others have the factory's defaults.
TUNED: dict[str, Any] = {"learning_rate": 5e-4, "momentum": 0.9}
HELD_OUT, EVALUATION_WINDOWS, TEMPERATURE = 0.1, 128, 0.7
Params = dict[str, Any]


class Corpus(NamedTuple):
    """A text as codes, which are indices into its sorted characters, ``alphabet``."""

    alphabet: str
    train: np.ndarray
    held_out: np.ndarray
    prompt: str
    digest: str


def load_corpus(file: Path | None = None) -> Corpus:
    """Reads ``file``, or the `help()` topics, and holds out the end of each text."""
    texts = [file.read_text("utf-8-sig")] if file else list(topics.values())
    cuts = [round(len(text) * (1 - HELD_OUT)) for text in texts]
    train = "".join(text[:cut] for text, cut in zip(texts, cuts, strict=True))
    held_out = "".join(text[cut:] for text, cut in zip(texts, cuts, strict=True))
    alphabet = "".join(sorted({*train, *held_out}))
    codes = encode(train, alphabet), encode(held_out, alphabet)
    prompt = held_out[:20] if file else "The following "
    digest = hashlib.sha256((train + held_out).encode()).hexdigest()[:16]
    return Corpus(alphabet, *codes, prompt, digest)


def encode(text: str, alphabet: str) -> np.ndarray:
    """The code of each character, int32."""
    code_of = {character: code for code, character in enumerate(alphabet)}
    return np.fromiter((code_of[character] for character in text), np.int32, len(text))


def unigram_loss(corpus: Corpus) -> float:
    """The held-out loss of a model that knows only the frequency of each character."""
    counts = np.bincount(corpus.train, minlength=len(corpus.alphabet)) + 1.0
    return float(-np.log(counts / counts.sum())[corpus.held_out].mean())


def init_network(seed: int, alphabet_size: int, hidden_size: int) -> Params:
    """The parameters of an embedding, a gated recurrent unit and a linear readout."""
    rng = np.random.default_rng(seed)  # NumPy's, so that nothing is compiled
    embedding_size, bound = max(hidden_size // 4, 1), hidden_size**-0.5

    def uniform(*shape: int) -> jax.Array:
        return jnp.asarray(rng.uniform(-bound, bound, shape), jnp.float32)

    embedding = rng.normal(size=(alphabet_size, embedding_size))
    return {
        "embedding": jnp.asarray(embedding, jnp.float32),
        "gru": {
            "kernel": uniform(embedding_size, 3 * hidden_size),
            "bias": uniform(3 * hidden_size),
            "recurrent_kernel": uniform(hidden_size, 3 * hidden_size),
            "recurrent_bias": uniform(hidden_size),
        },
        "readout": {
            "kernel": uniform(hidden_size, alphabet_size),
            "bias": uniform(alphabet_size),
        },
    }


def apply_network(
    network: Params, hidden: jax.Array, codes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The hidden state after ``codes``, time first, and the logits after each of them."""
    gru, readout = network["gru"], network["readout"]

    def advance(hidden: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        i = jnp.split(x @ gru["kernel"] + gru["bias"], 3, axis=-1)
        h = jnp.split(hidden @ gru["recurrent_kernel"], 3, axis=-1)
        reset, update = jax.nn.sigmoid(i[0] + h[0]), jax.nn.sigmoid(i[1] + h[1])
        new = jnp.tanh(i[2] + reset * (h[2] + gru["recurrent_bias"]))
        hidden = new + update * (hidden - new)
        return hidden, hidden

    hidden, states = jax.lax.scan(advance, hidden, network["embedding"][codes])
    return hidden, states @ readout["kernel"] + readout["bias"]


def loss_fn(network: Params, windows: jax.Array) -> jax.Array:
    """The mean cross-entropy of each character given those before it, in nats."""
    codes = windows.T
    hidden = jnp.zeros((len(windows), network["gru"]["recurrent_bias"].size))
    _, logits = apply_network(network, hidden, codes[:-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, codes[1:]).mean()


@partial(jax.jit, static_argnames="length")
def sample(network: Params, prompt: jax.Array, length: int, key: jax.Array) -> jax.Array:
    """``length`` codes that continue ``prompt``."""

    def write(carry: tuple[jax.Array, jax.Array], key: jax.Array) -> Any:
        hidden, logits = carry
        code = jax.random.categorical(key, logits[-1] / TEMPERATURE)
        return apply_network(network, hidden, code[None]), code

    start = jnp.zeros(network["gru"]["recurrent_bias"].size)
    hidden, logits = apply_network(network, start, prompt)
    return jax.lax.scan(write, (hidden, logits[-1:]), jax.random.split(key, length))[1]


class TrainState(NamedTuple):
    """All that a step changes."""

    step: jax.Array
    network: Params
    opt_state: Any


class Trainer:
    """Makes, advances and evaluates the state of a run with one optimizer.

    The seed and the step alone decide a batch, so a resumed run gets the batches of an
    uninterrupted one.
    """

    def __init__(
        self,
        tx: optax.GradientTransformation,
        corpus: Corpus,
        seed: int = 0,
        *,
        hidden: int = 256,
        batch: int = 32,
        length: int = 64,
    ) -> None:
        self._tx = optax.with_extra_args_support(tx)
        self._seed, self._alphabet_size = seed, len(corpus.alphabet)
        self._hidden, self._batch, self._length = hidden, batch, length
        self._train, self._held_out = map(jnp.asarray, (corpus.train, corpus.held_out))
        self._jitted_step = jax.jit(self._step, donate_argnums=0)
        self._jitted_loss = jax.jit(self._loss)

    def init(self) -> TrainState:
        """The state before the first step."""
        network = init_network(self._seed, self._alphabet_size, self._hidden)
        return TrainState(jnp.zeros([], jnp.int32), network, self._tx.init(network))

    def step(self, state: TrainState) -> tuple[TrainState, jax.Array]:
        """The next state and the training loss; donates the buffers of ``state``."""
        return self._jitted_step(state, self._train)

    def held_out_loss(self, state: TrainState) -> float:
        """The loss on held-out text; with ``use_ema``, of the average of the weights."""
        network = finalize(state.network, state.opt_state)
        return float(self._jitted_loss(network, self._held_out))

    def _step(self, state: TrainState, codes: jax.Array) -> tuple[TrainState, jax.Array]:
        key = jax.random.fold_in(jax.random.key(self._seed), state.step)
        bound = len(codes) - self._length
        starts = jax.random.randint(key, (self._batch,), 0, bound)

        def objective(network: Params) -> tuple[jax.Array, jax.Array]:
            loss = loss_fn(network, self._windows(codes, starts))
            return scale_loss(loss, state.opt_state), loss

        grads, loss = jax.grad(objective, has_aux=True)(state.network)
        updates, opt_state = self._tx.update(grads, state.opt_state, state.network)
        network: Any = optax.apply_updates(state.network, updates)
        return TrainState(state.step + 1, network, opt_state), loss

    def _loss(self, network: Params, codes: jax.Array) -> jax.Array:
        bound = len(codes) - self._length - 1
        starts = np.linspace(0, bound, EVALUATION_WINDOWS).astype(np.int32)
        return loss_fn(network, self._windows(codes, jnp.asarray(starts)))

    def _windows(self, codes: jax.Array, starts: jax.Array) -> jax.Array:
        return codes[starts[:, None] + jnp.arange(self._length + 1)]
