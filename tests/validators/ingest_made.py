"""Contracts, a hospital's folder and sealing, for the tests of ingest."""

import csv
from pathlib import Path
from typing import Any

from registry.storage.local import LocalStore
from tests.validators.dicom_made import ROOT, SECRETS, noise, statement, write_series
from validators.cohort.ingest import Staged
from validators.cohort.key_store import create_keys
from validators.cohort.seal import seal
from validators.cohort.stream import stream
from validators.contract.read import parse_contract
from validators.contract.schema import Contract


def made_contract(*inputs: dict[str, Any]) -> Contract:
    return parse_contract(
        {"id": "made", "version": "1", "inputs": list(inputs), "score": "p",
         "outputs": [{"name": "p", "dtype": "float32", "shape": [1]}]}
    )  # fmt: skip


CT = {
    "name": "ct", "dtype": "float32", "shape": [1, 4, 8, 8],
    "image": {"modality": ["CT"], "orientation": "SPL", "fit": "centre", "padding": -1024,
              "values": "HU", "stored_as": "int16"},
}  # fmt: skip
MASK = {
    "name": "lesion", "dtype": "uint8", "shape": [1, 4, 8, 8],
    "image": {"modality": ["SEG"], "orientation": "SPL", "fit": "centre"},
}  # fmt: skip


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def hospital(folder: Path, count: int = 6) -> tuple[Path, Path]:
    """A folder with a series for each patient, and a table with the reference standards."""
    source = folder / "hospital"
    statement(source)
    rows = []
    for number in range(count):
        write_series(source / f"Geheim_{number}", str(100 + number), noise((4, 8, 8), number))
        rows.append({"series": f"{ROOT}.{100 + number}", "reference": number % 2,
                     "density": "abcd"[number % 4], "name": SECRETS[0]})  # fmt: skip
    return source, table(folder / "reference.csv", rows)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def sealed(staged: Staged, folder: Path, name: str = "c", store_name: str = "") -> Any:
    keys = create_keys(folder / f"keys-{name}", "made", "1")
    store = LocalStore(folder / f"store-{store_name or name}")
    manifest = seal(staged, store, cohort_id="made", version="1", keys=keys)
    return manifest, list(stream(manifest, store, keys.inputs()))


def sign(staged: Staged, decision: str = "keep", reviewer: str = "R. Viewer") -> None:
    path = staged.path / "review.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["decision"], row["reviewer"] = decision, reviewer
    table(path, rows)
