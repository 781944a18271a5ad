"""Weights, and whole runs, from PyTorch, Keras and TensorFlow 1."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects, rmsprop
from rmsprop_optax.interchange import Layout, keras, tf1, torch
from tests.parity._installed import peer

IMAGES = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype(np.float32)


def _flax_net() -> Any:
    nnx = pytest.importorskip("flax.nnx", reason="pip install flax")

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv = nnx.Conv(3, 4, (3, 3), padding="VALID", rngs=rngs)
            self.norm = nnx.LayerNorm(4, epsilon=1e-5, rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(jnp.tanh(self.norm(self.conv(x).mean((1, 2)))))

    return nnx, Net(nnx.Rngs(0))


def _torch_net() -> Any:
    real = peer("torch", "torch")

    class Net(real.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = real.nn.Conv2d(3, 4, 3)
            self.norm = real.nn.LayerNorm(4)
            self.head = real.nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            h = self.features(x.permute(0, 3, 1, 2)).mean((2, 3))
            return self.head(real.tanh(self.norm(h)))

    real.manual_seed(0)
    return real, Net()


NAMES = {"conv": "features"}


def test_a_torch_network_computes_the_same_here(tmp_path: Path) -> None:
    real, theirs = _torch_net()
    nnx, net = _flax_net()
    graphdef, params = nnx.split(net, nnx.Param)
    expected = theirs(real.tensor(IMAGES)).detach().numpy()
    real.save({"net": theirs.state_dict()}, tmp_path / "net.pt")
    sources: list[tuple[Any, Any]] = [(theirs.state_dict(), None)]
    sources += [(tmp_path / "net.pt", "net")]
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    safetensors.save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    sources += [(tmp_path / "net.safetensors", None)]
    moved = params
    for foreign, key in sources:
        moved = torch.import_params(foreign, params, names=NAMES, key=key)
        assert jax.tree.structure(moved) == jax.tree.structure(params)
        found = nnx.merge(graphdef, moved)(IMAGES)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    back = torch.export_params(moved, theirs.state_dict(), names=NAMES)
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(back[name], tensor)
    theirs.load_state_dict(back)


def test_a_two_group_torch_run_goes_on_here(tmp_path: Path) -> None:
    """50 steps there, 100 more on both sides."""
    real, theirs = _torch_net()
    nnx, net = _flax_net()
    body = [*theirs.features.parameters(), *theirs.norm.parameters()]
    groups = [{"params": body, "lr": 1e-3}, {"params": theirs.head.parameters()}]
    optimizer = real.optim.RMSprop(groups, lr=3e-3, momentum=0.9, eps=0.1)
    images, targets = real.tensor(IMAGES), real.ones(4, 2)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            ((theirs(images) - targets) ** 2).mean().backward()
            optimizer.step()

    train(50)
    run = {"model": theirs.state_dict(), "optimizer": optimizer.state_dict()}
    real.save(run, tmp_path / "run.pt")
    train(100)
    graphdef, params = nnx.split(net, nnx.Param)
    pure = nnx.to_pure_dict(params)
    order = ["conv/kernel", "conv/bias", "norm/scale", "norm/bias"]
    order += ["head/kernel", "head/bias"]
    given: dict[str, Any] = {"names": NAMES, "order": order}
    tx = torch.transformation(tmp_path / "run.pt", pure, **given)
    mine, state = torch.import_run(tmp_path / "run.pt", pure, tx.init(pure), tx, **given)

    @jax.jit
    def step(mine: Any, state: Any) -> Any:
        def loss_fn(mine: Any) -> Any:
            return jnp.mean((nnx.merge(graphdef, mine)(IMAGES) - 1) ** 2)

        updates, state = tx.update(jax.grad(loss_fn)(mine), state, mine)
        return optax.apply_updates(mine, updates), state

    for _ in range(100):
        mine, state = step(mine, state)
    after = torch.import_params(theirs.state_dict(), pure, names=NAMES)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), mine, after
    )
    with pytest.raises(ValueError, match=r"2 parameter groups and no names.*`order`"):
        torch.transformation(tmp_path / "run.pt", pure, names=NAMES)
    with pytest.raises(ValueError, match=r"2 parameter groups and no names.*`order`"):
        torch.import_run(tmp_path / "run.pt", pure, tx.init(pure), tx, names=NAMES)


def _torch_state(**arrays: Any) -> dict[str, Any]:
    state = {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.ones(2, np.float32)}
    return state | arrays


def _params() -> dict[str, Any]:
    return {"fc": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}


@pytest.mark.parametrize(
    ("state", "given", "words"),
    [
        ({}, {"names": {"fc": "dense"}}, "'fc/bias' fits no weight of the model"),
        ({}, {"names": {"dense": "fc"}}, r"`names` names \['dense'\]"),
        ({}, {"convert": {"fc/w": np.transpose}}, r"`convert` names \['fc/w'\]"),
        ({}, {"names": {"fc/bias": "fc.weight"}}, "'fc/kernel' both look for 'fc.we"),
        ({"out.bias": np.ones(2)}, {}, r"no parameters here: \['out.bias'\].*`ignore`"),
        ({"x.fc.bias": np.ones(2)}, {}, r"fits several weights, \['fc.bias', 'x.fc.b"),
        ({"fc.bias": np.ones(3, np.float32)}, {}, r"`fc.bias` has shape \(3,\)"),
        ({"fc.bias": np.full(2, np.nan, np.float32)}, {}, "holds nan at"),
        ({"fc.bias": np.ones(2)}, {}, "float64.*would lose digits"),
    ],
)
def test_weights_that_do_not_fit_are_named(state: Any, given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        torch.import_params(_torch_state(**state), _params(), **given)


def test_a_layout_of_ones_own() -> None:
    params = {"fc": {"w": jnp.zeros((3, 2), jnp.bfloat16), "bias": jnp.zeros(2)}}
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    state = _torch_state(**{"fc.weight": weight, "fc.num_batches_tracked": np.array(3)})
    layouts = {**torch.LAYOUTS, ("w", 2): Layout(("weight",), (1, 0))}
    moved = torch.import_params(state, params, layouts=layouts)
    assert moved["fc"]["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(moved["fc"]["w"], weight.T)
    convert = {"fc/w": lambda w: -w.T}
    moved = torch.import_params(state, params, layouts=layouts, convert=convert)
    np.testing.assert_array_equal(moved["fc"]["w"], -weight.T)


def test_damaged_files_of_weights(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs safetensors")
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00 no safetensors")
    with pytest.raises(ValueError, match="can't be read as safetensors"):
        torch.import_params(path, _params())
    with pytest.raises(FileNotFoundError):
        torch.import_params(tmp_path / "none.safetensors", _params())
    with pytest.raises(ValueError, match="must be a mapping from names to tensors"):
        torch.import_params({"model": {}}, _params())
    with pytest.raises(ValueError, match="lacks 'model', which `model` names"):
        torch.import_run({"optimizer": {}}, _params(), None, dialects.torch())


def _keras_model(framework: Any) -> Any:
    layers = framework.layers
    model = framework.Sequential(
        [
            framework.Input((5,)),
            layers.Embedding(10, 4, name="words"),
            layers.GRU(3, name="cell", reset_after=False),
            layers.LayerNormalization(name="norm"),
            layers.Dense(2, name="head"),
        ]
    )
    model.compile(framework.optimizers.RMSprop(1e-3, momentum=0.5, epsilon=0.1), "mse")
    return model


def _gru(params: Any, ids: Any) -> Any:
    """The same network in JAX, with Keras's layout of the cell."""
    x = params["words"]["embedding"][ids]
    cell, size = params["cell"], 3

    def step(h: Any, x: Any) -> Any:
        given = x @ cell["kernel"] + cell["bias"]
        z, r = jnp.split(
            jax.nn.sigmoid(
                given[:, : 2 * size] + h @ cell["recurrent_kernel"][:, : 2 * size]
            ),
            2,
            axis=1,
        )
        new = jnp.tanh(
            given[:, 2 * size :] + (r * h) @ cell["recurrent_kernel"][:, 2 * size :]
        )
        return z * h + (1 - z) * new, None

    h, _ = jax.lax.scan(step, jnp.zeros((len(ids), size)), x.swapaxes(0, 1))
    spread = (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + 1e-3)
    h = spread * params["norm"]["scale"] + params["norm"]["bias"]
    return h @ params["head"]["kernel"] + params["head"]["bias"]


def _gru_params() -> Any:
    return {
        "words": {"embedding": jnp.zeros((10, 4))},
        "cell": {
            "kernel": jnp.zeros((4, 9)),
            "recurrent_kernel": jnp.zeros((3, 9)),
            "bias": jnp.zeros(9),
        },
        "norm": {"scale": jnp.zeros(3), "bias": jnp.zeros(3)},
        "head": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)},
    }


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")  # Keras, JAX 0.12
@pytest.mark.slow
@pytest.mark.parametrize("source", ["model", "run.keras", "run.weights.h5"])
def test_a_keras_run_goes_on_here(source: str, tmp_path: Path) -> None:
    """20 steps there, 100 more on both sides, from the model and from its files."""
    framework = peer("keras", "keras")
    framework.utils.set_random_seed(0)
    model = _keras_model(framework)
    rng = np.random.default_rng(0)
    ids = rng.integers(10, size=(8, 5))
    targets = rng.normal(size=(8, 2)).astype(np.float32)
    model.fit(ids, targets, batch_size=8, epochs=20, verbose=0, shuffle=False)
    foreign: Any = model
    if source != "model":
        foreign = tmp_path / source
        (model.save if source == "run.keras" else model.save_weights)(foreign)
    tx, params = rmsprop(1e-3, momentum=0.5, epsilon=0.1), _gru_params()
    names = {"cell": "cell/gru_cell"}
    order = ["words/embedding", "cell/kernel", "cell/recurrent_kernel", "cell/bias"]
    order += ["norm/scale", "norm/bias", "head/kernel", "head/bias"]
    params, state = keras.import_run(
        foreign,
        params,
        tx.init(params),
        tx,
        names=names,
        order=None if source == "model" else order,
    )
    found = _gru(params, ids)
    np.testing.assert_allclose(found, model.predict(ids, verbose=0), rtol=1e-4, atol=1e-5)
    exported = keras.export_params(params, model, names=names)
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(exported[variable.path], variable.value)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            return jnp.mean((_gru(params, ids) - targets) ** 2)

        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(100):
        params, state = step(params, state)
    model.fit(ids, targets, batch_size=8, epochs=100, verbose=0, shuffle=False)
    after = keras.import_params(model, params, names=names)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5), params, after
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_keras_files_with_layers_of_ones_own(tmp_path: Path) -> None:
    framework = peer("keras", "keras")

    @framework.saving.register_keras_serializable()
    class Scale(framework.layers.Layer):
        def build(self, shape: Any) -> None:
            self.factor = self.add_weight(shape=(3,), name="factor")

        def call(self, x: Any) -> Any:
            return x * self.factor

    model = framework.Sequential([framework.Input((3,)), Scale(name="mine")])
    model.save_weights(tmp_path / "own.weights.h5")
    params = {"mine": {"factor": jnp.zeros(3)}}
    with pytest.raises(ValueError, match=r"The model has \['[a-z_0-9/]*mine/0'\]"):
        keras.import_params(tmp_path / "own.weights.h5", params)
    names = {"mine/factor": "mine/0"}
    moved = keras.import_params(tmp_path / "own.weights.h5", params, names=names)
    np.testing.assert_array_equal(moved["mine"]["factor"], model.layers[0].factor.value)
    with pytest.raises(TypeError, match="`foreign` must be a Keras model or its file"):
        keras.import_params(3, params)


def test_a_tf1_run(tmp_path: Path) -> None:
    real = peer("tensorflow", "tensorflow")
    v1 = real.compat.v1
    with real.Graph().as_default(), v1.Session() as session:
        w = v1.get_variable("net/w", initializer=real.constant([1.0, -2.0]))
        b = v1.get_variable("net/b", initializer=real.constant([3.0, 4.0]))
        step = v1.train.get_or_create_global_step()
        loss = real.reduce_sum(w**2) + real.reduce_sum(b**2)
        optimizer = v1.train.RMSPropOptimizer(0.1, momentum=0.9)
        train = optimizer.minimize(loss, global_step=step)
        session.run(v1.global_variables_initializer())
        for _ in range(3):
            session.run(train)
        prefix = v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), step)
        expected = session.run([w, b])
        for _ in range(5):
            session.run(train)
        after = session.run([w, b])
    params = {"w": jnp.zeros(2), "b": jnp.zeros(2)}
    tx = dialects.tf1(0.1, momentum=0.9)
    params, state = tf1.import_run(prefix, params, tx.init(params))
    np.testing.assert_array_equal(params["w"], expected[0])
    np.testing.assert_array_equal(params["b"], expected[1])
    for _ in range(5):
        grads = jax.tree.map(lambda p: 2 * p, params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], after[0], rtol=1e-5)
    np.testing.assert_allclose(params["b"], after[1], rtol=1e-5)


@pytest.mark.parametrize("held", ["all", "trained", "named"])
@pytest.mark.parametrize("freeze", ["masked", "partition"])
def test_a_torch_run_of_a_model_that_is_frozen_in_part(held: str, freeze: str) -> None:
    """The optimizer there has all parameters, or those that are trained."""
    pt = peer("torch", "torch")
    net = pt.nn.Sequential(pt.nn.Linear(3, 4), pt.nn.Linear(4, 2))
    net[0].requires_grad_(False)
    if held == "all":
        parameters: Any = net.parameters()
    elif held == "trained":
        parameters = net[1].parameters()
    else:
        parameters = net.named_parameters()
    optimizer = pt.optim.RMSprop(parameters, lr=1e-2)
    net(pt.ones(5, 3)).square().sum().backward()
    optimizer.step()
    run = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}

    def layer(rows: int, columns: int) -> Any:
        return {"kernel": jnp.zeros((rows, columns)), "bias": jnp.zeros(columns)}

    params = {"frozen": layer(3, 4), "out": layer(4, 2)}
    tx = dialects.torch(lr=1e-2)
    if freeze == "masked":
        tx = optax.masked(tx, {"frozen": False, "out": True})
    else:
        labels = {"frozen": "no", "out": "yes"}
        tx = optax.partition({"yes": tx, "no": optax.set_to_zero()}, labels)
    names = {"frozen": "0", "out": "1"}
    new, state = torch.import_run(run, params, tx.init(params), tx, names=names)
    np.testing.assert_array_equal(new["frozen"]["bias"], net[0].bias.detach())
    (nu,) = [x for _, x in optax.tree.get_all_with_path(state, "nu")]
    square = optimizer.state[net[1].weight]["square_avg"]
    np.testing.assert_array_equal(nu["out"]["kernel"], square.T)


def test_a_keras_run_of_a_model_that_is_frozen_in_part() -> None:
    library = peer("keras", "keras")
    model = library.Sequential(
        [library.Input((3,)), library.layers.Dense(4), library.layers.Dense(2)]
    )
    model.compile(library.optimizers.RMSprop(1e-2), "mse")
    model.layers[0].trainable = False
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    params = {
        name: {"kernel": jnp.zeros(w.kernel.shape), "bias": jnp.zeros(w.bias.shape)}
        for name, w in zip(("frozen", "out"), model.layers, strict=True)
    }
    tx = optax.masked(rmsprop(1e-2), {"frozen": False, "out": True})
    names = {"frozen": model.layers[0].name, "out": model.layers[1].name}
    new, state = keras.import_run(model, params, tx.init(params), tx, names=names)
    np.testing.assert_array_equal(new["frozen"]["kernel"], model.layers[0].kernel)
    assert float(optax.tree.get(state, "nu")["out"]["kernel"].max()) > 0


def test_values_that_the_other_side_cannot_hold() -> None:
    wide = {"w": np.array([7e4], np.float32)}
    for framework, source in ((torch, wide), (keras, _NamedWeights(wide))):
        with pytest.raises(ValueError, match="float16, which can't hold"):
            framework.import_params(source, {"w": jnp.ones(1, jnp.float16)})
    pt = peer("torch", "torch")
    for dtype, value in (("float16", 7e4), ("int32", 1.5), ("float32", 1j)):
        like = {"w": pt.zeros(1, dtype=getattr(pt, dtype))}
        with pytest.raises(ValueError, match="can't hold"):
            torch.export_params({"w": jnp.array([value])}, like)


class _NamedWeights:
    """What `keras.import_params` reads of a model."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        named = [type("Named", (), {"path": n, "value": x}) for n, x in arrays.items()]
        self.weights = named


def test_statistics_of_a_batch_norm() -> None:
    pt = peer("torch", "torch")
    norm = pt.nn.BatchNorm1d(3)
    norm(pt.randn(8, 3))
    leaves = {name: jnp.zeros(3) for name in ("scale", "bias", "mean", "var")}
    found = torch.import_params(norm.state_dict(), leaves)
    np.testing.assert_array_equal(found["mean"], norm.running_mean)
    np.testing.assert_array_equal(found["var"], norm.running_var)
    library = peer("keras", "keras")
    layer = library.layers.BatchNormalization()
    layer(np.ones((4, 3), np.float32), training=True)
    model = library.Sequential([library.Input((3,)), layer])
    found = keras.import_params(model, leaves)
    np.testing.assert_array_equal(found["mean"], layer.moving_mean)
    np.testing.assert_array_equal(found["var"], layer.moving_variance)


def test_two_layers_of_one_name_in_keras() -> None:
    library = peer("keras", "keras")

    def layer(name: str) -> Any:
        given = library.Input((3,))
        dense = library.layers.Dense(3, name="dense")
        return library.Model(given, dense(given), name=name)

    given = library.Input((3,))
    model = library.Model(given, layer("b")(layer("a")(given)))
    model.compile(library.optimizers.RMSprop(1e-2), "mse")
    params = {"dense": {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}}
    tx = rmsprop(1e-2)
    words = r"'dense/\w+' fits 2 weights.*\['dense/(\w+)', 'dense/\1'\]"
    with pytest.raises(ValueError, match=words):
        keras.import_params(model, params)
    with pytest.raises(ValueError, match=words):
        keras.export_params(params, model)
    with pytest.raises(ValueError, match=words):
        keras.import_run(model, params, tx.init(params), tx)
    model.optimizer.build(model.trainable_variables)
    state = tx.init({"a": params, "b": params})
    with pytest.raises(ValueError, match="comes first in the framework"):
        keras.import_state(model.optimizer, state, tx)


def test_two_parameters_of_one_path() -> None:
    params = {"fc/bias": jnp.zeros(2), "fc": {"bias": jnp.zeros(3)}}
    weights = {"fc.bias": np.ones(2, np.float32)}
    for framework, source in ((torch, weights), (keras, _NamedWeights(weights))):
        with pytest.raises(
            ValueError, match=r"the path 'fc/bias', of.*\(3,\) and \(2,\)"
        ):
            framework.import_params(source, params)


def test_the_longest_path_that_fits_a_name() -> None:
    arrays = {"weight": np.float32([1.0]), "out.weight": np.float32([2.0])}
    params = {"weight": jnp.zeros(1), "out": {"weight": jnp.zeros(1)}}
    found = torch.import_params(arrays, params)
    assert [float(x[0]) for x in (found["weight"], found["out"]["weight"])] == [1.0, 2.0]
