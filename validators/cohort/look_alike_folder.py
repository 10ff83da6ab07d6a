"""A look-alike cohort as a folder that numpy alone can read.

    >>> write_look_alike(make_look_alike(protocol), Path("dummy"), protocol)
    >>> cohort = open_look_alike(Path("dummy"), contract)

The folder holds `cases.csv` (case, patient, reference, attributes), `inputs/NAME.npy` (one array a
tensor, its first axis the cases in the order of the table) and `meta.json`.

Rules
-----
1. The same cohort gives the same bytes. The folder appears whole or not at all.
2. Arrays are mapped, not read whole: memory does not grow with the cohort. Pickles are refused.
"""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Conflict, Invalid, NotFound, Unavailable
from validators.cohort.look_alike import NOTE, Columns, MadeUp
from validators.cohort.shard import Shard
from validators.contract.schema import Contract
from validators.protocol.schema import Protocol

SCHEMA = "touchstone/look-alike/v1"
_META = "meta.json"
_ROWS = 64


@dataclass(frozen=True)
class Folder:
    """A look-alike cohort that was written."""

    path: Path
    columns: Columns = field(repr=False)
    arrays: dict[str, NDArray[Any]] = field(repr=False)

    def shards(self) -> Iterator[Shard]:
        """The inputs, in the order of the table, a few at a time."""
        names = self.columns["case"]
        for index, start in enumerate(range(0, len(names), _ROWS)):
            rows = slice(start, start + _ROWS)
            inputs = {name: np.array(array[rows]) for name, array in self.arrays.items()}
            yield Shard(index, tuple(names[rows]), inputs)


def write_look_alike(cohort: MadeUp, out: Path, protocol: Protocol) -> dict[str, Any]:
    """Write the cohort into the folder `out`; a look-alike cohort there is replaced.

    Returns what `meta.json` says. Raises Conflict when `out` holds something else, Unavailable
    when it can't be written.
    """
    if out.exists() and not (out / _META).is_file():
        raise Conflict(f"{out} exists and holds no look-alike cohort; name another folder")
    positives = cohort.columns["reference"].count("1")
    meta = {
        "schema_id": SCHEMA,
        "made_up": True,
        "note": NOTE,
        "protocol": {"id": protocol.id, "version": protocol.version, "digest": protocol.digest},
        "contract": cohort.contract.digest,
        "seed": cohort.seed,
        "cases": cohort.cases,
        "positives": positives,
        "negatives": cohort.cases - positives,
        "groups": {name: list(values) for name, values in cohort.groups.items()},
    }
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "inputs").mkdir(parents=True)
        _write_inputs(cohort, partial / "inputs")
        (partial / "cases.csv").write_text(table_text(cohort.columns), encoding="utf-8")
        text = json.dumps(meta, indent=1, ensure_ascii=False, sort_keys=True)
        (partial / _META).write_text(text + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise Unavailable(
            f"{out} can't be written: {error.strerror}; make room, make fewer cases or name "
            "another folder"
        ) from error
    return meta


def open_look_alike(path: Path, contract: Contract) -> Folder:
    """The cohort in a folder; NotFound without one, Invalid where it was made for another
    contract or does not fit itself."""
    try:
        meta = json.loads((path / _META).read_text(encoding="utf-8"))
        with (path / "cases.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, ValueError) as error:
        raise NotFound(
            f"{path} holds no look-alike cohort; make one with `touchstone cohort dummy`"
        ) from error
    if not isinstance(meta, dict) or meta.get("schema_id") != SCHEMA:
        raise NotFound(f"{path} holds no look-alike cohort: {_META} is another file's")
    if meta.get("contract") != contract.digest:
        raise Invalid(f"{path} was made for another contract; make it again for this protocol")
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows) or "case" not in rows[0]:
        raise Invalid(f"{path}/cases.csv is damaged; make the cohort again")
    columns = {name: [row[n] for row in rows[1:]] for n, name in enumerate(rows[0])}
    arrays = {t.name: _mapped(path / "inputs" / f"{t.name}.npy") for t in contract.inputs}
    for name, array in arrays.items():
        if len(array) != len(rows) - 1:
            raise Invalid(f"{path}: {name} and cases.csv have different numbers of cases")
    return Folder(path, columns, arrays)


def table_text(columns: Columns) -> str:
    """The columns as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _write_inputs(cohort: MadeUp, folder: Path) -> None:
    arrays = {
        tensor.name: np.lib.format.open_memmap(
            folder / f"{tensor.name}.npy", mode="w+", dtype=np.dtype(tensor.dtype),
            shape=(cohort.cases, *tensor.shape),
        )
        for tensor in cohort.contract.inputs
    }  # fmt: skip
    start = 0
    for shard in cohort.shards():
        for name, array in shard.inputs.items():
            arrays[name][start : start + len(array)] = array
        start += len(shard.cases)
    for mapped in arrays.values():
        mapped.flush()


def _mapped(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise Invalid(f"{path} can't be read; make the cohort again") from error
    if array.ndim == 0:
        raise Invalid(f"{path} holds no cases; make the cohort again")
    return array
