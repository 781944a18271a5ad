"""Every word in backquotes in a message is one that its reader can use."""

import ast
import builtins
import functools
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro

PACKAGE = Path(ro.__file__).parent
MODULES = {
    "rmsprop_optax": ro,
    "optax": optax,
    "jax": jax,
    "jnp": jnp,
    "np": np,
    "functools": functools,
    **{name: getattr(ro, name) for name in ("dialects", "interchange", "parallel")},
    **{name: getattr(ro, name) for name in ("sparse", "checkpoints")},
}
# What stands for something of the reader's own in an example.
EXAMPLES = {
    "tx",
    "model",
    "optimizer",
    "path",
    "param",
    "k",
    "n",
    "key",
    "params",
    "grads",
    "opt_state",
    "state",
}
EXAMPLES |= {"rest", "graphdef", "tree", "spec", "f"}
# Other libraries, which are not imported here.
OTHERS = {"nnx", "equinox", "copy", "scan", "model", "named_parameters", "state_dict"}
OTHERS |= {"keras", "optimizers"}
# Keys of the files of frameworks, and arguments of the functions of JAX.
FOREIGN = {"param_groups", "param_names", "state", "step", "velocity", "iteration"}
FOREIGN |= {"global_step", "inner_optimizer", "jax_enable_x64", "check_vma"}
FOREIGN |= {"static_args", "hyperparam_dtype", "weights_only", "map_location"}
FOREIGN |= {"dynamic_scale", "step_counter", "inner_states", "exclude_from_weight_decay"}
FOREIGN |= {"initial_lr", "scale", "growth_interval", "_growth_tracker", "cycle_momentum"}


class Message(NamedTuple):
    where: str
    text: str
    function: str  # the outermost one that it stands in, "module.name"


def _module(path: Path) -> str:
    parts = ("rmsprop_optax", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


TREES = {_module(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Functions at the top and methods, under the names of the classes."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node


def _text(node: ast.AST) -> str:
    """A string as it is written, with `X` in the place of what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    return str(node.value) if isinstance(node, ast.Constant) else "X"


def _strings(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    ):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _strings(child)


MESSAGES = [
    Message(f"{module}:{node.lineno}", _text(node), f"{module}.{name}")
    for module, tree in TREES.items()
    for name, definition in _definitions(tree)
    for node in _strings(definition)
    if "`" in _text(node)
]


def _quoted(text: str) -> list[str]:
    """What is in backquotes, but for the end of the name of a file, `.keras`."""
    return [found for found in re.findall("`([^`]+)`", text) if found[0] != "."]


def _public() -> dict[str, Any]:
    """The public functions and classes, by module and name of their definitions."""
    found = {}
    pending: list[Any] = [ro]
    seen = set()
    while pending:
        module = pending.pop()
        if module.__name__ in seen:
            continue
        seen.add(module.__name__)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.ismodule(value):
                pending.append(value)
            elif callable(value):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


PUBLIC = _public()


def _arguments(value: Any) -> set[str]:
    """The arguments of a function, or those of the methods of a class, and its fields."""
    if not inspect.isclass(value):
        return set(inspect.signature(value).parameters)
    methods = [member for member in vars(value).values() if inspect.isfunction(member)]
    names = {name for method in methods for name in inspect.signature(method).parameters}
    return names | {name for name in dir(value) if not name.startswith("_")}


ARGUMENTS = {name: _arguments(value) for name, value in PUBLIC.items()}
EXPORTED = {name.rpartition(".")[2] for name in PUBLIC} | set(MODULES)
KNOWN = set().union(*ARGUMENTS.values(), EXPORTED, EXAMPLES, FOREIGN, OTHERS)
# What an `init` and an `update` have.
OF_A_STEP = {"params", "updates", "grads", "opt_state", "state", "init", "update", "tx"}
# What a message tells to build a transformation with, or without.
OF_A_DIALECT = ARGUMENTS["rmsprop_optax._rmsprop.rmsprop"]
OF_NO_FUNCTION = EXPORTED | EXAMPLES | FOREIGN | OTHERS


def _resolves(node: ast.Attribute) -> bool:
    """Whether a name with dots is in its module; where that is known."""
    try:
        owner = ast.unparse(node.value)
        if owner.split(".")[0] not in MODULES:
            return True
        value: Any = MODULES[owner.split(".")[0]]
        for part in owner.split(".")[1:]:
            value = getattr(value, part)
        return node.attr == "X" or hasattr(value, node.attr)
    except AttributeError:
        return False


def _unknown(quoted: str) -> list[str]:
    """The words in an expression that are no name and no argument of anything."""
    try:
        tree = ast.parse(quoted.replace("...,", "").replace(", ...", ""))
    except SyntaxError:
        return [] if "X" in quoted else [quoted]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not _resolves(node):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Name) and node.id != "X":
            known = node.id in KNOWN or hasattr(builtins, node.id)
            found += [] if known else [node.id]
        elif isinstance(node, ast.keyword) and node.arg:
            found += [] if node.arg in KNOWN else [node.arg]
    return found


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 100
    assert len(PUBLIC) > 60


def test_no_unknown_word() -> None:
    found = [
        (message.where, word)
        for message in MESSAGES
        for quoted in _quoted(message.text)
        for word in _unknown(quoted)
    ]
    assert not found


@functools.cache
def _callers() -> dict[str, set[str]]:
    """For each definition those that name it, in its module and where it is imported."""
    callers = defaultdict(set)
    for module, tree in TREES.items():
        names = {name: f"{module}.{name}" for name, _ in _definitions(tree)}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module in TREES:
                names |= {
                    x.asname or x.name: f"{node.module}.{x.name}" for x in node.names
                }
        for name, definition in _definitions(tree):
            for node in ast.walk(definition):
                if isinstance(node, ast.Name) and node.id in names:
                    callers[names[node.id]].add(f"{module}.{name}")
    return callers


def _entries(function: str) -> set[str]:
    """The public functions through which a definition is reached, the nearest ones."""
    found, seen, pending = set(), set(), [function]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in PUBLIC:
            found.add(name)
        else:
            pending += _callers()[name]
    return found


def _lacks(argument_names: set[str], function: str) -> list[str]:
    """The public functions that lead to ``function`` and have none of the arguments.

    Where frameworks share a function, one of those that lead there has to have it.
    """
    entries = _entries(function)
    without = [name for name in entries if not argument_names & ARGUMENTS[name]]
    is_shared = ".interchange." in function or function.endswith(".checked_inner")
    return [] if is_shared and len(without) < len(entries) else without


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.where)
def test_the_called_function_has_the_argument(message: Message) -> None:
    """Of the arguments that a message names, each function has one at least.

    Unless the message names another function, whose arguments they may be.
    """
    quoted = _quoted(message.text)
    names = {name.partition("(")[0].rpartition(".")[2] for name in quoted}
    arguments = {name for name in quoted if name in KNOWN - OF_NO_FUNCTION}
    if names & EXPORTED or arguments & (OF_A_STEP | OF_A_DIALECT):
        return
    assert not arguments or not _lacks(arguments, message.function)


def _checked_names() -> Iterator[tuple[str, str, str]]:
    """The names that functions give to checks, which write them into messages."""
    for module, tree in TREES.items():
        for name, definition in _definitions(tree):
            for node in ast.walk(definition):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                    continue
                is_check = re.match(r"_?(check|as_rate|as_decay)", node.func.id)
                first = node.args[0] if node.args else None
                if is_check and isinstance(first, ast.Constant):
                    yield f"{module}:{node.lineno}", str(first.value), f"{module}.{name}"


@pytest.mark.parametrize(("where", "argument", "function"), list(_checked_names()))
def test_a_check_names_an_argument_of_the_function(
    where: str, argument: str, function: str
) -> None:
    assert not _lacks({argument}, function), where
