"""A model's files, read from a directory that somebody else wrote.

Rules
-----
1. Taken are model.onnx and at most one `<name>.data`: regular files with one link, not followed
   through a symbolic link, 2 GB together.
2. Beside them only what MLflow itself writes may lie there; it is ignored and never parsed,
   because nothing in it is needed and some of it (a pickle, a loader's code) would be run.
3. What is read is what was checked: the file is opened once, without following links, and the
   checks are made on the open file.
"""

import os
import stat
from pathlib import Path
from typing import Final

from registry.trust.errors import Refused
from registry.trust.model_files import DATA_FILE, MAXIMUM_BYTES, MODEL_FILE, check_names

IGNORED: Final = frozenset(
    {
        "MLmodel",
        "conda.yaml",
        "requirements.txt",
        "python_env.yaml",
        "registered_model_meta",
        "input_example.json",
        "serving_input_example.json",
        "input_example.npy",
        "input_example.npz",
        "README.md",
        "metadata",
    }
)
"""What MLflow writes beside an ONNX model (`metadata` is a folder of copies of the same)."""

PICKLES: Final = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".h5", ".npy"})
_LFS: Final = b"version https://git-lfs"


def files_from_directory(path: Path) -> dict[str, bytes]:
    """Read a model directory, or a single .onnx file, into {name: bytes}.

    Raises Refused with the code model_missing, model_layout, model_pickle, model_link,
    model_too_large, model_empty or model_lfs_pointer.
    """
    if path.is_file():
        names = {MODEL_FILE: path}
    elif path.is_dir():
        names = _listed(path)
    else:
        raise Refused(f"there is no model at {path}: check the path", code="model_missing")
    check_names(names)
    files: dict[str, bytes] = {}
    left = MAXIMUM_BYTES
    for name in sorted(names):
        files[name] = _read(names[name], left)
        left -= len(files[name])
    return files


def _listed(path: Path) -> dict[str, Path]:
    names: dict[str, Path] = {}
    for entry in sorted(path.iterdir()):
        name = entry.name
        if name in IGNORED:
            continue
        if name != MODEL_FILE and DATA_FILE.match(name) is None:
            if entry.suffix.lower() in PICKLES or name == "python_model.pkl":
                raise Refused(
                    f"{_shown(name)} may hold code that runs when it is read: only ONNX is "
                    "accepted, log the model with mlflow.onnx",
                    code="model_pickle",
                )
            raise Refused(
                f"{_shown(name)} does not belong to a model: there may be {MODEL_FILE}, at most "
                "one <name>.data, and what mlflow.onnx writes beside them",
                code="model_layout",
            )
        names[name] = entry
    return names


def _read(path: Path, left: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(
            f"{_shown(path.name)} can't be read as a plain file ({error.strerror}): "
            "a link or a file without permission is not taken",
            code="model_link",
        ) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise Refused(
            f"{_shown(path.name)} is not a plain file with one name: copy the file itself",
            code="model_link",
        )
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        if status.st_size > left:
            raise Refused(
                f"{_shown(path.name)} has {status.st_size / 1e9:.1f} GB: a model may have 2 GB "
                "with its weights",
                code="model_too_large",
            )
        data = bytearray(status.st_size)
        view, position = memoryview(data), 0
        while position < len(data) and (got := stream.readinto(view[position:])):
            position += got
        if position != len(data) or stream.read(1):
            raise Refused(
                f"{_shown(path.name)} changed while it was read: try again", code="model_changed"
            )
    if not data:
        raise Refused(
            f"{_shown(path.name)} is empty: log the model again, with its weights",
            code="model_empty",
        )
    if data.startswith(_LFS):
        raise Refused(
            f"{_shown(path.name)} is a Git-LFS pointer, not the model: run `git lfs pull` and log "
            "it again",
            code="model_lfs_pointer",
        )
    return bytes(data)


def _shown(name: str) -> str:
    return ascii(name[:80])
