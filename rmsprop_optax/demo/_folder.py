"""The folder of a run: what is in it, which one is new, which one goes on."""

import json
from pathlib import Path
from typing import Any

SETTINGS = "settings.json"
DEFAULT = "rmsprop_run"


class FolderError(Exception):
    """A folder that can't be used; the message is one line."""


def _numbered() -> list[Path]:
    """The default folders that hold a run, oldest first, and the next free one."""
    folders = [Path(DEFAULT)]
    while folders[-1].exists():
        folders.append(Path(f"{DEFAULT}_{len(folders) + 1}"))
    return folders


def start(folder: str | None, settings: dict[str, Any]) -> Path:
    """Makes the folder of a new run, and writes down what it is."""
    path = Path(folder) if folder is not None else _numbered()[-1]
    if (path / SETTINGS).exists():
        raise FolderError(
            f"{path} holds a run already: go on with it (--resume), or name another "
            "folder (--folder)."
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    except OSError as error:
        raise FolderError(f"Can't write to {path}: {error.strerror}.") from error
    return path


def find(folder: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder of a run that can go on, and what the run is."""
    runs = [path for path in _numbered() if (path / SETTINGS).exists()]
    path = Path(folder) if folder is not None else (runs or [Path(DEFAULT)])[-1]
    try:
        return path, dict(json.loads((path / SETTINGS).read_text()))
    except (OSError, ValueError) as error:
        raise FolderError(f"There is no run to resume in {path}: {error}.") from error
