"""Raw predictions between the run step, which writes them, and the assess step, which reads them.

The file never leaves the facility, and only the assess step joins it to the reference standard.
"""

import io
from typing import Any

from registry.trust.errors import Tampered
from validators.cases import CaseTable
from validators.protocol.schema import Protocol


def case_table(predictions: bytes, reference: Any, protocol: Protocol, manifest: Any) -> CaseTable:
    """Predictions joined to the reference standard, case by case; Tampered unless they match."""
    import numpy as np
    import pyarrow.parquet as pq

    scored = pq.read_table(io.BytesIO(predictions))
    position = {case: i for i, case in enumerate(scored["case"].to_pylist())}
    cases = reference["case"].to_pylist()
    if len(position) != len(cases) or set(position) != set(cases):
        raise Tampered("the predictions are not of the cases of this cohort")
    order = np.array([position[case] for case in cases])
    score = scored["score"].to_numpy(zero_copy_only=False)[order]
    failures = [code for code in scored["failure"].to_pylist() if code]
    patients = reference["patient"].to_pylist()
    codes = {patient: i for i, patient in enumerate(sorted(set(patients)))}
    known = {"case", "patient", "reference"}
    return CaseTable(
        reference=reference["reference"].to_numpy().astype(np.int8),
        score=score.astype(np.float64),
        patient=np.array([codes[patient] for patient in patients]) if protocol.cluster else None,
        attributes={
            name: np.array(reference[name].to_pylist(), dtype=str)
            for name in reference.column_names
            if name not in known
        },
        failed_by_code={code: failures.count(code) for code in sorted(set(failures))},
        excluded=dict(manifest.case_flow),
    )


def predictions_file(cases: Any, scores: Any, failures: Any) -> bytes:
    """Parquet of case, score, failure; in the order of the case ids, so that bytes repeat."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = np.argsort(np.array(cases))
    table = pa.table(
        {
            "case": [cases[i] for i in order],
            "score": np.asarray(scores, dtype=np.float64)[order],
            "failure": [failures[i] or "" for i in order],
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
