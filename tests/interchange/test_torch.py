"""Runs that start in PyTorch and end here, and the other way round."""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects, rmsprop
from rmsprop_optax.interchange import torch as interchange
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
from tests.parity._peers import timm_file

# PyTorch's order, not ours, which is sorted.
ORDER = ["scale", "dense/kernel", "dense/bias"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "centered": {"centered": True, "alpha": 0.9},
    "all": {"momentum": 0.9, "centered": True, "maximize": True},
    "decay": {"momentum": 0.5, "weight_decay": 0.01},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


class Theirs:
    """A PyTorch optimizer over the parameters of the problem, in its own order."""

    def __init__(self, params: Any, kind: str = "torch", **arguments: Any) -> None:
        self.torch = peer("torch", "torch")
        made = timm_file().RMSpropTF if kind == "timm" else self.torch.optim.RMSprop
        self.tensors = {n: self.torch.tensor(np.asarray(params[n])) for n in ORDER}
        self.optimizer = made(list(self.tensors.values()), **arguments)

    def train(self, given: Any, first: int, last: int) -> "Theirs":
        for t in range(first, last):
            for name, tensor in self.tensors.items():
                tensor.grad = self.torch.tensor(given.grads[name][t])
            self.optimizer.step()
        return self

    def params(self) -> Any:
        return {n: t.numpy() for n, t in self.tensors.items()}


@every_option
@pytest.mark.parametrize("kind", ["torch", "timm"])
def test_thirty_steps_there_and_thirty_here(kind: str, options: dict[str, Any]) -> None:
    options = {n: x for n, x in options.items() if kind == "torch" or n != "maximize"}
    given = problem()
    theirs = Theirs(given.params, kind, lr=0.01, **options).train(given, 0, HALF)
    tx = getattr(dialects, kind)(lr=0.01, **options)
    params = {n: jnp.asarray(p) for n, p in theirs.params().items()}
    state = interchange.import_state(
        theirs.optimizer.state_dict(), tx.init(params), tx, order=ORDER
    )
    mine = train(tx, Run(params, state), given, HALF, WHOLE)
    assert_close(mine.params, theirs.train(given, HALF, WHOLE).params(), given)


@every_option
@pytest.mark.parametrize("kind", ["torch", "timm"])
def test_thirty_steps_here_and_thirty_there(kind: str, options: dict[str, Any]) -> None:
    options = {n: x for n, x in options.items() if kind == "torch" or n != "maximize"}
    given = problem(1)
    whole = Theirs(given.params, kind, lr=0.01, **options).train(given, 0, WHOLE)
    tx = getattr(dialects, kind)(lr=0.01, **options)
    mine = train(tx, start(tx, given.params), given, 0, HALF)
    theirs = Theirs(mine.params, kind, lr=0.01, **options)
    theirs.optimizer.load_state_dict(
        interchange.export_state(
            mine.state, theirs.optimizer.state_dict(), tx, order=ORDER
        )
    )
    assert_close(theirs.train(given, HALF, WHOLE).params(), whole.params(), given)


@every_option
def test_there_and_back_again_loses_nothing(options: dict[str, Any]) -> None:
    given = problem(2)
    theirs = Theirs(given.params, lr=0.01, **options).train(given, 0, HALF)
    before = theirs.optimizer.state_dict()
    tx = dialects.torch(lr=0.01, **options)
    state = interchange.import_state(before, tx.init(given.params), tx, order=ORDER)
    after = interchange.export_state(state, before, tx, order=ORDER)
    assert after["param_groups"] == before["param_groups"]
    for index, slots in before["state"].items():
        for name, tensor in slots.items():
            np.testing.assert_array_equal(after["state"][index][name], tensor)
    again = interchange.import_state(after, tx.init(given.params), tx, order=ORDER)
    assert_same_bits(again, state)


def test_parameter_groups_are_a_partition() -> None:
    torch = peer("torch", "torch")
    given = problem(3)
    tensors = {n: torch.tensor(p) for n, p in given.params.items()}
    groups = {"a": dict(lr=0.02, momentum=0.9), "b": dict(lr=0.01, centered=True)}
    optimizer = torch.optim.RMSprop(
        [
            {"params": [tensors["dense/kernel"]], **groups["a"]},
            {"params": [tensors["scale"], tensors["dense/bias"]], **groups["b"]},
        ]
    )
    for t in range(HALF):
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(given.grads[name][t])
        optimizer.step()
    labels = {"dense/kernel": "a", "scale": "b", "dense/bias": "b"}
    tx = optax.partition({g: dialects.torch(**a) for g, a in groups.items()}, labels)
    params = {n: jnp.array(t.numpy()) for n, t in tensors.items()}
    order = ["dense/kernel", "scale", "dense/bias"]
    before = optimizer.state_dict()
    state = interchange.import_state(before, tx.init(params), tx, order=order)
    back = interchange.export_state(state, before, tx, order=order)
    np.testing.assert_array_equal(
        back["state"][1]["grad_avg"], before["state"][1]["grad_avg"]
    )
    mine = train(tx, Run(params, state), given, HALF, WHOLE)
    for t in range(HALF, WHOLE):
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(given.grads[name][t])
        optimizer.step()
    assert_close(mine.params, {n: t.numpy() for n, t in tensors.items()}, given)


def test_labels_of_a_partition_do_not_change_the_order_of_the_parameters() -> None:
    """Two parameters of one shape, and labels that sort the other way round."""
    torch = peer("torch", "torch")
    a, b = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = torch.optim.RMSprop([{"params": [a], "lr": 0.1}, {"params": [b]}])
    ((a**2).sum() + 100 * (b**2).sum()).backward()
    optimizer.step()
    params = {"a_head": jnp.ones(3), "b_body": jnp.ones(3)}
    tx = optax.partition(
        {"head": dialects.torch(lr=0.1), "body": dialects.torch()},
        {"a_head": "head", "b_body": "body"},
    )
    before = optimizer.state_dict()
    state = interchange.import_state(before, tx.init(params), tx, order=list(params))
    nu = {
        name: float(moment[name][0])
        for _, moment in optax.tree.get_all_with_path(state, "nu")
        for name in params
        if hasattr(moment[name], "shape")
    }
    assert nu == pytest.approx({"a_head": 0.04, "b_body": 400.0})
    back = interchange.export_state(state, before, tx, order=list(params))
    for i in range(2):
        np.testing.assert_array_equal(
            back["state"][i]["square_avg"], before["state"][i]["square_avg"]
        )


def test_names_instead_of_an_order_and_transposed_weights() -> None:
    torch = peer("torch", "torch")
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.RMSprop(layer.named_parameters(), lr=0.01, momentum=0.9)
    layer(torch.arange(6.0).reshape(2, 3)).square().sum().backward()
    optimizer.step()
    tx = dialects.torch(lr=0.01, momentum=0.9)
    params = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
    order = {"kernel": "weight", "bias": "bias"}
    convert = {"kernel": np.transpose}
    before = optimizer.state_dict()
    state = interchange.import_state(
        before, tx.init(params), tx, order=order, convert=convert
    )
    theirs = before["state"][0]["square_avg"].numpy()
    np.testing.assert_array_equal(optax.tree.get(state, "nu")["kernel"], theirs.T)
    back = interchange.export_state(state, before, tx, order=order, convert=convert)
    np.testing.assert_array_equal(back["state"][0]["square_avg"], theirs)
    optimizer.load_state_dict(back)


def test_complex_parameters() -> None:
    torch = peer("torch", "torch")
    rng = np.random.default_rng(0)
    grads = np.complex64(rng.normal(size=(WHOLE, 4)) + 100j * rng.normal(size=(WHOLE, 4)))
    tensor = torch.tensor(np.ones(4, np.complex64))
    optimizer = torch.optim.RMSprop([tensor], momentum=0.9, centered=True)
    for gradient in grads[:HALF]:
        tensor.grad = torch.tensor(gradient)
        optimizer.step()
    tx = dialects.torch(momentum=0.9, centered=True)
    params = jnp.array(tensor.numpy())  # a copy: PyTorch changes the tensor in place
    before = optimizer.state_dict()
    state = interchange.import_state(before, tx.init(params), tx)
    back = interchange.export_state(state, before, tx)
    for name in ("square_avg", "grad_avg", "momentum_buffer"):
        np.testing.assert_array_equal(back["state"][0][name], before["state"][0][name])
    for gradient in grads[HALF:]:
        tensor.grad = torch.tensor(gradient)
        optimizer.step()
        updates, state = tx.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, tensor.numpy(), rtol=1e-5)


def test_an_injected_learning_rate_travels() -> None:
    given = problem()
    theirs = Theirs(given.params, lr=0.01, momentum=0.9).train(given, 0, HALF)
    theirs.optimizer.param_groups[0]["lr"] = 0.0025
    tx = optax.inject_hyperparams(dialects.torch)(lr=0.5, momentum=0.5, weight_decay=0.0)
    params = {n: jnp.asarray(p) for n, p in theirs.params().items()}
    before = theirs.optimizer.state_dict()
    state = interchange.import_state(before, tx.init(params), tx, order=ORDER)
    assert float(state.hyperparams["lr"]) == np.float32(0.0025)
    assert float(state.hyperparams["momentum"]) == np.float32(0.9)
    mine = train(tx, Run(params, state), given, HALF, WHOLE)
    assert_close(mine.params, theirs.train(given, HALF, WHOLE).params(), given)
    mine.state.hyperparams["lr"] = jnp.asarray(0.125)
    back = interchange.export_state(mine.state, before, tx, order=ORDER)
    assert back["param_groups"][0]["lr"] == 0.125


def test_a_file_is_read_without_pickle(tmp_path: Path) -> None:
    torch = peer("torch", "torch")
    given = problem()
    theirs = Theirs(given.params, lr=0.01).train(given, 0, 3)
    before = theirs.optimizer.state_dict()
    tx = dialects.torch(lr=0.01)
    place = tx.init(given.params)
    expected = interchange.import_state(before, place, tx, order=ORDER)
    torch.save({"optimizer": before, "epoch": 3}, tmp_path / "run.pt")
    read = interchange.import_state(
        tmp_path / "run.pt", place, tx, order=ORDER, key="optimizer"
    )
    assert_same_bits(read, expected)
    with pytest.raises(ValueError, match=r"lacks 'optim': it holds \['optimizer', 'e"):
        interchange.import_state(tmp_path / "run.pt", place, tx, key="optim")
    with pytest.raises(ValueError, match=r"got \['optimizer', 'epoch'\].*`key`"):
        interchange.import_state(tmp_path / "run.pt", place, tx)

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "owned",)

    torch.save({"state": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="weights_only"):
        interchange.import_state(tmp_path / "evil.pt", place, tx)
    assert not (tmp_path / "owned").exists()
    torch.save({"state": {}, "args": argparse.Namespace(lr=0.01)}, tmp_path / "timm.pt")
    with pytest.raises(ValueError, match=r"argparse\.Namespace.*=False\)` returns") as e:
        interchange.import_state(tmp_path / "timm.pt", place, tx)
    assert len(str(e.value)) < 500
    assert str(e.value).isprintable()
    whole = (tmp_path / "run.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.pt' can't be read"):
        interchange.import_state(tmp_path / "cut.pt", place, tx)
    with pytest.raises(FileNotFoundError):
        interchange.import_state(tmp_path / "none.pt", place, tx)


def test_a_checkpoint_of_lightning(tmp_path: Path) -> None:
    """Its weights have the name of an attribute in front, its optimizers are a list."""
    torch = peer("torch", "torch")
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    run = {
        "state_dict": {f"model.{n}": x for n, x in model.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": {"lr": 0.1},
    }
    torch.save(run, tmp_path / "last.ckpt")
    tx = dialects.torch(lr=0.1)
    params = {"kernel": jnp.zeros((2, 1)), "bias": jnp.zeros(1)}
    keys = {"model": "state_dict", "optimizer": "optimizer_states"}
    moved, state = interchange.import_run(
        tmp_path / "last.ckpt", params, tx.init(params), tx, **keys
    )
    expected = interchange.import_run(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict()},
        params,
        tx.init(params),
        tx,
    )
    assert_same_bits((moved, state), expected)
    run["optimizer_states"] *= 2
    with pytest.raises(ValueError, match="is a list of 2: give"):
        interchange.import_run(run, params, tx.init(params), tx, **keys)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_no_tensor_and_no_number_is_named() -> None:
    torch = peer("torch", "torch")
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    tx = dialects.torch()
    place = tx.init({"w": jnp.ones(2)})

    def run(value: Any, params: Any = (0,)) -> Any:
        slots = {"step": 1.0, "square_avg": value}
        return {"state": {0: slots}, "param_groups": [{"params": list(params)}]}

    with pytest.raises(
        ValueError, match=r"`state\[0\]\['square_avg'\]` must be an array"
    ):
        interchange.import_state(run(nested), place, tx)
    with pytest.raises(ValueError, match=r"list of numbers in `params`.*got \[False\]"):
        interchange.import_state(run(torch.ones(2), [False]), place, tx)
    for weights, said in (({0: torch.ones(2)}, "0: tensor"), ({"w": nested}, "'w': ")):
        with pytest.raises(ValueError, match=f"from names to tensors.*got {said}"):
            interchange.import_params(weights, {"w": jnp.ones(2)})


def test_frozen_parameters_keep_what_they_have() -> None:
    torch = peer("torch", "torch")
    a, b = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    b.requires_grad = False
    optimizer = torch.optim.RMSprop([a, b], lr=0.1, momentum=0.9)
    (a**2).sum().backward()
    optimizer.step()
    before = optimizer.state_dict()
    tx = dialects.torch(lr=0.1, momentum=0.9)
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    place = tx.init(params)
    with pytest.raises(ValueError, match=r"lacks an entry for \['b'\].*fresh=\['b'\]"):
        interchange.import_state(before, place, tx)
    state = interchange.import_state(before, place, tx, fresh=["b"])
    nu = optax.tree.get(state, "nu")
    np.testing.assert_array_equal(nu["a"], before["state"][0]["square_avg"])
    np.testing.assert_array_equal(nu["b"], np.zeros(2))
    with pytest.raises(ValueError, match=r"`fresh` names \['a'\]"):
        interchange.import_state(before, place, tx, fresh=["a", "b"])
    # The frozen one is not there at all: None stands for it in the order.
    place = tx.init({"a": jnp.ones(3)})
    state = interchange.import_state(before, place, tx, order=["a", None])
    np.testing.assert_array_equal(optax.tree.get(state, "nu")["a"], nu["a"])
    back = interchange.export_state(state, before, tx, order=["a", None])
    assert list(back["state"]) == [0]
    optimizer.load_state_dict(back)
    place = tx.init({"b": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"holds \[0\]"):
        interchange.import_state(before, place, tx, order=[None, "b"], fresh=["b"])


def test_numbers_of_the_groups_are_compared() -> None:
    torch = peer("torch", "torch")
    a, b = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [a], "lr": 7e-4, "eps": 1e-5}, {"params": [b], "lr": 3e-4}]
    optimizer = torch.optim.RMSprop(groups)
    ((a**2).sum() + (b**2).sum()).backward()
    optimizer.step()
    before, params = optimizer.state_dict(), {"a": jnp.ones(3), "b": jnp.ones(2)}
    two = {"a": dialects.torch(lr=7e-4, eps=1e-5), "b": dialects.torch(lr=3e-4)}
    clip = optax.clip_by_global_norm(1.0)
    right = optax.chain(clip, optax.partition(two, {"a": "a", "b": "b"}))
    order = ["a", "b"]
    with pytest.raises(ValueError, match=r"2 parameter groups and no names.*`order`"):
        interchange.import_state(before, right.init(params), right)
    interchange.import_state(before, right.init(params), right, order=order)
    swapped = optax.partition(two, {"a": "b", "b": "a"})
    wrong: list[tuple[Any, str]] = [
        (two["a"], r"`lr` of `param_groups\[1\]` is 0.0003.*lr=0.0007.*ignore=\('lr',\)"),
        (dialects.torch(lr=7e-4), r"`eps` of `param_groups\[0\]` is 1e-05.*eps=1e-08"),
        (swapped, r"`lr` of `param_groups\[0\]` is 0.0007"),
        (rmsprop(7e-4, 0.99, epsilon=1e-5), r"eps_in_sqrt=False.*`dialects\.torch\(lr=0"),
        (dialects.timm(7e-4), r"initial_scale|eps_in_sqrt=False"),
        (optax.rmsprop(7e-4), r"No `rmsprop` and no dialect in `tx` trains \['a', 'b'\]"),
    ]
    for tx, words in wrong:
        with pytest.raises(ValueError, match=words):
            interchange.import_state(before, tx.init(params), tx, order=order)
    tx = two["a"]
    given: dict[str, Any] = {"order": order, "ignore": ("lr", "eps")}
    interchange.import_state(before, tx.init(params), tx, **given)
    with pytest.raises(ValueError, match=r"`ignore` names \['rho'\]"):
        interchange.import_state(before, tx.init(params), tx, order=order, ignore=["rho"])
    with pytest.raises(ValueError, match=r"`lr` of `param_groups\[1\]`"):
        interchange.export_state(tx.init(params), before, tx, order=order)
    # A schedule has no one number to compare.
    tx = dialects.torch(optax.constant_schedule(1.0))
    interchange.import_state(before, tx.init(params), tx, order=order, ignore=("eps",))


def test_parameters_of_one_shape_are_not_exchanged() -> None:
    torch = peer("torch", "torch")
    layer = torch.nn.LayerNorm(3)
    tx = dialects.torch()
    for given, order in (
        (layer.parameters(), ["scale", "bias"]),
        (layer.named_parameters(), {"scale": "weight", "bias": "bias"}),
    ):
        optimizer = torch.optim.RMSprop(given)
        layer(torch.arange(6.0).reshape(2, 3)).square().sum().backward()
        optimizer.step()
        before = optimizer.state_dict()
        place = tx.init({"bias": jnp.zeros(3), "scale": jnp.ones(3)})
        with pytest.raises(ValueError, match=r"Which of \['bias', 'scale'\] comes first"):
            interchange.import_state(before, place, tx)
        state = interchange.import_state(before, place, tx, order=order)
        nu = optax.tree.get(state, "nu")
        np.testing.assert_array_equal(nu["scale"], before["state"][0]["square_avg"])
    # Its own names tell which is which.
    place = tx.init({"weight": jnp.ones(3), "bias": jnp.zeros(3)})
    state = interchange.import_state(before, place, tx)
    np.testing.assert_array_equal(
        optax.tree.get(state, "nu")["weight"], before["state"][0]["square_avg"]
    )


# What follows needs no PyTorch: a state dictionary of NumPy arrays.


def _state_dict(**slots: Any) -> dict[str, Any]:
    whole = {"step": 5.0, "square_avg": np.ones((2, 3), np.float32), **slots}
    return {"state": {0: whole}, "param_groups": [{"lr": 0.01, "params": [0]}]}


def _import(foreign: Any, tx: Any = None, **given: Any) -> Any:
    tx = dialects.torch() if tx is None else tx
    opt_state = tx.init({"w": jnp.zeros((2, 3))})
    return interchange.import_state(foreign, opt_state, tx, **given)


def _with(change: Any) -> dict[str, Any]:
    made = _state_dict()
    change(made)
    return made


@pytest.mark.parametrize(
    ("foreign", "words"),
    [
        (
            _state_dict(square_avg=np.ones((3, 2), np.float32)),
            "`state[0]['square_avg']` "
            "has shape (3, 2), the parameter 'w' has shape (2, 3)",
        ),
        (
            _state_dict(square_avg=np.full((2, 3), np.nan, np.float32)),
            "`state[0]['square_avg']` holds nan at [0, 0]",
        ),
        (_state_dict(square_avg=np.full((2, 3), -1, np.float32)), "numbers below 0"),
        (_state_dict(square_avg=np.ones((2, 3))), "is float64, 'w' is kept in float32"),
        (_state_dict(square_avg=np.ones((2, 3), int)), "floating-point numbers, got int"),
        (_state_dict(square_avg=np.ones((2, 3), np.complex64)), "complex"),
        (_state_dict(exp_avg=1), "`state[0]` holds ['exp_avg'], unknown to RMSprop"),
        (
            _state_dict(momentum_buffer=np.ones((2, 3), np.float32)),
            "`state[0]` holds `momentum_buffer`, and the optimizer state has no place",
        ),
        (_state_dict(grad_avg=np.ones((2, 3), np.float32)), "holds `grad_avg`"),
        (_state_dict(step=2.5), "`state[0]['step']` must be a count, got 2.5"),
        (_with(lambda s: s["state"][0].pop("square_avg")), "`state[0]` lacks ['square"),
        (_with(lambda s: s["state"].pop(0)), "fresh=['w']"),
        (_with(lambda s: s["state"].update({7: {}})), "holds [7]"),
        (
            _with(lambda s: s["param_groups"][0].pop("params")),
            "lacks `param_groups[0]['params']`",
        ),
        (_with(lambda s: s["param_groups"][0]["params"].append(1)), "has 2 parameters"),
        ({"model": {}}, "must hold `state` and `param_groups`, got ['model']"),
    ],
)
def test_what_does_not_fit_is_named(foreign: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as raised:
        _import(foreign)
    assert words in str(raised.value)


def test_slots_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match=r"`state\[0\]` lacks `momentum_buffer`"):
        _import(_state_dict(), dialects.torch(momentum=0.9))
    with pytest.raises(ValueError, match=r"`state\[0\]` lacks `grad_avg`"):
        _import(_state_dict(), dialects.torch(centered=True))


def test_steps_that_differ_are_named() -> None:
    foreign = {
        "state": {i: {"step": i, "square_avg": np.ones(1, np.float32)} for i in (1, 2)},
        "param_groups": [{"params": [1, 2]}],
    }
    tx = dialects.torch()
    state = tx.init({"a": jnp.zeros(1), "b": jnp.zeros(1)})
    with pytest.raises(ValueError, match=r"different steps, \{'a': 1, 'b': 2\}"):
        interchange.import_state(foreign, state, tx, order=["a", "b"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"order": ["v"]}, r"`order` names \['v'\].*trained here are \['w'\]"),
        ({"order": ["w", "w"]}, r"repeats \['w'\]"),
        ({"order": []}, r"`order` must name every parameter once.*\['w'\]"),
        ({"order": {"w": "weight"}}, "has no `param_names`"),
        ({"convert": {"v": np.transpose}}, r"`convert` names \['v'\]"),
    ],
)
def test_orders_that_do_not_fit(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _import(_state_dict(), **given)


def test_two_parameters_of_one_name_in_an_order() -> None:
    slots = {"step": 1.0, "square_avg": np.ones(2, np.float32)}
    names = ["net.a", "net.b"]
    foreign = {
        "state": {0: slots, 1: slots},
        "param_groups": [{"params": [0, 1], "param_names": names}],
    }
    tx = dialects.torch()
    state = tx.init({"x": jnp.zeros(2), "y": jnp.zeros(2)})
    interchange.import_state(foreign, state, tx, order={"x": "net.a", "y": "b"})
    with pytest.raises(ValueError, match=r"'x' and 'y' both look for 'net\.a'.*`order`"):
        interchange.import_state(foreign, state, tx, order={"x": "net.a", "y": "net.a"})
    names[1] = "net.a"
    with pytest.raises(ValueError, match=r"repeats \['x'\]"):
        interchange.import_state(foreign, state, tx, order={"x": "net.a", "y": "net.b"})


def test_what_is_around_the_update_is_not_of_the_optimizer() -> None:
    """A loop of PyTorch's may clip and accumulate by itself; its formula is another's."""
    slots = {"step": 1.0, "square_avg": np.ones(2, np.float32)}
    group = {"params": [0], "lr": 0.1, "alpha": 0.9, "eps": 1e-10, "lr_in_momentum": True}
    foreign = {"state": {0: slots}, "param_groups": [group]}
    tx = rmsprop(0.1, epsilon=1e-10, clipnorm=1.0, gradient_accumulation_steps=2)
    interchange.import_state(foreign, tx.init({"w": jnp.ones(2)}), tx)


def test_another_kind_of_momentum_is_refused() -> None:
    buffer = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"learning rate outside.*`dialects\.torch`"):
        _import(_state_dict(momentum_buffer=buffer), rmsprop(momentum=0.9))


def test_what_pytorch_cannot_hold_is_refused() -> None:
    peer("torch", "torch")
    params = {"w": jnp.zeros((2, 3))}
    like = _state_dict()
    for arguments, words in (
        ({"use_ema": True}, "no place for the average of the parameters"),
        ({"gradient_accumulation_steps": 2}, "no place for accumulated gradients"),
        ({"skip_nonfinite": True}, "no place for the count of skipped steps"),
        ({"momentum": 0.9}, "learning rate"),
    ):
        tx: Any = rmsprop(0.01, **arguments)
        with pytest.raises(ValueError, match=words):
            interchange.export_state(tx.init(params), like, tx)
    tx = optax.chain(dialects.torch(), optax.ema(0.9))
    state = tx.init(params)
    with pytest.raises(ValueError, match="belongs to no transformation of this library"):
        interchange.export_state(state, like, tx)
    like["param_groups"][0]["momentum"] = 0.9
    tx = dialects.torch()
    with pytest.raises(ValueError, match=r"momentum=0\.9, lacks `momentum_buffer`"):
        interchange.export_state(tx.init(params), like, tx, ignore=("momentum",))
    tx = optax.adam(0.1)
    with pytest.raises(ValueError, match="holds no second moment"):
        interchange.export_state(tx.init(params), like, tx)


def test_the_place_keeps_its_dtype_and_sharding() -> None:
    mesh = jax.make_mesh((8,), ("data",))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    params = {"w": jax.device_put(jnp.zeros((8, 2), jnp.bfloat16), sharding)}
    tx = dialects.torch()
    state = tx.init(params)
    values = np.arange(16, dtype=np.float32).reshape(8, 2)
    after = interchange.import_state(_state_dict(square_avg=values), state, tx)
    nu = optax.tree.get(after, "nu")["w"]
    assert nu.sharding == optax.tree.get(state, "nu")["w"].sharding
    assert nu.dtype == jnp.float32
    np.testing.assert_array_equal(nu, values)


def _two_groups(state: bool = True) -> dict[str, Any]:
    slots = {"step": 1.0, "square_avg": np.ones(2, np.float32)}
    groups = [{"params": [i], "lr": rate} for i, rate in enumerate((0.1, 0.2))]
    return {"state": {0: slots, 1: slots} if state else {}, "param_groups": groups}


def test_injected_numbers_of_each_group_travel() -> None:
    peer("torch", "torch")  # which makes the tensors of `export_state`
    inject = optax.inject_hyperparams(dialects.torch)
    tx = optax.partition({"x": inject(0.5), "y": inject(0.7)}, {"a": "x", "b": "y"})
    opt_state = tx.init({"a": jnp.ones(2), "b": jnp.ones(2)})
    order = ["a", "b"]
    found = interchange.import_state(_two_groups(), opt_state, tx, order=order)
    rates = [float(x) for _, x in optax.tree.get_all_with_path(found, "lr")]
    assert rates == pytest.approx([0.1, 0.2])
    back = interchange.export_state(found, _two_groups(False), tx, order=order, step=1)
    assert [g["lr"] for g in back["param_groups"]] == pytest.approx([0.1, 0.2])
    one = {"state": {}, "param_groups": [{"params": [0, 1], "lr": 0.1}]}
    with pytest.raises(ValueError, match="they are two groups"):
        interchange.export_state(found, one, tx, order=order, step=1)
    alone = inject(0.5)
    state = alone.init({"a": jnp.ones(2), "b": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"use|build it with `optax\.partition`"):
        interchange.import_state(_two_groups(), state, alone, order=order)


def test_injected_numbers_under_other_names_are_compared() -> None:
    make = optax.inject_hyperparams(lambda rate, decay: dialects.torch(rate, alpha=decay))
    foreign = _state_dict(square_avg=np.ones((2, 3), np.float32))
    foreign["param_groups"][0] |= {"alpha": 0.5}
    for decay, fits in ((0.5, True), (0.99, False)):
        tx = make(foreign["param_groups"][0].get("lr", 0.01), decay)
        if fits:
            _import(foreign, tx)
        else:
            with pytest.raises(ValueError, match="`alpha` of"):
                _import(foreign, tx)


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (
            {"decoupled_decay": True},
            {"corrected_weight_decay": True},
            "rected_weight_decay=T",
        ),
        (
            {"decoupled_decay": True, "corrected_weight_decay": True},
            {"corrected_weight_decay": False},
            "corrected_weight_decay=False",
        ),
        ({"decoupled_decay": True}, {"decoupled_decay": False}, "weight_decay"),
        ({}, {"weight_decay": 0.0, "decoupled_decay": True}, "weight_decay"),
    ],
)
def test_the_decays_of_timm_are_compared(ours: Any, theirs: Any, words: str) -> None:
    group = {"params": [0], "lr": 0.1, "alpha": 0.9, "eps": 1e-10, "momentum": 0.0}
    group |= {"weight_decay": 0.1, "lr_in_momentum": True, "decoupled_decay": False}
    slots = {"step": 1.0, "square_avg": np.ones(2, np.float32)}
    tx = dialects.timm(0.1, weight_decay=0.1, **ours)
    state = tx.init({"w": jnp.ones(2)})
    same = {"state": {0: slots}, "param_groups": [group | ours]}
    interchange.import_state(same, state, tx)
    other = {"state": {0: slots}, "param_groups": [group | ours | theirs]}
    with pytest.raises(ValueError, match=words):
        interchange.import_state(other, state, tx)


@pytest.mark.parametrize(
    "change",
    [
        {"param_groups": {}},
        {"param_groups": [1]},
        {"param_groups": [{"params": 0}]},
        {"param_groups": [{"params": [0], "param_names": [3]}]},
        {"state": {0: 5}},
        {"state": []},
        {"param_groups": [{"params": [0]}, {"params": [0]}]},
        {"param_groups": [{"params": [0], "alpha": 1.5}]},
    ],
)
def test_a_state_dict_of_another_form_is_named(change: Any) -> None:
    foreign = _state_dict(square_avg=np.ones((2, 3), np.float32)) | change
    with pytest.raises(ValueError, match=r"param_groups|state"):
        _import(foreign)


@pytest.mark.parametrize("kind", ["sparse", "float8", "conj"])
def test_tensors_that_are_no_plain_arrays(kind: str) -> None:
    torch = peer("torch", "torch")
    tensor = {
        "sparse": lambda: torch.ones(2, 3).to_sparse(),
        "float8": lambda: torch.ones(2, 3).to(torch.float8_e4m3fn),
        "conj": lambda: torch.ones(2, 3, dtype=torch.complex64).conj(),
    }[kind]()
    with pytest.raises(ValueError, match="square_avg"):
        _import(_state_dict(square_avg=tensor))


def test_moments_in_bfloat16() -> None:
    values = jnp.full((2, 3), 1.5, jnp.bfloat16)
    found = _import(_state_dict(square_avg=np.asarray(values)))
    np.testing.assert_array_equal(optax.tree.get(found, "nu")["w"], values)


def test_moments_that_the_storage_cannot_hold() -> None:
    foreign = _state_dict(square_avg=np.full((2, 3), 1e6, np.float32))
    tx = dialects.torch(moment_storage="float16")
    with pytest.raises(ValueError, match="moment_storage"):
        _import(foreign, tx)
