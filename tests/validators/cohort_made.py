"""A staging folder of made numbers, as an ingest leaves it, of any size."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from registry.trust.canonical import canonical, digest_of

_TYPES = {"image": "int16", "age": "float32", "known": "bool"}


def made_staging(folder: Path, cases: int, *, size: int = 8, block: int = 7) -> Path:
    """`cases` random images of `size` x `size`, a number and a flag."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(cases)
    shapes: dict[str, tuple[int, ...]] = {"image": (1, size, size), "age": (), "known": (3,)}
    for number, start in enumerate(range(0, cases, block)):
        arrays = {
            name: rng.integers(0, 2 if name == "known" else 90, (min(block, cases - start), *shape))
            .astype(_TYPES[name])
            for name, shape in shapes.items()
        }  # fmt: skip
        save_file(arrays, folder / f"inputs-{number:05d}.safetensors")
    columns = {
        "case": [f"case {n:05d}" for n in range(cases)],
        "patient": [f"patient {n // 2:05d}" for n in range(cases)],
        "reference": pa.array([n % 2 for n in range(cases)], pa.int8()),
        "sex": ["female" if n % 3 else "male" for n in range(cases)],
    }
    pq.write_table(pa.table(columns), folder / "cases.parquet")
    meta = {
        "title": "Made", "licence": "CC0-1.0", "citation": "none", "reference_standard": "made",
        "contract_digest": digest_of("made"), "cases": cases, "case_flow": {}, "about": {},
        "attributes": ["sex"], "review": digest_of([]), "block": block,
        "tensors": {name: [_TYPES[name], list(shape)] for name, shape in shapes.items()},
    }  # fmt: skip
    (folder / "meta.json").write_bytes(canonical(meta))
    return folder
