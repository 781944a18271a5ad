"""Files that declare more than they hold, or were changed: one error, no memory."""

import io
import json
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects, interchange, rmsprop
from tests.parity._installed import peer

h5py = pytest.importorskip("h5py", reason="pip install h5py")


def _weights(*datasets: np.ndarray) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for i, array in enumerate(datasets):
            file[f"optimizer/vars/{i}"] = array
    return content.getvalue()


GOOD = (np.int32(30), np.float32(0.01), np.array([4.0, 9.0], np.float32))

_LIMITED = """
import json, pathlib, resource, signal, sys
import jax.numpy as jnp
from rmsprop_optax import dialects, interchange, rmsprop
files = json.load(sys.stdin)
if any(file.endswith("pt") for file in files):
    import torch
txs = {"keras": rmsprop(0.01), "torch": dialects.torch()}
params = {"w": jnp.ones(2)}
states = {kind: tx.init(params) for kind, tx in txs.items()}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, -1))
for file in files:
    kind = "keras" if file.endswith(("h5", "keras")) else "torch"
    module, tx = getattr(interchange, kind), txs[kind]
    for read in (
        lambda: module.import_state(file, states[kind], tx),
        lambda: module.import_params(file, params, names={"w": "w/0"}),
    ):
        signal.alarm(20)
        try:
            print(json.dumps([pathlib.Path(file).name, str(read())]))
        except ValueError as error:
            print(json.dumps([pathlib.Path(file).name, str(error)]))
"""


def _messages(files: list[Path]) -> dict[str, list[str]]:
    """What imports say, by file: that of the state and that of the parameters.

    They may allocate half a gigabyte, and take seconds.
    """
    given = json.dumps([str(file) for file in files])
    command = [sys.executable, "-c", _LIMITED]
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, message = json.loads(line)
        found.setdefault(name, []).append(message)
    return found


def _array(dtype: Any) -> Callable[[Any], None]:
    return _both(lambda group, name: group.create_dataset(name, (2,), dtype))


def _both(write: Callable[[Any, str], Any]) -> Callable[[Any], None]:
    """One array of a strange kind as velocity, and as weight."""

    def put(file: Any) -> None:
        del file["optimizer/vars/2"]
        write(file["optimizer/vars"], "2")
        write(file.create_group("layers/w/vars"), "0")
        file["layers/w/vars"].attrs["name"] = "w"

    return put


def _two_ways(file: Any) -> None:
    group = file.create_group("layers/0")
    for i in range(40):
        inside = group.create_group(f"{i}a")
        group[f"{i}b"] = inside
        group = inside


def _circle(file: Any) -> None:
    group = file.create_group("layers/a/b")
    group["c"] = file["layers"]


def _one_vars(file: Any) -> None:
    file["layers/a/vars/0"] = GOOD[2]
    for i in range(9):
        file[f"layers/b{i}/vars"] = file["layers/a/vars"]


def _compressed(group: Any, name: str) -> None:
    dataset = group.create_dataset(
        name, (2,), "f4", maxshape=(None,), chunks=(2**28,), compression="gzip"
    )
    dataset.id.write_direct_chunk((0,), zlib.compress(bytes(64)))


def _many_names(file: Any) -> None:
    file["layers/w/vars/0"] = GOOD[2]
    kind = h5py.string_dtype()
    file["layers/w/vars"].attrs.create("name", ["w" * 10**4] * 100, dtype=kind)


def _long_name(file: Any) -> None:
    file["layers/w/vars/0"] = GOOD[2]
    file["layers/w/vars"].attrs["name"] = "w" * 10**4


def _linked_elsewhere(file: Any) -> None:
    file["layers/w/vars"] = h5py.ExternalLink("/dev/zero", "x")
    del file["optimizer/vars"]
    file["optimizer/vars"] = h5py.ExternalLink("/dev/zero", "x")


ARRAYS: dict[str, tuple[Any, str]] = {
    "wide": ("S1000000000", "not of numbers"),
    "compound": ([("a", "f4"), ("b", "S100000000")], "not of numbers"),
    "lengths": (h5py.vlen_dtype("f4"), "not of numbers"),
    "references": (h5py.ref_dtype, "not of numbers"),
}
GROUPS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "two_ways": (_two_ways, "", "linked twice"),
    "circle": (_circle, "", "'/layers/a/b/c' .* linked twice"),
    "one_vars": (_one_vars, "", "'/layers/.*/vars' .* linked twice"),
    "deep": (
        lambda file: file.create_group("layers/" + "a/" * 5000),
        "",
        "more than 64 groups",
    ),
    "many_names": (_many_names, "", "is no name"),
    "long_name": (_long_name, "", "is no name"),
    "elsewhere": (_linked_elsewhere, "holds no optimizer", r"The model has \[\]"),
    "compressed": (_both(_compressed), "vars/2 of .* compressed", "vars/0 of .* compr"),
    "nothing": (
        _both(lambda group, name: group.create_dataset(name, data=h5py.Empty("f4"))),
        r"has shape \(\)",
        r"has shape \(\)",
    ),
    "huge": (
        _both(lambda group, name: group.create_dataset(name, (2 * 10**9,), "f4")),
        r"has shape \(2000000000,\)",
        r"has shape \(2000000000,\)",
    ),
}


def _hdf5(write: Callable[[Any], None]) -> bytes:
    content = io.BytesIO(_weights(*GOOD))
    with h5py.File(content, "r+") as file:
        write(file)
    return content.getvalue()


def _archive(config: str, weights: bytes | None = None) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(
            "model.weights.h5", _weights(*GOOD) if weights is None else weights
        )
        archive.writestr("config.json", config)
    return content.getvalue()


def _on_two_disks() -> bytes:
    content = bytearray(_archive("{}"))
    content[content.rindex(b"PK\5\6") + 4] = 1
    # The record of a larger archive comes first: two disks of it are damage.
    locator = b"PK\6\7" + struct.pack("<IQI", 0, 0, 2)
    at = content.rindex(b"PK\5\6")
    return bytes(content[:at] + locator + content[at:])


def _archives() -> dict[str, tuple[bytes, str]]:
    deep, wide = '{"compile_config": ' + "[" * 10**6, "[" + "[]," * 6 * 10**6 + "[]]"
    return {
        "deep": (_archive(deep), "can't be read as Keras's"),
        "wide": (_archive(wide), "config.json has 18000004 bytes"),
        "nested": (_archive("{}", _archive("{}")), "can't be read as Keras's"),
        "two_disks": (_on_two_disks(), "can't be read: zipfiles that span"),
    }


SAFETENSORS = {
    "offsets": {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**60]}},
    "shape": {"w": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 8]}},
    "deep": {"w": json.loads("[" * 900 + "]" * 900)},
}


def _safetensors(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


def _torch_files() -> dict[str, tuple[Any, str]]:
    """What `torch.save` writes, and what an import of it says."""
    torch = peer("torch", "torch")
    doubled: Any = [1.0]
    for _ in range(40):
        doubled = [doubled, doubled]
    good = {"step": torch.tensor(1.0), "square_avg": torch.tensor([4.0, 9.0])}
    huge = torch.zeros(1, dtype=torch.bfloat16).expand(2 * 10**9)

    def run(slots: Any = good, **group: Any) -> Any:
        return {"state": {0: slots}, "param_groups": [{"params": [0], **group}]}

    return {
        "expanded": (
            run({**good, "square_avg": huge}),
            r"`state\[0\]\['square_avg'\]` has shape \(2000000000,\)",
        ),
        "step": (
            run({**good, "step": doubled}),
            r"`state\[0\]\['step'\]` must be a count",
        ),
        "list": (run({**good, "square_avg": doubled}), "must be an array, got \\[\\["),
        "number": (run(lr=doubled), r"`lr` of `param_groups\[0\]` must be a finite"),
        "params": (run(params=doubled), "must have a list of numbers in `params`"),
        "groups": ({**run(), "param_groups": {"a": doubled}}, "must have a list in"),
        "state": ({**run(), "state": doubled}, "no mapping of slots"),
    }


def _storages() -> dict[str, bytes]:
    """Both formats of PyTorch, with storages that are larger than the file."""
    torch = peer("torch", "torch")
    larger = struct.pack("<i", 2**30)
    found = {}
    for new in (True, False):
        content = io.BytesIO()
        torch.save({"w": torch.ones(77)}, content, _use_new_zipfile_serialization=new)
        changed = content.getvalue()
        if new:
            with zipfile.ZipFile(content) as old:
                members = {name: old.read(name) for name in old.namelist()}
            pickled = "archive/data.pkl"
            members[pickled] = members[pickled].replace(b"KM", b"J" + larger)
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w") as archive:
                for name, member in members.items():
                    archive.writestr(name, member)
            changed = content.getvalue()
        else:
            changed = changed.replace(b"KM", b"J" + larger)
        found[f"storage{int(new)}"] = changed
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and RLIMIT_AS")
def test_little_files_that_take_gigabytes_or_minutes_to_read(tmp_path: Path) -> None:
    expected: dict[str, tuple[str, str]] = {}
    cases = {
        name: (_array(dtype), rf"vars/2 of .* {words}", rf"vars/0 of .* {words}")
        for name, (dtype, words) in ARRAYS.items()
    }
    for name, (write, state, weights) in {**cases, **GROUPS}.items():
        (tmp_path / f"{name}.weights.h5").write_bytes(_hdf5(write))
        expected[f"{name}.weights.h5"] = (state, weights)
    for name, (content, words) in _archives().items():
        (tmp_path / f"{name}.keras").write_bytes(content)
        # The weights do not need the configuration, and it is not read.
        weights = r"The model has \[\]" if name in ("deep", "wide") else words
        expected[f"{name}.keras"] = (words, weights)
    found = _messages([tmp_path / name for name in expected])
    for name, words in expected.items():
        for message, pattern in zip(found[name], words, strict=True):
            assert re.search(pattern, message), (name, message)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and RLIMIT_AS")
def test_little_files_of_pytorch(tmp_path: Path) -> None:
    torch = peer("torch", "torch")
    expected: dict[str, tuple[str, str]] = {}
    for name, (content, words) in _torch_files().items():
        torch.save(content, tmp_path / f"{name}.pt")
        expected[f"{name}.pt"] = (words, "must be a mapping from names to tensors")
    for name, content in _storages().items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        expected[f"{name}.pt"] = ("can't be read", "can't be read")
    for name, header in SAFETENSORS.items():
        (tmp_path / f"{name}.safetensors").write_bytes(_safetensors(header))
        expected[f"{name}.safetensors"] = ("can't be read", "can't be read")
    found = _messages([tmp_path / name for name in expected])
    for name, words in expected.items():
        for message, pattern in zip(found[name], words, strict=True):
            assert re.search(pattern, message), (name, message)


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
