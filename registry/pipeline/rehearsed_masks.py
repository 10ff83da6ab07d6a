"""Maps of labels that a model gave at home on made-up cases: files for `touchstone assess`.

    >>> columns = mask_columns(cohort, contract, protocol, answers, Path("out"))
    >>> columns["prediction_path"][0]
    'masks/made-up-00000.npz'

Each case has two files, `masks/CASE.npz` and `masks/CASE.reference.npz` (made up), in which k is
the protocol's k-th structure. They are written anew by each rehearsal.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Unavailable
from serving.answering import Answers
from validators.cohort.look_alike import Columns, LookAlike
from validators.cohort.look_alike_masks import made_labels, made_spacing
from validators.contract.schema import Contract
from validators.protocol.schema import Protocol

FOLDER = "masks"


def mask_columns(
    cohort: LookAlike, contract: Contract, protocol: Protocol, answers: Sequence[Answers], out: Path
) -> Columns:
    """The columns of a table of masks, whose files are written into `out`. Raises Unavailable."""
    folder = out / FOLDER
    labels = _labels(contract, protocol)
    spacing = made_spacing(contract)
    marked = [value == "1" for value in cohort.columns["reference"]]
    columns = {name: of for name, of in cohort.columns.items() if name != "reference"}
    names: list[str] = []
    codes: list[str] = []
    paths: list[str] = []
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for of in answers:
            for case, found, code in zip(of.cases, of.values, of.failures, strict=True):
                truth = made_labels(contract, case, marked=marked[len(names)])
                _write(folder / f"{case}.reference.npz", labels[truth], spacing)
                if code is None:
                    _write(folder / f"{case}.npz", labels[found.reshape(truth.shape)], spacing)
                names.append(case)
                codes.append(code or "")
                paths.append("" if code else f"{FOLDER}/{case}.npz")
    except OSError as error:
        raise Unavailable(
            f"{folder} can't be written: {error.strerror}; make room or name another folder"
        ) from error
    return columns | {
        "reference_path": [f"{FOLDER}/{case}.reference.npz" for case in names],
        "prediction_path": paths,
        "failure": codes,
    }


def _labels(contract: Contract, protocol: Protocol) -> NDArray[np.uint8]:
    """What each label of the contract is called in a file: the place in the protocol, or 0."""
    assert contract.reference is not None
    assert protocol.segmentation is not None
    found = np.zeros(256, dtype=np.uint8)
    for place, structure in enumerate(protocol.segmentation.structures, start=1):
        found[contract.reference.structures[structure.name]] = place
    return found


def _write(path: Path, labels: NDArray[np.uint8], spacing: NDArray[np.float64]) -> None:
    np.savez_compressed(path, mask=labels, spacing=spacing)
