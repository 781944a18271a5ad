"""Files that declare more than they hold, or were changed: one error, no memory."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects, interchange, rmsprop

h5py = pytest.importorskip("h5py", reason="pip install h5py")


def _weights(*datasets: np.ndarray) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for i, array in enumerate(datasets):
            file[f"optimizer/vars/{i}"] = array
    return content.getvalue()


GOOD = (np.int32(30), np.float32(0.01), np.array([4.0, 9.0], np.float32))

_LIMITED = """
import resource, sys
import jax.numpy as jnp
from rmsprop_optax import dialects, interchange, rmsprop
kind, path = sys.argv[1:]
tx = rmsprop(0.01)
if kind == "torch":
    import torch
    tx = dialects.torch()
opt_state = tx.init({"w": jnp.ones(2)})
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, -1))
try:
    getattr(interchange, kind).import_state(path, opt_state, tx)
except ValueError as error:
    print(error)
"""


def _message(kind: str, path: Path) -> str:
    """What an import says that may allocate half a gigabyte."""
    command = [sys.executable, "-c", _LIMITED, kind, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and RLIMIT_AS")
def test_a_data_set_that_declares_gigabytes(tmp_path: Path) -> None:
    file = tmp_path / "huge.weights.h5"
    file.write_bytes(_weights(*GOOD[:2]))
    with h5py.File(file, "r+") as weights:
        weights.create_dataset("optimizer/vars/2", (2 * 10**9,), "float32", chunks=True)
    message = _message("keras", file)
    assert "optimizer/vars/2 of" in message
    assert "(2000000000,)" in message


@pytest.mark.parametrize("name", ["bomb.keras", "bomb.pt"])
def test_an_archive_that_expands(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(10**7))
    importing, tx = interchange.keras.import_state, rmsprop()
    if name.endswith("pt"):
        pytest.importorskip("torch", reason="needs torch")
        importing, tx = interchange.torch.import_state, dialects.torch()
    with pytest.raises(ValueError, match="is compressed"):
        importing(file, tx.init(jnp.ones(2)), tx)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and RLIMIT_AS")
def test_a_tensor_that_is_expanded(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'rmsprop_optax[parity]'")
    huge = torch.zeros(1, dtype=torch.bfloat16).expand(2 * 10**9)
    slots = {"step": torch.tensor(1.0), "square_avg": huge}
    state_dict = {"state": {0: slots}, "param_groups": [{"params": [0]}]}
    torch.save(state_dict, tmp_path / "huge.pt")
    message = _message("torch", tmp_path / "huge.pt")
    assert "`state[0]['square_avg']` has shape (2000000000,)" in message


def _outcome(kind: str, file: Path, tx: Any) -> Any:
    opt_state = tx.init({"w": jnp.ones(2)})
    try:
        return getattr(interchange, kind).import_state(file, opt_state, tx)
    except ValueError as error:
        if str(file) not in str(error) and "`" not in str(error):  # or the key
            raise
        return None


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".pt"])
def test_a_changed_byte_is_a_named_error_or_a_run(tmp_path: Path, suffix: str) -> None:
    """300 mutations. In an archive, whose CRC tells, none changes the state."""
    file, rng = tmp_path / f"run{suffix}", np.random.default_rng(0)
    kind, tx = "keras", rmsprop(0.01)
    if suffix == ".pt":
        torch = pytest.importorskip("torch", reason="needs torch")
        kind, tx = "torch", dialects.torch()
        slots = {"step": torch.tensor(1.0), "square_avg": torch.tensor([4.0, 9.0])}
        torch.save({"state": {0: slots}, "param_groups": [{"params": [0]}]}, file)
    elif suffix == ".keras":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model.weights.h5", _weights(*GOOD))
            archive.writestr("config.json", "{}")
    else:
        file.write_bytes(_weights(*GOOD))
    content = file.read_bytes()
    expected = _outcome(kind, file, tx)
    assert expected is not None
    changed = 0
    for _ in range(300):
        mutated = bytearray(content)
        for at in rng.integers(len(content), size=rng.integers(1, 4)):
            mutated[at] ^= 1 << int(rng.integers(8))
        cut = len(content) if rng.random() < 0.8 else int(rng.integers(len(content)))
        file.write_bytes(bytes(mutated[:cut]))
        found = _outcome(kind, file, tx)
        if found is not None:
            pairs = zip(expected[0], found[0], strict=True)
            changed += any(str(a) != str(b) for a, b in pairs)
    assert changed == 0 or suffix == ".weights.h5"


@pytest.mark.parametrize(
    ("name", "value"), [("lr", np.nan), ("lr", -1.0), ("alpha", np.inf), ("eps", -1.0)]
)
def test_numbers_of_a_group_are_checked(name: str, value: float) -> None:
    tx = optax.inject_hyperparams(dialects.torch)(lr=0.1)
    group = {"params": [0], "lr": 0.1, name: value}
    slots = {"step": 1.0, "square_avg": np.ones(2, np.float32)}
    state_dict = {"state": {0: slots}, "param_groups": [group]}
    with pytest.raises(ValueError, match=rf"`{name}` of `param_groups\[0\]` must be"):
        interchange.torch.import_state(state_dict, tx.init({"w": jnp.ones(2)}), tx)
