"""The files a model consists of, and the digest that names it.

    >>> model_digest({"model.onnx": b"…"})
    'sha256:…'

Rules
-----
1. A model is `model.onnx`, and beside it at most one `<name>.data` with its weights: the layout
   that MLflow writes. Nothing else belongs to its identity.
2. The digest is over the canonical JSON of {file name: digest of the bytes}: a renamed, added,
   missing or changed file gives another one.
"""

import re
from collections.abc import Iterable, Mapping

from registry.trust.canonical import digest_of, sha256_bytes
from registry.trust.errors import Refused

MODEL_FILE = "model.onnx"
MAXIMUM_BYTES = 2_000_000_000
"""Of all files together: protobuf can't hold 2 GiB, and weights are inlined before the check."""

DATA_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.data\Z", re.ASCII)


def check_names(names: Iterable[str]) -> None:
    """Raise Refused unless `names` are model.onnx and at most one `<name>.data`."""
    found = set(names)
    if MODEL_FILE not in found:
        raise Refused(
            f"there is no {MODEL_FILE} among the model's files: log the model with mlflow.onnx",
            code="model_missing",
        )
    others = sorted(found - {MODEL_FILE})
    if len(others) > 1 or any(DATA_FILE.match(name) is None for name in others):
        raise Refused(
            f"a model is {MODEL_FILE} and at most one <name>.data beside it; "
            f"also found: {', '.join(ascii(name[:80]) for name in others[:3])}",
            code="model_layout",
        )


def model_digest(files: Mapping[str, bytes]) -> str:
    """The identity of a model: the digest of {file name: digest of the bytes}.

    Raises Refused unless the files are model.onnx and at most one `<name>.data`.
    """
    check_names(files)
    return digest_of({name: sha256_bytes(data) for name, data in files.items()})
