"""Moves a half-trained PyTorch network into Flax NNX, and goes on to the same numbers.

    pip install '.[parity]' flax scikit-learn tqdm matplotlib
    python examples/move_a_run.py

PyTorch trains a small convolutional network on scikit-learn's digits, with two
parameter groups. After 100 steps its checkpoint is read here: weights, moments, momentum.
Both sides then train 100 more steps on the same batches. The parameters differ by less
than 1e-6 in the end; with the weights alone, and fresh moments, by 0.1.
`move_a_run.png` shows the difference after each step. It takes about half a minute on
two CPU cores.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if missing := [
    name
    for name in ("flax", "matplotlib", "sklearn", "torch", "tqdm")
    if find_spec(name) is None
]:
    sys.exit(
        f"error: {', '.join(missing)} not installed: "
        "pip install '.[parity]' flax scikit-learn tqdm matplotlib"
    )

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from sklearn.datasets import load_digits
from tqdm import tqdm

from rmsprop_optax import interchange

COMMON: dict[str, Any] = {"momentum": 0.9, "alpha": 0.9, "eps": 1e-3}
RATES = {"body": 3e-4, "head": 1e-3}
NAMES = {"out": "classifier"}  # the layer has another name in PyTorch
# The order in which PyTorch's optimizer got the parameters.
ORDER = ["conv/kernel", "conv/bias", "norm/scale", "norm/bias", "out/kernel", "out/bias"]


class TorchNet(torch.nn.Module):
    """The network in PyTorch, channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 16, 3)
        self.norm = torch.nn.LayerNorm(16)
        self.classifier = torch.nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images of shape (n, 8, 8, 1)."""
        hidden = torch.tanh(self.conv(images.permute(0, 3, 1, 2))).mean((2, 3))
        return self.classifier(self.norm(hidden))


class Net(nnx.Module):
    """The same network in NNX, channels last."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 16, (3, 3), padding="VALID", rngs=rngs)
        self.norm = nnx.LayerNorm(16, epsilon=1e-5, rngs=rngs)
        self.out = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits of images of shape (n, 8, 8, 1)."""
        return self.out(self.norm(jnp.tanh(self.conv(images)).mean((1, 2))))


def batches(steps: int) -> list[tuple[Any, Any]]:
    """Images of shape (64, 8, 8, 1) and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    rng = np.random.default_rng(0)
    rows = [rng.integers(len(images), size=64) for _ in range(steps)]
    return [(images[i], labels[i]) for i in rows]


def train_torch(steps: int, file: Path) -> Iterator[Any]:
    """Trains, saves after half of the steps, and yields the weights after each."""
    torch.manual_seed(0)
    net = TorchNet()
    body = [*net.conv.parameters(), *net.norm.parameters()]
    groups = [
        {"params": body, "lr": RATES["body"]},
        {"params": net.classifier.parameters(), "lr": RATES["head"]},
    ]
    optimizer = torch.optim.RMSprop(groups, **COMMON)
    loss_fn = torch.nn.CrossEntropyLoss()
    for step, (images, labels) in enumerate(batches(steps)):
        if step == steps // 2:
            run = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(run, file)
        optimizer.zero_grad()
        loss_fn(net(torch.tensor(images)), torch.tensor(labels)).backward()
        optimizer.step()
        yield {name: tensor.clone() for name, tensor in net.state_dict().items()}


def train_here(steps: int, file: Path, *, with_state: bool) -> Iterator[Any]:
    """Reads the checkpoint, goes on, and yields the parameters after each step."""
    graphdef, state = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
    params = nnx.to_pure_dict(state)
    tx = interchange.torch.transformation(file, params, names=NAMES, order=ORDER)
    params, opt_state = interchange.torch.import_run(
        file, params, tx.init(params), tx, names=NAMES, order=ORDER
    )
    if not with_state:
        opt_state = tx.init(params)

    @jax.jit
    def step(params: Any, opt_state: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss_fn(params: Any) -> jax.Array:
            logits = nnx.merge(graphdef, params)(images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean()

        updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for images, labels in batches(steps)[steps // 2 :]:
        params, opt_state = step(params, opt_state, images, labels)
        yield params


def main(argv: list[str] | None = None) -> float:
    """Returns the largest difference of any parameter after the last step."""
    parser = argparse.ArgumentParser(description="Moves a run from PyTorch to NNX.")
    parser.add_argument("--steps", type=int, default=200, help="on both sides together")
    parser.add_argument("--picture", type=Path, default=Path("move_a_run.png"))
    flags = parser.parse_args(argv)
    file = Path(tempfile.mkdtemp()) / "run.pt"
    half = flags.steps // 2
    theirs = list(tqdm(train_torch(flags.steps, file), "PyTorch", flags.steps))
    curves = {}
    for label, with_state in (("weights and state", True), ("weights alone", False)):
        run = train_here(flags.steps, file, with_state=with_state)
        curves[label] = [
            _difference(params, weights)
            for params, weights in zip(tqdm(run, label, half), theirs[half:], strict=True)
        ]
    for label, curve in curves.items():
        print(f"{label}: the parameters differ by {curve[-1]:.1e} at most")  # noqa: T201
    _draw(curves, flags.picture)
    return curves["weights and state"][-1]


def _difference(params: Any, weights: Any) -> float:
    theirs = interchange.torch.import_params(weights, params, names=NAMES)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(theirs), strict=True)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs)


def _draw(curves: dict[str, list[float]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, curve in curves.items():
        axes.semilogy(range(1, len(curve) + 1), curve, label=label)
    axes.set(xlabel="steps since the move", ylabel="largest difference of a parameter")
    axes.set_title("The run in NNX against the one that stayed in PyTorch")
    axes.legend()
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
    sys.exit(0)
